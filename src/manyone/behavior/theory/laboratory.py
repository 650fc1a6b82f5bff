"""The laboratory of the theory: the three statements measured on many random MDPs and on the two tight cases.

One step of :class:`TheoryLaboratory` is a block of pairs (teacher, student) under one discount; the same MDPs and
policies are taken under every discount. :func:`summary` puts what was measured into one figure a discount.

Negative values: the rewards of an MDP less their mean leave every gap of returns as it was, but q is then negative in
places. ``lowered`` holds what becomes of Corollary 1's bound with the weights q, max(q, 0) and |q| of such an MDP.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.behavior.theory import families
from manyone.behavior.theory.finite import (
    Comparison,
    FiniteMDP,
    action_values,
    av_pbc,
    compare,
    corollary_1,
    occupancy,
    optimal_policy,
)
from manyone.errors import ManyoneError

BLOCK = 1000
"""Most pairs of one step."""
_ENTRIES = 1 << 24  # transition probabilities of one step: what many states and actions may take of the memory
CASES = {"cliff": families.cliff, "rare": families.rare}
BOUNDS = ("theorem_1_teacher", "theorem_1_student", "corollary_1", "corollary_1_least")
LOWERED = ("signed", "clamped", "absolute")
FIELDS = (*Comparison._fields, *LOWERED)
"""What is kept of each pair."""
_SPARE = 1e-10  # of the largest return: what rounding may take a gap beyond its bound


@dataclass(frozen=True)
class Setting:
    """What a laboratory measures; see the options of the recipe for the meaning of the fields."""

    states: int = 6
    actions: int = 3
    gammas: tuple[float, ...] = (0.9,)
    pairs: int = 100
    teacher: Literal["optimal", "random"] = "optimal"
    mistakes: float = 1e-4
    seed: int = 0


def lowered_bounds(mdp: FiniteMDP, teacher: Tensor, student: Tensor) -> dict[str, Tensor]:
    """Corollary 1's bound [...] with q, max(q, 0) and |q| of the MDPs whose rewards are less by their mean."""
    rewards = mdp.rewards - mdp.rewards.mean((-2, -1), keepdim=True)
    lowered = FiniteMDP(mdp.transitions, rewards, mdp.start, mdp.gamma)
    q, states = action_values(lowered, teacher), occupancy(lowered, student)
    weights = {"signed": q, "clamped": q.clamp(min=0), "absolute": q.abs()}
    return {name: corollary_1(lowered, av_pbc(states, w, teacher, student)) for name, w in weights.items()}


