"""Scores of tasks that are learned one after the other: p[i, j], of task i after task j was learned.

Whatever learns a sequence (a planner under any strategy, cloning with rehearsal) keeps one :class:`ScoreTable` and
gives it what an evaluation says. A task's score is its success where all tasks report that, else D4RL's normalised
score, else its return; without environments the error of its actions, negated, so that more is better.
Public names: :class:`ScoreTable`, :func:`score_of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyone.policies.vqcd.metrics import sequence_metrics

_KINDS = ("success", "normalised", "return", "action_error")


def score_of(metrics: Mapping[str, Any], tasks: Sequence[str]) -> str | None:
    """What scores ``tasks`` in ``metrics``, whose entries are called KIND/TASK; None where nothing scores them all."""
    found = (kind for kind in _KINDS if tasks and all(f"{kind}/{task}" in metrics for task in tasks))
    return next(found, None)


class ScoreTable:
    """Of the sequence ``names``; ``together``: all are learned at once, and what they score then holds for every j."""

    def __init__(self, names: Sequence[str], together: bool = False) -> None:
        self.names, self.together = tuple(names), together
        self.rows: list[dict[str, float]] = []
        """Task -> score, after each task was learned."""
        self.kind = ""
        """What scores are; empty before the first."""

    def take(self, metrics: Mapping[str, Any], learned: int) -> dict[str, float]:
        """Keeps the scores of the first ``learned`` tasks in ``metrics``; figures of the sequence where all are known.

        What was evaluated after this task before (a run that was resumed) gives way.
        """
        tasks = [name for name in self.names[:learned] if any(f"{kind}/{name}" in metrics for kind in _KINDS)]
        kind = score_of(metrics, tasks)
        if kind is None:
            return {}
        self.kind = kind
        sign = -1.0 if kind == "action_error" else 1.0
        row = {name: sign * float(metrics[f"{kind}/{name}"]) for name in tasks}
        self.rows = [*self.rows[: learned - 1], *([{}] * (learned - 1 - len(self.rows))), row]
        scores = [[math.nan if value is None else value for value in own] for own in self.matrix()]
        whole = all(not math.isnan(own[-1] + own[place]) for place, own in enumerate(scores))
        return sequence_metrics(scores) if whole else {}

    def matrix(self) -> list[list[float | None]]:
        """p[i, j]; None where it was not measured."""
        if self.together and self.rows:
            return [[self.rows[-1].get(name)] * len(self.names) for name in self.names]
        return [
            [self.rows[j].get(name) if j < len(self.rows) else None for j in range(len(self.names))]
            for name in self.names
        ]

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": [dict(row) for row in self.rows], "kind": self.kind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.rows, self.kind = [dict(row) for row in state["rows"]], str(state["kind"])
