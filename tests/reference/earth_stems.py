"""Plain formulations of stems, one number at a time."""

import math

import torch


def sincos(value, width):
    half = width // 2
    angles = [value / 10000 ** (j / half) for j in range(half)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def distance_bias(rows, columns, heads):
    start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
    places = [(i, j) for i in range(rows) for j in range(columns)]
    return torch.tensor(
        [[[-(start ** (h + 1)) * math.dist(a, b) for b in places] for a in places] for h in range(heads)]
    )


def wave_tokens(stem, x, wavelengths):
    """The reference stem band by band and patch by patch."""
    p, periods = stem.patch, torch.logspace(math.log10(20), math.log10(4000), 32, dtype=torch.float64)
    batch, bands, height, width = x.shape
    out = torch.zeros(batch, height // p, width // p, stem.width)
    for c in range(bands):
        angles = wavelengths[c].double() * 2 * math.pi / periods
        kernel = stem.mlp(torch.cat([angles.sin(), angles.cos()]).float()).reshape(p, p, stem.width)
        for i in range(height // p):
            for j in range(width // p):
                patch = x[:, c, i * p : (i + 1) * p, j * p : (j + 1) * p]
                out[:, i, j] += torch.einsum("bhw,hwd->bd", patch, kernel) / bands
    return (out + stem.bias).flatten(1, 2)


def channel_tokens(stem, x, ids):
    """Panopticon's attention over bands, one token and one head at a time."""
    p = stem.project.kernel_size[0]
    batch, bands, height, width = x.shape
    head = stem.inner // stem.heads
    tokens = []
    for i in range(height // p):
        for j in range(width // p):
            rows = []
            for c in range(bands):
                patch = x[:, c : c + 1, i * p : (i + 1) * p, j * p : (j + 1) * p]
                rows.append(stem.project(patch).flatten(1) + stem.embedding(ids)[c])
            seen = torch.stack(rows, 1)  # [B, C, d]
            keys, values = stem.keys(seen), stem.values(seen)
            parts = []
            for h in range(stem.heads):
                at = slice(h * head, (h + 1) * head)
                scores = keys[..., at] @ stem.query[at] / math.sqrt(head)
                parts.append((scores.softmax(1)[..., None] * values[..., at]).sum(1))
            tokens.append(stem.out(torch.cat(parts, -1)))
    return torch.stack(tokens, 1).reshape(batch, -1, tokens[0].shape[-1])
