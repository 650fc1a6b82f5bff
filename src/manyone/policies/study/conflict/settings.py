"""How much of everything the study of tasks in conflict gives to a suite; what its arms are, as commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by

FEW = "4-tasks"
"""Condition of the rows that are trained on the suite's first four tasks, with the same network."""
_FEW_SUITE = "teachers-4"


class Part(NamedTuple):
    """An arm: a recipe with changed options, and what its rows are called."""

    job: str
    """Which of a seed's jobs it belongs to."""
    recipe: str
    method: str
    """The method of its rows (``claims.toml``)."""
    changes: Mapping[str, Any]
    variant: str = ""
    times: int = 1
    """How many times the setting's steps it takes."""


def _masks(variant: str = "", job: str = "token-and-masks", **changes: Any) -> Part:
    return Part(job, "harmodt-r", "harmodt-r", changes, variant)


PARTS: dict[str, Part] = {
    "id-token": Part("token-and-masks", "id-token-dt", "id-token-dt", {}),
    "harmodt-r": _masks(),
    "harmodt": Part("exchange", "harmodt", "harmodt", {}),
    "random-swap": Part("exchange", "harmodt", "random-swap", {"update": "random"}),
    "id-token-long": Part("long", "id-token-dt", "id-token-dt", {}, "long", times=3),
    "prompt-dt": Part("dense", "prompt-dt", "prompt-dt", {}),
    "mt-dt": Part("dense", "mt-dt", "mt-dt", {"no_id": True}),
    "thin": _masks("thin", "sparsity", sparsity=0.8),
    "thick": _masks("thick", "sparsity", sparsity=0.2),
}
"""Arms of a seed's work, the longest job first, in the order in which a job measures them: the gain of masks is told
with the rows of ``harmodt-r``, so the id token stands before them."""
JOBS = tuple(dict.fromkeys(part.job for part in PARTS.values()))


@dataclass(frozen=True)
class Setting:
    """One set of tasks and what is trained on it; all counts are per seed."""

    suite: str
    """The tasks, as the recipes' --suite."""
    parts: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all recipes that have the option."""
    few: bool = False
    """Whether the id token and the masks are trained on four tasks too."""

    def arm(self, name: str, condition: str = "clean") -> Arm:
        """Part ``name`` as a user would run it; on four tasks in the condition :data:`FEW`."""
        part = PARTS[name]
        given = taken_by(part.recipe, self.options)
        given |= {"suite": _FEW_SUITE if condition == FEW else self.suite, "device": "cpu"}
        given |= {"steps": part.times * self.options["steps"]} if part.times > 1 else {}
        return Arm(part.method, part.recipe, {**given, **part.changes}, part.variant)

    def conditions(self, name: str) -> tuple[str, ...]:
        """The conditions in which part ``name`` is measured."""
        return ("clean", FEW) if self.few and name in ("id-token", "harmodt-r") else ("clean",)

    def rows(self, job: str) -> list[tuple[str, str]]:
        """(part, condition) of each row of ``job``, in order."""
        own = [name for name in PARTS if name in self.parts and PARTS[name].job == job]
        return [(name, condition) for condition in ("clean", FEW) for name in own if condition in self.conditions(name)]


# all tasks in every step: more are asked for than there are
_TRAINING = {
    "episodes": 30, "horizon": 20, "context": 5, "prompt": 5, "width": 32, "layers": 2, "heads": 2, "dropout": 0.0,
    "tasks_per_step": 50, "batch_size": 4, "lr": 2e-3, "warmup": 30, "steps": 500, "sparsity": 0.5, "eval_episodes": 5,
}  # fmt: skip
# the regime of the exchange: few entries, early, within each tensor, by gradients smoothed over the updates
_EXCHANGE = {
    "mask_every": 25, "eta_min": 0, "eta_max": 40, "swap_schedule": "decay", "mask_until": 0.5, "ranking": "quota",
    "ema_decay": 0.9,
}  # fmt: skip
_BASE = _TRAINING | _EXCHANGE
_MAIN = ("id-token", "harmodt-r", "prompt-dt", "mt-dt")
_EVERY = tuple(PARTS)

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "conflict-smoke": Setting(
            "teachers-12", tuple(p for p in PARTS if p not in ("thin", "thick")),
            _BASE | {"width": 16, "steps": 150, "warmup": 10, "mask_every": 10, "eta_max": 10}, few=True,
        ),
    },
    "laptop": {
        "conflict-4": Setting("teachers-4", _MAIN, _BASE),
        "conflict-12": Setting("teachers-12", _MAIN, _BASE),
        "conflict-24": Setting("teachers-24", _EVERY, _BASE, few=True),
        "conflict-50": Setting("teachers-50", _MAIN, _BASE, few=True),
        "conflict-24-narrow": Setting("teachers-24", _MAIN[:3], _BASE | {"width": 16}),
        "conflict-24-wide": Setting("teachers-24", _MAIN[:3], _BASE | {"width": 64}),
    },
    "paper": {
        "conflict-50-long": Setting(
            "teachers-50", _EVERY, _BASE | {"episodes": 100, "steps": 6000, "warmup": 100, "mask_every": 250}, few=True,
        ),
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims."""


def setting_of(scale: str, suite: str) -> Setting:
    """What ``scale`` gives to ``suite``."""
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the study of tasks in conflict has no suite {suite!r} at scale {scale!r}") from None
