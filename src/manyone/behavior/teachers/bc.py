"""Behaviour cloning: the policy that does what the data did.

    continuous   L = mean (pi(s) - a)^2
    discrete     L = - mean log pi(a | s)

On the tenth of the episodes with the highest returns (``BehaviorData.best``) it is "10 % BC" (Chen et al. 2021,
Decision Transformer, section 5.2). It has no critic.
Public names: :class:`CloningTeacher`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.learner import Batch, TeacherLearner
from manyone.behavior.teachers.networks import Policy


class CloningTeacher(TeacherLearner):
    """Trains a policy with two hidden layers on all transitions of ``data``."""

    METHOD, NEEDS_REWARDS = "bc", False

    def __init__(
        self, data: BehaviorData, *, width: int = 256, lr: float = 3e-4, seed: int = 0, **training: Any
    ) -> None:
        policy = Policy(data.state_dim, data.action_dim, width, 2, "softmax" if data.choices else "tanh", seed=seed)
        super().__init__(data, {"policy": policy}, {"policy": lr}, seed=seed, **training)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The mean squared error, or the mean negative logarithm."""
        if self.data.choices:
            return {"policy": -(self.policy.log_probabilities(batch.states) * batch.actions).sum(-1).mean()}
        return {"policy": F.mse_loss(self.policy(batch.states), batch.actions)}
