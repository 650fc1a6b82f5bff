"""Methods that look at a whole tensor at once: ranks within rows, variances over experts, distributions over a row.

With tau_i = theta_i - theta_0 of one tensor:

    Model Breadcrumbs (arXiv 2312.06795)   without the largest and the smallest entries of tau_i      breadcrumbs
    DELLA (arXiv 2406.11617)               dropped at random, the less often the larger in its row    magprune
    SCE (arXiv 2408.07990)                 select by variance, calculate weights, erase minorities    SCE
    Reinforced agent merging (2601.13572)  entries that one expert moves apart from shared ones       RAM
    importance fusion                      |tau| KL(softmax theta_1 | softmax theta_0) above a fence  ImportanceFusion

Of the models one tensor each is in memory, with a few intermediates; nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.plan import Plan
from manyone.merging.static.spherical import stock_ratio
from manyone.merging.static.stream import Elementwise, working_dtype
from manyone.randomness import generator_for
from manyone.weights.checkpoint import Checkpoint

PerExpert = Callable[[str], Sequence[float]]
Thin = Callable[[str, int, Tensor], Tensor]


class WholeMethod(Elementwise, ABC):
    """Merges every tensor by :meth:`merged`, which has all of it at hand."""

    factors = False

    def whole(self, plan: Plan, name: str) -> bool:
        return True

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        return self.tensor(plan, name).reshape(-1)[start:stop].numpy()

    def tensor(self, plan: Plan, name: str) -> Tensor:
        return self.merged(plan, name, read_whole(plan.base, plan, name))

    @abstractmethod
    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        """The merged tensor, for the base's values of it."""


def read_whole(model: Checkpoint, plan: Plan, name: str) -> Tensor:
    """A tensor in memory of its own, in the working dtype; NaN and Inf are errors that name the model."""
    info = plan.info(name)
    dtype = torch.float64 if working_dtype(info.dtype) == np.float64 else torch.float32
    value = model.read_flat(name, 0, info.numel).view(info.shape).to(dtype, copy=True)
    if not torch.isfinite(value).all():
        raise ManyoneError(f"{model.label}: NaN or Inf in tensor {name!r}")
    return value


# --- thinned task vectors -------------------------------------------------------------------------------------------


class Thinned(WholeMethod):
    """theta_0 + scale * sum_i w_i thin(tau_i), with or without the election of signs of TIES.

    ``normalize`` divides by the sum of the weights that take part: those of the entries that agree with the elected
    sign, or all. Where entries cancel exactly the elected sign is plus.
    """

    def __init__(
        self, thin: Thin, weights: PerExpert, *, scale: Callable[[str], float], elect: bool, normalize: bool | None
    ) -> None:
        self.thin, self.weights, self.scale, self.elect, self.normalize = thin, weights, scale, elect, bool(normalize)

    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        total, positive = torch.zeros_like(base), torch.zeros_like(base)
        up, down = torch.zeros_like(base), torch.zeros_like(base)  # weights of the positive and negative entries
        weights = self.weights(name)
        for i, (expert, weight) in enumerate(zip(plan.experts, weights, strict=True)):
            tau = self.thin(name, i, read_whole(expert, plan, name).sub_(base)).mul_(weight)
            total += tau
            if self.elect:
                positive += tau.clamp_min(0)
                up.add_(tau > 0, alpha=weight)
                down.add_(tau < 0, alpha=weight)
        if self.elect:
            plus = total >= 0
            total = torch.where(plus, positive, total - positive)
            share = torch.where(plus, up, down)
            divisor = torch.where(share == 0, 1.0, share)
        else:
            divisor = torch.tensor(sum(weights) if abs(sum(weights)) >= 1e-8 else 1.0, dtype=base.dtype)
        if self.normalize:
            total /= divisor
        return total.mul_(self.scale(name)).add_(base)


def trimmed(tau: Tensor, density: float) -> Tensor:
    """The floor(density n) largest entries (at least one), as TIES trims a tensor; the others are zero."""
    if density >= 1:
        return tau
    if density <= 0 or not tau.numel():
        return torch.zeros_like(tau)
    return _keep(tau, tau.numel() - max(1, int(density * tau.numel())), tau.numel())


