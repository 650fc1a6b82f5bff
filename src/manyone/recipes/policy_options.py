"""What all policy recipes share: options for data, network, training and evaluation, and the two presets.

``--preset laptop`` (the default) is sized for two processor cores and minutes; ``--preset paper`` has the published
hyper-parameters. A preset only fills in what was not given on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manyone.errors import ManyoneError
from manyone.recipes.common import CommonOptions, check

Preset = Literal["laptop", "paper"]

PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {
        "episodes": 60,
        "horizon": 200,
        "context": 10,
        "width": 64,
        "layers": 2,
        "heads": 4,
        "batch_size": 16,
        "steps": 3000,
        "lr": 1e-3,
        "warmup": 100,
        "schedule": "cosine",
        "mask_every": 100,
        "vote_threshold": 1,
    },
    "paper": {
        "episodes": 2000,
        "horizon": 500,
        "context": 20,
        "width": 256,
        "layers": 6,
        "heads": 8,
        "batch_size": 8,
        "steps": 1_000_000,
        "lr": 1e-4,
        "warmup": 10_000,
        "schedule": "constant",
        "mask_every": 500,
        "vote_threshold": 25,
    },
}
"""What each preset gives to the options that were left open."""


@dataclass(kw_only=True)
class PolicyOptions(CommonOptions):
    """Data of many tasks in, one policy out; evaluated on goals that the data have not seen."""

    preset: Preset = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores) or paper (the published values)."""
    suite: str | None = None
    """Tasks: metaworld-mt1:TASK, -mt5, -mt10, -mt30, -mt50, -pairs10 (ten tasks with opposing pairs), or cheetah-dir,
    cheetah-vel, ant-dir. Their data are made by scripted or trained policies when the cache has none."""
    quality: Literal["near", "sub"] = "near"
    """Made data: near-optimal, or sub-optimal (noisy throughout, as in a replay buffer)."""
    data: tuple[str, ...] = ()
    """Instead of --suite, own data as TASK=PLACE: PLACE is a Minari id, a D4RL HDF5 file or a folder of per-episode .npz
    files; TASK is the environment to act in (door-open-v3, cheetah-vel:7, gym:Hopper-v5)."""
    episodes: int | None = None
    """Episodes a task of made data, 1 or more. Preset: 60; paper 2000."""
    horizon: int | None = None
    """Steps of an episode, in made data and in evaluation; 1 to 500 in Meta-World. Preset: 200; paper 500."""
    context: int | None = None
    """K, the steps of history that the network sees; 1 or more. Preset: 10; paper 20."""
    width: int | None = None
    """Width of the network, a multiple of --heads. Preset: 64; paper 256."""
    layers: int | None = None
    """Transformer blocks; 1 or more. Preset: 2; paper 6."""
    heads: int | None = None
    """Attention heads; 1 or more. Preset: 4; paper 8."""
    steps: int | None = None
    """Training steps of one task each, over all tasks in turn; 1 or more. Preset: 3000; paper 1,000,000."""
    batch_size: int | None = None
    """Windows a task and step; 1 or more. Preset: 16; paper 8."""
    lr: float | None = None
    """Peak learning rate of AdamW; above 0. Preset: 0.001; paper 0.0001."""
    evaluate_every: int = 0
    """Steps between evaluations in the environments while training; 0: only at the end."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: only at the end."""
    eval_episodes: int = 10
    """Evaluation episodes a task, at goals 40 to 49, which the made data leave out; 1 or more."""
    workers: int | None = None
    """Processes that step the environments (and make data). Default: as many as processors; the numbers are the same."""
    stop_at_success: bool = True
    """End an evaluation episode at its first success: five times quicker, but returns are then those up to there."""
    video: bool = False
    """Also record one evaluation episode a task as a GIF under videos/."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, 0) is None:
                setattr(self, name, value)
        for name in ("episodes", "horizon", "context", "width", "layers", "heads", "steps", "batch_size"):
            if hasattr(self, name):
                check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("lr", self.lr, self.lr is not None and self.lr > 0, "above 0")
        check("eval_episodes", self.eval_episodes, self.eval_episodes >= 1, "1 or more")
        check("workers", self.workers, self.workers is None or self.workers >= 1, "1 or more")
        for name in ("evaluate_every", "checkpoint_every"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        if (self.suite is None) == (not self.data):
            raise ManyoneError(
                "give either --suite NAME (metaworld-mt10, cheetah-vel, ...) or --data TASK=PLACE ... of your own"
            )
