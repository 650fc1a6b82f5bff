"""The options of recipes that adapt a frozen policy to new tasks by a few episodes of each, as data.

:class:`AdaptationOptions` is what all of them share: the policy, or how it is trained first, and the new tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.policies.recipes.options import Natural, PolicyOptions, Positive
from manyone.recipes.options import Places, Range, With, Without, check

Quality = Literal["near", "sub", "expert", "random", "medium", "medium-replay", "medium-expert"]
SUITE = "cheetah-vel"
"""What is trained on and adapted to where nothing is said."""


@dataclass(kw_only=True)
class AdaptationOptions(PolicyOptions):
    """A frozen policy that reads prompts is adapted to new tasks, all of them at once."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--suite cheetah-vel",
        "--policy runs/dt --shots gym:Hopper-v5=five-episodes.hdf5",
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {**PolicyOptions.PRESETS["laptop"], "full_episodes": True},
        "paper": {**PolicyOptions.PRESETS["paper"], "episodes": 60, "horizon": 200, "steps": 20_000,
                  "full_episodes": True, "context": 20, "width": 128, "layers": 3, "heads": 1, "dropout": 0.1,
                  "pretrain_steps": 50_000, "pretrain_tasks": 50, "eval_episodes": 50},
    }  # fmt: skip
    NEEDS_DATA: ClassVar[bool] = False

    policy: Annotated[Path | None, Places()] = None
    """A trained policy that reads prompts: the run, or its model folder, of prompt-dt or of an earlier adaptation. It
    stays as it is. Without, prompt-dt is trained first on the tasks of --suite or --data, as a stage of this run."""
    shots: Annotated[tuple[str, ...], Places()] = ()
    """The few episodes of each new task, as TASK=PLACE like --data; default: the held-out tasks of --suite."""
    shot_episodes: Annotated[Positive, With("suite")] = 5
    """Episodes of each held-out task of --suite that are adapted with."""
    quality: Annotated[Quality, With("suite")] = "expert"
    """Quality of the made data of the training tasks."""
    shot_quality: Annotated[Quality, With("suite")] = "expert"
    """Quality of these episodes, as --quality."""
    prompts: Annotated[tuple[str, ...], Places()] = ()
    """Episodes whose tails are the new tasks' prompts, as TASK=PLACE; default: the shots."""
    prompt_quality: Annotated[Quality | None, With("suite")] = None
    """Take the prompts of the held-out tasks of --suite from as many made episodes of this quality, not the shots."""
    statistics: Literal["auto", "policy", "shots"] = "auto"
    """What a new task's states are standardised with: what all training tasks share (policy), its own shots, or (auto)
    the first where the policy was trained with pooled statistics and else the second."""
    target_quantile: Annotated[float, Range(0, 1)] = 0.9
    """The return asked for: this quantile of the returns of a task's shots."""
    target_return: tuple[float, ...] = ()
    """The return asked for instead: one for all new tasks, or one each."""
    keys: Annotated[tuple[str, ...], With("data", "shots")] = ()
    """Entries of dictionary observations, laid side by side in this order, in --data, --shots and their environments,
    e.g. observation,desired_goal."""
    pretrain_steps: Annotated[Positive, Without("policy")] = 3000
    """Steps of the policy's own training."""
    pretrain_tasks: Annotated[Positive, Without("policy")] = 4
    """Tasks that one of these steps takes, stacked, 16 windows of each (paper: all)."""
    context: Annotated[Positive, Without("policy")] = 10
    """K, the steps of history that the policy sees (paper: 20)."""
    prompt: Annotated[Positive, Without("policy")] = 5
    """K*, steps of its prompt."""
    width: Annotated[Positive, Without("policy")] = 64
    """Width of its network, a multiple of --heads (paper: 128)."""
    layers: Annotated[Positive, Without("policy")] = 2
    """Its transformer blocks (paper: 3)."""
    heads: Annotated[Positive, Without("policy")] = 4
    """Its attention heads (paper: 1)."""
    dropout: Annotated[float, Range(0, 1, closed="left"), Without("policy")] = 0.0
    """Dropout while it is trained (paper: 0.1); there is none later."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {} if any(given.get(name) for name in ("suite", "data", "shots")) else {"suite": SUITE}
        return {**super().preset_values(given), **own}

    def __post_init__(self) -> None:
        super().__post_init__()
        check("width", self.width, self.width % self.heads == 0, f"a multiple of --heads {self.heads}")
        if self.suite is None and not self.data and self.policy is None:
            raise ManyoneError("--shots alone: give --policy too, or --suite or --data of tasks to train a policy on")
        if self.suite is None and not self.shots:
            raise ManyoneError("--data are tasks to train on: give --shots TASK=PLACE of the new ones")
        check("prompts", " ".join(self.prompts), not self.prompts or bool(self.shots), "given with --shots TASK=PLACE")
        if self.prompt_quality is not None and self.shots:
            raise ManyoneError("--prompt-quality is for made shots: with --shots give --prompts TASK=PLACE")


@dataclass(kw_only=True)
class DiffuserOptions(AdaptationOptions):
    """Prompt Diffuser (Hu et al., 2024): a diffusion model writes the prompts of a frozen policy.

    It learns to denoise the training tasks' prompts, guided by the policy's imitation loss, and is then adapted to all
    new tasks at once by a few episodes of each. No official program is public: what the paper leaves open is ours.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {**AdaptationOptions.PRESETS["laptop"], "guidance_weight": 10.0},
        "paper": {**AdaptationOptions.PRESETS["paper"], "lr": 3e-4, "guidance_batch": 48, "batch_size": 48,
                  "guidance_every": 1, "adapt_steps": 150, "stage1_tasks": 1},
    }  # fmt: skip

    steps: Positive = 3000
    """I1, steps of stage 1 on the training tasks in turn (paper scale: 20,000)."""
    adapt_steps: Natural = 150
    """I2, steps of stage 2 on the new tasks' few episodes, all tasks at once."""
    no_stage1: bool = False
    """Leave stage 1 out: the generator sees the new tasks alone."""
    zero_shot: bool = False
    """Leave stage 2 out and read nothing of the new tasks: prompts for the conditions of the three best episodes of all
    training tasks (our protocol: the paper names none), 16 episodes a task unless --eval-episodes says otherwise."""
    batch_size: Positive = 48
    """Prompts a task and step of the denoising loss."""
    lr: Annotated[float, Range(0, closed="neither")] = 1e-3
    """Learning rate of Adam in both stages."""
    stage1_tasks: Annotated[Positive, Without("no_stage1")] = 1
    """Training tasks that a step of stage 1 takes."""
    layout: Literal["flat", "per_step"] = "flat"
    """Denoise all steps of a prompt as one vector, or each on its own with shared weights."""
    diffusion_steps: Positive = 10
    """N, steps of the diffusion."""
    noise: Literal["vp", "cosine", "linear"] = "vp"
    """Its schedule: the few-step variance-preserving one, or others."""
    prediction: Literal["noise", "data", "velocity"] = "noise"
    """What the denoiser predicts: the noise (the paper), the prompt itself, or the velocity between them."""
    sampler: Literal["ddpm", "ddim", "dpm-solver++"] = "ddpm"
    """How prompts are sampled, in training as in acting."""
    denoiser_width: Positive = 256
    """Width of the denoiser's hidden layers."""
    denoiser_layers: Positive = 3
    """Its hidden layers."""
    embedding: Annotated[int, Range(4)] = 16
    """Width of the diffusion step's embedding, an even number."""
    no_reward: bool = False
    """Generate states and actions alone. The policy reads no rewards; they regularise the joint model."""
    clip: Annotated[float, Range(0)] = 0.0
    """Bound of estimated prompts in standard deviations; 0: the range of the data."""
    condition: Literal["rtg_time", "rtg_time_context"] = "rtg_time"
    """What the generator is told: returns-to-go and times (the paper), or besides them an encoding of the new task's
    few episodes (our extension: returns and times do not tell which task it is)."""
    context_width: Annotated[Positive, With("condition=rtg_time_context")] = 32
    """Width of that encoding."""
    losses: Literal["both", "denoising", "imitation"] = "both"
    """Train by both losses, or by one of them as a control."""
    guidance_weight: Annotated[float, Range(0)] = 1.0
    """lambda, weight of the projected imitation gradient (paper: 1, of losses that it does not fully define)."""
    guidance: Literal["chain", "one-step"] = "chain"
    """Sample the prompt of the imitation loss by the whole reverse chain, or estimate it from a noisy one (quicker)."""
    guidance_every: Positive = 4
    """Steps of stage 1 from one with guidance to the next; those between denoise only, ten times quicker (paper: 1)."""
    adapt_guidance_every: Positive = 1
    """The same in stage 2."""
    guidance_batch: Positive = 16
    """Windows a task and step of the imitation loss, at most --batch-size."""
    projection: Literal["vector", "subspace", "one-sided", "none"] = "vector"
    """What is taken out of the imitation gradient: its part along the denoising gradient, along the span of the last
    ones, the first only in conflict, or nothing (the simple sum)."""
    granularity: Literal["global", "tensor"] = "global"
    """Project all parameters together, or each tensor by itself."""
    subspace: Annotated[Literal["vectors", "columns", "rows"], With("projection=subspace")] = "vectors"
    """What spans the subspace: whole gradients, or the columns or rows of each weight matrix's gradients."""
    subspace_history: Annotated[Positive, With("projection=subspace")] = 20
    """Denoising gradients that span it."""
    subspace_energy: Annotated[float, Range(0, 1, closed="right"), With("projection=subspace")] = 0.95
    """Share of their squares that its directions hold."""
    subspace_refresh: Annotated[Positive, With("projection=subspace")] = 50
    """Steps between its renewals."""
    ema: Annotated[float, Range(0, 1, closed="left")] = 0.995
    """Decay of the averaged weights that prompts are sampled with, in stage 1."""
    adapt_ema: Annotated[float, Range(0, 1, closed="left")] = 0.95
    """The same in stage 2, which is short."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = {"adapt_steps": 0, "eval_episodes": 16} if given.get("zero_shot") else {}
        return {**super().preset_values(given), **own}

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.guidance_batch <= self.batch_size
        check("guidance_batch", self.guidance_batch, fits, f"at most --batch-size {self.batch_size}")
        check("embedding", self.embedding, self.embedding % 2 == 0, "an even number")
        check("adapt_steps", self.adapt_steps, not self.zero_shot or not self.adapt_steps, "0 with --zero-shot")
        check("no_stage1", self.no_stage1, not (self.no_stage1 and not self.adapt_steps), "off without --adapt-steps")
        told = self.condition == "rtg_time" or not self.zero_shot
        check("condition", self.condition, told, "rtg_time with --zero-shot: there are no episodes to encode")