def breadcrumbs(tau: Tensor, density: float, gamma: float) -> Tensor:
    """Without the floor(gamma n) largest entries and so many of the smallest that floor(density n) are left.

    Where density + gamma > 1 fewer of the largest are left out, so that the density is reached.
    """
    if density >= 1:
        return tau
    kept = max(0, int(density * tau.numel()))
    first = max(0, tau.numel() - kept - int(gamma * tau.numel()))
    return _keep(tau, first, first + kept)


def _keep(tau: Tensor, first: int, last: int) -> Tensor:
    """tau with all entries zero whose place in the order of magnitude is not from ``first`` to below ``last``."""
    order = tau.abs().reshape(-1).argsort(stable=True)
    kept = torch.zeros(tau.numel(), dtype=tau.dtype)
    kept[order[first:last]] = 1
    return tau * kept.view_as(tau)


def keep_probabilities(tau: Tensor, density: float, epsilon: float) -> Tensor:
    """MagPrune: from density - epsilon for the smallest entry of a row to density + epsilon for its largest, linear in
    the rank (a vector is one row)."""
    rows = tau if tau.dim() > 1 else tau.reshape(1, -1)
    ranks = rows.abs().argsort(dim=1, stable=True).argsort(dim=1).to(tau.dtype)
    return (density - epsilon + ranks / max(1, rows.shape[1] - 1) * 2 * epsilon).view_as(tau)


def magprune(tau: Tensor, density: float, epsilon: float, *, seed: int, expert: int, name: str) -> Tensor:
    """tau thinned at random by :func:`keep_probabilities`; the draw is a function of (seed, expert's place, name)."""
    if density >= 1:
        return tau
    if density <= 0:
        return torch.zeros_like(tau)
    draw = uniform(tau.shape, seed, expert, name)
    return tau * (draw < keep_probabilities(tau, density, epsilon))


def uniform(shape: torch.Size, seed: int, expert: int, name: str) -> Tensor:
    """Numbers in [0, 1), one an entry."""
    return torch.rand(shape, generator=generator_for(seed, "della", expert, name), dtype=torch.float32)


def same_l1(thinned: Tensor, tau: Tensor) -> Tensor:
    """``thinned`` scaled to the sum of magnitudes of ``tau`` (as it is where either sum is zero)."""
    before, after = float(tau.abs().sum(dtype=torch.float64)), float(thinned.abs().sum(dtype=torch.float64))
    return thinned * (before / after) if min(before, after) >= 1e-7 else thinned


# --- selection, fusion ----------------------------------------------------------------------------------------------


class SCE(WholeMethod):
    """Select the share ``topk`` of the entries (of those that vary at all) with the largest variance over the experts,
    weigh every expert by the mean square of what is selected, erase entries against the elected sign."""

    def __init__(self, topk: Callable[[str], float]) -> None:
        self.topk = topk

    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        tau = torch.stack([read_whole(expert, plan, name).sub_(base) for expert in plan.experts])
        topk = self.topk(name)
        if topk < 1:
            tau *= self._selected(tau, topk)
        squares = tau.square().flatten(1).mean(1) if base.numel() else tau.new_zeros(len(tau))
        total = squares.sum()
        shares = torch.full_like(squares, 1 / len(tau)) if float(total) < 1e-6 else squares / total
        sign = (tau.sum(0) >= 0).to(tau.dtype) * 2 - 1
        weights = shares.view(-1, *[1] * base.dim()) * (tau.sign() == sign)
        return base + (tau * weights).sum(0) / weights.sum(0).clamp_min(1e-6)

    @staticmethod
    def _selected(tau: Tensor, topk: float) -> Tensor:
        variance = tau.var(0, unbiased=False)
        # The count is a float32 product, so that a share such as 0.3 of 10 selects what it selects elsewhere.
        count = int(np.float32(int(variance.count_nonzero())) * np.float32(topk)) if topk > 0 else 0
        mask = torch.zeros_like(variance)
        if count:
            mask.view(-1)[variance.reshape(-1).topk(count).indices] = 1
        return mask


