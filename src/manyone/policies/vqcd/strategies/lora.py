"""Low-rank adapters: the first task trains all weights, every later one a low-rank change of them (CoD-LoRA).

Hu et al., "Continual Diffuser" (arXiv 2409.02512) with the adapters of Hu et al., "LoRA" (arXiv 2106.09685, eq. 3). A
tensor W of two or more dimensions counts as a matrix [m, n] with m outputs:

    W_i = W_1 + B_i A_i,  B_i [m, r], A_i [r, n]        r = min(rank, m, n)        LoRA.overrides, Kept.of

B_i starts at zero, so that task i begins as the first one ended; A_i is drawn from U(-1/sqrt(n), 1/sqrt(n)). W_1 and
all tensors of one dimension are frozen when the first task has ended. CoD adapts the first, middle and last
convolutions of its U-Net; here every W is adapted, so that all denoisers can be.
Public names: :class:`LoRA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manyone.policies.vqcd.strategy import Kept, Strategy, Trainee, live
from manyone.randomness import generator_for

Factors = dict[str, tuple[Tensor, Tensor]]


class LoRA(Strategy):
    """``rank`` r of the adapters of all tasks but the first."""

    def __init__(self, trainee: Trainee, *, rank: int = 64) -> None:
        super().__init__(trainee)
        self.rank = rank
        self.adapters: list[dict[str, tuple[nn.Parameter, nn.Parameter]]] = []
        """Of each task that has begun: (B, A) by parameter; none of the first."""

    def begin(self, task: int) -> None:
        """Draws the adapters of ``task``."""
        super().begin(task)
        self.adapters.append({} if task == 0 else self._fresh(task))

    def trainable(self, task: int) -> list[nn.Parameter]:
        """All weights in the first task, then the adapters."""
        if task == 0:
            return super().trainable(task)
        return [factor for pair in self.adapters[task].values() for factor in pair]

    def overrides(self) -> dict[str, Tensor] | None:
        """The adapted weights of the task in training."""
        if not self.task:
            return None
        return {
            name: value.detach() + (pair[0] @ pair[1]).view_as(value)
            for name, pair in self.adapters[self.task].items()
            for value in (self.trainee.network.get_parameter(name),)
        }

    def kept(self) -> Kept:
        """The first task's weights and the adapters; a task that has not begun acts as the first."""
        found: list[Factors] = [
            {name: (b.detach().clone(), a.detach().clone()) for name, (b, a) in one.items()} for one in self.adapters
        ]
        return Kept(live(self.trainee.network), factors=found + [{}] * (self.trainee.tasks - len(found)))

    def state_dict(self) -> dict[str, Any]:
        """The adapters."""
        saved = [{name: [f.detach() for f in pair] for name, pair in one.items()} for one in self.adapters]
        return super().state_dict() | {"adapters": saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the adapters."""
        super().load_state_dict(state)
        device = next(self.trainee.network.parameters()).device

        def restored(factor: Tensor) -> nn.Parameter:
            return nn.Parameter(factor.detach().clone().to(device))

        self.adapters = [
            {name: (restored(pair[0]), restored(pair[1])) for name, pair in one.items()} for one in state["adapters"]
        ]

    def _fresh(self, task: int) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        found = {}
        for name, value in self.trainee.network.named_parameters():
            if value.ndim < 2:
                continue
            rows, columns = len(value), value[0].numel()
            rank = min(self.rank, rows, columns)
            draw = generator_for(self.trainee.seed, "lora", task, name)
            a = torch.empty(rank, columns).uniform_(-(columns**-0.5), columns**-0.5, generator=draw)
            found[name] = (nn.Parameter(value.new_zeros(rows, rank)), nn.Parameter(a.to(value)))
        return found
