"""Plain dense formulations of the static merging methods, in float64, written from the papers' definitions.

State dicts in, state dict out; everything is materialised at once. The fast code must agree with these.
"""

from __future__ import annotations

import math

import torch


def floats(base):
    return [name for name, value in base.items() if value.dtype.is_floating_point]


def vectors(base, experts):
    """Task vectors in float64 per expert and tensor."""
    return [{n: e[n].double() - base[n].double() for n in floats(base)} for e in experts]


def flatten(tau):
    return torch.cat([tau[n].reshape(-1) for n in sorted(tau)])


def put(base, tau, scale=1.0):
    """theta_0 + scale * tau, in the base's dtype."""
    return {n: (v.double() + scale * tau[n]).to(v.dtype) if n in tau else v.clone() for n, v in base.items()}


def average(base, experts):
    return put(base, {n: torch.stack([t[n] for t in vectors(base, experts)]).mean(0) for n in floats(base)})


def task_arithmetic(base, experts, scale):
    return put(base, {n: torch.stack([t[n] for t in vectors(base, experts)]).sum(0) for n in floats(base)}, scale)


def threshold(flat, density):
    """The (d - floor(density d))-th smallest magnitude: floor(density d) + 1 entries survive."""
    d = flat.numel()
    return flat.abs().sort().values[max(d - int(density * d), 1) - 1]


def trim(tau, density):
    """Differences are rounded to float32, as the fast code takes them, so that thresholds can be compared exactly."""
    tau = {n: t.float() for n, t in tau.items()}
    if density < 1:
        limit = threshold(flatten(tau), density)
        tau = {n: torch.where(t.abs() >= limit, t, 0.0) for n, t in tau.items()}
    return {n: t.double() for n, t in tau.items()}


def elect(tau, merge):
    """Sign election over flattened task vectors [experts, d] and the merge of what agrees."""
    sign = tau.sum(0).sign()
    majority = 1.0 if sign.sum() >= 0 else -1.0
    sign = torch.where(sign == 0, majority, sign)
    agree = torch.where(sign > 0, tau > 0, tau < 0)
    total = (tau * agree).sum(0)
    return total / agree.sum(0).clamp_min(1) if merge == "mean" else total


def unflatten(flat, like):
    result, place = {}, 0
    for n in sorted(like):
        result[n] = flat[place : place + like[n].numel()].view(like[n].shape)
        place += like[n].numel()
    return result


def ties(base, experts, density, scale, merge):
    taus = [trim(t, density) for t in vectors(base, experts)]
    merged = elect(torch.stack([flatten(t) for t in taus]), merge)
    return put(base, unflatten(merged, taus[0]), scale)


def slerp(a, b, t):
    """Between two vectors; nearly parallel ones linearly."""
    cosine = float(a @ b / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def slerp_all(base, experts, t, space):
    result = {}
    for n in floats(base):
        offset = base[n].double() if space == "task-vectors" else torch.zeros_like(base[n].double())
        parts = [(e[n].double() - offset).reshape(-1) for e in experts]
        merged = parts[0]
        for k, part in enumerate(parts[1:], 2):
            merged = slerp(merged, part, t if len(parts) == 2 else 1 / k)
        result[n] = merged.view(base[n].shape) + offset - base[n].double()
    return put(base, result)


def model_stock(base, experts):
    result = {}
    taus = vectors(base, experts)
    for n in floats(base):
        parts = [t[n].reshape(-1) for t in taus]
        pairs = [(a, b) for i, a in enumerate(parts) for b in parts[:i]]
        cosine = sum(float(a @ b / (a.norm() * b.norm())) for a, b in pairs) / len(pairs)
        cosine = min(1.0, max(0.0, cosine))
        count = len(parts)
        t = count * cosine / (1 + (count - 1) * cosine)
        result[n] = (t * torch.stack(parts).mean(0)).view(base[n].shape)
    return put(base, result)


def fisher(base, experts, fishers, floor):
    norms = [math.sqrt(sum(float(f[n].double().square().sum()) for n in f)) for f in fishers]
    result = {}
    for n in floats(base):
        if n in fishers[0]:
            weights = [(f[n].double() / norm).clamp_min(floor) for f, norm in zip(fishers, norms)]
        else:
            weights = [torch.ones_like(base[n].double()) for _ in experts]
        top = sum(w * e[n].double() for w, e in zip(weights, experts))
        result[n] = top / sum(weights) - base[n].double()
    return put(base, result)


def regmean(base, experts, grams, ratio):
    result = {n: torch.stack([t[n] for t in vectors(base, experts)]).mean(0) for n in floats(base)}
    for n in grams[0]:
        shrunk = [ratio * g[n].double() + (1 - ratio) * torch.diag(g[n].double().diagonal()) for g in grams]
        right = sum(g @ e[n].double().T for g, e in zip(shrunk, experts))
        result[n] = torch.linalg.solve(sum(shrunk), right).T - base[n].double()
    return put(base, result)


def polar(matrix):
    p, _, q = torch.linalg.svd(matrix, full_matrices=False)
    return p @ q


def layerwise(base, experts, linear, merge, scale):
    taus = vectors(base, experts)
    return put(
        base,
        {
            n: merge([t[n] for t in taus]) if n in linear else torch.stack([t[n] for t in taus]).mean(0)
            for n in floats(base)
        },
        scale,
    )


def tsv_m(base, experts, linear, scale=1.0):
    def merge(taus):
        keep = min(taus[0].shape) // len(taus)
        parts = [torch.linalg.svd(t, full_matrices=False) for t in taus]
        u = polar(torch.cat([u[:, :keep] for u, _, _ in parts], 1))
        v = polar(torch.cat([v[:keep] for _, _, v in parts], 0))
        return u @ torch.diag(torch.cat([s[:keep] for _, s, _ in parts])) @ v

    return layerwise(base, experts, linear, merge, scale)


def iso_c(base, experts, linear, scale=1.0):
    def merge(taus):
        u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
        return u @ torch.diag(s.mean().expand(len(s))) @ v

    return layerwise(base, experts, linear, merge, scale)


def iso_cts(base, experts, linear, scale=1.0, common=0.8):
    def merge(taus):
        rank = min(taus[0].shape)
        each = int(rank * (1 - common)) // len(taus)
        shared = rank - each * len(taus)
        u, s, v = torch.linalg.svd(sum(taus), full_matrices=False)
        us, ss, vs = [u[:, :shared]], [s[:shared]], [v[:shared]]
        for tau in taus:
            a, b, c = torch.linalg.svd(tau - us[0] @ us[0].T @ tau, full_matrices=False)
            us, ss, vs = [*us, a[:, :each]], [*ss, b[:each]], [*vs, c[:each]]
        return torch.cat(ss).mean() * polar(torch.cat(us, 1)) @ polar(torch.cat(vs, 0))

    return layerwise(base, experts, linear, merge, scale)
