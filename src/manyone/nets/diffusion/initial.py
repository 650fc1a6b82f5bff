"""Fresh weights of a denoiser: torch's defaults, every tensor drawn from (seed, kind, its name) alone.

Public names: :func:`draw_weights`, :func:`check_sizes`, :data:`WIDEST`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

WIDEST = 8192
"""Most units of a layer: a file that asks for more would take the memory of the machine."""


def check_sizes(**sizes: tuple[int, int, int]) -> None:
    """One line for the first of ``name=(value, least, most)`` that is not a whole number in its range."""
    for name, (value, least, most) in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ManyoneError(f"{name} = {value!r}: must be a whole number from {least} to {most}")


@torch.no_grad()
def draw_weights(module: nn.Module, seed: int, kind: str, zero: Sequence[str] = ()) -> None:
    """Uniform in +-1 / sqrt(inputs), as ``nn.Linear`` and ``nn.Conv1d`` start; norms at gain 1 and shift 0.

    The inputs of a layer are those of its ``weight``: the last size of a matrix [O, I], taps times channels of a kernel
    [k, C, O] (of a transposed one [4, O, C]: taps times O, as torch counts). Tensors called as one of ``zero`` are 0.
    """
    for name, value in module.named_parameters():
        if value.is_meta:  # a network that is only counted
            continue
        place, _, last = name.rpartition(".")
        if name.startswith(tuple(zero)) or last == "shift":
            value.zero_()
        elif last == "gain":
            value.fill_(1)
        else:
            weight = module.get_parameter(f"{place}.weight") if last == "bias" else value
            inputs = weight.shape[0] * weight.shape[1] if weight.ndim == 3 else weight.shape[1]
            fresh = torch.empty(value.shape, dtype=torch.float64)
            value.copy_(fresh.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator_for(seed, kind, name)))
