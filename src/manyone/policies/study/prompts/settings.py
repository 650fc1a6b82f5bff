"""How much of everything the study of prompts gives to a suite, at each scale; what its arms are, as commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by

POOLS = {"clean": "expert", "medium": "medium", "random": "random"}
"""Condition of a row -> quality of the episodes that prompts and conditions come from; windows are the experts'."""


class Part(NamedTuple):
    """An arm: a recipe with changed options, and what its rows are called."""

    job: str
    """Which of a seed's two jobs it belongs to."""
    recipe: str
    method: str
    """The method of its rows (``claims.toml``)."""
    changes: Mapping[str, Any]
    variant: str = ""
    pools: tuple[str, ...] = tuple(POOLS)


def _diffuser(variant: str = "", pools: tuple[str, ...] = tuple(POOLS), **changes: Any) -> Part:
    return Part("diffuser", "prompt-diffuser", "prompt-diffuser", changes, variant, pools)


def _tuned(name: str, variant: str = "", pools: tuple[str, ...] = tuple(POOLS), **changes: Any) -> Part:
    return Part("tuning", "prompt-tuning", name, {"method": name, **changes}, variant, pools)


PARTS: dict[str, Part] = {
    "projection": _diffuser(),
    "sum": _diffuser("sum", projection="none"),
    "denoising": _diffuser("denoising", losses="denoising"),
    "imitation": _diffuser("imitation", losses="imitation"),
    "one-sided": _diffuser("one-sided", projection="one-sided"),
    "subspace": _diffuser("subspace", projection="subspace"),
    "stage-2": _diffuser("stage-2", no_stage1=True),
    "stage-2-sum": _diffuser("stage-2-sum", no_stage1=True, projection="none"),
    "context": _diffuser("context", condition="rtg_time_context"),
    "zero-shot": _diffuser("zero-shot", ("clean",), zero_shot=True, adapt_steps=0),
    "prompt-dt": Part("tuning", "prompt-tuning", "prompt-dt", {"method": "none", "prompt_count": 5}),
    "full": _tuned("full"),
    "soft": _tuned("soft"),
    "gradient": _tuned("gradient"),
    "ranking": _tuned("ranking"),
    "adaptor": _tuned("adaptor"),
    "lora": _tuned("lora"),
    "mlp": _tuned("mlp"),
    "lora-time": _tuned("lora", "equal-time", ("clean", "random")),
    "soft-time": _tuned("soft", "equal-time", ("clean", "random")),
    "full-time": _tuned("full", "equal-time", ("clean", "random")),
}
"""Arms of a seed's work, in the order in which they are measured."""


@dataclass(frozen=True)
class Setting:
    """One family and what is trained on it; all counts are per seed."""

    suite: str
    """The tasks, as the recipes' --suite."""
    parts: tuple[str, ...] = tuple(PARTS)
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all recipes that have the option."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part -> further options: as many steps as take the diffuser's time, where that is compared."""

    def arm(self, name: str, pool: str = "clean") -> Arm:
        """Part ``name`` as a user would run it with prompts of ``pool``."""
        part = PARTS[name]
        given = taken_by(part.recipe, self.options)
        if part.recipe == "prompt-tuning":  # its steps are those of the adaptation
            given |= {"steps": self.options["adapt_steps"]} if "adapt_steps" in self.options else {}
            given = {k: v for k, v in given.items() if k not in ("lr", "batch_size")}
        given |= {"suite": self.suite, **part.changes, **self.tuned.get(name, {})}
        given |= {} if POOLS[pool] == "expert" else {"prompt_quality": POOLS[pool]}
        given |= {} if "preset" in given else {"device": "cpu"}
        return Arm(part.method, part.recipe, given, part.variant)


_POINT = {
    "episodes": 40, "horizon": 20, "context": 5, "prompt": 5, "width": 48, "heads": 2, "pretrain_steps": 500,
    "pretrain_tasks": 8, "batch_size": 16, "guidance_batch": 8, "diffusion_steps": 5, "steps": 400, "adapt_steps": 50,
    "eval_episodes": 20,
}  # fmt: skip
_CHEETAH = {
    "episodes": 40, "pretrain_steps": 2500, "pretrain_tasks": 4, "batch_size": 32, "guidance_batch": 8, "steps": 2000,
    "adapt_steps": 200, "eval_episodes": 20,
}  # fmt: skip
_MAIN = ("projection", "sum", "denoising", "imitation", "zero-shot", "prompt-dt", "gradient", "lora")
_PAPER = {"preset": "paper"}

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {"point-robot-smoke": Setting("point-robot", _MAIN, _POINT)},
    "laptop": {
        "point-robot-few": Setting(
            "point-robot", tuple(PARTS),
            _POINT | {"pretrain_steps": 3000, "steps": 2400, "adapt_steps": 120},
            {"lora-time": {"steps": 145}, "soft-time": {"steps": 290}, "full-time": {"steps": 165}},
        ),
        "cheetah-vel-few": Setting(
            "cheetah-vel",
            (*_MAIN, "subspace", "stage-2", "stage-2-sum", "full", "soft", "ranking", "mlp", "lora-time", "soft-time",
             "full-time"),
            _CHEETAH,
            {"ranking": {"steps": 100}, "lora-time": {"steps": 165}, "soft-time": {"steps": 220},
             "full-time": {"steps": 140}},
        ),
    },
    "paper": {
        f"{suite}-paper": Setting(suite, tuple(PARTS), _PAPER)
        for suite in ("cheetah-dir", "cheetah-vel", "ant-dir", "ant-dir-ood", "ml1-reach")
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims."""


def setting_of(scale: str, suite: str) -> Setting:
    """What ``scale`` gives to ``suite``."""
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the study of prompts has no suite {suite!r} at scale {scale!r}") from None
