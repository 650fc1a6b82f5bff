"""The theory of Offline Behavior Distillation on finite MDPs, exactly, by linear solves (arXiv 2410.22728).

With J the discounted return, d_pi the normalised discounted occupancy of states and q the values of the teacher pi*::

    Theorem 1    E_{s~d} D_TV(pi*, pi) <= e       =>  |J(pi*) - J(pi)| <= 2 R_max e / (1 - gamma)^2      theorem_1
                 for d = d_pi* and for d = d_pi
    Theorem 2    J(pi*) - J(pi) = 1/(1 - gamma) E_{s~d_pi} sum_a q(s, a) (pi*(a|s) - pi(a|s))            theorem_2
    Corollary 1  E_{s~d_pi} sum_a q |pi* - pi| <= e  =>  |J(pi*) - J(pi)| <= e / (1 - gamma)             corollary_1

Theorem 2 holds for any two policies and any rewards. Theorem 1 is for rewards in 0..R_max (there a factor of 2 is to
spare: see ``families.cliff``). Corollary 1 takes the absolute value inside the sum, so it needs q >= 0, which rewards
of 0 or more give. Where values may be negative it holds for |q|, not for q and not for max(q, 0).

What a student is distilled with in practice takes s from the data instead of d_pi and a square instead of an absolute
value: none of these guarantees carries over literally.

Ours: as pi* and pi both sum to one, Theorem 2 stays as it is when a number of each state is taken off q(s, .). With
the least value of the state taken off (:func:`less_least`) Corollary 1 still holds and is never worse. Where all values
of a state share a future of size 1/(1 - gamma), as in MDPs that forget where they were, only this bound is linear.

All functions take leading batch dimensions (many MDPs, policies or discounts at once) and compute in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.errors import ManyoneError

_SUM = 1e-9  # how far the sum of a distribution may be from one


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """Finite MDPs with ``S`` states and ``A`` actions; leading dimensions of the four are broadcast.

    Raises ``ManyoneError`` for shapes that do not fit, rows that are no distributions and discounts outside 0..1.
    """

    transitions: Tensor  # [..., S, A, S], rows sum to one
    rewards: Tensor  # [..., S, A]
    start: Tensor  # [..., S], sums to one
    gamma: Tensor  # [...], from 0 to below 1

    def __post_init__(self) -> None:
        for name in ("transitions", "rewards", "start", "gamma"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        shape = self.rewards.shape[-2:]
        fits = (
            len(shape) == 2 and self.transitions.shape[-3:] == (*shape, shape[0]) and self.start.shape[-1:] == shape[:1]
        )
        if not fits:
            got = ", ".join(str(list(v.shape)) for v in (self.transitions, self.rewards, self.start))
            raise ManyoneError(
                f"transitions, rewards, start of shapes {got}: must be [..., S, A, S], [..., S, A], [..., S]"
            )
        check_distributions("transitions", self.transitions)
        check_distributions("start", self.start)
        if not bool(((self.gamma >= 0) & (self.gamma < 1)).all()):
            raise ManyoneError(f"gamma {_shown(self.gamma)}: must be from 0 to below 1")
        if not bool(self.rewards.isfinite().all()):
            raise ManyoneError("rewards: must be finite numbers")

    @property
    def states(self) -> int:
        return self.rewards.shape[-2]

    @property
    def actions(self) -> int:
        return self.rewards.shape[-1]

    @property
    def largest_reward(self) -> Tensor:
        """R_max [...]."""
        return self.rewards.amax((-2, -1))

    @property
    def horizon(self) -> Tensor:
        """1 / (1 - gamma) [...]."""
        return 1 / (1 - self.gamma)


def check_distributions(name: str, rows: Tensor) -> None:
    """Raises ``ManyoneError`` unless all rows (the last dimension) are probabilities that sum to one."""
    if not bool((rows >= 0).all() & ((rows.sum(-1) - 1).abs() <= _SUM).all()):
        worst = rows.sum(-1).flatten()
        worst = worst[(worst - 1).abs().argmax()]
        raise ManyoneError(
            f"{name}: every row must hold probabilities that sum to 1; the smallest entry is {float(rows.min()):g}, "
            f"a row sums to {float(worst):g}"
        )


def _shown(gamma: Tensor) -> str:
    bad = gamma[~((gamma >= 0) & (gamma < 1))]
    return f"{float(bad.flatten()[0]):g}"


# --- values and occupancies -------------------------------------------------------------------------------------------


def state_transitions(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """P_pi [..., S, S]: from a state to the next one under ``policy`` [..., S, A]."""
    return (policy.unsqueeze(-1) * mdp.transitions).sum(-2)


def state_values(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """v_pi [..., S] = (I - gamma P_pi)^-1 r_pi."""
    return torch.linalg.solve(_system(mdp, policy), (policy * mdp.rewards).sum(-1, keepdim=True)).squeeze(-1)


def action_values(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """q_pi [..., S, A] = r + gamma P v_pi."""
    return _backed_up(mdp, state_values(mdp, policy))


def occupancy(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """d_pi [..., S] = (1 - gamma) sum_t gamma^t Pr(s_t = s); sums to one."""
    visits = torch.linalg.solve(_system(mdp, policy).mT, mdp.start.unsqueeze(-1)).squeeze(-1)
    return (1 - mdp.gamma).unsqueeze(-1) * visits


def expected_return(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    """J(pi) [...] = E sum_t gamma^t r_t from the start distribution, not normalised."""
    return (mdp.start * state_values(mdp, policy)).sum(-1)


def optimal_policy(mdp: FiniteMDP) -> Tensor:
    """A deterministic policy [..., S, A] of largest values, by policy iteration."""
    policy = _greedy(mdp.rewards + torch.zeros_like(mdp.gamma)[..., None, None])
    while True:
        q = action_values(mdp, policy)
        gain = q.amax(-1) - (policy * q).sum(-1)
        better = gain > 1e-12 * (1 + q.abs().amax(-1))  # less is rounding: ties would be swapped for ever
        if not bool(better.any()):
            return policy
        policy = torch.where(better.unsqueeze(-1), _greedy(q), policy)


def _system(mdp: FiniteMDP, policy: Tensor) -> Tensor:
    eye = torch.eye(mdp.states, dtype=torch.float64)
    return eye - mdp.gamma[..., None, None] * state_transitions(mdp, policy)


def _backed_up(mdp: FiniteMDP, values: Tensor) -> Tensor:
    return mdp.rewards + mdp.gamma[..., None, None] * (mdp.transitions * values[..., None, None, :]).sum(-1)


def _greedy(values: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(torch.float64)


# --- objectives and theorems ------------------------------------------------------------------------------------------


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """D_TV [...] of distributions [..., A]: half the sum of absolute differences."""
    return (first - second).abs().sum(-1) / 2


def pbc(states: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """E_{s~states} D_TV(pi*, pi) [...] for ``states`` [..., S]: what Theorem 1 bounds the gap with."""
    return (states * total_variation(teacher, student)).sum(-1)


def av_pbc(states: Tensor, q: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """E_{s~states} sum_a q(s, a) |pi*(a|s) - pi(a|s)| [...]: what Corollary 1 bounds the gap with."""
    return (states * (q * (teacher - student).abs()).sum(-1)).sum(-1)


def less_least(q: Tensor) -> Tensor:
    """q(s, a) - min_b q(s, b) [..., S, A]: what an action's value is above the least of its state; 0 or more (ours)."""
    return q - q.amin(-1, keepdim=True)


