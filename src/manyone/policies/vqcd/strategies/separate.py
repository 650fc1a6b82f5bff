"""A network of its own for every task, all of them together as large as the one network of the other strategies.

    theta_i in R^(d / I), i = 1..I        theta_i = argmin of L_i, drawn anew

The width is the one at which a network has d / I parameters (the nearest that there is: :meth:`Separate.sizes` counts).
Nothing is forgotten and nothing is shared; disjoint masks hold as many weights, but spread over a wide network.
Public names: :class:`Separate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from manyone.policies.vqcd.strategy import Kept, Strategy, Trainee, live


class Separate(Strategy):
    """I narrow networks; the learner's own is only what their size is measured by."""

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        share = 1 / trainee.tasks
        self.networks: list[nn.Module] = [trainee.another(share, f"separate {i}") for i in range(trainee.tasks)]

    def network(self, task: int) -> nn.Module:
        """The network of ``task``."""
        return self.networks[task]

    def kept(self) -> Kept:
        """The weights of every network as a task's own."""
        return Kept({}, own=[live(one) for one in self.networks])

    def state_dict(self) -> dict[str, Any]:
        """The networks."""
        return super().state_dict() | {"networks": [live(one) for one in self.networks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the networks."""
        super().load_state_dict(state)
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved, strict=False)  # buffers are constants of the architecture