class RAM(WholeMethod):
    """An entry that one expert alone moves by more than ``epsilon`` is added whole, one that several move is averaged
    over them. ``boost`` (r, alpha) multiplies an expert's own entries by 1 + r min(shared / own, alpha)."""

    def __init__(self, epsilon: Callable[[str], float], boost: Callable[[str], tuple[float, float]] | None) -> None:
        self.epsilon, self.boost = epsilon, boost

    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        epsilon = self.epsilon(name)
        count = torch.zeros_like(base)
        for expert in plan.experts:
            count += (read_whole(expert, plan, name) - base).abs() > epsilon
        merged = base.clone()
        for expert in plan.experts:
            tau = read_whole(expert, plan, name).sub_(base)
            tau *= tau.abs() > epsilon
            factor = 1 / count.clamp_min(1)
            if self.boost is not None:
                r, alpha = self.boost(name)
                own, moved = count == 1, tau != 0
                ratio = float((moved & ~own).sum()) / max(float((moved & own).sum()), epsilon)
                factor = torch.where(own, 1 + r * min(max(ratio, 0.0), alpha), factor)
            merged += tau * factor
        return merged


class ImportanceFusion(WholeMethod):
    """Takes over the entries of the one expert whose importance is at least median + 1.5 interquartile ranges.

    The importance of an entry is |tau| KL(p || q) with p and q the softmax of its row (plus 1e-8) in expert and base;
    quartiles are exact order statistics.
    """

    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        expert = read_whole(plan.experts[0], plan, name)
        p, q = (value.softmax(-1) + 1e-8 for value in (expert, base))
        importance = (expert - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
        order = importance.reshape(-1).sort().values
        low, median, high = (order[int(share * (len(order) - 1))] for share in (0.25, 0.5, 0.75))
        taken = importance >= median + 1.5 * (high - low)
        return base + (expert - base) * taken


# --- row by row -----------------------------------------------------------------------------------------------------


class RowWise(WholeMethod):
    """A rule for the rows of a tensor: ``rule(name, [x_1 .. x_N])`` of whole tensors, of the weights or, with a base,
    of the differences to it (then added to the base)."""

    def __init__(self, rule: Callable[[str, list[Tensor]], Tensor], on_task_vectors: bool) -> None:
        self.rule, self.on_task_vectors = rule, on_task_vectors

    def merged(self, plan: Plan, name: str, base: Tensor) -> Tensor:
        values = [read_whole(expert, plan, name) for expert in plan.experts]
        if not self.on_task_vectors:
            return self.rule(name, values)
        return base + self.rule(name, [value.sub_(base) for value in values])


def interpolated_rows(pair: Sequence[Tensor], t: float, dim: int) -> Tensor:
    """Spherical interpolation of the vectors along ``dim``, each pair by its own angle."""
    first, second = (value.transpose(dim, -1) if dim != -1 else value for value in pair)
    x, y = (value / value.norm(dim=-1, keepdim=True).clamp_min(1e-7) for value in (first, second))
    cosine = (x * y).sum(-1, keepdim=True).clamp(-1, 1)
    linear = 1 - cosine.square() <= 1e-16
    angle = torch.where(linear, math.pi / 2, cosine.acos())
    curved = (((1 - t) * angle).sin() * first + (t * angle).sin() * second) / angle.sin()
    merged = torch.where(linear, (1 - t) * first + t * second, curved)
    return merged.transpose(dim, -1) if dim != -1 else merged


def stock_rows(taus: Sequence[Tensor]) -> Tensor:
    """Model Stock with a ratio for every row (a filter): t mean(tau_i)."""
    cosines = []
    for i, a in enumerate(taus):
        for b in taus[i + 1 :]:
            lengths = (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-6)
            cosines.append(((a * b).sum(-1) / lengths).clamp(-1, 1))
    t = stock_ratio(torch.stack(cosines).mean(0), len(taus))
    return t.unsqueeze(-1) * sum(taus[1:], taus[0]) / len(taus)