def theorem_1(mdp: FiniteMDP, epsilon: Tensor) -> Tensor:
    """Bound [...] on the gap of returns where :func:`pbc`, of either occupancy, is ``epsilon``."""
    return 2 * mdp.largest_reward * epsilon * mdp.horizon**2


def theorem_2(mdp: FiniteMDP, states: Tensor, q: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """J(pi*) - J(pi) [...], if ``states`` is the student's occupancy and ``q`` the teacher's action values."""
    return mdp.horizon * (states * (q * (teacher - student)).sum(-1)).sum(-1)


def corollary_1(mdp: FiniteMDP, epsilon: Tensor) -> Tensor:
    """Bound [...] on the gap of returns where :func:`av_pbc` under the student's occupancy is ``epsilon``."""
    return mdp.horizon * epsilon


class Comparison(NamedTuple):
    """A teacher and a student on the same MDPs; every field is [...]."""

    gap: Tensor  # J(pi*) - J(pi)
    identity: Tensor  # the right side of Theorem 2
    misplaced: Tensor  # the same with the teacher's occupancy instead of the student's: no identity
    pbc_teacher: Tensor  # E D_TV under d_pi*
    pbc_student: Tensor  # E D_TV under d_pi
    av_pbc: Tensor  # E sum q |pi* - pi| under d_pi
    theorem_1_teacher: Tensor  # bounds on |gap|
    theorem_1_student: Tensor
    corollary_1: Tensor
    corollary_1_least: Tensor  # with less_least(q) for q


def compare(mdp: FiniteMDP, teacher: Tensor, student: Tensor) -> Comparison:
    """Both sides of all three statements for ``teacher`` and ``student`` [..., S, A]."""
    q = action_values(mdp, teacher)
    at_teacher, at_student = occupancy(mdp, teacher), occupancy(mdp, student)
    own, other = pbc(at_teacher, teacher, student), pbc(at_student, teacher, student)
    weighted = av_pbc(at_student, q, teacher, student)
    return Comparison(
        gap=expected_return(mdp, teacher) - expected_return(mdp, student),
        identity=theorem_2(mdp, at_student, q, teacher, student),
        misplaced=theorem_2(mdp, at_teacher, q, teacher, student),
        pbc_teacher=own,
        pbc_student=other,
        av_pbc=weighted,
        theorem_1_teacher=theorem_1(mdp, own),
        theorem_1_student=theorem_1(mdp, other),
        corollary_1=corollary_1(mdp, weighted),
        corollary_1_least=corollary_1(mdp, av_pbc(at_student, less_least(q), teacher, student)),
    )
