"""Static methods that treat every element by itself after a pass for thresholds or norms.

With tau_i = theta_i - theta_0:
- linear combinations c_0 theta_0 + sum_i c_i theta_i whose coefficients per tensor come from the experts' Gram matrix:
  SLERP (Shoemake, 1985) and Model Stock (Jang et al., 2024);
- TIES (Yadav et al., 2023): trim each tau_i to its largest entries over the whole model, elect a sign per element, keep
  what agrees; DARE (Yu et al., 2024): drop entries of tau_i at random and rescale the rest, then add or run TIES.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.linear import Linear
from manyone.merging.static.plan import Plan, within
from manyone.merging.static.stream import Elementwise, blame, finite, over_chunks, working_dtype
from manyone.randomness import generator_for
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.select import MagnitudeSelector

PerTensor = Callable[[str], float]
_GROUP = 8  # experts whose thresholds are sought together
_MASK_BLOCK = 1 << 16  # elements of a tensor that share one random stream; part of what a seed means


class FromGram(Linear):
    """A linear combination whose coefficients follow, per tensor, from the inner products of the experts.

    ``rule`` maps the float64 Gram matrix [experts, experts] to (c_0, [c_i]). The vectors are the task vectors when
    ``space`` is "task-vectors", the weights themselves otherwise.
    """

    passes = 2
    multiplies = True

    def __init__(self, rule: Callable[[Tensor], tuple[float, Sequence[float]]], space: str) -> None:
        self.rule, self.space = rule, space
        self.grams: dict[str, Tensor] = {}
        super().__init__(lambda name: self.rule(self.grams[name]))

    def prepare(self, plan: Plan, threads: int) -> None:
        parts: dict[int, Tensor] = {}

        def add(name: str, start: int, stop: int, buffers: Buffers) -> None:
            vectors = torch.stack([e.read_flat(name, start, stop).double() for e in plan.experts])
            if self.space == "task-vectors":
                vectors -= plan.base.read_flat(name, start, stop).double()
            gram = vectors @ vectors.T
            if not finite(gram.trace()):
                blame(plan, name, start, stop)
            parts[start] = gram

        for name in plan.merged:
            over_chunks(plan.chunks([name]), add, threads)
            zero = torch.zeros(len(plan.experts), len(plan.experts), dtype=torch.float64)
            # Summed in the order of the chunks, so that the number of threads does not show in the result.
            self.grams[name] = sum((parts[start] for start in sorted(parts)), zero)
            parts.clear()


def slerp_rule(t: float | None) -> Callable[[Tensor], tuple[float, Sequence[float]]]:
    """Spherical interpolation of all experts' vectors as one set of coefficients.

    Two experts: sin((1-t) W)/sin W and sin(t W)/sin W with W the angle between the two (t = 0 gives the first). More:
    one after the other, the k-th with t = 1/k, so that all count the same; the order matters slightly. Vectors that are
    nearly parallel (cos > 0.9995) or zero are interpolated linearly.
    """

    def rule(gram: Tensor) -> tuple[float, Sequence[float]]:
        count = len(gram)
        c = torch.zeros(count, dtype=torch.float64)
        c[0] = 1.0
        for k in range(1, count):
            step = t if t is not None and count == 2 else 1 / (k + 1)
            length = math.sqrt(float(c @ gram @ c) * float(gram[k, k]))
            cosine = float(c @ gram[:, k]) / length if length > 0 else 1.0
            if abs(cosine) > 0.9995:
                old, new = 1 - step, step
            else:
                angle = math.acos(cosine)
                old, new = (math.sin(x * angle) / math.sin(angle) for x in (1 - step, step))
            c *= old
            c[k] = new
        return 0.0, c.tolist()

    return rule


def on_task_vectors(
    rule: Callable[[Tensor], tuple[float, Sequence[float]]], scale: float = 1.0
) -> Callable[[Tensor], tuple[float, Sequence[float]]]:
    """Turns coefficients of task vectors into coefficients of weights: theta_0 + scale sum c_i (theta_i - theta_0)."""

    def wrapped(gram: Tensor) -> tuple[float, Sequence[float]]:
        _, c = rule(gram)
        return 1 - scale * sum(c), [scale * x for x in c]

    return wrapped


def model_stock_rule(gram: Tensor) -> tuple[float, Sequence[float]]:
    """Model Stock, eq. 2: t = N cos / (1 + (N-1) cos), theta = t mean(theta_i) + (1-t) theta_0; cos is the mean cosine
    between two task vectors of this tensor (clamped to [0, 1]; tensors that do not move keep the base)."""
    count = len(gram)
    lengths = gram.diagonal().sqrt()
    outer = torch.outer(lengths, lengths)
    pairs = torch.triu(torch.ones_like(gram, dtype=torch.bool), 1) & (outer > 0)
    cosine = min(1.0, max(0.0, float((gram[pairs] / outer[pairs]).mean()) if pairs.any() else 0.0))
    t = count * cosine / (1 + (count - 1) * cosine)
    return 1 - t, [t / count] * count


class SignElection(Elementwise):
    """DARE and TIES, each optional, in the order: tau, drop and rescale, trim, elect signs, sum or mean.

    ``density`` (kept share of each expert's entries, None: no trim), ``scope`` of the trim ("model": one threshold per
    expert over all merged tensors; "tensor": one per tensor and expert), ``drop`` (DARE's p), ``elect`` (TIES' sign
    election; without it the entries are simply added), ``merge`` ("sum" or "mean" over the agreeing non-zero entries),
    ``weights`` of the experts per tensor, ``normalize`` (divide by the sum of the weights that take part),
    ``cancelled`` (the elected sign where entries cancel exactly: that of the majority of all, or plus).
    """

    def __init__(
        self,
        scale: PerTensor,
        *,
        density: Callable[[str], Sequence[float]] | None = None,
        scope: Literal["model", "tensor"] = "model",
        drop: Callable[[str], Sequence[float]] | None = None,
        rescale: bool = True,
        elect: bool = True,
        merge: Literal["sum", "mean"] = "sum",
        weights: Callable[[str], Sequence[float]] | None = None,
        normalize: bool = False,
        cancelled: Literal["majority", "plus"] = "majority",
        seed: int = 0,
    ) -> None:
        self.cancelled = cancelled
        self.scale, self.density, self.scope, self.drop, self.rescale = scale, density, scope, drop, rescale
        self.elect, self.merge, self.weights, self.normalize, self.seed = elect, merge, weights, normalize, seed
        self.passes = 2 if density is not None else 1
        self.thresholds: dict[tuple[int, str], float] = {}  # (expert, tensor or "" for the model) -> kept from here on
        self._votes = 0
        self._tie = 1  # sign that an element with exactly cancelling entries takes
        self._cancelled: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    # -- thresholds -------------------------------------------------------------------------------------------------

    def prepare(self, plan: Plan, threads: int) -> None:
        self._votes, self._tie, self._cancelled, self.thresholds = 0, 1, [], {}
        if self.density is None:
            return
        if self.scope == "model":
            self._select(plan, "", plan.merged, threads)
        else:
            for name in plan.merged:
                self._select(plan, name, [name], threads)

    def _select(self, plan: Plan, scope: str, names: Sequence[str], threads: int) -> None:
        assert self.density is not None
        total = sum(plan.info(name).numel for name in names)
        ranks: dict[int, int] = {}
        for i, density in enumerate(self.density(scope)):
            # One more than floor(density d) of the whole model, as TIES' reference does; floor(density n) of a tensor.
            kept = int(density * total) + (scope == "")
            if density < 1 and total:
                ranks[i] = min(max(kept, 1), total)

        # A few experts at a time, so that the counts take the same memory whatever the number of experts.
        for first in range(0, len(ranks), _GROUP):
            selectors = {i: MagnitudeSelector(ranks[i], total) for i in list(ranks)[first : first + _GROUP]}
            if self.drop is None:
                for i, selector in selectors.items():
                    self._sample(plan, i, names, selector, threads)
            while not all(selector.done for selector in selectors.values()):
                self._count(plan, names, {i: s for i, s in selectors.items() if not s.done}, threads)
            for i, selector in selectors.items():
                assert selector.threshold is not None
                self.thresholds[i, scope] = selector.threshold

    def _sample(self, plan: Plan, i: int, names: Sequence[str], selector: MagnitudeSelector, threads: int) -> None:
        """Shows the selector about a million elements: runs of neighbours out of every eighth chunk."""
        every = 8 if selector.total > 1 << 23 else 1
        stride = max(1, selector.total // every // (1 << 20))

        def show(name: str, start: int, stop: int, buffers: Buffers) -> None:
            base = self._sampled(plan.base, name, start, stop, stride)
            selector.sample((self._sampled(plan.experts[i], name, start, stop, stride) - base).abs_())

        over_chunks(itertools.islice(plan.chunks(names), 0, None, every), show, threads)
        selector.use_sample()

    def _count(self, plan: Plan, names: Sequence[str], selectors: dict[int, MagnitudeSelector], threads: int) -> None:
        """One pass over everything for these experts' selectors."""

        def show(name: str, start: int, stop: int, buffers: Buffers) -> None:
            for i, selector in selectors.items():
                tau = self._tau(plan, i, name, start, stop, buffers)
                magnitudes = tau.abs_() if tau.dtype == torch.float32 else tau.abs_().float()
                if not finite(magnitudes.amax()):
                    blame(plan, name, start, stop)
                    raise ManyoneError(f"{plan.experts[i].label}: tensor {name!r} is too far from the base for float32")
                selector.add(magnitudes)

        over_chunks(plan.chunks(names), show, threads)
        for selector in selectors.values():
            selector.end_pass()

    @staticmethod
    def _sampled(model: Checkpoint, name: str, start: int, stop: int, stride: int) -> Tensor:
        values = model.read_flat(name, start, stop)
        if stride > 1 and len(values) >= 256 * stride:
            values = values[: len(values) // 256 * 256].view(-1, 256)[::stride].reshape(-1)
        elif stride > 1:
            values = values[::stride]
        return values.float()

    # -- one expert's contribution ----------------------------------------------------------------------------------

    def _tau(self, plan: Plan, i: int, name: str, start: int, stop: int, buffers: Buffers) -> Tensor:
        dtype = working_dtype(plan.info(name).dtype)
        base = buffers.read(plan.base, name, start, stop, dtype, "base")
        expert = buffers.read(plan.experts[i], name, start, stop, dtype, "expert")
        tau = torch.from_numpy(np.subtract(expert, base, out=buffers.get("tau", stop - start, dtype)))
        if self.drop is not None:
            p = self.drop(name)[i]
            if not finite(tau.sum()):
                blame(plan, name, start, stop)
            drop_at_random(tau, p, self.seed, i, name, start, self.rescale)
        return tau

    def _kept(self, plan: Plan, i: int, name: str, start: int, stop: int, buffers: Buffers) -> Tensor:
        tau = self._tau(plan, i, name, start, stop, buffers)
        threshold = self.thresholds.get((i, "" if self.scope == "model" else name))
        if threshold is not None:
            # hardshrink keeps |x| > lambda; the largest float below the threshold makes that |x| >= threshold.
            below = float(np.nextafter(np.float32(threshold), np.float32(-1)))
            torch.ops.aten.hardshrink.out(tau, max(below, 0.0), out=tau)
        if self.weights is not None:
            tau.mul_(self.weights(name)[i])
        return tau

    # -- merging ----------------------------------------------------------------------------------------------------

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        length, dtype = stop - start, working_dtype(plan.info(name).dtype)

        def buffer(key: str) -> Tensor:
            return torch.from_numpy(buffers.get(key, length, dtype))

        total, positive, part = buffer("sum").zero_(), buffer("positive").zero_(), buffer("part")
        counting = self.merge == "mean" or self.normalize
        shares = [buffer(key).zero_() for key in ("up", "down")] if counting else []
        for i in range(len(plan.experts)):
            tau = self._kept(plan, i, name, start, stop, buffers)
            total += tau
            if self.elect:
                positive += torch.clamp_min(tau, 0, out=part)
            if counting:
                weight = self.weights(name)[i] if self.weights is not None and self.normalize else 1.0
                if self.elect:
                    shares[0].add_(tau > 0, alpha=weight)
                    shares[1].add_(tau < 0, alpha=weight)
                else:
                    shares[0] += weight
        if self.elect:
            up = self._elected(total, positive, name, start, stop)
            total.sub_(positive)  # the negative entries
            np.copyto(total.numpy(), positive.numpy(), where=up)
            if counting:
                np.copyto(shares[1].numpy(), shares[0].numpy(), where=up)
        if counting:
            share = shares[-1] if self.elect else shares[0]
            total /= torch.where(share.abs() < 1e-8, 1.0, share)
        total *= self.scale(name)
        base = buffers.read(plan.base, name, start, stop, dtype, "base")
        return np.add(base, total.numpy(), out=total.numpy())

    def _elected(self, total: Tensor, positive: Tensor, name: str, start: int, stop: int) -> np.ndarray:
        """Where the elected sign is +. An exact zero follows the majority of all signs, which is known at the end only:
        such chunks are noted and computed again if the majority turns out to be the other one."""
        values, above = total.numpy(), positive.numpy()
        up = values > 0
        ties = values == 0
        ups = int(np.count_nonzero(up))
        with self._lock:
            self._votes += 2 * ups + int(np.count_nonzero(ties)) - len(up)  # (+) - (-)
        if self.cancelled == "plus":
            up |= ties
        elif np.logical_and(ties, above > 0).any():
            with self._lock:
                self._cancelled.append((name, start, stop))
            if self._tie > 0:
                up |= ties
        return up

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        again, self._cancelled = self._cancelled, []
        if self._votes < 0 and again:
            self._tie = -1
            return sorted(again)
        return ()


class NearSwap(Elementwise):
    """The base with the entries of the one expert the more, the nearer they are: w theta_1 + (1 - w) theta_0 with
    w = min(1, max(0, t / |theta_1 - theta_0|)), differences of at least 1e-6."""

    def __init__(self, t: PerTensor) -> None:
        self.t = t

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        dtype = working_dtype(plan.info(name).dtype)
        base = buffers.read(plan.base, name, start, stop, dtype, "base")
        expert = buffers.read(plan.experts[0], name, start, stop, dtype, "expert")
        tau = np.subtract(expert, base, out=buffers.get("tau", stop - start, dtype))
        weight = np.maximum(np.abs(tau), 1e-6, out=buffers.get("part", stop - start, dtype))
        np.clip(self.t(name) / weight, 0, 1, out=weight)
        tau *= weight
        return np.add(base, tau, out=tau)


def drop_at_random(tau: Tensor, p: float, seed: int, expert: int, name: str, start: int, rescale: bool = True) -> None:
    """DARE in place: entries are zeroed with probability ``p``, the others divided by 1 - p.

    Whether an element is dropped depends on (seed, expert's place, tensor name, element) alone: element e of a tensor
    uses entry e mod 65536 of the stream of block e div 65536, one 16-bit number each, so p has steps of 1/65536.
    """
    level = round(p * 65536)
    if level <= 0:
        return
    position, stop = start, start + len(tau)
    drop = np.empty(len(tau), dtype=bool)
    while position < stop:
        block, offset = divmod(position, _MASK_BLOCK)
        draw = torch.empty(_MASK_BLOCK // 4, dtype=torch.int64)
        draw.random_(-(2**63), None, generator=generator_for(seed, "dare", expert, name, block))
        length = min(_MASK_BLOCK - offset, stop - position)
        numbers = draw.numpy().view(np.int16)[offset : offset + length]
        np.less(numbers, level - 32768, out=drop[position - start : position - start + length])
        position += length
    tau.numpy()[drop] = 0.0
    if rescale and level < 65536:
        tau.mul_(1 / (1 - level / 65536))


def ties(
    count: int,
    density: float = 0.2,
    scale: float = 0.3,
    merge: Literal["sum", "mean"] = "sum",
    scope: Literal["model", "tensor"] = "model",
) -> SignElection:
    """Trim, elect signs, add or average what agrees."""
    within("density", density, 0 < density <= 1, "in (0, 1]")
    within("merge", merge, merge in ("sum", "mean"), "sum or mean")
    within("scope", scope, scope in ("model", "tensor"), "model or tensor")
    trim = (lambda name: [density] * count) if density < 1 else None
    return SignElection(lambda name: scale, density=trim, scope=scope, merge=merge)


def dare(
    count: int,
    drop: float = 0.5,
    scale: float = 0.3,
    then: Literal["task-arithmetic", "ties"] = "task-arithmetic",
    density: float = 0.2,
    merge: Literal["sum", "mean"] = "sum",
    seed: int = 0,
) -> SignElection:
    """Drop at random and rescale, then task arithmetic or TIES (with ``density`` and ``merge``)."""
    within("drop", drop, 0 <= drop < 1, "in [0, 1)")
    within("then", then, then in ("task-arithmetic", "ties"), "task-arithmetic or ties")
    within("density", density, 0 < density <= 1, "in (0, 1]")
    within("merge", merge, merge in ("sum", "mean"), "sum or mean")
    elect = then == "ties"
    return SignElection(
        lambda name: scale,
        density=(lambda name: [density] * count) if elect and density < 1 else None,
        drop=lambda name: [drop] * count,
        elect=elect,
        merge=merge if elect else "sum",
        seed=seed,
    )


def slerp(
    count: int, t: float = 0.5, space: Literal["weights", "task-vectors"] = "weights", scale: float = 1.0
) -> FromGram:
    """Spherical interpolation of weights or of task vectors."""
    within("experts", count, count >= 2, "at least 2 for SLERP")
    within("space", space, space in ("weights", "task-vectors"), "weights or task-vectors")
    within("scale", scale, scale == 1.0 or space == "task-vectors", "1 unless space is task-vectors")
    rule = slerp_rule(t)
    return FromGram(on_task_vectors(rule, scale) if space == "task-vectors" else rule, space)


def model_stock(count: int) -> FromGram:
    """Model Stock."""
    within("experts", count, count >= 2, "at least 2 for Model Stock")
    return FromGram(model_stock_rule, "task-vectors")
