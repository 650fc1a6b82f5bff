"""What all policy recipes share: the options of data, network, training and evaluation, and their two presets.

``--preset laptop`` (the default) is sized for two processor cores and minutes; ``--preset paper`` has the published
hyper-parameters. A preset only fills in what was left open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, check

PRESETS: dict[str, dict[str, Any]] = {
    "laptop": {
        "episodes": 60, "horizon": 200, "context": 10, "width": 64, "layers": 2, "heads": 4, "batch_size": 16,
        "tasks_per_step": 1, "steps": 3000, "lr": 1e-3, "weight_decay": 1e-4, "warmup": 100, "schedule": "cosine",
        "mask_every": 100, "vote_threshold": 1,
    },
    "paper": {
        "episodes": 2000, "horizon": 500, "context": 20, "width": 256, "layers": 6, "heads": 8, "batch_size": 8,
        "tasks_per_step": 1, "steps": 1_000_000, "lr": 1e-4, "weight_decay": 1e-4, "warmup": 10_000,
        "schedule": "constant", "mask_every": 500, "vote_threshold": 25,
    },
}  # fmt: skip
"""What each preset gives to the options that were left open."""


@dataclass(kw_only=True)
class PolicyOptions(CommonOptions):
    """Data of many tasks in, one policy out; evaluated at goals that the data have not seen."""

    preset: Literal["laptop", "paper"] = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores) or paper (the published values)."""
    suite: str | None = None
    """Tasks: metaworld-mt1:TASK, metaworld-mt5, -mt10, -mt30, -mt50, -pairs10 (opposing pairs), or cheetah-dir,
    cheetah-vel, ant-dir. Their data are made by scripted or searched policies when the cache has none."""
    quality: Literal["near", "sub", "expert"] = "near"
    """Made data: near-optimal, sub-optimal (noisy throughout, as a replay buffer is), or the official expert episodes
    (Meta-World, from the folder that MANYONE_METAWORLD_EXPERT names)."""
    data: tuple[str, ...] = ()
    """Instead of --suite, own data as TASK=PLACE: PLACE is a Minari id, a D4RL HDF5 file or a folder of per-episode
    .npz files; TASK is the environment to act in (door-open-v3, cheetah-vel:7, gym:Hopper-v5)."""
    data_seed: int = 0
    """Seed of made data; runs with different --seed share their data."""
    episodes: int | None = None
    """Episodes a task of made data, 1 or more. Preset: 60; paper 2000."""
    horizon: int | None = None
    """Steps of an episode, in made data and in evaluation; 1 to 500. Preset: 200; paper 500."""
    steps: int | None = None
    """Training steps, 1 or more; each takes a batch of --tasks-per-step tasks. Preset: 3000; paper 1,000,000."""
    batch_size: int | None = None
    """Samples a task and step; 1 or more. Preset: 16; paper 8."""
    lr: float | None = None
    """Peak learning rate of AdamW; above 0. Preset: 0.001; paper 0.0001."""
    evaluate_every: int = 0
    """Steps between evaluations in the environments while training; 0: only at the end."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: only at the end."""
    eval_episodes: int = 10
    """Evaluation episodes a task, at goals 40 to 49, which made data leave out; 1 or more."""
    workers: int | None = None
    """Processes that step the environments and make data; default: one a processor. Results do not depend on it."""
    full_episodes: bool = False
    """Play evaluation episodes to their end. By default they end at the first success, five times quicker; returns are
    then those up to there."""
    video: bool = False
    """Also record one evaluation episode a task as a GIF in videos/."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name, value) is None:
                setattr(self, name, value)
        for name in ("episodes", "horizon", "steps", "batch_size", "eval_episodes"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("workers", self.workers, self.workers is None or self.workers >= 1, "1 or more")
        check("lr", self.lr, self.lr is not None and self.lr > 0, "above 0")
        check("precision", self.precision, self.precision == "32-true", "32-true: policies are trained in float32")
        for name in ("evaluate_every", "checkpoint_every", "data_seed"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        if (self.suite is None) == (not self.data):
            raise ManyoneError("give --suite NAME (metaworld-mt10, cheetah-vel, ...) or --data TASK=PLACE of your own")


@dataclass(kw_only=True)
class TransformerOptions(PolicyOptions):
    """Options of the decision transformer and of its training."""

    context: int | None = None
    """K, the steps of history that the network sees; 1 or more. Preset: 10; paper 20."""
    prompt: int = 5
    """K*, steps of the prompt where the method has one; 1 or more."""
    width: int | None = None
    """Width of the network, a multiple of --heads. Preset: 64; paper 256."""
    layers: int | None = None
    """Transformer blocks; 1 or more. Preset: 2; paper 6."""
    heads: int | None = None
    """Attention heads; 1 or more. Preset: 4; paper 8."""
    dropout: float = 0.1
    """Dropout of embeddings, attention and residuals; from 0 to below 1."""
    tasks_per_step: int | None = None
    """Tasks that one step takes, stacked; their gradients are averaged. 1 or more, at most all tasks are taken. Several
    are quicker for small networks and batches. Preset: 1."""
    weight_decay: float | None = None
    """AdamW's weight decay; 0 or more. Preset: 0.0001."""
    warmup: int | None = None
    """Steps of linear warm-up of the learning rate; 0 or more. Preset: 100; paper 10,000."""
    schedule: Literal["cosine", "constant"] | None = None
    """Learning rate after the warm-up. Preset: cosine; paper constant."""
    clip: float = 0.25
    """Largest norm of the gradient; above 0."""
    target_quantile: float = 0.9
    """The return asked for: this quantile of the task's returns in the data; 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "width", "layers", "heads", "prompt", "tasks_per_step"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        fits = self.width is not None and self.heads is not None and self.width % self.heads == 0
        check("width", self.width, fits, f"a multiple of --heads {self.heads}")
        check("dropout", self.dropout, 0 <= self.dropout < 1, "from 0 to below 1")
        check("clip", self.clip, self.clip > 0, "above 0")
        check("target_quantile", self.target_quantile, 0 <= self.target_quantile <= 1, "from 0 to 1")
        for name in ("warmup", "weight_decay"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")

    def shape(self) -> dict[str, Any]:
        """The network's size, as its constructor takes it."""
        return {"width": self.width, "layers": self.layers, "heads": self.heads, "dropout": self.dropout}
