"""The options of planners that learn task after task, as data.

``--preset laptop`` (the default) is sized for two processor cores and minutes; ``--preset paper`` has the published
values (arXiv 2410.15698; what it leaves open from its predecessor's program, arXiv 2409.02512).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.policies.recipes.options import Natural, Positive
from manyone.policies.recipes.options_sequence import SequenceOptions
from manyone.recipes.options import Places, Range, With, check

Strategy = Literal[
    "masks", "finetune", "joint", "separate", "ewc", "l2", "mas", "packnet", "rehearsal", "rcr", "lora",
    "replay",
]  # fmt: skip
Alignment = Literal["auto", "vq", "fsq", "ae", "vae", "padding", "none"]
Plan = Literal["states", "state-actions"]


@dataclass(kw_only=True)
class PlannerOptions(SequenceOptions):
    """VQ-CD: one diffusion planner learns tasks one after the other, whatever their spaces, and forgets none.

    Tasks are learned in the order of --data (or --order of a suite); default: Hopper, Walker2d, HalfCheetah.
    """

    FIRST: ClassVar[tuple[str, ...]] = ("strategy", "alignment", "denoiser", "guidance")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {},
        "paper": {"transitions": 1_000_000, "steps": 500_000, "batch_size": 32, "lr": 3e-4, "schedule": "constant",
                  "ema_every": 10, "ema_start": 2000, "align_steps": 500_000,
                  "denoiser": "unet", "width": 256, "layers": 3, "inverse": "shared", "prediction": "noise",
                  "eval_episodes": 30, "checkpoint_every": 10_000},
    }  # fmt: skip

    preset: Literal["laptop", "paper"] = "laptop"
    """Defaults of all options that are left open: laptop (minutes on two cores) or paper (the published values)."""
    policy: Annotated[Path | None, Places()] = None
    """A finished planner (the model folder of a run) that learns the tasks of --data besides its own; the shape of
    networks and alignments is then as it has them."""
    grow: Annotated[Literal["release", "widen"], With("policy")] = "release"
    """Where all its weights are taken: release the smallest weights of earlier tasks, which costs these a little, or
    widen the network, which costs them nothing."""
    release_share: Annotated[float | None, Range(0, 1, closed="neither"), With("policy")] = None
    """Share of the earlier tasks' weights that is released; default: what makes all tasks' shares equal."""
    strategy: Strategy = "masks"
    """What protects earlier tasks: masks (VQ-CD's own); nothing (finetune); all data at once (joint); a network of its
    own, as large as a task's share (separate); penalties (ewc, l2, mas); pruning (packnet); some old windows now and
    then (rehearsal; rcr: not told the task); low-rank changes of the first task's weights (lora); or generated windows
    of earlier tasks (replay)."""
    capacity: Annotated[int | None, Range(1), With("strategy=masks")] = None
    """Tasks that the weights are divided among, at least those of the run; the rest is for later ones. Default: those
    of the run."""
    mask_draw: Annotated[Literal["disjoint", "overlapping", "magnitude"], With("strategy=masks")] = "disjoint"
    """Masks: disjoint and random, or two ablations, random and overlapping or by the size of the untrained weights."""
    one_dimensional: Annotated[Literal["bank", "frozen", "shared"], With("strategy=masks")] = "bank"
    """Biases and norms: each task's own, the first task's for all, or (a control, which forgets) overwritten."""
    protection: Annotated[float, Range(0), With("strategy=ewc", "strategy=l2", "strategy=mas")] = 1.0
    """lambda, weight of the penalty."""
    importance_windows: Annotated[int, Range(1), With("strategy=ewc", "strategy=mas")] = 256
    """Windows of a finished task that tell how much its weights matter."""
    retrain: Annotated[float, Range(0, 1, closed="left"), With("strategy=packnet")] = 0.2
    """Share of a task's steps that come after the pruning."""
    rehearse_every: Annotated[int, Range(2), With("strategy=rehearsal", "strategy=rcr")] = 14
    """One step of so many rehearses an earlier task."""
    rehearse_newest: Annotated[float, Range(0, 1, closed="right"), With("strategy=rehearsal", "strategy=rcr")] = 0.01
    """Share of a task's windows, the last ones, that is kept for it."""
    rank: Annotated[int, Range(1), With("strategy=lora")] = 64
    """Rank of the changes."""
    replay_windows: Annotated[int, Range(1), With("strategy=replay")] = 2048
    """Windows of each earlier task that are generated anew for each task."""
    replay_width: Annotated[int, Range(1), With("strategy=replay")] = 256
    """Width of the generator."""
    alignment: Alignment = "auto"
    """How states and actions of different widths become alike: quantised auto-encoders, their ablations, zeros, or not
    at all; auto: none where all widths are the same, else vq."""
    align_steps: Annotated[int, Range(1)] = 2000
    """Training steps of a task's two alignments (paper: 500,000)."""
    align_batch_size: Positive = 256
    """States and actions that one of these steps takes."""
    align_lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Their learning rate at the first step."""
    align_last_lr: Annotated[float, Range(0, closed="neither")] = 1e-4
    """Their learning rate at the last step."""
    align_hidden: Positive = 256
    """Width of their two hidden layers."""
    state_latents: Positive = 10
    """Latents of a state, of --latent-width entries each."""
    action_latents: Positive = 5
    """Latents of an action."""
    latent_width: Positive = 2
    """Entries of a latent."""
    codes: Positive = 512
    """Codes of a task's codebook of states, and of actions."""
    commitment: Annotated[float, Range(0)] = 0.25
    """Weight of the term that holds encodings near their codes."""
    bound: Annotated[float, Range(0, closed="neither")] = 3.0
    """rho: codes, and with them plans, stay within -rho to rho."""
    code_init: Literal["normal", "kmeans", "uniform"] = "normal"
    """Codebooks begin standard normal, as means of the first batch, or uniform and tiny (which leaves most unused)."""
    codebook: Literal["gradient", "ema"] = "gradient"
    """Codes follow the gradient (the paper), or the moving average of what chose them."""
    denoiser: Literal["mlp", "unet", "dit"] = "mlp"
    """The network: a residual MLP on the flattened window, a temporal U-Net (the paper's), or a small transformer."""
    width: Positive = 384
    """Width of the denoiser; of a unet that of its first level, a multiple of 8 (paper: 256), of a dit a multiple of
    8."""
    layers: Positive = 4
    """Blocks of mlp and dit; levels of a unet, each twice as wide as the one before (paper: does not say; 3)."""
    plan: Plan = "states"
    """What is diffused: states, whose actions inverse dynamics find, or states and actions together (an ablation)."""
    plan_length: Annotated[int, Range(2)] = 8
    """T, states of a plan."""
    window_ends: Literal["drop", "pad"] = "drop"
    """Windows that reach beyond an episode's end are left out, or repeat its last step."""
    inverse: Annotated[Literal["masked", "per-task", "shared"], With("plan=states")] = "masked"
    """Inverse dynamics: protected as the denoiser is, one network a task, or one that every task goes on training
    (paper, which forgets)."""
    inverse_width: Annotated[int, Range(1), With("plan=states")] = 256
    """Width of their two hidden layers."""
    requantise: Annotated[bool, With("plan=states")] = False
    """Move planned states to the nearest quantised ones before the inverse dynamics read them."""
    diffusion_steps: Positive = 200
    """K, diffusion steps in training."""
    noise_schedule: Literal["cosine", "linear", "vp"] = "cosine"
    """How noise grows over them."""
    prediction: Literal["noise", "data", "velocity"] = "data"
    """What the denoiser predicts: the noise (paper), which takes far more training for states as exact as acting needs;
    the states themselves; or a mixture."""
    condition_dropout: Annotated[float, Range(0, 1, closed="left")] = 0.25
    """Share of windows that are told no return."""
    return_discount: Annotated[float, Range(0, 1, closed="right")] = 0.99
    """Discount of the returns that plans are conditioned on, scaled to 0 (a task's least) to 1 (its most)."""
    target_return: float = 0.95
    """The return to ask for when acting, on that scale."""
    guidance: Annotated[float, Range(0)] = 1.2
    """omega: 1 is the conditional model alone, 0 the unconditional one."""
    sampler: Literal["ddim", "ddpm", "dpm-solver++"] = "ddim"
    """How plans are drawn."""
    sampling_steps: Positive = 10
    """Steps of a plan's sampling, at most --diffusion-steps."""
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    """Which diffusion steps these are: with the last, the first, or both."""
    eta: Annotated[float, Range(0, 1), With("sampler=ddim")] = 0.0
    """Fresh noise in each sampling step: 0 none, 1 as much as ddpm."""
    plan_every: Positive = 1
    """Actions of a plan that are executed before the next plan (paper: 1)."""
    steps: Positive = 8000
    """Planner steps of each task (paper: 500,000)."""
    batch_size: Positive = 64
    """Windows a step (paper: 32)."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Learning rate of Adam, which begins anew with each task (paper: 0.0003)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over a task's steps (paper: constant)."""
    ema_decay: Annotated[float, Range(0, 1, closed="left")] = 0.995
    """Decay of the moving average of the weights, which is what is kept of a task."""
    ema_every: Positive = 1
    """Steps between its updates (paper: 10)."""
    ema_start: Natural = 0
    """Steps before which it is the weights themselves (paper: 2000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy is not None and not self.data:
            raise ManyoneError("--policy goes on with tasks of --data: give those that are to be learned besides")
        few = f"at most --diffusion-steps {self.diffusion_steps}"
        check("sampling_steps", self.sampling_steps, self.sampling_steps <= self.diffusion_steps, few)
        even = self.denoiser == "mlp" or self.width % 8 == 0
        check("width", self.width, even, f"a multiple of 8 for --denoiser {self.denoiser}")
        last = f"at most --align-lr {self.align_lr:g}"
        check("align_last_lr", self.align_last_lr, self.align_last_lr <= self.align_lr, last)
        fits = self.plan_every < self.plan_length
        check("plan_every", self.plan_every, fits, f"from 1 to {self.plan_length - 1}, the actions of a plan")


@dataclass(kw_only=True)
class DecisionDiffuserOptions(PlannerOptions):
    """Decision Diffuser on tasks in turn, without rehearsal: states padded with zeros, nothing protected.

    Ajay et al. (arXiv 2211.15657): states are planned, inverse dynamics find the actions.
    """

    strategy: Strategy = "finetune"
    """What protects earlier tasks; as for vq-cd."""
    alignment: Alignment = "padding"
    """How states and actions of different widths become alike; as for vq-cd."""


@dataclass(kw_only=True)
class DiffuserOptions(PlannerOptions):
    """Diffuser on tasks in turn, without rehearsal: states and actions are planned together, nothing protected.

    Janner et al. (arXiv 2205.09991), guided by the return that it is told and not by a value's gradient.
    """

    strategy: Strategy = "finetune"
    """What protects earlier tasks; as for vq-cd."""
    alignment: Alignment = "padding"
    """How states and actions of different widths become alike; as for vq-cd."""
    plan: Plan = "state-actions"
    """What is diffused: states, or states and actions together."""
