"""CommFormer as it is written down: relation vectors of every pair and sample, loops over heads and agents. Slow.

Nothing of the package is used. ``w`` is the policy's state dict; shapes are read off it. A graph is [n, n], row =
receiver; a gate is [B, n] or None. Options are those of the policy.
"""

from __future__ import annotations

import math

import torch


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]


def linear(x, w, name):
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def pair_scores(q, k, ra, rb):
    """Sum over d of (q_i + ra_ij) (k_j + rb_ij), with tensors [B, n, n, d] for all pairs."""
    return ((q[:, :, None] + ra) * (k[:, None, :] + rb)).sum(-1)


def attention(w, name, query, source, factor, types, heads, scale):
    """``factor`` [B, n, n] with self-loops, ``types`` [n, n] of 0 and 1 (None: no relations)."""
    d = query.shape[-1]
    width = d // heads
    q, k, v = (query, source, source)
    q, k, v = (
        x @ w[name + ".project.weight"][i * d : (i + 1) * d].T + w[name + ".project.bias"][i * d : (i + 1) * d]
        for i, x in enumerate((q, k, v))
    )
    batch, n, _ = q.shape
    if types is None:
        ra = rb = q.new_zeros(batch, n, n, d)
    else:
        pairs = w["edges.weight"][types].expand(batch, n, n, d)
        both = linear(pairs, w, name + ".relation")
        ra, rb = both[..., :d], both[..., d:]
    temperature = 1 / width if scale == "official" and types is not None else 1 / math.sqrt(width)
    mixed = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = pair_scores(q[..., part], k[..., part], ra[..., part], rb[..., part]) * temperature
        scores = scores.masked_fill(factor == 0, -torch.inf)
        mixed.append((scores.softmax(-1) * factor) @ v[..., part])
    return linear(torch.cat(mixed, -1), w, name + ".out")


def agent_factor(graph, gate, batch, diagonal):
    """Graph times gate with self-loops, [B, n, n], pair by pair."""
    n = len(graph)
    rows = []
    for b in range(batch):
        for i in range(n):
            for j in range(n):
                if i == j:
                    rows.append(torch.ones(()) + (graph[i, i] if diagonal == "official" else 0))
                else:
                    rows.append(graph[i, j] * (1 if gate is None else gate[b, i]))
    return torch.stack([r.to(graph) for r in rows]).view(batch, n, n)


def agent_types(graph, relation, diagonal):
    types = (graph.detach() >= 1).long()
    if diagonal == "excluded":
        types.fill_diagonal_(0)
    return types.T if relation == "transposed" else types


def decoder_views(factor, types, mask):
    """(factor, types) of self and cross attention over positions; position p >= 1 is the action of agent p - 1."""
    n = factor.shape[-1]
    causal = torch.ones(n, n).tril().to(factor)
    if mask == "official":
        return (factor * causal, types), (factor * causal, types)
    own, cross = torch.zeros_like(factor), torch.zeros_like(factor)
    own_types, cross_types = torch.zeros(n, n, dtype=torch.long), torch.zeros(n, n, dtype=torch.long)
    for p in range(n):
        own[:, p, 0] = cross[:, p, 0] = 1
        for q in range(1, p + 1):
            own[:, p, q] = factor[:, p - 1, q - 1]
            cross[:, p, q] = factor[:, p, q - 1]
            if types is not None:
                own_types[p, q] = types[p - 1, q - 1]
                cross_types[p, q] = types[p, q - 1]
    return (own, own_types if types is not None else None), (cross, cross_types if types is not None else None)


def forward(w, observations, actions, graph, *, gate=None, heads=1, layers=1, count=0, scale="single",
            decoder_mask="aligned", relation="receiver", diagonal="excluded", autoregressive=True):  # fmt: skip
    """(logits or means [B, n, ...], values [B, n]) for teacher-forced ``actions``; ``count``: discrete actions or 0."""
    batch, n, _ = observations.shape
    factor = agent_factor(graph, gate, batch, diagonal)
    types = agent_types(graph, relation, diagonal) if "edges.weight" in w else None
    x = layer_norm(
        gelu(linear(layer_norm(observations, w, "encoder.input_norm"), w, "encoder.input")), w, "encoder.norm"
    )
    for number in range(layers):
        name = f"encoder.blocks.{number}"
        attended = attention(w, name + ".attention", x, x, factor, types, heads, scale)
        x = layer_norm(x + attended, w, name + ".attention_norm")
        x = layer_norm(
            x + linear(linear(x, w, name + ".expand").clamp_min(0), w, name + ".contract"), w, name + ".norm"
        )
    rep = x
    values = linear(layer_norm(gelu(linear(rep, w, "critic.hidden")), w, "critic.norm"), w, "critic.out").squeeze(-1)
    if autoregressive:
        (own, own_types), (cross, cross_types) = decoder_views(factor, types, decoder_mask)
        tokens = torch.zeros(batch, n, w["actions.input.weight"].shape[1], dtype=observations.dtype)
        for b in range(batch):
            for p in range(n):
                if count and p == 0:
                    tokens[b, 0, 0] = 1
                elif count:
                    tokens[b, p, 1 + int(actions[b, p - 1])] = 1
                elif p:
                    tokens[b, p] = actions[b, p - 1]
        x = layer_norm(gelu(linear(tokens, w, "actions.input")), w, "actions.norm")
        for number in range(layers):
            name = f"decoder.{number}"
            if number == 1:  # from here on position p holds agent p's own state, no longer the action of agent p - 1
                (own, own_types), (cross, cross_types) = decoder_views(factor, types, "official")
            attended = attention(w, name + ".own", x, x, own, own_types, heads, scale)
            x = layer_norm(x + attended, w, name + ".own_norm")
            y = attention(w, name + ".cross", rep, x, cross, cross_types, heads, scale)
            y = layer_norm(rep + y, w, name + ".cross_norm")
            x = layer_norm(y + linear(gelu(linear(y, w, name + ".expand")), w, name + ".contract"), w, name + ".norm")
    if "heads.out.weight" in w:
        for layer in range(2):
            x = gelu(linear(layer_norm(x, w, f"heads.norms.{layer}"), w, f"heads.hidden.{layer}"))
        return linear(layer_norm(x, w, "heads.norms.2"), w, "heads.out"), values
    outputs = []
    for i in range(n):
        one = {"a.weight": w["heads.norm_weight"][i], "a.bias": w["heads.norm_bias"][i]}
        one |= {"c.weight": w["heads.out_norm_weight"][i], "c.bias": w["heads.out_norm_bias"][i]}
        one |= {"b.weight": w["heads.hidden_weight"][i].T, "b.bias": w["heads.hidden_bias"][i]}
        one |= {"d.weight": w["heads.out_weight"][i].T, "d.bias": w["heads.out_bias"][i]}
        hidden = gelu(linear(layer_norm(x[:, i], one, "a"), one, "b"))
        outputs.append(linear(layer_norm(hidden, one, "c"), one, "d"))
    return torch.stack(outputs, 1), values
