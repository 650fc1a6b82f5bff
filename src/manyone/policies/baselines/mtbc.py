"""Multi-task behaviour cloning: an MLP on the state and a one-hot task number, trained by mean squared error.

The plain baseline beside sequence models. Public names: :class:`CloningLearner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.policies.artefact import save_policy
from manyone.policies.baselines.cloning import CloningNetwork, CloningPolicy
from manyone.policies.optimiser import learning_rate
from manyone.policies.protocol import History, effort_of, sizes_of
from manyone.policies.tasks import PolicyData


class CloningLearner:
    """Trains a :class:`CloningNetwork`; a step takes ``batch_size`` samples of ``tasks_per_step`` tasks (all)."""

    def __init__(
        self,
        network: CloningNetwork,
        data: PolicyData,
        *,
        steps: int,
        seed: int = 0,
        batch_size: int = 32,
        tasks_per_step: int | None = None,
        lr: float = 3e-4,
        weight_decay: float = 1e-4,
        warmup: int = 0,
        schedule: str = "constant",
        evaluate: Callable[[CloningLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        shape = (network.state_dim, network.action_dim, network.tasks, network.widths)
        if shape != (data.state_dim, data.action_dim, len(data), data.widths):
            raise ManyoneError("the cloning network was built for other widths or another number of tasks")
        self.tasks_per_step = len(data) if tasks_per_step is None else tasks_per_step
        if not 1 <= self.tasks_per_step <= len(data):
            raise ManyoneError(f"tasks_per_step = {tasks_per_step}: must be 1..{len(data)}, the tasks")
        self.network, self.data, self.seed, self.batch_size = network, data, seed, batch_size
        self.steps_planned, self.lr, self.warmup, self.schedule = steps, lr, warmup, schedule
        self.evaluator, self.iteration, self.best = evaluate, 0, {}  # type: ignore[var-annotated]
        self._adamw = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)

    def step(self) -> dict[str, float]:
        """One step on the next ``tasks_per_step`` tasks."""
        numbers = [(self.iteration * self.tasks_per_step + j) % len(self.data) for j in range(self.tasks_per_step)]
        batch = self.data.batch(numbers, self.iteration, self.seed, batch_size=self.batch_size, purpose="cloning")
        rate = learning_rate(self.iteration, self.lr, self.warmup, self.schedule, self.steps_planned)
        first = batch.steps["valid"].int().argmax(-1, keepdim=True)  # the drawn row: uniform over the data
        states, actions = (
            batch.steps[k].gather(2, first.unsqueeze(-1).expand(-1, -1, 1, batch.steps[k].shape[-1])).squeeze(2)
            for k in ("observations", "actions")
        )
        tasks = batch.tasks.to(states.device).unsqueeze(1).expand(-1, states.shape[1])
        if self.network.widths:  # the mean over tasks of each one's mean over its own actions
            kept = self.network.kept_actions[tasks]
            error = torch.where(kept, self.network(states, tasks) - actions, 0).square().sum(-1)
            loss = (error / kept.sum(-1)).mean()
        else:
            loss = F.mse_loss(self.network(states, tasks), actions)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.zero_grad()
        loss.backward()
        self._adamw.step()
        self.iteration += 1
        return {"loss": float(loss.detach()), "learning_rate": rate}

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says, and the best "success" so far as "success_best"."""
        metrics = dict(self.evaluator(self)) if self.evaluator else {}
        if "success" in metrics:
            self.best["success"] = max(float(metrics["success"]), self.best.get("success", float("-inf")))
            metrics["success_best"] = self.best["success"]
        return metrics

    def policy(self, variant: Literal[""] = "") -> CloningPolicy:
        """The policy as it is now."""
        return CloningPolicy(self.network, self.data.table)

    def effort(self) -> dict[str, float]:
        """Updates of the network and samples a task."""
        return effort_of(self.data, self.iteration, self.tasks_per_step, self.batch_size)

    def sizes(self) -> dict[str, float]:
        """The network's parameters."""
        return sizes_of([self.network])

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """None: there is neither mask nor group."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"network": self.network.state_dict(), "optimiser": self._adamw.state_dict(),
                "iteration": self.iteration, "best": dict(self.best)}  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._adamw.load_state_dict(state["optimiser"])
        self.iteration, self.best = int(state["iteration"]), dict(state["best"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact."""
        info = {"method": "mtbc", "seed": self.seed, "steps": self.iteration}
        save_policy(folder, self.network, self.data.table, info=info)