class TheoryLaboratory:
    """A :class:`Setting` as the training loop sees it; ``total_steps`` steps measure all of it."""

    def __init__(self, setting: Setting) -> None:
        if setting.actions < 2:
            raise ManyoneError(f"{setting.actions} actions: two policies differ where there are 2 or more")
        self.setting, self.steps = setting, 0
        self.block = max(1, min(BLOCK, _ENTRIES // (setting.states**2 * setting.actions)))
        self.blocks = math.ceil(setting.pairs / self.block)
        self.total_steps = self.blocks * len(setting.gammas)
        self.measured = torch.zeros(len(setting.gammas), setting.pairs, len(FIELDS), dtype=torch.float64)
        self._scale = torch.zeros(len(setting.gammas), setting.pairs, dtype=torch.float64)  # largest return

    def step(self) -> Mapping[str, float]:
        """``loss`` is the largest residual of Theorem 2 in the block, in parts of the largest return."""
        at, block = divmod(self.steps, self.blocks)
        chosen = slice(block * self.block, min((block + 1) * self.block, self.setting.pairs))
        mdp, teacher, student = self.pairs(range(chosen.start, chosen.stop), self.setting.gammas[at])
        values = compare(mdp, teacher, student)._asdict() | lowered_bounds(mdp, teacher, student)
        self.measured[at, chosen] = torch.stack([values[name] for name in FIELDS], -1)
        self._scale[at, chosen] = mdp.largest_reward * mdp.horizon
        self.steps += 1
        found = summary(self.measured[at, chosen], self._scale[at, chosen])
        shown = {name: found[name] for name in ("misplaced_residual", "gap", "violations")}
        return {"loss": found["identity_residual"], "gamma": self.setting.gammas[at], **shown}

    def pairs(self, numbers: Sequence[int], gamma: float) -> families.Case:
        """The MDPs of these numbers under one discount, with their teachers and students."""
        o = self.setting
        mdp = families.random_mdps(numbers, o.states, o.actions, gamma, o.seed)
        student = families.random_policies(numbers, o.states, o.actions, "student", o.seed)
        if o.teacher == "optimal":
            return families.Case(mdp, optimal_policy(mdp), student)
        return families.Case(mdp, families.random_policies(numbers, o.states, o.actions, "teacher", o.seed), student)

    def evaluate(self) -> Mapping[str, float]:
        """The worst of all discounts that have been measured, and the rates of the tight cases."""
        rows = self.rows()
        worst = {name: max(row[name] for row in rows) for name in rows[0]} if rows else {}
        worst.pop("gamma", None)
        worst["misplaced_residual"] = min((row["misplaced_residual"] for row in rows), default=0.0)
        return {"pairs": float(len(rows) * self.setting.pairs), **worst, **rates(self.setting)}

    def rows(self) -> list[dict[str, float]]:
        """One summary for each discount that has been measured whole, in their order."""
        whole = self.steps // self.blocks
        return [
            {"gamma": gamma, **summary(values, scale)}
            for gamma, values, scale in zip(self.setting.gammas[:whole], self.measured, self._scale)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "measured": self.measured, "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.measured, self._scale = int(state["steps"]), state["measured"], state["scale"]

    def export(self, folder: Path) -> None:
        """``theory.json``: the summary of every discount, the tight cases and their rates."""
        cases = {name: tight_rows(name, self.setting) for name in CASES}
        found = {"format": 1, "discounts": self.rows(), "tight": cases, "rates": rates(self.setting)}
        (folder / "theory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def residuals(self, name: Literal["identity", "misplaced"]) -> Tensor:
        """|gap - its right side| of all pairs [G, pairs], in parts of the largest return."""
        return _residuals(self.measured, self._scale, name)


def summary(values: Tensor, scale: Tensor) -> dict[str, float]:
    """``values`` [n, len(FIELDS)] of one discount, ``scale`` [n] the largest return of each MDP.

    ``identity_residual``: the largest of Theorem 2, ``misplaced_residual``: the median with d_pi* instead of d_pi, both
    in parts of the largest return; ``violations``: pairs whose gap is beyond one of the bounds; ``gap`` and the bounds:
    medians; ``NAME_share``: the largest gap in parts of the bound; ``gap_per_pbc`` and ``gap_per_av_pbc``: the largest
    gap in parts of the objective; ``NAME_fails``: the share of pairs that Corollary 1 is wrong about, with the rewards
    less their mean.
    """
    column = {name: values[:, k] for k, name in enumerate(FIELDS)}
    gap = column["gap"].abs()
    beyond = torch.stack([gap > column[name] + _SPARE * scale for name in BOUNDS]).any(0)
    found = {
        "identity_residual": _residuals(values, scale, "identity").max(),
        "misplaced_residual": _residuals(values, scale, "misplaced").median(),
        "violations": beyond.sum(),
        "gap": gap.median(),
    }
    found |= {name: column[name].median() for name in BOUNDS}
    found |= {f"{name}_share": _largest_ratio(gap, column[name]) for name in BOUNDS}
    found["gap_per_pbc"] = _largest_ratio(gap, column["pbc_teacher"])
    found["gap_per_av_pbc"] = _largest_ratio(gap, column["av_pbc"])
    found |= {f"{name}_fails": (gap > column[name] + _SPARE * scale).double().mean() for name in LOWERED}
    return {name: float(value) for name, value in found.items()}


def _residuals(values: Tensor, scale: Tensor, name: str) -> Tensor:
    return (values[..., FIELDS.index("gap")] - values[..., FIELDS.index(name)]).abs() / scale


def _largest_ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Of the pairs where the bottom is not 0 (where it is, the policies are equal and so are their returns)."""
    return torch.where(bottom > 0, top / bottom.clamp(min=torch.finfo(bottom.dtype).tiny), torch.zeros_like(top)).max()


# --- tight cases ------------------------------------------------------------------------------------------------------


def tight_rows(name: str, setting: Setting) -> list[dict[str, float]]:
    """Gap, bounds and objectives of the tight case ``name`` at every discount, by the names of ``Comparison``."""
    gammas = torch.tensor(setting.gammas, dtype=torch.float64)
    found = compare(*CASES[name](gammas, setting.mistakes))._asdict()
    return [{"gamma": gamma, **{k: float(v[i]) for k, v in found.items()}} for i, gamma in enumerate(setting.gammas)]


def rates(setting: Setting) -> dict[str, float]:
    """Power of 1/(1 - gamma) with which the gap grows where an objective stays the same, of each tight case.

    The slope of log(gap / objective) between the two largest discounts; none with a single discount.
    """
    slopes = {}
    for name in CASES:
        rows = sorted(tight_rows(name, setting), key=lambda row: row["gamma"])[-2:]
        if len(rows) == 2 and rows[0]["gamma"] < rows[1]["gamma"]:
            run = math.log((1 - rows[0]["gamma"]) / (1 - rows[1]["gamma"]))
            for objective in ("pbc_teacher", "av_pbc"):
                ends = [math.log(row["gap"] / row[objective]) for row in rows]
                slopes[f"{name}_rate_per_{objective.removesuffix('_teacher')}"] = (ends[1] - ends[0]) / run
    return slopes
