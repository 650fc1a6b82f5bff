"""The options of everything that learns one task after the other, as data: which tasks, in which order.

Public names: :class:`SequenceOptions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from manyone.errors import ManyoneError
from manyone.policies.recipes.options import DataOptions, Natural
from manyone.recipes.options import Places, Range, With, check

_SUITE: dict[str, Any] = {"suite": "mujoco3", "quality": "medium-expert"}
_ORDER = ("hopper", "walker2d", "halfcheetah")  # the order of D4RL's sequences in the paper


@dataclass(kw_only=True)
class SequenceOptions(DataOptions):
    """Tasks that are learned one after the other; default: Hopper, Walker2d, HalfCheetah."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--out runs/planner",
        "--data gym:Hopper-v5=a.hdf5 gym:HalfCheetah-v5=b.hdf5 --out runs/two",
    )

    tasks: Annotated[tuple[str, ...], Places()] = ()
    """Another word for --data."""
    order: Annotated[tuple[str, ...], With("suite")] = ()
    """The order in which a --suite's tasks are learned, all or some of them by name; default: as the suite has them
    (mujoco3: hopper, walker2d, halfcheetah)."""
    episodes: Annotated[int | None, Range(1), With("suite")] = None
    """Episodes a task of made data; default: as --transitions says, or the suite's own size."""
    transitions: Annotated[int | None, Range(1), With("suite")] = None
    """Steps a task of made data, of mujoco-... alone, which have 100,000 (paper: 1,000,000)."""
    evaluate_every: Natural = 0
    """Steps between scores of the task in training, a divisor of --align-steps and --steps together; 0: tasks are
    scored when one has been learned."""
    checkpoint_every: Natural = 1000
    """Steps between checkpoints; 0: only at the end."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(super().preset_values(given))
        if given.get("data") or given.get("tasks"):
            return {name: value for name, value in found.items() if name != "transitions"}
        suite = given.get("suite") or _SUITE["suite"]
        if suite == _SUITE["suite"]:
            found |= {**_SUITE, "order": _ORDER}
        sized = any(given.get(name) is not None for name in ("episodes", "horizon"))
        if sized or not suite.startswith("mujoco"):
            found.pop("transitions", None)
        return found

    def __post_init__(self) -> None:
        if self.tasks and self.data:
            raise ManyoneError("--tasks is another word for --data: give one of them")
        self.data, self.tasks = self.data or self.tasks, ()
        super().__post_init__()
        mujoco = self.suite is not None and self.suite.startswith("mujoco")
        check("transitions", self.transitions, self.transitions is None or mujoco, "of a --suite mujoco... alone")
        both = self.transitions is not None and self.episodes is not None
        check("transitions", self.transitions, not both, "left out with --episodes")
        cut = self.transitions is not None and self.horizon is not None
        check("transitions", self.transitions, not cut, "left out with --horizon, which sizes data in episodes")
        if len(set(self.order)) < len(self.order):
            raise ManyoneError(f"--order {' '.join(self.order)}: names a task twice")

    def data_name(self) -> str:
        """The made data, as ``manyone data`` names them."""
        return super().data_name() + (f"@{self.transitions}" if self.transitions is not None else "")
