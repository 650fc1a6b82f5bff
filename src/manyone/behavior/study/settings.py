"""How much of everything the behavior study gives to a suite, at each scale; what its methods are, as commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by


class Part(NamedTuple):
    """A method of the study: the recipe that makes it, changed options, and the rows that come of it."""

    recipe: str
    changes: dict[str, Any]
    method: str
    """The method of its rows (``claims.toml``)."""
    transfers: bool = False
    """Whether its sets also train other students: other architectures, other optimisers, ensembles."""
    qualities: tuple[str, ...] | None = None
    """Of the data; None: all of the suite's."""


REPLAY = ("medium-replay",)
PARTS: dict[str, Part] = {
    "av-pbc": Part("obd", {}, "av-pbc", transfers=True),
    "av-pbc-mean-one": Part("obd", {"weights": "mean-one"}, "av-pbc-mean-one", qualities=REPLAY),
    "pbc": Part("obd", {"objective": "pbc"}, "pbc"),
    "dbc": Part("obd", {"objective": "dbc"}, "dbc"),
    "sdw": Part("obd", {"density": 1.0}, "sdw", qualities=REPLAY),
    "av-pbc-advantage": Part("obd", {"weights": "advantage"}, "av-pbc-advantage", qualities=REPLAY),
    "bc": Part("bc", {}, "bc"),
    "bc-10": Part("bc", {"fraction": 0.1}, "bc-10"),
    "av-pbc-64": Part("obd", {"size": 64}, "av-pbc-64", qualities=REPLAY),
    "av-pbc-16": Part("obd", {"size": 16}, "av-pbc-16", qualities=REPLAY),
    "random": Part("obd", {"objective": "dbc", "steps": 0}, "random"),
    "random-teacher": Part("obd", {"objective": "pbc", "init": "teacher", "steps": 0}, "random-teacher"),
    "top-q": Part("obd", {"objective": "pbc", "init": "top-q", "steps": 0}, "top-q"),
    "k-means-q": Part("obd", {"objective": "pbc", "init": "k-means-q", "steps": 0}, "k-means-q"),
    "k-means++": Part("obd", {"objective": "dbc", "init": "k-means++", "steps": 0}, "k-means++"),
    "teacher": Part("obd", {"steps": 0}, "teacher"),
}
"""Parts of a seed's work, the longest first."""

TRANSFERS: dict[str, dict[str, Any]] = {
    "2-layer": {"layers": 2},
    "3-layer": {"layers": 3},
    "5-layer": {"layers": 5},
    "6-layer": {"layers": 6},
    "residual": {"student": "residual"},
    "momentum": {"optimiser": "momentum"},
    "adam": {"optimiser": "adam"},
    "adamw": {"optimiser": "adamw"},
}
"""Other students of the sets of a part that ``transfers``."""


@dataclass(frozen=True)
class Setting:
    """Some bodies and qualities of data, and what is made of them; all counts are per seed."""

    bodies: tuple[str, ...]
    qualities: tuple[str, ...]
    parts: tuple[str, ...] = tuple(PARTS)
    students: int = 10
    """Fresh students of a set."""
    eval_episodes: int = 5
    """Episodes of each student."""
    transfers: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all recipes that have the option."""

    def qualities_of(self, part: str) -> tuple[str, ...]:
        """Those that ``part`` is measured on."""
        own = PARTS[part].qualities
        return self.qualities if own is None else tuple(q for q in self.qualities if q in own)

    def arm(self, name: str, body: str, quality: str) -> Arm:
        """Part ``name`` on one data set, as a user would run it."""
        part = PARTS[name]
        given = taken_by(part.recipe, self.options)
        given |= {"suite": f"mujoco-{body}", "quality": quality, "students": self.students,
                  "eval_episodes": self.eval_episodes}  # fmt: skip
        return Arm(part.method, part.recipe, given | part.changes | {"device": "cpu"})


_BODIES = ("hopper", "halfcheetah", "walker2d")
_QUALITIES = ("medium-replay", "medium", "medium-expert")
_SMALL = {"size": 64, "inner_steps": 20, "inner_lr": 0.5, "at_once": 4}
_SMOKE = ("av-pbc", "pbc", "dbc", "bc", "random", "random-teacher", "teacher")

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {"hopper": Setting(("hopper",), REPLAY, _SMOKE, students=5, transfers=False, options=_SMALL)},
    "laptop": {"mujoco3": Setting(_BODIES, _QUALITIES)},
    "paper": {"mujoco3": Setting(_BODIES, _QUALITIES, options={"preset": "paper"})},
}


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of ``suite``; ``ManyoneError`` where the study has none."""
    known = SETTINGS[scale]
    if suite not in known:
        raise ManyoneError(f"the behavior study has no suite {suite!r} at scale {scale}: it has {', '.join(known)}")
    return known[suite]
