"""What every recipe's options share, and the checks of their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder

Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"]
Split = Literal["test", "val", "train"]


@dataclass(kw_only=True)
class CommonOptions:
    """Options that every recipe has.

    A subclass adds its own fields, each with a docstring that gives meaning, unit and range; checks their ranges in
    ``__post_init__`` (calling this class's) with ``check``; and overrides ``run``, and ``evaluate`` if it can.
    """

    out: Path | None = None
    """Folder of the run; made by the run. Default: runs/RECIPE-TIME."""
    seed: int = 0
    """Seed of everything that is drawn at random; 0 or more."""
    overwrite: bool = False
    """Replace the run that is in the folder already."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N or mps."""
    precision: Precision = "32-true"
    """Floating-point precision, by Lightning Fabric's names."""
    logger: tuple[str, ...] = ()
    """Also send the metrics to these: tensorboard, wandb, trackio."""
    dry_run: bool = False
    """Print the plan (what is read, written and needed) and stop; nothing is written."""

    def __post_init__(self) -> None:
        check("seed", self.seed, self.seed >= 0, "0 or more")
        if self.logger:
            from manyone.engine.loggers import check_loggers

            check_loggers(self.logger)

    def run(self, run: RunFolder) -> None:
        """Does the work and writes it into ``run``. After an interruption it is called again with the same run."""
        raise NotImplementedError(f"{type(self).__qualname__} has no run method")

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """The metrics on ``split`` of what ``run`` holds, finished or not."""
        raise ManyoneError(f"recipe '{run.recipe}' has nothing to evaluate")


def check(option: str, value: object, holds: bool, allowed: str) -> None:
    """Raises ``ManyoneError`` that names ``option``, its ``value`` and what is ``allowed``, unless ``holds``."""
    if not holds:
        raise ManyoneError(f"--{option.replace('_', '-')} {value}: must be {allowed}")
