"""The policy of behaviour cloning: (state, one-hot task number) -> 256 -> 256 -> 256 -> tanh action.

Public names: :class:`CloningNetwork`, :class:`CloningPolicy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.policies.acting import EpisodeLike, checked_observations
from manyone.policies.tasks import TaskTable
from manyone.randomness import generator_for


class CloningNetwork(nn.Module):
    """Actions [..., A] in (-1, 1) from normalised states [..., S] and task numbers [...].

    ``widths``: states and actions of each task where these differ; padded states are not read, padded actions are 0.
    The first and last layer are shared: the task's number tells what an entry means.
    """

    kept_states: Tensor
    kept_actions: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        tasks: int,
        *,
        width: int = 256,
        layers: int = 3,
        widths: Sequence[Sequence[int]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.widths = tuple((int(s), int(a)) for s, a in widths)
        if self.widths:
            for name, most, place in (("kept_states", state_dim, 0), ("kept_actions", action_dim, 1)):
                own = torch.tensor([w[place] for w in self.widths])
                self.register_buffer(name, torch.arange(most) < own[:, None], persistent=False)
        self.state_dim, self.action_dim, self.tasks, self.width = state_dim, action_dim, tasks, width
        self.depth = layers
        sizes = [state_dim + tasks] + [width] * layers + [action_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        with torch.no_grad():
            for name, value in self.named_parameters():
                bound = self.get_parameter(f"{name.rpartition('.')[0]}.weight").shape[1] ** -0.5
                value.uniform_(-bound, bound, generator=generator_for(seed, "cloning", name))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return {"state_dim": self.state_dim, "action_dim": self.action_dim, "tasks": self.tasks, "width": self.width,
                "layers": self.depth,
                **({"widths": [list(w) for w in self.widths]} if self.widths else {})}  # fmt: skip

    def forward(self, states: Tensor, tasks: Tensor) -> Tensor:
        if self.widths:
            states = torch.where(self.kept_states[tasks], states, 0)
        x = torch.cat((states, F.one_hot(tasks, self.tasks).to(states.dtype)), -1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        actions = torch.tanh(self.layers[-1](x))
        return torch.where(self.kept_actions[tasks], actions, 0) if self.widths else actions


class CloningPolicy:
    """A cloning network that acts in many episodes at once (the roll-outs' ``BatchedPolicy``); it has no memory."""

    reads_returns = False

    def __init__(self, network: CloningNetwork, table: TaskTable) -> None:
        parameter = next(network.parameters())
        self.network, self.table = network, table.to(parameter.device, parameter.dtype)

    def start(self, episodes: Sequence[EpisodeLike]) -> None:
        """Begins new episodes; slot s is ``episodes[s]`` from now on."""
        self.names = [""] * len(episodes)
        self.tasks = torch.zeros(len(episodes), dtype=torch.int64)
        self.restart(range(len(episodes)), episodes)

    def restart(self, slots: Sequence[int], episodes: Sequence[EpisodeLike]) -> None:
        """Begins ``episodes`` [b] in the slots [b]; all other slots go on."""
        for slot, episode in zip(slots, episodes, strict=True):
            self.names[slot], self.tasks[slot] = episode.task, self.table.index(episode.task)

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] for ``observations`` [b, S] of the episodes ``slots`` [b]."""
        slot = torch.from_numpy(np.array(slots, dtype=np.int64))
        tasks = self.tasks[slot].to(self.table.mean.device)
        states = checked_observations(observations, slot, self.network.state_dim, self.names).to(self.table.mean)
        states = (states - self.table.mean[tasks]) / self.table.deviation[tasks]
        return self.table.own_actions(self.network(states, tasks), tasks).float().cpu().numpy()

    def reward(self, slots: Any, rewards: Any) -> None:
        """Nothing depends on rewards here."""

    def took(self, slots: Any, actions: Any) -> None:
        """Nothing depends on earlier actions here."""
