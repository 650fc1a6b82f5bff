"""Metrics to TensorBoard, Weights & Biases or trackio, by name. (The run's own metrics.jsonl is always written.)

The packages are imported only when asked for: ``pip install tensorboard``, ``wandb`` or ``trackio``.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from manyone.engine.extras import need
from manyone.engine.run import RunFolder
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError


class Logger(Protocol):
    """Receives every record that the loop writes."""

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of one step; ``kind`` is "train", "eval" or "final"."""

    def close(self) -> None:
        """Sends what is left and frees the logger."""


class _TensorBoard:
    def __init__(self, run: RunFolder, start: int) -> None:
        board = need("torch.utils.tensorboard", "logger 'tensorboard'", "pip install tensorboard")
        self._writer = board.SummaryWriter(str(run.folder("tensorboard")), purge_step=start + 1 if start else None)

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        for name, value in _scalars(metrics):
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run: RunFolder, start: int) -> None:
        wandb = need("wandb", "logger 'wandb'", "pip install wandb")
        self._run = wandb.init(
            project="manyone", name=run.path.name, dir=str(run.folder("wandb")), config=run.options, tags=[run.recipe]
        )

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in _scalars(metrics)}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run: RunFolder, start: int) -> None:
        self._module = trackio = need("trackio", "logger 'trackio'", "pip install trackio")
        trackio.init(project="manyone", name=run.path.name, config=run.options)

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        self._module.log({f"{kind}/{name}": value for name, value in _scalars(metrics)}, step=step)

    def close(self) -> None:
        self._module.finish()


_KINDS: dict[str, type[_TensorBoard] | type[_WandB] | type[_Trackio]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
}
LOGGERS = tuple(_KINDS)
"""The names that ``make_loggers`` knows."""


def check_loggers(names: Sequence[str]) -> None:
    """Raises ``ManyoneError`` for a logger that is unknown or not installed."""
    for name in names:
        if name not in _KINDS:
            raise ManyoneError(f"logger '{name}' is unknown; {suggestion(name, _KINDS)}")
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise ManyoneError(f"logger '{name}' is not installed: pip install {name}")


def make_loggers(names: Sequence[str], run: RunFolder, start: int = 0) -> list[Logger]:
    """The loggers called ``names`` for ``run``, which goes on after step ``start``."""
    check_loggers(names)
    return [_KINDS[name](run, start) for name in names]


def _scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers in ``metrics``, nested names joined by a slash."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif not isinstance(value, (str, list, tuple)) and value is not None and math.isfinite(value):
            yield prefix + name, float(value)
