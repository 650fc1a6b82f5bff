"""An exponential moving average of parameters, in one pass over all of them.

    every ``every``-th step:  v <- decay v + (1 - decay) theta;  until step ``start`` v <- theta

Public names: :class:`Ema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError


class Ema:
    """``values``, the averages of ``parameters``, in their order; they start as copies."""

    def __init__(self, parameters: Sequence[Tensor], decay: float, every: int = 1, start: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ManyoneError(f"decay = {decay}: must be from 0 to below 1")
        if every < 1 or start < 0:
            raise ManyoneError(f"every = {every} and start = {start}: must be at least 1 and 0")
        self.decay, self.every, self.start = decay, every, start
        self._parameters = [p.detach() for p in parameters]
        self.values = [p.clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step ``step``, counted from 1."""
        if step % self.every:
            return
        if step <= self.start:
            self.reset()
        else:
            torch._foreach_lerp_(self.values, self._parameters, 1 - self.decay)

    def reset(self) -> None:
        """The averages begin anew at the parameters as they are."""
        torch._foreach_copy_(self.values, self._parameters)

    def state_dict(self) -> dict[str, Any]:
        """The averages, by place."""
        return {str(place): value.clone() for place, value in enumerate(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state_dict` gave for parameters of the same shapes."""
        given = [state.get(str(place)) for place in range(len(self.values))]
        if len(state) != len(given) or any(
            not isinstance(g, Tensor) or g.shape != v.shape for g, v in zip(given, self.values, strict=True)
        ):
            raise ManyoneError("the average was saved for other parameters: shapes or their number differ")
        torch._foreach_copy_(self.values, [one for one in given if one is not None])
