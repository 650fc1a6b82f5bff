"""Noise schedules: how much of the data is left after n of N diffusion steps, alpha_bar_n = prod_{m <= n} (1 - beta_m).

    cosine   alpha_bar_n = f(n) / f(0), f(n) = cos^2((n / N + s) / (1 + s) pi / 2), s = 0.008, beta_n at most 0.999
             (Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv 2102.09672, eq. 17)
    linear   beta_n evenly from 1e-4 to 0.02, scaled by 1000 / N
             (Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 4, for N = 1000)
    vp       beta_n = 1 - exp(-b_min / N - (b_max - b_min) (2 n - 1) / (2 N^2)), b_min = 0.1, b_max = 10: a few steps
             suffice, alpha_bar_N = exp(-b_min - (b_max - b_min) / 2) = 0.0064 whatever N is
             (Xiao et al., "Tackling the Generative Learning Trilemma", arXiv 2112.07804, appendix)

Steps count from 1; step 0 is the data, alpha_bar_0 = 1.
Public names: :class:`Schedule`, :func:`make_schedule`, :data:`ScheduleName`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

ScheduleName = Literal["cosine", "linear", "vp"]
_MOST = 0.999  # of a step's beta: the last cosine step would be 1


@dataclass(frozen=True, eq=False)
class Schedule:
    """``alpha_bar`` float64 [N + 1]: 1 at step 0, then strictly falling in (0, 1)."""

    name: str
    alpha_bar: Tensor

    def __post_init__(self) -> None:
        falls = self.alpha_bar.ndim == 1 and len(self.alpha_bar) > 1 and float(self.alpha_bar[0]) == 1.0
        if not (falls and bool((self.alpha_bar.diff() < 0).all()) and float(self.alpha_bar[-1]) > 0):
            raise ManyoneError(f"schedule {self.name}: alpha_bar must start at 1 and fall strictly within (0, 1)")

    @property
    def steps(self) -> int:
        """N, the number of diffusion steps."""
        return len(self.alpha_bar) - 1

    @property
    def beta(self) -> Tensor:
        """float64 [N + 1]: the share of noise that step n adds; 0 at step 0."""
        return torch.cat((torch.zeros(1, dtype=torch.float64), 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]))


def make_schedule(
    name: ScheduleName, steps: int, *, beta_min: float | None = None, beta_max: float | None = None
) -> Schedule:
    """The schedule ``name`` of ``steps`` steps.

    ``beta_min`` and ``beta_max`` are the limits of ``linear`` (1e-4 and 0.02 at 1,000 steps) and ``vp`` (0.1 and 10).
    """
    if steps < 1:
        raise ManyoneError(f"diffusion steps = {steps}: must be at least 1")
    if name not in ("cosine", "linear", "vp"):
        raise ManyoneError(f"schedule {name!r}: must be cosine, linear or vp")
    if name == "cosine" and (beta_min is not None or beta_max is not None):
        raise ManyoneError("the cosine schedule has no beta_min and beta_max: leave them out")
    n = torch.arange(1, steps + 1, dtype=torch.float64)
    if name == "cosine":
        at = torch.cat((torch.zeros(1, dtype=torch.float64), n)) / steps
        f = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=_MOST)
    elif name == "linear":
        low, high = 1e-4 if beta_min is None else beta_min, 0.02 if beta_max is None else beta_max
        scale = 1000 / steps
        beta = torch.linspace(low * scale, high * scale, steps, dtype=torch.float64).clamp(max=_MOST)
    else:
        low, high = 0.1 if beta_min is None else beta_min, 10.0 if beta_max is None else beta_max
        beta = 1 - torch.exp(-low / steps - (high - low) * (2 * n - 1) / (2 * steps**2))
    if not bool((beta > 0).all()):
        raise ManyoneError(f"schedule {name} with beta_min = {beta_min}, beta_max = {beta_max}: must be above 0")
    return Schedule(name, torch.cat((torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0))))
