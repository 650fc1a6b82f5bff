"""How much of everything the merging study gives to a suite, and the arms that it measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from manyone.recipes.arm import Arm


@dataclass(frozen=True)
class Setting:
    """How much of everything a suite gets; all counts are per seed."""

    scales: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    """Grid of lambda, searched on the validation split for every method that has one."""
    test_limit: int = 1000
    val_limit: int = 300
    batch_size: int = 16
    """Unlabelled inputs per task and step (the papers' 16)."""
    ada_steps: int = 200
    ada_lr: float = 1e-3
    moe_steps: int = 100
    moe_lr: float = 1e-3
    e_moe_steps: int | None = None
    """Of E-WEMoE, whose one router serves all blocks; None: as WEMoE's."""
    e_moe_lr: float | None = None
    surgery_iterations: int = 500
    v2_iterations: int = 150
    rank: int = 16
    concrete_steps: int = 100
    statistics_samples: int = 256
    """Labelled training examples a task for Fisher and RegMean."""
    adapt_split: str = "test"
    monitor_samples: int = 256
    """Unlabelled inputs a task that decide whether an adaptation ended worse than it began."""
    corruptions: tuple[str, ...] = ("gaussian-noise", "motion-blur")
    corrupted_tasks: tuple[str, ...] = ()
    """Tasks that are merged and tested under corruption; all when empty."""
    severity: int = 2
    unseen: tuple[str, ...] = ()
    """Tasks that are left out of the merge and tested all the same."""
    objectives: tuple[str, ...] = ("information-maximisation", "expert-kl")
    """What else WEMoE is adapted by, besides entropy."""
    extras: bool = True
    """Also the methods that no claim asks for (Fisher, RegMean, Concrete, other objectives, surgery on WEMoE ...)."""


SETTINGS: dict[str, Setting] = {
    "fixture": Setting(test_limit=60, val_limit=60, ada_steps=5, moe_steps=5, surgery_iterations=10, v2_iterations=3,
                        concrete_steps=3, statistics_samples=16, corruptions=("gaussian-noise",), unseen=("shoes",)),
    "mini6": Setting(
        test_limit=500, ada_steps=300, moe_steps=100, e_moe_lr=3e-3, v2_iterations=100, corruptions=("motion-blur",),
        unseen=("optdigits", "shoes"), objectives=("expert-kl",), extras=False,
    ),
    "crisp8": Setting(
        test_limit=500, ada_steps=300, moe_steps=150, e_moe_steps=150, e_moe_lr=3e-3, surgery_iterations=300,
        v2_iterations=120, corrupted_tasks=("mnist", "fashion-a", "optdigits", "pen"),
        unseen=("fashion-b", "segment"), extras=False,
    ),
    "images": Setting(
        test_limit=300, val_limit=100, ada_steps=100, moe_steps=60, v2_iterations=100, concrete_steps=60,
        corrupted_tasks=("fashion", "animal", "satellite", "emoji-noto"),
        unseen=("mnist", "emoji-twemoji"), objectives=(), extras=False, monitor_samples=128,
    ),
    "text": Setting(
        test_limit=120, val_limit=40, scales=(0.1, 0.2, 0.3, 0.4, 0.6), batch_size=8, ada_steps=40, ada_lr=5e-3,
        moe_steps=40,
        v2_iterations=32, corruptions=(), unseen=("bbc",), objectives=("expert-kl",), extras=False,
        monitor_samples=64,
    ),
}  # fmt: skip
"""Per suite; the plain defaults serve every other suite."""


def setting_of(suite: str) -> Setting:
    """What ``suite`` gets."""
    return SETTINGS.get(suite, Setting())


def arms(scale: str, suite: str) -> list[Arm]:
    """What the study makes of ``suite``: by recipe, with its options.

    Variant "tuned", and everything that adapts, get the ``scale`` that the validation split prefers when they are made;
    a surgery ``on`` a folder goes on top of the model that the arm of that name made.
    """
    return list(_arms(suite, setting_of(suite)))


def _arms(suite: str, s: Setting) -> Iterator[Arm]:
    common: dict[str, Any] = {"suite": suite, "device": "cpu"}  # jobs run side by side, with a thread each
    examples = {"examples": s.statistics_samples}
    statics: list[tuple[str, str, dict[str, Any]]] = [("average", "", {})]
    statics += [(method, variant, {}) for method in ("task-arithmetic", "ties") for variant in ("", "tuned")]
    statics += [("tsv-m", "", {}), ("iso-c", "", {})]
    if s.extras:
        statics += [("dare", "", {}), ("model-stock", "", {}), ("iso-cts", "", {})]
        statics += [("fisher", "", examples), ("regmean", "", examples)]
    for method, variant, own in statics:
        yield Arm(method, method, common | own, variant)

    common |= {"limit": s.test_limit, "adapt_split": s.adapt_split, "batch_size": s.batch_size}
    adapted = common | {"monitor_samples": s.monitor_samples}
    ada = adapted | {"steps": s.ada_steps, "lr": s.ada_lr}
    yield Arm("adamerging", "adamerging", ada)
    if s.extras:
        yield Arm("adamerging", "adamerging", ada | {"granularity": "task"}, "task")
        yield Arm("adamerging", "adamerging", ada | {"plus_plus": True}, "plus-plus")
        yield Arm("concrete-task-arithmetic", "concrete", ada | {"steps": s.concrete_steps, "adaptive": False})
    moe = adapted | {"steps": s.moe_steps, "lr": s.moe_lr}
    yield Arm("wemoe", "wemoe", moe)
    e_moe = {"steps": s.e_moe_steps or s.moe_steps, "lr": s.e_moe_lr or s.moe_lr}
    yield Arm("e-wemoe", "e-wemoe", moe | e_moe)
    for objective in s.objectives:
        yield Arm("wemoe", "wemoe", moe | {"objective": objective}, objective)
    corrected = common | {"rank": s.rank}
    for under in ("task-arithmetic", "average", "ties"):
        yield Arm("surgery", "surgery", corrected | {"steps": s.surgery_iterations, "on": under}, under)
    for under in ("adamerging", "wemoe"):
        own = {"steps": s.surgery_iterations, "on": f"runs/{suite}/{under}"}
        yield Arm("surgery", "surgery", corrected | own, under)
    own = {"steps": s.v2_iterations, "on": "task-arithmetic"}
    yield Arm("surgery-v2", "surgery-v2", corrected | own, "task-arithmetic")
