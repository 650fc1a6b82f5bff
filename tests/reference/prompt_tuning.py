"""Adapting a frozen decision transformer, as it is written down: one task, one window, loops. Slow and plain.

Nothing of the package is used. Weights and windows are as in :mod:`tests.reference.harmodt`.
"""

from __future__ import annotations

import math

import torch
from tests.reference.harmodt import layer_norm, step_tokens


def actions_of(w, window, front, layers, heads):
    """Actions [K, A] behind the token vectors ``front`` [L, E]; ``w`` may hold low-rank pairs and adapters."""
    tokens, valid = step_tokens(w, "embed.", window)
    x = torch.cat([front, layer_norm(tokens, w["embed.norm.weight"], w["embed.norm.bias"])])
    valid = [True] * len(front) + valid
    length, width = x.shape
    size = width // heads

    def layer(name, h):
        out = h @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        if f"{name}.lora_a" in w:
            out = out + (h @ w[f"{name}.lora_a"].T) @ w[f"{name}.lora_b"].T
        return out

    def adapter(name, h):
        if f"{name}.down.weight" not in w:
            return h
        return h + layer(f"{name}.up", torch.relu(layer(f"{name}.down", h)))

    for n in range(layers):
        p = f"blocks.{n}."
        q, k, v = layer(p + "attn.qkv", layer_norm(x, w[p + "norm1.weight"], w[p + "norm1.bias"])).split(width, -1)
        rows = []
        for i in range(length):
            allowed = [j for j in range(i + 1) if valid[j] or j == i]
            parts = []
            for head in range(heads):
                c = slice(head * size, (head + 1) * size)
                scores = torch.stack([q[i, c] @ k[j, c] / math.sqrt(size) for j in allowed])
                parts.append(torch.softmax(scores, 0) @ v[allowed][:, c])
            rows.append(torch.cat(parts))
        x = x + adapter(p + "attn.adapter", layer(p + "attn.proj", torch.stack(rows)))
        h = layer_norm(x, w[p + "norm2.weight"], w[p + "norm2.bias"])
        h = layer(p + "mlp.fc2", torch.relu(layer(p + "mlp.fc1", h)))
        x = x + adapter(p + "mlp.adapter", h)
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    places = [len(front) + 3 * k + 1 for k in range(len(window["timesteps"]))]
    return torch.tanh(layer("head", x[places]))


def prompt_tokens(w, prompt):
    """What a prompt is read as: its embeddings, without a norm."""
    return step_tokens(w, "embed_prompt.", prompt)[0]


def rank_direction(perturbations, losses):
    """Mean over the pairs of which one is better of (worse perturbation - better perturbation); points uphill."""
    total, pairs = torch.zeros_like(perturbations[0]), 0
    for a in range(len(losses)):
        for b in range(len(losses)):
            if losses[a] < losses[b]:
                total = total + perturbations[b] - perturbations[a]
                pairs += 1
    return total / max(pairs, 1)
