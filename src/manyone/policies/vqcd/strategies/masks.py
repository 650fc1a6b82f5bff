"""VQ-CD's own strategy: every task has a disjoint random part of the weights (arXiv 2410.15698, section 4.2).

The weights and their masks are :mod:`manyone.policies.vqcd.weights`; ``capacity`` is the number of tasks that they are
divided among, at least those of the sequence: what is left over is for tasks to come. A finished model whose weights
are all taken makes room for further ones by releasing small weights or by growing wider
(:mod:`manyone.policies.vqcd.capacity`). Public names: :class:`MaskStrategy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.vqcd.strategy import Kept, Strategy, Trainee
from manyone.policies.vqcd.weights import Draw, MaskedWeights, OneDimensional, draw_masks, weight_shapes


class MaskStrategy(Strategy):
    """Disjoint masks with a bank of the one-dimensional tensors; forgetting is exactly zero.

    ``mask_draw``: masks are random and disjoint, or one of two ablations; ``one_dimensional``: who owns biases and
    norms. ``weights``: those of a finished model that learns on, with room for the new tasks.
    """

    def __init__(
        self,
        trainee: Trainee,
        *,
        capacity: int | None = None,
        mask_draw: Draw = "disjoint",
        one_dimensional: OneDimensional = "bank",
        weights: MaskedWeights | None = None,
        earlier: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__(trainee)
        self.earlier = dict(earlier or {})
        """Networks of other widths that earlier tasks were learned in."""
        if weights is None:
            count = trainee.tasks if capacity is None else capacity
            if count < trainee.tasks:
                raise ManyoneError(f"capacity = {count}: must be at least the {trainee.tasks} tasks")
            shapes = weight_shapes(trainee.network)
            own = dict(trainee.network.named_parameters())
            masks = draw_masks(shapes, count, trainee.seed, draw=mask_draw, weights=own)
            weights = MaskedWeights(trainee.network, masks, one_dimensional=one_dimensional)
        self.masked = weights

    def network(self, task: int) -> nn.Module:
        """The live network, or that of its own width of a task from before the network grew."""
        return self.earlier.get(task, self.trainee.network)

    def begin(self, task: int) -> None:
        """The live network becomes the task's share of the untrained weights, scaled, and first biases and norms."""
        super().begin(task)
        self.masked.begin(task)

    def filter_gradients(self) -> None:
        """Gradients outside the mask become 0."""
        self.masked.filter_gradients()

    def end(self, task: int) -> None:
        """The live network's values become the task's."""
        super().end(task)
        self.masked.end()

    def kept(self) -> Kept:
        """One merged set of weights, the masks and the bank."""
        one = self.masked
        own = [dict(one.bank[task]) for task in sorted(one.bank)]
        return Kept(dict(one.full), one.masks, own, narrow=dict(one.narrow))

    def weights(self, task: int) -> dict[str, Tensor]:
        """The task's share of the weights, zeros elsewhere, its biases and norms; of the active task the live ones."""
        return self.masked.weights(task)

    def sizes(self) -> dict[str, float]:
        """``parameters`` of weights and bank; ``bytes_per_task``: a mask and a row of the bank."""
        sizes = self.masked.sizes()
        bank = sum(value.numel() for one in self.masked.bank.values() for value in one.values())
        return {"parameters": sizes["weights"] + bank, "bytes_per_task": sizes["bank_bytes"] + sizes["mask_bytes"]}

    def state_dict(self) -> dict[str, Any]:
        """The weights of all tasks, masks and bank."""
        return super().state_dict() | {"masked": self.masked.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.masked.load_state_dict(state["masked"])
