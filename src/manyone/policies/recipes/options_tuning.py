"""The options of recipe prompt-tuning, as data: the other ways to adapt a frozen policy to new tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from manyone.policies.prompt_tuning.methods import METHODS
from manyone.policies.recipes.options import Positive
from manyone.policies.recipes.options_prompt import AdaptationOptions
from manyone.recipes.options import Range, With, check

Method = Literal["none", "full", "soft", "gradient", "ranking", "ranking-online", "adaptor", "lora", "mlp"]
_RANKING = With("method=ranking", "method=ranking-online")


@dataclass(kw_only=True)
class TuningOptions(AdaptationOptions):
    """A frozen policy adapted to new tasks, all at once: by its prompt, by small parts beside it, or by its weights."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {**AdaptationOptions.PRESETS["laptop"], "batch_size": 32},
        "paper": {**AdaptationOptions.PRESETS["paper"], "batch_size": 32},
    }  # fmt: skip
    PUBLISHED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {"steps": 10, "lr": 1e-4, "batch_size": 256, "windows": "tail"},
        "soft": {"lr": 1e-2}, "gradient": {"lr": 1e-2}, "adaptor": {"lr": 1e-3}, "lora": {"lr": 1e-3},
    }  # fmt: skip
    """By method, what --preset paper sets: the full fine-tuning of Prompt-DT's program, the others' customary rates."""

    method: Method = "lora"
    """What is trained. none: nothing, prompts of the new tasks' data alone; full: all weights; soft: the prompt's token
    vectors; gradient: the prompt's returns, states and actions; ranking: these by the ranks of perturbed ones' errors
    (Prompt-Tuning DT); ranking-online: by the returns of episodes that they play; adaptor: bottlenecks in each block;
    lora: low-rank updates of the attention; mlp: a network that gives prompts, as large as the diffuser."""
    steps: Positive = 150
    """Steps of the adaptation; each takes windows of all new tasks (none: 1, ranking-online: 20)."""
    lr: Annotated[float, Range(0, closed="neither")] = 5e-3
    """Peak learning rate of AdamW (gradient: 0.1, soft: 0.05, mlp and full: 0.001), or length of a step along the
    ranking's direction (0.3)."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """AdamW's weight decay (full: 0.0001)."""
    warmup: Annotated[int, Range(0)] = 0
    """Steps of linear warm-up of the learning rate."""
    clip: Annotated[float, Range(0)] = 0.0
    """Largest norm of a task's gradient; 0: none."""
    windows: Literal["anywhere", "tail"] = "anywhere"
    """Cut windows anywhere from the shots, or the last --prompt steps of their episodes, as Prompt-DT fine-tunes."""
    prompt_count: Positive = 1
    """Prompts a task that episodes take in turn: 1 is the best by return, more are drawn. Each is tuned by itself where
    the method tunes prompts."""
    rank: Annotated[int, Range(1), With("method=lora")] = 8
    """Rank of LoRA's updates."""
    bottleneck: Annotated[int, Range(1), With("method=adaptor")] = 16
    """Width of the adapters."""
    candidates: Annotated[int, Range(2), _RANKING] = 15
    """m, perturbed prompts that a step ranks."""
    spread: Annotated[float, Range(0, closed="neither"), _RANKING] = 0.1
    """mu, the standard deviation of the perturbations, in that of the states."""
    rollouts: Annotated[int, Range(1), With("method=ranking-online")] = 2
    """Episodes that each perturbed prompt plays a step; all of a task begin alike."""

    @classmethod
    def preset_values(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        method = given.get("method", cls.method)
        check("method", method, method in METHODS, f"one of {', '.join(METHODS)}")
        published = cls.PUBLISHED.get(method, {}) if given.get("preset") == "paper" else {}
        general = {k: v for k, v in super().preset_values(given).items() if k not in ("steps", "lr")}
        return {**general, **METHODS[method].defaults, **published}
