"""How much of everything the merging study gives to a suite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
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


SETTINGS: dict[str, Settings] = {
    "fixture": Settings(test_limit=60, val_limit=60, ada_steps=5, moe_steps=5, surgery_iterations=10, v2_iterations=3,
                        concrete_steps=3, statistics_samples=16, corruptions=("gaussian-noise",), unseen=("shoes",)),
    "mini6": Settings(test_limit=500, ada_steps=100, moe_steps=60, v2_iterations=100, corruptions=("motion-blur",),
                      unseen=("optdigits", "shoes"), objectives=("expert-kl",), extras=False),
    "images": Settings(
        test_limit=300, val_limit=100, ada_steps=100, moe_steps=60, v2_iterations=100, concrete_steps=60,
        corrupted_tasks=("fashion", "animal", "satellite", "emoji-noto"),
        unseen=("mnist", "emoji-twemoji"), objectives=(), extras=False, monitor_samples=128,
    ),
    "text": Settings(
        test_limit=150, val_limit=40, scales=(0.1, 0.2, 0.3, 0.4, 0.6), batch_size=8, ada_steps=50, moe_steps=30,
        v2_iterations=32, corruptions=(), unseen=("bbc",), objectives=("expert-kl",), extras=False,
        monitor_samples=64,
    ),
}  # fmt: skip
"""Per suite; the plain defaults serve every other suite."""
