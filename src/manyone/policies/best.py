"""The best weights of a training: kept beside its checkpoints whenever an evaluation finds none better, and exported.

What counts is success where all tasks report it, else the action error where there is no environment, else the return.
Of equals the later one is kept, so that weights which nothing tells apart are the longest trained.
Public names: :class:`Best`, :func:`best_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manyone.engine import checkpoint
from manyone.engine.run import RunFolder
from manyone.policies.protocol import PolicyTrainer

_SIGN = {"success": 1, "action_error": -1, "return": 1}


class BestState(NamedTuple):
    """Weights that were kept, and why."""

    step: int
    metric: str
    value: float
    learner: dict[str, Any]

    def __str__(self) -> str:
        return f"the weights of step {self.step}, the best by {self.metric.replace('_', ' ')} ({self.value:.4g})"


def best_state(folder: RunFolder) -> BestState | None:
    """What the run has kept so far; None where nothing was evaluated while it trained."""
    found = checkpoint.load_newest(folder.checkpoints / "best") if folder.exists else None
    return None if found is None else BestState(found[0], **found[1])


class Best:
    """``learner`` as an engine ``Learner`` of the run in ``folder``, with its best weights kept and exported.

    After :meth:`export` the learner has the weights that were exported. A resumed run evaluates what it had evaluated
    after its newest checkpoint once more and comes to the same choice: nothing of it is in the state.
    """

    def __init__(self, learner: PolicyTrainer, folder: RunFolder) -> None:
        self.learner, self.folder, self.kept = learner, folder, best_state(folder)

    def step(self) -> Mapping[str, float]:
        """The learner's step."""
        return self.learner.step()

    def evaluate(self) -> Mapping[str, float]:
        """The learner's evaluation; its weights are kept if they are the best so far."""
        metrics = self.learner.evaluate()
        name = next(name for name in _SIGN if name in metrics)
        value, kept = float(metrics[name]), self.kept
        if kept is None or _SIGN[name] * value >= _SIGN[name] * kept.value:
            self.kept = BestState(self.learner.iteration, name, value, self.learner.state_dict())
            place = self.folder.checkpoints / "best"
            checkpoint.save(place, self.kept.step, {k: v for k, v in self.kept._asdict().items() if k != "step"})
            checkpoint.prune(place, 1)
            self.kept = self.kept._replace(learner={})
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The learner's state."""
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the learner."""
        self.learner.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """The learner's artefact with the best weights."""
        best = best_state(self.folder)
        if best is not None:
            self.learner.load_state_dict(best.learner)
        self.learner.export(folder)
