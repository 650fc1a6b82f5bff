"""HarmoDT as it is written down: one task a step, copies of all weights, float masks, loops. Slow and plain.

Nothing of the package is used. Weights are dicts of tensors by name, a mask is a dict of float tensors, a window is a
dict of tensors of one sample: observations [K, S], actions [K, A], returns_to_go [K], timesteps [K], valid [K].
"""

from __future__ import annotations

import math

import torch


def layer_norm(x, gain, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * gain + bias


def step_tokens(w, prefix, window):
    """Three tokens a step: return-to-go, state, action; each plus the embedding of the timestep. And their validity."""
    tokens, valid = [], []
    for k in range(len(window["timesteps"])):
        time = w[prefix + "time.weight"][int(window["timesteps"][k])]
        for name, value in (
            ("return", window["returns_to_go"][k].reshape(1)),
            ("state", window["observations"][k]),
            ("action", window["actions"][k]),
        ):
            tokens.append(w[f"{prefix}{name}.weight"] @ value + w[f"{prefix}{name}.bias"] + time)
            valid.append(bool(window["valid"][k]))
    return torch.stack(tokens), valid


def actions_of(w, window, prompt, layers, heads, task=None):
    """Actions [K, A] of one window; all tokens go through all blocks."""
    tokens, valid = step_tokens(w, "embed.", window)
    x = layer_norm(tokens, w["embed.norm.weight"], w["embed.norm.bias"])
    front = 0
    if prompt is not None:
        before, seen = step_tokens(w, "embed_prompt.", prompt)
        x, valid, front = torch.cat([before, x]), seen + valid, len(seen)
    if task is not None:
        x, valid, front = torch.cat([w["embed_task.weight"][task].unsqueeze(0), x]), [True, *valid], front + 1
    length, width = x.shape
    size = width // heads
    for n in range(layers):
        p = f"blocks.{n}."
        h = layer_norm(x, w[p + "norm1.weight"], w[p + "norm1.bias"])
        q, k, v = (h @ w[p + "attn.qkv.weight"].T + w[p + "attn.qkv.bias"]).split(width, -1)
        rows = []
        for i in range(length):
            allowed = [j for j in range(i + 1) if valid[j] or j == i]
            parts = []
            for head in range(heads):
                c = slice(head * size, (head + 1) * size)
                scores = torch.stack([q[i, c] @ k[j, c] / math.sqrt(size) for j in allowed])
                parts.append(torch.softmax(scores, 0) @ v[allowed][:, c])
            rows.append(torch.cat(parts))
        x = x + torch.stack(rows) @ w[p + "attn.proj.weight"].T + w[p + "attn.proj.bias"]
        h = layer_norm(x, w[p + "norm2.weight"], w[p + "norm2.bias"])
        h = torch.relu(h @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"])
        x = x + h @ w[p + "mlp.fc2.weight"].T + w[p + "mlp.fc2.bias"]
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    places = [front + 3 * k + 1 for k in range(len(window["timesteps"]))]
    return torch.tanh(x[places] @ w["head.weight"].T + w["head.bias"])


def batch_loss(w, windows, prompts, layers, heads, task=None):
    """Mean over valid (step, action dimension) of the squared error."""
    total, count = 0.0, 0
    for window, prompt in zip(windows, prompts):
        found = actions_of(w, window, prompt, layers, heads, task)
        for k in range(len(found)):
            if bool(window["valid"][k]):
                total = total + (found[k] - window["actions"][k]).pow(2).sum()
                count += found.shape[1]
    return total / count


def masked_copy(theta, mask):
    return {n: (v * mask[n] if n in mask else v.clone()).detach().requires_grad_() for n, v in theta.items()}


def dense_gradient(theta, mask, loss_of):
    """d loss / d w at w = theta * mask, over all parameters."""
    w = masked_copy(theta, mask)
    loss = loss_of(w)
    return loss.detach(), dict(zip(w, torch.autograd.grad(loss, list(w.values()))))


def clipped(gradient, clip):
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradient.values()))
    factor = min(1.0, clip / (norm + 1e-6))
    return {n: g * factor for n, g in gradient.items()}


class Adam:
    """AdamW with moments shared by all tasks; ``freeze`` leaves the moments of masked entries untouched."""

    def __init__(self, theta, lr, weight_decay, freeze=False):
        self.lr, self.decay, self.freeze, self.count = lr, weight_decay, freeze, 0
        self.m = {n: torch.zeros_like(v) for n, v in theta.items()}
        self.v = {n: torch.zeros_like(v) for n, v in theta.items()}

    def step(self, theta, gradient, restore):
        """New weights; entries where ``restore`` is 0 keep their value."""
        self.count += 1
        new = {}
        for n, p in theta.items():
            m = 0.9 * self.m[n] + 0.1 * gradient[n]
            v = 0.999 * self.v[n] + 0.001 * gradient[n] ** 2
            if self.freeze and n in restore:
                m = restore[n] * m + (1 - restore[n]) * self.m[n]
                v = restore[n] * v + (1 - restore[n]) * self.v[n]
            self.m[n], self.v[n] = m, v
            root = (v / (1 - 0.999**self.count)).sqrt() + 1e-8
            moved = p * (1 - self.lr * self.decay) - self.lr * (m / (1 - 0.9**self.count)) / root
            if n in restore:
                moved = restore[n] * moved + (1 - restore[n]) * p
            new[n] = moved
        return new


def inner_step(theta, mask, loss_of, adam, clip, restore=None):
    """One task's step: (loss, new theta). ``restore``: the mask of what may move, if it is not ``mask``."""
    loss, gradient = dense_gradient(theta, mask, loss_of)
    gradient = clipped(gradient, clip)
    gradient = {n: g * mask[n] if n in mask else g for n, g in gradient.items()}
    return loss, adam.step(theta, gradient, mask if restore is None else restore)


def swaps(t, total, low, high):
    return math.floor(high + 0.5 * (low - high) * (1 + math.cos(2 * math.pi * t / total)) + 1e-9)


def decaying_swaps(t, total, share, low, high):
    """From ``high`` to ``low`` by half a cosine over the first ``share`` of the steps, then none."""
    end = share * total
    return 0 if t > end else math.floor(low + 0.5 * (high - low) * (1 + math.cos(math.pi * t / end)) + 1e-9)


def exchange(masks, gradients, theta, names, k, kind="fisher", gamma=10.0):
    """New masks (lists of 0/1 over the maskable entries, ``names`` in order) from the tasks' gradients."""
    flat = [torch.cat([g[n].reshape(-1) for n in names]) for g in gradients]
    weights = torch.cat([theta[n].reshape(-1) for n in names])
    mean = sum(flat) / len(flat)
    result = []
    for mask, u in zip(masks, flat):
        old = torch.cat([mask[n].reshape(-1) for n in names]).tolist()
        a = (u * mean).tolist()
        importance = (u * u if kind == "fisher" else weights.abs()).tolist()
        h = [gamma * x + y for x, y in zip(a, importance)]
        ones = sorted((i for i in range(len(old)) if old[i] == 1), key=lambda i: (h[i], i))
        zeros = sorted((i for i in range(len(old)) if old[i] == 0), key=lambda i: (-a[i], i))
        count = min(k, len(ones), len(zeros))
        new = list(old)
        for i in ones[:count]:
            new[i] = 0.0
        for i in zeros[:count]:
            new[i] = 1.0
        parts = torch.tensor(new, dtype=weights.dtype).split([theta[n].numel() for n in names])
        result.append({n: part.view(theta[n].shape) for n, part in zip(names, parts)})
    return result
