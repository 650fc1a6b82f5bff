"""The strategies by name: where each is, what it takes. Nothing is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """``place`` is ``module:class`` in this package."""

    place: str
    told: bool = True
    """Whether the network is told the task, by a one-hot entry of its condition."""
    options: tuple[str, ...] = ()
    """Arguments that recipes' options of the same names give."""
    fixed: Mapping[str, Any] = {}
    """Arguments that make it what its name says."""
    at_once: bool = False
    """Whether all tasks are trained together, in one phase of as many steps as all phases have together."""


_REHEARSAL = ("rehearse_every", "rehearse_newest")

# what has weights of a task's own tells the task by them; all others are told it, except where not being told is the
# point: forgetting should not be mere confusion
STRATEGIES: dict[str, Entry] = {
    "masks": Entry("masks:MaskStrategy", False, ("capacity", "mask_draw", "one_dimensional")),
    "finetune": Entry("finetune:Finetune"),
    "joint": Entry("joint:Joint", at_once=True),
    "separate": Entry("separate:Separate", told=False),
    "ewc": Entry("quadratic:Quadratic", True, ("protection", "importance_windows"), {"importance": "fisher"}),
    "l2": Entry("quadratic:Quadratic", True, ("protection",), {"importance": "ones"}),
    "mas": Entry("quadratic:Quadratic", True, ("protection", "importance_windows"), {"importance": "sensitivity"}),
    "packnet": Entry("packnet:PackNet", False, ("retrain",)),
    "rehearsal": Entry("rehearsal:Rehearsal", True, _REHEARSAL),
    "rcr": Entry("rehearsal:Rehearsal", False, _REHEARSAL),
    "lora": Entry("lora:LoRA", False, ("rank",)),
    "replay": Entry("replay:Replay", True, ("replay_windows", "replay_width")),
}
