"""The loss L_i(w) of each task: mean over valid steps and the task's action dimensions of (policy(w) - a)^2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyone.nets.decision import DecisionTransformer
from manyone.nets.dropout import DropoutNoise
from manyone.policies.tasks import PolicyData, TaskBatch


@dataclass(frozen=True)
class TaskLosses:
    """Network, data and whose draws: everything that a loss depends on besides the weights."""

    model: DecisionTransformer
    """The network whose shape counts; its weights are arguments."""
    data: PolicyData
    seeds: Sequence[int]
    """One a network, S of them."""
    batch_size: int
    """Windows a task and network."""

    def batch(self, tasks: Sequence[int], step: int, purpose: str = "train") -> TaskBatch:
        """Windows of ``tasks`` for every network, drawn for (seed, task, step, purpose) alone."""
        return self.data.batch(tasks, step, self.seeds, batch_size=self.batch_size, purpose=purpose)

    def dropout(self, tasks: Sequence[int], step: int) -> DropoutNoise | None:
        """Dropout of ``step``: for each network and task a stream of its own."""
        if not self.model.dropout:
            return None
        names = [(seed, "dropout", step, j) for seed in self.seeds for j in range(len(tasks))]
        return DropoutNoise(self.model.dropout, names, self.data.device)

    def __call__(self, weights: Mapping[str, Tensor], batch: TaskBatch, noise: DropoutNoise | None = None) -> Tensor:
        """Losses [S, G] of ``batch`` under ``weights`` (parameters by name, with a leading axis for S x G)."""
        steps = batch.steps
        task = None
        if self.model.reads_task:
            task = batch.tasks.to(self.data.device).unsqueeze(1).expand(-1, steps["timesteps"].shape[1])
        acted = self.model.run(weights, steps, batch.prompt if self.model.prompt else None, task, noise=noise)
        error = acted - steps["actions"]
        dims: Tensor | int = self.model.action_dim
        if self.model.widths:  # padded actions count nowhere
            kept = self.model.kept_actions[batch.tasks.to(self.data.device)]
            error, dims = torch.where(kept[:, None, None], error, 0), kept.sum(-1)
        valid = steps["valid"]
        means = (error.square().sum(-1) * valid).sum((1, 2)) / (valid.sum((1, 2)) * dims)
        return means.view(len(self.seeds), -1)
