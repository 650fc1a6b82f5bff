"""How much of everything the study of continual planning gives to a suite, at each scale; its arms, as commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm, taken_by


class Part(NamedTuple):
    """An arm of the study: a recipe with changed options, and what its rows are called."""

    method: str
    """The method of its row (``claims.toml``)."""
    changes: Mapping[str, Any] = {}
    variant: str = ""
    recipe: str = "vq-cd"
    order: int = 0
    """Which of the suite's orders its tasks come in."""
    without: tuple[str, ...] = ()
    """Options of the setting that mean nothing to it."""


_STRATEGIES = ("joint", "separate", "finetune", "ewc", "l2", "mas", "packnet", "rehearsal", "rcr", "lora", "replay")

PARTS: dict[str, Part] = {
    "masks": Part("vq-cd"),
    **{name: Part(name, {"strategy": name}) for name in _STRATEGIES},
    "dd": Part("dd", recipe="dd"),
    "diffuser": Part("diffuser", recipe="diffuser", without=("inverse_width",)),
    "il-rehearsal": Part("il-rehearsal", recipe="il-rehearsal"),
    **{kind: Part("vq-cd", {"alignment": kind}, kind) for kind in ("ae", "vae", "padding", "fsq")},
    **{f"order-{k}": Part("vq-cd", variant=f"order-{k}", order=k - 1) for k in (2, 3)},
    **{f"finetune-order-{k}": Part("finetune", {"strategy": "finetune"}, f"order-{k}", order=k - 1) for k in (2, 3)},
}
"""Parts of a seed's work, those that train longest first."""


@dataclass(frozen=True)
class Setting:
    """One sequence of tasks and what is trained on it; all counts are per seed."""

    suite: str
    """The tasks, as the recipes' --suite."""
    orders: tuple[tuple[str, ...], ...]
    """Orders in which the tasks are learned, as --order; the first is the usual one."""
    parts: tuple[str, ...]
    quality: str = "medium-expert"
    released: tuple[float, ...] = ()
    """Shares of each task's weights that are taken away from the finished model of ``masks``."""
    eval_episodes: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset, for all recipes that have the option."""
    cloning: Mapping[str, Any] = field(default_factory=dict)
    """What differs for il-rehearsal alone."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part -> options of its strategy."""

    def arm(self, name: str) -> Arm:
        """Part ``name`` as a user would run it: the setting's options that its recipe has, then the part's own."""
        part = PARTS[name]
        given = {k: v for k, v in taken_by(part.recipe, self.options).items() if k not in part.without}
        given |= self.cloning if part.recipe == "il-rehearsal" else {}
        given |= {"suite": self.suite, "quality": self.quality, "order": self.orders[part.order]}
        given |= {"eval_episodes": self.eval_episodes} | dict(part.changes) | dict(self.tuned.get(name, {}))
        given |= {} if "preset" in given else {"device": "cpu"}
        return Arm(part.method, part.recipe, given, part.variant)


_BODIES = (("hopper", "walker2d", "halfcheetah"), ("walker2d", "halfcheetah", "hopper"),
           ("halfcheetah", "hopper", "walker2d"))  # fmt: skip
