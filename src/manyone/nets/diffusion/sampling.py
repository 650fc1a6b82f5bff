"""From noise to data: the reverse steps of a diffusion process.

    ddpm          x' = (sqrt(ab') b x_0 + sqrt(a) (1 - ab') x) / (1 - ab) + sigma z
                  a = ab / ab', b = 1 - a, sigma^2 = b (1 - ab') / (1 - ab), over strides too
                  (Ho et al., arXiv 2006.11239, eq. 6 and 7)
    ddim          x' = sqrt(ab') x_0 + sqrt(1 - ab' - sigma^2) eps + sigma z
                  sigma^2 = eta^2 (1 - ab') / (1 - ab) (1 - ab / ab')
                  (Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 12 and 16)
    dpm-solver++  second order multistep on x_0, the last step of first order
                  (Lu et al., "DPM-Solver++", arXiv 2211.01095, algorithm 2)

with ab = alpha_bar at the step and ab' at the next one; x_0 and eps are the network's estimates there. At ab' = 1 all
give x_0. Everything is differentiable. The noise of a reverse step is ``draws(k)``, so that randomness may be a
function of its place alone; ``ddim`` with eta 0 and ``dpm-solver++`` need none.
Public names: :func:`sample`, :func:`timesteps`, :data:`Sampler`, :data:`Spacing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.diffusion.process import Known, Network, Process

Sampler = Literal["ddpm", "ddim", "dpm-solver++"]
Spacing = Literal["trailing", "leading", "linspace"]
Draws = Callable[[int], Tensor]


def timesteps(total: int, count: int | None = None, spacing: Spacing = "trailing") -> list[int]:
    """``count`` of the steps 1..``total`` (default: all), falling.

    ``trailing`` has the last one (total, total - s, ...), where x is pure noise; ``leading`` has the first one (...,
    1 + s, 1), as many published programs do; ``linspace`` has both.
    """
    count = total if count is None else count
    if not 1 <= count <= total:
        raise ManyoneError(f"{count} sampling steps: must be 1 to {total}, the diffusion steps")
    if spacing == "trailing":
        return [round(total - k * total / count) for k in range(count)]
    if spacing == "leading":
        return [1 + k * (total // count) for k in reversed(range(count))]
    if spacing == "linspace":
        return [total] if count == 1 else [round(total - k * (total - 1) / (count - 1)) for k in range(count)]
    raise ManyoneError(f"spacing {spacing!r}: must be trailing, leading or linspace")


def sample(
    network: Network,
    process: Process,
    noise: Tensor,
    *,
    sampler: Sampler = "ddim",
    steps: int | Sequence[int] | None = None,
    eta: float = 0.0,
    draws: Draws | None = None,
    known: Known | None = None,
    spacing: Spacing = "trailing",
) -> Tensor:
    """Data [B, ...] from ``noise`` [B, ...], in ``steps`` reverse steps (default: all; or the very steps, falling).

    ``network`` is called once a step with x [B, ...] and n int64 [B]. ``draws(k)`` is the noise [B, ...] of reverse
    step k = 0, 1, ...; the last one needs none. ``known`` entries are set before each call and at the end.
    """
    path = list(steps) if isinstance(steps, Sequence) else timesteps(process.steps, steps, spacing)
    if not path or any(a <= b for a, b in pairwise(path)) or not 1 <= path[-1] <= path[0] <= process.steps:
        raise ManyoneError(f"sampling steps {path}: must fall from at most {process.steps} to at least 1")
    if sampler not in ("ddpm", "ddim", "dpm-solver++"):
        raise ManyoneError(f"sampler {sampler!r}: must be ddpm, ddim or dpm-solver++")
    if not 0 <= eta <= 1:
        raise ManyoneError(f"eta = {eta}: must be from 0 to 1")
    if draws is None and len(path) > 1 and (sampler == "ddpm" or (sampler == "ddim" and eta > 0)):
        raise ManyoneError(f"sampler {sampler} with eta = {eta} needs draws: the noise of each reverse step")
    bars = [float(process.schedule.alpha_bar[n]) for n in (*path, 0)]
    x, before = noise, None
    for k, n in enumerate(path):
        x = x if known is None else known.put(x)
        output = network(x, torch.full((len(x),), n, dtype=torch.int64, device=x.device))
        data, eps = process.estimates(x, output, n)
        bar, after = bars[k], bars[k + 1]
        if k == len(path) - 1:
            x = data
        elif sampler == "ddim":
            variance = eta**2 * (1 - after) / (1 - bar) * (1 - bar / after)
            x = torch.add(math.sqrt(after) * data, eps, alpha=math.sqrt(1 - after - variance))
            x = torch.add(x, draws(k), alpha=math.sqrt(variance)) if draws is not None and eta > 0 else x
        elif sampler == "ddpm":
            assert draws is not None
            alpha = bar / after
            share = math.sqrt(after) * (1 - alpha) / (1 - bar)
            mean = torch.add(share * data, x, alpha=math.sqrt(alpha) * (1 - after) / (1 - bar))
            x = torch.add(mean, draws(k), alpha=math.sqrt((1 - alpha) * (1 - after) / (1 - bar)))
        else:
            x = _multistep(x, data, before, bars[max(k - 1, 0)], bar, after)
            before = data
    return x if known is None else known.put(x)


def _multistep(x: Tensor, data: Tensor, before: Tensor | None, earlier: float, bar: float, after: float) -> Tensor:
    """DPM-Solver++(2M) from alpha_bar ``bar`` to ``after``; ``before`` is the estimate of x_0 at ``earlier``."""
    width = _half_log_snr(after) - _half_log_snr(bar)
    if before is not None:
        ratio = (_half_log_snr(bar) - _half_log_snr(earlier)) / width
        data = torch.lerp(before, data, 1 + 1 / (2 * ratio))
    return torch.sub(math.sqrt((1 - after) / (1 - bar)) * x, data, alpha=math.sqrt(after) * math.expm1(-width))


def _half_log_snr(bar: float) -> float:
    """lambda = log(sqrt(ab) / sqrt(1 - ab))"""
    return 0.5 * (math.log(bar) - math.log1p(-bar))
