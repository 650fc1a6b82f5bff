"""What a student is compared with after its training on the synthetic set: the outer losses of behavior distillation.

With pi the student's action (or its probabilities, where actions are discrete), s a recorded state, arXiv 2410.22728,
section 4:

    DBC      E_s | pi(s) - a |^2                  the recorded action a
    PBC      E_s | pi(s) - pi*(s) |^2             the teacher's action
    Av-PBC   E_s w(s) | pi(s) - pi*(s) |^2        weighted by the teacher's value

| . |^2 is the mean over the entries of an action. For discrete actions Av-PBC is the theory's own form: each choice a
has the weight q*(s, a). The weights of Av-PBC (:func:`state_weights`):

    q          beta q*(s, a*)                     as published (beta 0.02); negative values push away from the teacher
    clamped    beta max(q*, 0)                    the default: Corollary 1 needs q* >= 0
    mean-one   max(q*, 0) / mean                  which states count, apart from how large a step is
    advantage  max(q*(s, a*) - q*(s, a), 0) / mean   ours: what the teacher gains over the recorded action

Public names: :class:`Objective`, :func:`state_weights`, :func:`objective_loss`, :func:`targets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from manyone.behavior.checks import check_number
from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.teacher import Labels
from manyone.errors import ManyoneError

Kind = Literal["dbc", "pbc", "av-pbc"]
Weights = Literal["q", "clamped", "mean-one", "advantage"]
BETA = 0.02
"""The factor of q* in the authors' program."""


@dataclass(frozen=True)
class Objective:
    """The outer loss: its ``kind``, and for Av-PBC what weights its states."""

    kind: Kind = "av-pbc"
    weights: Weights = "clamped"
    beta: float = BETA

    def __post_init__(self) -> None:
        for name, value, known in (("kind", self.kind, get_args(Kind)), ("weights", self.weights, get_args(Weights))):
            if value not in known:
                raise ManyoneError(f"objective {name} {value!r:.40}: must be one of {', '.join(known)}")
        check_number("beta", self.beta)

    @property
    def needs_teacher(self) -> bool:
        """Whether it asks for a teacher's actions."""
        return self.kind != "dbc"

    @property
    def needs_values(self) -> bool:
        """Whether it asks for a teacher's values."""
        return self.kind == "av-pbc"


def targets(objective: Objective, data: BehaviorData, labels: Labels | None) -> Tensor:
    """What the student's actions are compared with, [n, A] or [n, C]."""
    if not objective.needs_teacher:
        return data.actions
    if labels is None:
        raise ManyoneError(f"{objective.kind} asks for a teacher's actions: give one")
    return labels.actions


def state_weights(
    objective: Objective, data: BehaviorData, labels: Labels | None, density: Tensor | None = None
) -> Tensor | None:
    """Weights of the n states, [n] or, of the choices, [n, C]; None: all are 1.

    ``density``: further weights [n] of mean 1 (SDW-OBD, arXiv 2512.06692), which multiply.
    """
    if density is not None and tuple(density.shape) != (len(data),):
        raise ManyoneError(f"{data.name}: density weights {list(density.shape)}: must be [{len(data)}], one a state")
    if not objective.needs_values:
        return density
    if labels is None or labels.values is None or labels.recorded is None:
        raise ManyoneError("av-pbc asks for a teacher's values: give a teacher with a critic")
    found = labels.values
    if objective.weights == "advantage":
        recorded = labels.recorded.unsqueeze(1) if data.choices else labels.recorded
        found = found - recorded
    if objective.weights != "q":
        found = found.clamp(min=0)
        if not bool(found.any()):  # nothing would be learned, silently
            why = "the teacher's values are all 0 or below, as they are where no reward is above 0"
            advice = "take the objective pbc, or the weights advantage"
            if objective.weights == "advantage":
                why, advice = "the teacher gains nothing over the recorded actions", "take the objective pbc"
            raise ManyoneError(f"{data.name}: no state has a positive weight ({objective.weights}): {why}: {advice}")
    factor = objective.beta if objective.weights in ("q", "clamped") else 1 / found.mean()
    found = factor * found
    if density is None:
        return found
    return found * (density.unsqueeze(1) if found.ndim == 2 else density)


def objective_loss(actions: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over members and rows of ``actions`` [K, b, A] against ``target`` [b, A]; weights [b] or [b, A]."""
    error = (actions - target).square()
    if weights is None:
        return error.mean()
    return (error * (weights if weights.ndim == 2 else weights.unsqueeze(-1))).mean()


def negative_share(labels: Labels) -> float:
    """The share of values below 0, which ``clamped`` weights set to 0."""
    assert labels.values is not None
    return (labels.values < 0).float().mean().item()
