"""The options of cloning one task after the other with a memory, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.policies.recipes.options import Natural, Positive
from manyone.policies.recipes.options_sequence import SequenceOptions
from manyone.recipes.options import Places, Range


@dataclass(kw_only=True)
class RehearsalOptions(SequenceOptions):
    """IL-rehearsal: behaviour cloning of one task after the other, with a memory of earlier ones.

    Tasks are learned in the order of --data (or --order of a suite); default: Hopper, Walker2d, HalfCheetah.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {},
        "paper": {"transitions": 1_000_000, "steps": 500_000, "lr": 3e-4, "schedule": "constant", "width": 256,
                  "eval_episodes": 30, "checkpoint_every": 10_000},
    }  # fmt: skip

    preset: Literal["laptop", "paper"] = "laptop"
    """Defaults of all options that are left open: laptop (a minute) or paper (as many steps as planners)."""
    memory_size: Natural = 1000
    """Pairs of state and action that are kept of each finished task; 0: none, which forgets."""
    memory: Annotated[tuple[str, ...], Places()] = ()
    """Distilled sets in place of a task's kept pairs, as TASK=PLACE: the model folder of an obd run, or an .npz file
    with observations and actions in the environment's units."""
    memory_share: Annotated[float, Range(0, 1, closed="neither")] = 0.5
    """Share of a batch that is taken from the memory, once there is one."""
    width: Positive = 256
    """Width of the hidden layers."""
    layers: Positive = 3
    """Hidden layers."""
    steps: Positive = 3000
    """Training steps of each task."""
    batch_size: Annotated[int, Range(2)] = 256
    """Pairs a step."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Learning rate of Adam, which begins anew with each task."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over a task's steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for word in self.memory:
            task, _, place = word.rpartition("=")
            if not task or not place:
                raise ManyoneError(f"--memory {word}: give TASK=PLACE, a task of the data and its distilled set")
