"""How much of everything the text-to-SQL study gives to a suite, at each scale; what its arms are, as commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by


class Part(NamedTuple):
    """An arm: a recipe with changed options, and what its rows are called."""

    recipe: str
    method: str
    """The method of its rows (``claims.toml``)."""
    changes: Mapping[str, Any]
    variant: str = ""
    exposure: bool = False
    """Whether its excess accumulated error is measured."""
    as_long_as: str = ""
    """The part whose processor time it gets: its steps are scaled by what steps of both cost (``Setting.costs``)."""


def _kid(variant: str = "", **changes: Any) -> Part:
    return Part("kid", "kid", changes, variant)


PARTS: dict[str, Part] = {
    "gkd": Part("gkd", "gkd", {}, exposure=True),
    "distillm": Part("distillm", "distillm", {}),
    "f-distill": Part("f-distill", "f-distill", {}, exposure=True),
    "imitkd": Part("imitkd", "imitkd", {}),
    "kid": Part("kid", "kid", {}, exposure=True),
    "alpha-0.1": _kid("alpha-0.1", mask_ratio=0.1),
    "alpha-0.3": _kid("alpha-0.3", mask_ratio=0.3),
    "alpha-0.4": _kid("alpha-0.4", mask_ratio=0.4),
    "alpha-0.5": _kid("alpha-0.5", mask_ratio=0.5),
    "noise": _kid("noise", source="noise"),
    "mask-only": _kid("mask-only", source="mask-only"),
    "rkd": Part("rkd", "rkd", {}, exposure=True),
    "fkd": Part("fkd", "fkd", {}, exposure=True),
    "gkd-time": Part("gkd", "gkd", {}, "equal-time", as_long_as="kid"),
    "rkd-time": Part("rkd", "rkd", {}, "equal-time", as_long_as="kid"),
    "sft-time": Part("sft", "sft", {}, "equal-time", as_long_as="kid"),
    "seqkd": Part("seqkd", "seqkd", {}),
    "sft": Part("sft", "sft", {}),
}
"""What a seed trains, the longest first. KID at alpha = 0 is rkd."""
COSTS: dict[str, Part] = {
    "sft": PARTS["sft"],
    "fkd": PARTS["fkd"],
    "rkd": PARTS["rkd"],
    "mask-only": PARTS["mask-only"],
    "kid": PARTS["kid"],
    "separate": _kid("separate", mle_on="clean"),
    "gkd": PARTS["gkd"],
}
"""What the job "costs" steps side by side; its rows have the condition "cost"."""
BOUNDS = ("teacher", "warm-start")
"""What every arm learns from and starts from: rows of the job "bounds"."""
JOBS = ("costs", "bounds")
"""Jobs besides a seed's arms."""


@dataclass(frozen=True)
class Setting:
    """Some data, and what is trained on them; all counts are per seed."""

    parts: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What a user would type, for all recipes."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Recipe -> what a step costs, in steps of fine-tuning, as measured: makes equal processor times of equal steps."""
    rounds: int = 20
    """Steps of each method that its cost is the median of, after three that are not counted."""
    exposure: int = 32
    """Test prompts that excess accumulated errors are measured on."""
    samples: int = 10
    """Prefixes drawn for each of them from each model."""

    def arm(self, name: str) -> Arm:
        """Part ``name`` (or one of :data:`COSTS`) as a user would run it."""
        part = PARTS[name] if name in PARTS else COSTS[name]
        given = taken_by(part.recipe, self.options)
        if part.as_long_as:
            given["steps"] = self.steps_of(part)
        return Arm(part.method, part.recipe, {**given, **part.changes}, part.variant)

    def steps_of(self, part: Part) -> int:
        """Steps of ``part`` in the processor time of the part that it goes as long as."""
        other = PARTS[part.as_long_as]
        return round(self.options["steps"] * self.costs[other.recipe] / self.costs[part.recipe])


_LAPTOP = (
    "gkd", "kid", "alpha-0.5", "noise", "mask-only", "rkd", "fkd", "gkd-time", "rkd-time", "sft-time", "sft",
)  # fmt: skip
_SMOKE = ("gkd", "kid", "sft")
_WHOLE = tuple(name for name in PARTS if not PARTS[name].as_long_as)
_SMALL = {"suite": "schemas3", "device": "cpu", "batch_size": 16, "tables": 3, "columns": 6, "workers": 1}
_COSTS = {"sft": 1.0, "fkd": 2.0, "rkd": 2.1, "kid": 2.4, "gkd": 5.7}
"""In steps of fine-tuning, as the laptop scale measured them. They only set how many steps the arms of equal time get;
the reports' cost rows say what steps cost where the study ran."""


def _paper(preset: str, teacher: str, data: str = "spider", parts: tuple[str, ...] = _WHOLE) -> Setting:
    """The published setting with the official data, which lie in a folder of that name."""
    options = {"preset": preset, "teacher": teacher, "data": (f"{data}={data}",), "eval_pairs": None, "timeout": 30.0}
    return Setting(parts, options, rounds=20, exposure=100)


_QWEN, _MAIN = "Qwen/Qwen1.5-", ("gkd", "f-distill", "imitkd", "kid", "rkd", "fkd", "sft")
SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "schemas3-smoke": Setting(
            _SMOKE,
            {**_SMALL, "teacher_steps": 20, "warm_start": 20, "steps": 6, "eval_pairs": 12, "train_pairs": 300},
            _COSTS, rounds=6, exposure=2, samples=2,
        ),
    },
    "laptop": {
        "schemas3": Setting(
            _LAPTOP,
            # From a start of 300 steps, at lr 3e-3, students end far from what they can do (KID 13 %, seeds 0 to 2).
            # A teacher of 2,000 steps answers less (40 %) than this start (64 to 69 %).
            {**_SMALL, "batch_size": 8, "teacher_steps": 8000, "warm_start": 4000, "steps": 1500, "lr": 1e-3,
             "eval_pairs": 1000},
            _COSTS,
        ),
    },
    "paper": {
        "spider-qwen-1.8b": _paper("paper-qwen", f"{_QWEN}1.8B"),
        "spider-qwen-4b": _paper("paper-qwen", f"{_QWEN}4B", parts=_MAIN),
        "spider-qwen-7b": _paper("paper-qwen", f"{_QWEN}7B", parts=_MAIN),
        "bird-qwen-7b": _paper("paper-qwen", f"{_QWEN}7B", "bird", _MAIN),
        "spider-codegen": _paper("paper-codegen", "Salesforce/codegen-2B-multi",
                                 parts=("gkd", "kid", "mask-only", "rkd", "sft")),
        "spider-llama": _paper("paper-llama", "meta-llama/Llama-2-7b-hf",
                               parts=("gkd", "kid", "mask-only", "rkd", "sft")),
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims."""


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of ``suite``; ``ManyoneError`` where the study has none."""
    known = SETTINGS[scale]
    if suite not in known:
        raise ManyoneError(f"the text-to-SQL study has no suite {suite!r} at scale {scale}: it has {', '.join(known)}")
    return known[suite]
