"""The options of recipes that adapt a frozen policy to new tasks by a few episodes of each, as data.

:class:`AdaptationOptions` is what all of them share: the policy, or how it is trained first, and the new tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.policies.recipes.options import PolicyOptions, Positive
from manyone.recipes.options import Places, Range, With, Without, check

Quality = Literal["near", "sub", "expert", "random", "medium", "medium-replay", "medium-expert"]
SUITE = "cheetah-vel"
"""What is trained on and adapted to where nothing is said."""


@dataclass(kw_only=True)
class AdaptationOptions(PolicyOptions):
    """A frozen policy that reads prompts is adapted to new tasks, all of them at once."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {**PolicyOptions.PRESETS["laptop"], "full_episodes": True},
        "paper": {**PolicyOptions.PRESETS["paper"], "episodes": 60, "horizon": 200, "steps": 20_000,
                  "full_episodes": True, "context": 20, "width": 128, "layers": 3, "heads": 1, "dropout": 0.1,
                  "pretrain_steps": 50_000, "eval_episodes": 50},
    }  # fmt: skip
    NEEDS_DATA: ClassVar[bool] = False

    policy: Annotated[Path | None, Places()] = None
    """A trained policy that reads prompts: the run, or its model folder, of prompt-dt or of an earlier adaptation. It
    stays as it is. Without, prompt-dt is trained first on the tasks of --suite or --data, as a stage of this run."""
    shots: Annotated[tuple[str, ...], Places()] = ()
    """The few episodes of each new task, as TASK=PLACE like --data; default: the held-out tasks of --suite."""
    shot_episodes: Annotated[Positive, With("suite")] = 5
    """Episodes of each held-out task of --suite that are adapted with."""
    shot_quality: Annotated[Quality, With("suite")] = "near"
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
    """Tasks that one of these steps takes, stacked."""
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
