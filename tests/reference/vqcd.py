"""VQ-CD's quantisers and masked weights as they are written down: loops, a dense W, a product with the mask each step.

Nothing of the package is used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def quantise(encoded, codebook):
    """Each latent of one encoding [n l] replaced by the nearest row of ``codebook`` [K, l]; and the rows' numbers."""
    width = codebook.shape[1]
    out, chosen = [], []
    for j in range(len(encoded) // width):
        latent = encoded[j * width : (j + 1) * width]
        distances = [float(((latent - code) ** 2).sum().detach()) for code in codebook]
        chosen.append(distances.index(min(distances)))
        out.append(codebook[chosen[-1]])
    return torch.cat(out), chosen


def mlp(x, layers):
    """x [d] through ``layers``, pairs of a matrix [out, in] and a bias, with a ReLU between two."""
    for number, (matrix, bias) in enumerate(layers):
        x = matrix @ x + bias
        if number < len(layers) - 1:
            x = torch.relu(x)
    return x


def qsa_loss(x, encoder, decoder, codebook, commitment):
    """The mean over x [B, d] of the reconstruction, the codebook's term and c times the commitment."""
    total = 0
    for row in x:
        z_e = mlp(row, encoder)
        z_q, _ = quantise(z_e, codebook)
        through = z_e + (z_q - z_e).detach()
        total = total + ((row - mlp(through, decoder)) ** 2).sum()
        total = total + ((z_e.detach() - z_q) ** 2).sum()
        total = total + commitment * ((z_q.detach() - z_e) ** 2).sum()
    return total / len(x)


def gaussian_divergence(mean, log_variance):
    """KL(N(mean, variance) || N(0, 1)) of one latent vector, by its integral's closed form."""
    return sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True))


def perceptron(weights, x):
    """Two layers with a normalisation: names ``first.weight``, ``first.bias``, ``norm.weight``, ..., ``last.bias``."""
    h = F.linear(x, weights["first.weight"], weights["first.bias"])
    h = torch.relu(F.layer_norm(h, h.shape[-1:], weights["norm.weight"], weights["norm.bias"]))
    return F.linear(h, weights["last.weight"], weights["last.bias"])


def learn(dense, masks, batches, *, optimiser, forward, fresh, bank, first):
    """Tasks one after the other on a dense W, with M_i * W in the forward pass; gives a snapshot after each task.

    ``dense`` weights of two dimensions by name, changed in place; ``masks`` one dict a task; ``batches`` a list of
    (x, y) a task; ``optimiser`` makes one from a list of tensors; ``fresh``: a new one each task. ``first``: biases and
    norms; with ``bank`` each task starts from them, without they go on. A new task's share of W is scaled by the root
    of the inverse share.
    """
    dense = {name: value.requires_grad_() for name, value in dense.items()}
    small = {name: value.clone().requires_grad_() for name, value in first.items()}
    adam = optimiser([*dense.values(), *small.values()])
    snapshots = []
    for mask, task in zip(masks, batches, strict=True):
        with torch.no_grad():
            for name, value in dense.items():
                share = float(mask[name].double().mean())
                if share < 1:
                    value.copy_(torch.where(mask[name], value * share**-0.5, value))
            if bank:
                for name, value in small.items():
                    value.copy_(first[name])
        if fresh:
            adam = optimiser([*dense.values(), *small.values()])
        for x, y in task:
            adam.zero_grad()
            weights = {name: value * mask[name] for name, value in dense.items()} | small
            F.mse_loss(forward(weights, x), y).backward()
            adam.step()
        snapshots.append({name: value.detach().clone() for name, value in (dense | small).items()})
    return snapshots


def sequence(scores):
    """Average, forgetting, plasticity and backward transfer of scores[i][j], task i after task j."""
    count = len(scores)
    end = [scores[i][count - 1] for i in range(count)]
    own = [scores[i][i] for i in range(count)]
    return {
        "average": sum(end) / count,
        "forgetting": sum(o - e for o, e in zip(own, end, strict=True)) / count,
        "plasticity": sum(own) / count,
        "backward_transfer": sum(e - o for o, e in zip(own[:-1], end[:-1], strict=True)) / max(1, count - 1),
    }
