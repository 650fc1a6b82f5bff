"""How much of everything the policies study gives to a suite, at each scale; and what its methods are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A method of the study: the recipe that trains it, changed options, and the rows that come of it."""

    recipe: str
    changes: dict[str, Any]
    method: str
    """The method of its rows (``claims/policies.toml``)."""
    variants: tuple[str, ...] = ("",)
    condition: str = "clean"
    draws: bool = False
    """Whether the first seed's figures are shown."""


ENTRIES: dict[str, Entry] = {
    "g-harmodt": Entry("g-harmodt", {}, "g-harmodt", ("", "soft", "oracle", "random"), "no-id", True),
    "harmodt": Entry("harmodt", {}, "harmodt", draws=True),
    "harmodt-r": Entry("harmodt-r", {}, "harmodt-r"),
    "prompt-dt": Entry("prompt-dt", {}, "prompt-dt"),
    "id-token-dt": Entry("id-token-dt", {}, "id-token-dt"),
    "mt-dt": Entry("mt-dt", {}, "mt-dt"),
    "mt-dt-no-id": Entry("mt-dt", {"no_id": True}, "mt-dt", ("",), "no-id"),
    "g-harmodt-tasks": Entry("g-harmodt", {"groups": "tasks"}, "g-harmodt-tasks", ("",), "no-id"),
    "task-dt": Entry("task-dt", {}, "task-dt"),
    "harmodt-m": Entry("harmodt-m", {}, "harmodt-m"),
    "random-swap": Entry("harmodt", {"update": "random"}, "random-swap"),
    "mtbc": Entry("mtbc", {"width": 256, "layers": 3}, "mtbc"),
}
"""Parts of a seed's work: the longest first, then what the main claims compare.

Variants of g-harmodt are the ways to choose a group's mask.
"""

UNSEEN = ("harmodt", "prompt-dt", "mt-dt")
"""Parts that are also evaluated on tasks that were not trained."""


@dataclass(frozen=True)
class Settings:
    """One data set and what is trained on it; all counts are per seed."""

    suite: str
    """The tasks, as the recipes' --suite."""
    quality: str = "near"
    parts: tuple[str, ...] = tuple(p for p in ENTRIES if p != "task-dt")
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


_SMOKE = {
    "episodes": 16, "horizon": 100, "context": 6, "prompt": 4, "width": 48, "layers": 2, "heads": 2, "dropout": 0.0,
    "batch_size": 8, "tasks_per_step": 4, "steps": 120, "lr": 2e-3, "warmup": 10, "mask_every": 6, "group_after": 20,
}  # fmt: skip
_NEIGHBOURS = tuple(
    f"metaworld-mt1:{t}" for t in ("button-press-wall", "coffee-button", "handle-press", "faucet-open", "plate-slide")
)
_CLONING = {"steps": 1500, "batch_size": 32, "lr": 1e-3}

SETTINGS: dict[str, dict[str, Settings]] = {
    "smoke": {
        "pairs4-near": Settings(
            "metaworld-pairs4",
            parts=("g-harmodt", "harmodt", "harmodt-r", "prompt-dt", "id-token-dt", "mt-dt", "mt-dt-no-id"),
            eval_episodes=5, options=_SMOKE,
        ),
    },
    "laptop": {
        "pairs10-near": Settings("metaworld-pairs10", "near", unseen=_NEIGHBOURS, cloning=_CLONING),
        "pairs10-sub": Settings("metaworld-pairs10", "sub", unseen=_NEIGHBOURS, cloning=_CLONING),
    },
    "paper": {
        **{f"mt50-{q}": Settings("metaworld-mt50", q, options={"preset": "paper"}) for q in ("near", "sub")},
        **{
            name: Settings(
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
