"""Finite MDPs with a teacher and a student: random ones, and two in which the theorems are tight.

Both tight cases have a dead state without rewards, in which the student follows the teacher, and a student that
elsewhere takes the step into it (value 0) with probability ``mistakes`` where the teacher never does. So pi* - pi is
negative only where q = 0, and Corollary 1 is an equality for every discount.

    cliff   a reward of 1 a step: a mistake costs a whole future of size 1/(1 - gamma). The gap of returns is
            m / ((1 - gamma)(1 - gamma + gamma m)), so gap / E D_TV grows with 1/(1 - gamma)^2 for few mistakes m:
            Theorem 1's rate cannot be better. Under the student's occupancy the gap is exactly half of its bound.
    rare    a reward of 1 about once in 1/(1 - gamma) steps: a mistake costs at most about 1 however long the horizon.
            The gap of returns grows with 1/(1 - gamma), which Corollary 1 says and Theorem 1 misses by that factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.behavior.theory.finite import FiniteMDP
from manyone.randomness import seed_for


class Case(NamedTuple):
    """MDPs and two policies [..., S, A] on them."""

    mdp: FiniteMDP
    teacher: Tensor
    student: Tensor


def random_mdps(numbers: Sequence[int], states: int, actions: int, gamma: float, seed: int) -> FiniteMDP:
    """The MDPs of these ``numbers`` [n], each a function of (seed, its number) alone: uniform rewards in 0..1.

    Rows of transitions and starts are Dirichlet with concentrations drawn for each MDP between 0.05 (nearly
    deterministic) and 5 (nearly uniform), evenly on a log scale.
    """
    shapes = {"transitions": (states, actions, states), "start": (states,)}
    drawn: dict[str, list[NDArray[np.float64]]] = {"transitions": [], "start": [], "rewards": []}
    for number in numbers:
        draw = np.random.default_rng(seed_for(seed, "finite mdp", states, actions, number))
        for name, shape in shapes.items():
            drawn[name].append(_distributions(shape, draw))
        drawn["rewards"].append(draw.random((states, actions)))
    stacks = {name: torch.from_numpy(np.stack(values)) for name, values in drawn.items()}
    return FiniteMDP(**stacks, gamma=torch.full((len(numbers),), gamma, dtype=torch.float64))


def random_policies(numbers: Sequence[int], states: int, actions: int, name: str, seed: int) -> Tensor:
    """Dirichlet policies [n, states, actions], each a function of (seed, name, its number) alone."""
    draws = (
        np.random.default_rng(seed_for(seed, "finite policy", name, states, actions, number)) for number in numbers
    )
    return torch.from_numpy(np.stack([_distributions((states, actions), draw) for draw in draws]))


def _distributions(shape: tuple[int, ...], draw: np.random.Generator) -> NDArray[np.float64]:
    """Dirichlet rows, all with one concentration, which is drawn first."""
    concentration = 0.05 * 100 ** draw.random()
    parts = draw.standard_gamma(concentration, shape) + 1e-12  # a small concentration may round a whole row to zero
    return parts / parts.sum(-1, keepdims=True)


def cliff(gammas: Tensor, mistakes: Tensor | float) -> Case:
    """One MDP a discount [G]: states (on the cliff, dead), actions (stay for a reward of 1, fall)."""
    transitions = torch.zeros(2, 2, 2, dtype=torch.float64)
    transitions[0, 0, 0] = transitions[0, 1, 1] = transitions[1, :, 1] = 1
    rewards = torch.tensor([[1, 0], [0, 0]], dtype=torch.float64)
    return _with_mistakes(FiniteMDP(transitions, rewards, torch.tensor([1.0, 0]), gammas), mistakes)


def rare(gammas: Tensor, mistakes: Tensor | float) -> Case:
    """One MDP a discount [G]: states (waiting, paid, dead), actions (go on, fall).

    From waiting one comes to paid with probability 1 - gamma, where going on gives the reward and leads back.
    """
    transitions = torch.zeros(*gammas.shape, 3, 2, 3, dtype=torch.float64)
    transitions[..., 0, 0, 0], transitions[..., 0, 0, 1] = gammas, 1 - gammas
    transitions[..., 1, 0, 0] = 1
    transitions[..., :2, 1, 2] = transitions[..., 2, :, 2] = 1
    rewards = torch.tensor([[0, 0], [1, 0], [0, 0]], dtype=torch.float64)
    return _with_mistakes(FiniteMDP(transitions, rewards, torch.tensor([1.0, 0, 0]), gammas), mistakes)


def _with_mistakes(mdp: FiniteMDP, mistakes: Tensor | float) -> Case:
    """The teacher takes action 0; the student action 1 with probability ``mistakes`` ([G] or one), but in the last
    state, which is dead."""
    share = torch.as_tensor(mistakes, dtype=torch.float64).expand(mdp.gamma.shape)
    teacher = torch.zeros(*mdp.gamma.shape, mdp.states, 2, dtype=torch.float64)
    teacher[..., 0] = 1
    student = teacher.clone()
    student[..., :-1, 0], student[..., :-1, 1] = (1 - share)[..., None], share[..., None]
    return Case(mdp, teacher, student)