# the returns of 200 steps: a random policy earns next to nothing, the experts what stands here
_SHORT = ("hopper=0,600", "walker2d=0,600", "halfcheetah=0,1100")
_SMOKE = {
    "episodes": 20, "horizon": 200, "reference": _SHORT[:2], "align_steps": 150, "align_batch_size": 64,
    "align_hidden": 32, "codes": 64, "width": 64, "layers": 2, "inverse_width": 32, "plan_length": 4,
    "batch_size": 32, "steps": 500, "sampling_steps": 3, "plan_every": 3,
}  # fmt: skip
# alignments of 64 units and 600 steps lose what Hopper's expert acts by (examples/alignments.py)
_LAPTOP = {
    "episodes": 250, "horizon": 200, "reference": _SHORT, "align_steps": 2000, "align_batch_size": 128,
    "align_hidden": 128, "width": 256, "layers": 3, "inverse_width": 128, "plan_length": 4, "batch_size": 64,
    "steps": 2500, "sampling_steps": 5, "plan_every": 2,
}  # fmt: skip
# the best of scripts/tune_planners.py, on a seed that no claim uses
_TUNED: dict[str, dict[str, Any]] = {
    "ewc": {"protection": 10000.0}, "l2": {"protection": 10000.0}, "mas": {"protection": 1.0},
    "lora": {"rank": 32}, "replay": {"replay_width": 128},
}  # fmt: skip
_BASELINES = ("finetune", "ewc", "l2", "mas", "packnet", "rehearsal", "rcr", "lora", "replay")
_ALIGNED = ("ae", "vae", "padding", "fsq")
_CW10 = ("hammer-v3", "push-wall-v3", "faucet-close-v3", "push-back-v3", "stick-pull-v3", "handle-press-side-v3",
         "push-v3", "shelf-place-v3", "window-close-v3", "peg-unplug-side-v3")  # fmt: skip
_EIGHT = ("invertedpendulum", "inverteddoublependulum", "swimmer", "reacher", "hopper", "halfcheetah", "walker2d",
          "ant")  # fmt: skip
_PAPER: dict[str, Any] = {"preset": "paper"}
_PENALTIES = {name: _TUNED[name] for name in ("ewc", "l2", "mas")}


def _directions(*numbers: int) -> tuple[str, ...]:
    return tuple(f"ant-dir:{number}" for number in numbers)


def _three(order: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """``order``, backwards, and begun in its middle."""
    middle = len(order) // 2
    return order, order[::-1], (*order[middle:], *order[:middle])


def _one_space(suite: str, order: tuple[str, ...], quality: str) -> Setting:
    """A sequence whose tasks share their spaces, which need no alignment: its ablations are left out."""
    parts = tuple(name for name in PARTS if name not in _ALIGNED)
    return Setting(suite, _three(order), parts, quality, released=(0.1, 0.25, 0.5), eval_episodes=30,
                   options=_PAPER | {"episodes": 2000}, tuned=_PENALTIES)  # fmt: skip


SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "bodies-short": Setting(
            "mujoco3", tuple(order[:2] for order in _BODIES),
            ("masks", "joint", "separate", "finetune", "il-rehearsal"),
            released=(0.5,),
            eval_episodes=2,
            options=_SMOKE,
            cloning={"width": 32, "layers": 2, "batch_size": 64, "steps": 500, "memory_size": 100},
        ),
    },
    "laptop": {
        "bodies": Setting(
            "mujoco3", _BODIES,
            ("masks", "joint", "separate", *_BASELINES, "dd", "diffuser", "il-rehearsal", "ae", "vae",
             "padding", "order-2", "order-3", "finetune-order-2", "finetune-order-3"),
            released=(0.25, 0.5), options=_LAPTOP, tuned=_TUNED,
            cloning={"width": 128, "steps": 2500, "batch_size": 128},
        ),
    },
    "paper": {
        **{
            f"bodies-{quality}": Setting(
                "mujoco3", _BODIES, tuple(PARTS), quality, released=(0.1, 0.25, 0.5), eval_episodes=30,
                options=_PAPER, tuned=_PENALTIES,
            )
            for quality in ("medium", "medium-replay", "medium-expert")
        },
        "bodies8-medium-expert": Setting("mujoco8", _three(_EIGHT), tuple(PARTS), released=(0.1, 0.25, 0.5),
                                         eval_episodes=30, options=_PAPER, tuned=_PENALTIES),
        "ant-dir-4": _one_space("ant-dir-4", _directions(10, 15, 19, 25), "expert"),
        "ant-dir-6": _one_space("ant-dir-6", _directions(4, 18, 26, 34, 42, 49), "expert"),
        "cw10": _one_space("metaworld-cw10", _CW10, "near"),
    },
}  # fmt: skip
"""By scale, then by the suite's name in the claims."""


def setting_of(scale: str, suite: str) -> Setting:
    """What ``scale`` gives to ``suite``."""
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the study of continual planning has no suite {suite!r} at scale {scale!r}") from None
