"""How much of everything the policies study gives to a suite, at each scale; what its methods are, as commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by


class Part(NamedTuple):
    """A method of the study: the recipe that trains it, changed options, and the rows that come of it."""

    recipe: str
    changes: dict[str, Any]
    method: str
    """The method of its rows (``claims.toml``)."""
    variants: tuple[str, ...] = ("",)
    """The ways in which it acts, by the recipe's --selection; "" is the usual one."""
    condition: str = "clean"
    draws: bool = False
    """Whether the first seed's figures are shown."""


PARTS: dict[str, Part] = {
    "g-harmodt": Part("g-harmodt", {}, "g-harmodt", ("", "soft", "oracle", "random"), "no-id", draws=True),
    "harmodt": Part("harmodt", {}, "harmodt", draws=True),
    "harmodt-r": Part("harmodt-r", {}, "harmodt-r"),
    "prompt-dt": Part("prompt-dt", {}, "prompt-dt"),
    "id-token-dt": Part("id-token-dt", {}, "id-token-dt"),
    "mt-dt": Part("mt-dt", {}, "mt-dt"),
    "mt-dt-no-id": Part("mt-dt", {"no_id": True}, "mt-dt", condition="no-id"),
    "g-harmodt-tasks": Part("g-harmodt", {"groups": "tasks"}, "g-harmodt-tasks", condition="no-id"),
    "task-dt": Part("task-dt", {}, "task-dt"),
    "harmodt-m": Part("harmodt-m", {}, "harmodt-m"),
    "random-swap": Part("harmodt", {"update": "random"}, "random-swap"),
    "mtbc": Part("mtbc", {"width": 256, "layers": 3}, "mtbc"),
}
"""Parts of a seed's work: the longest first, then what the main claims compare."""

UNSEEN = ("harmodt", "prompt-dt", "mt-dt")
"""Parts that are also evaluated on tasks that were not trained."""


@dataclass(frozen=True)
class Setting:
    """One data set and what is trained on it; all counts are per seed."""

    suite: str
    """The tasks, as the recipes' --suite."""
    quality: str = "near"
    parts: tuple[str, ...] = tuple(p for p in PARTS if p != "task-dt")
    unseen: tuple[str, ...] = ()
    """Suites of tasks that are evaluated but not trained; their data give statistics, targets and prompts."""
    unseen_data_episodes: int = 10
    eval_episodes: int = 10
    """Paired evaluation episodes a task, at held-out goals."""
    vote_threshold: int | None = None
    """Masks that must agree on a weight of an unseen task; None: half of them."""
    options: dict[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all recipes that have the option."""
    cloning: dict[str, Any] = field(default_factory=dict)
    """What differs for MTBC alone."""

    def arm(self, name: str, variant: str = "") -> Arm:
        """Part ``name`` as a user would run it: the setting's options that its recipe has, then the part's own."""
        part = PARTS[name]
        given = taken_by(part.recipe, self.options)
        given |= self.cloning if name == "mtbc" else {}
        given |= part.changes | {"suite": self.suite, "quality": self.quality, "eval_episodes": self.eval_episodes}
        given |= {"selection": variant} if variant else {}
        given |= {} if "preset" in given else {"device": "cpu"}
        return Arm(part.method, part.recipe, given, variant)


_SMOKE = {
    "episodes": 16, "horizon": 100, "context": 6, "prompt": 4, "width": 48, "layers": 2, "heads": 2, "dropout": 0.0,
    "batch_size": 8, "tasks_per_step": 4, "steps": 120, "lr": 2e-3, "warmup": 10, "mask_every": 6, "group_after": 20,
}  # fmt: skip
_NEIGHBOURS = tuple(
    f"metaworld-mt1:{t}" for t in ("button-press-wall", "coffee-button", "handle-press", "faucet-open", "plate-slide")
)
# a sample of MTBC is one step: as many of them as 16 windows of up to 10 steps (paper: 8 of up to 20) hold
_CLONING = {"tasks_per_step": 1, "batch_size": 156}
_CLONING_PAPER = {"tasks_per_step": 1, "batch_size": 157}

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "pairs4-near": Setting(
            "metaworld-pairs4",
            parts=("g-harmodt", "harmodt", "harmodt-r", "prompt-dt", "id-token-dt", "mt-dt", "mt-dt-no-id"),
            eval_episodes=5, options=_SMOKE,
        ),
    },
    "laptop": {
        "pairs10-near": Setting("metaworld-pairs10", "near", unseen=_NEIGHBOURS, cloning=_CLONING),
        "pairs10-sub": Setting("metaworld-pairs10", "sub", unseen=_NEIGHBOURS, cloning=_CLONING),
    },
    "paper": {
        **{
            f"mt50-{q}": Setting("metaworld-mt50", q, options={"preset": "paper"}, cloning=_CLONING_PAPER)
            for q in ("near", "sub")
        },
        **{
            name: Setting(
                name, parts=UNSEEN, unseen=(f"{name}:test",), vote_threshold=1,
                options={"episodes": 60, "horizon": 200, "context": 20, "width": 128, "layers": 3, "heads": 1,
                         "batch_size": 16, "steps": 5000, "lr": 1e-4, "sparsity": 0.5, "mask_every": 10, "eta_min": 10,
                         "eta_max": 1000, "tasks_per_step": 1, "schedule": "constant", "full_episodes": True},
            )
            for name in ("cheetah-vel", "ant-dir")
        },
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims."""


def setting_of(scale: str, suite: str) -> Setting:
    """What ``scale`` gives to ``suite``."""
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the policies study has no suite {suite!r} at scale {scale!r}") from None
