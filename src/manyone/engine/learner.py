"""What the loop needs from anything that trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Learner(Protocol):
    """Anything that improves step by step.

    For an exact resume everything that later steps depend on must be in ``state_dict``: parameters, optimiser,
    schedule, and the number of the next batch. The global random generators of Python, numpy and torch are saved by
    the loop; draws from ``manyone.randomness`` need no state.
    """

    def step(self) -> Mapping[str, Any]:
        """One optimisation step. The metrics contain ``"loss"``, the value that the step descended on.

        A ``"phase"`` among them, in words, is shown beside the progress.
        """

    def evaluate(self) -> Mapping[str, float]:
        """Metrics of the present state. Leaves the parameters as they are."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, booleans and None."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned; tensors arrive on the CPU."""

    def export(self, folder: Path) -> None:
        """Writes the standard artefact into ``folder``, which exists and is empty."""
