"""Values, occupancies and the three statements on finite MDPs, against their sums and where they must fail."""

import numpy as np
import pytest
import torch
from tests.reference import finite_mdp as plain

from manyone.behavior.theory import families
from manyone.behavior.theory.finite import (
    FiniteMDP,
    action_values,
    av_pbc,
    compare,
    corollary_1,
    expected_return,
    occupancy,
    optimal_policy,
    state_values,
    total_variation,
)
from manyone.errors import ManyoneError

GAMMAS = torch.tensor([0.3, 0.9, 0.99, 0.999], dtype=torch.float64)


@pytest.fixture(scope="module")
def pairs():
    """100 random MDPs of 6 states and 3 actions at discount 0.9, and two policies on each."""
    mdp = families.random_mdps(range(100), 6, 3, 0.9, seed=0)
    teacher, student = (families.random_policies(range(100), 6, 3, name, seed=0) for name in ("teacher", "student"))
    return families.Case(mdp, teacher, student)


def test_solves_agree_with_the_sums_that_define_them(pairs):
    mdp, teacher, _ = pairs
    for k in (0, 17):
        t, r, d, p = (v[k].numpy() for v in (mdp.transitions, mdp.rewards, mdp.start, teacher))
        assert np.allclose(occupancy(mdp, teacher)[k], plain.occupancy(t, d, p, 0.9, 400), rtol=0, atol=1e-12)
        assert expected_return(mdp, teacher)[k].item() == pytest.approx(
            plain.expected_return(t, r, d, p, 0.9, 400), abs=1e-12
        )
        assert np.allclose(action_values(mdp, teacher)[k], plain.action_values(t, r, p, 0.9, 400), rtol=0, atol=1e-12)
    assert torch.allclose((teacher * action_values(mdp, teacher)).sum(-1), state_values(mdp, teacher), atol=1e-12)
    assert torch.allclose(occupancy(mdp, teacher).sum(-1), torch.ones(100, dtype=torch.float64), atol=1e-12)


def test_theorem_2_is_an_identity_under_the_student_s_occupancy_alone(pairs):
    found = compare(*pairs)
    assert (found.gap - found.identity).abs().max() < 1e-10
    assert found.gap.abs().median() > 0.1, "the policies are as good as each other: the identity says nothing"
    off = (found.gap - found.misplaced).abs()
    assert off.median() > 1e-3
    assert (off > 1e-6).double().mean() > 0.95


def test_theorem_1_and_corollary_1_hold_for_100_random_pairs(pairs):
    found = compare(*pairs)
    for bound in (found.theorem_1_teacher, found.theorem_1_student, found.corollary_1, found.corollary_1_least):
        assert (found.gap.abs() <= bound + 1e-10).all()
    assert (found.corollary_1 <= found.theorem_1_student + 1e-10).all(), "q <= R_max / (1 - gamma)"
    assert (found.corollary_1_least <= found.corollary_1 + 1e-10).all()


def test_corollary_1_needs_values_of_0_or_more(pairs):
    """A constant off all rewards changes no gap, but values below 0 break the bound; clamping them does not mend it."""
    mdp, teacher, student = pairs
    lowered = FiniteMDP(mdp.transitions, mdp.rewards - 0.5, mdp.start, mdp.gamma)
    before, after = compare(*pairs), compare(lowered, teacher, student)
    assert torch.allclose(before.gap, after.gap, atol=1e-12)
    assert (after.gap - after.identity).abs().max() < 1e-10, "Theorem 2 holds for any rewards"
    assert torch.allclose(before.corollary_1_least, after.corollary_1_least, atol=1e-10)
    q, states, gap = action_values(lowered, teacher), occupancy(lowered, student), after.gap.abs()
    bound = {name: corollary_1(lowered, av_pbc(states, w, teacher, student))
             for name, w in (("q", q), ("clamped", q.clamp(min=0)), ("absolute", q.abs()))}  # fmt: skip
    assert (gap > bound["q"] + 1e-6).any()
    assert (gap > bound["clamped"] + 1e-6).any()
    assert (gap <= bound["absolute"] + 1e-10).all()


def test_on_the_cliff_theorem_1_is_quadratic_and_corollary_1_an_equality():
    mistakes = 1e-6
    found = compare(*families.cliff(GAMMAS, mistakes))
    formula = mistakes / ((1 - GAMMAS) * (1 - GAMMAS + GAMMAS * mistakes))
    assert torch.allclose(found.gap, formula, rtol=1e-6, atol=0)
    assert torch.allclose(found.gap, found.corollary_1, rtol=1e-6, atol=0)
    assert torch.allclose(found.gap, found.theorem_1_student / 2, rtol=1e-6, atol=0)
    assert torch.allclose(found.gap / found.pbc_teacher, 1 / (1 - GAMMAS) ** 2, rtol=2e-3, atol=0)
    assert torch.allclose(found.gap / found.av_pbc, 1 / (1 - GAMMAS), rtol=1e-6, atol=0)


def test_with_rare_rewards_the_gap_is_linear_and_only_corollary_1_says_so():
    found = compare(*families.rare(GAMMAS, 1e-6))
    assert torch.allclose(found.gap, found.corollary_1, rtol=1e-6, atol=0)
    value = GAMMAS / (1 + GAMMAS - GAMMAS**2)  # of waiting, under the teacher: at most 1
    assert torch.allclose(state_values(*families.rare(GAMMAS, 1e-6)[:2])[:, 0], value, atol=1e-12)
    growth = (found.gap[-1] / found.gap[-2]).item(), (found.theorem_1_student[-1] / found.theorem_1_student[-2]).item()
    assert growth == (pytest.approx(10, rel=0.05), pytest.approx(100, rel=0.05))


def test_corollary_1_is_an_equality_only_where_mistakes_have_the_value_0():
    mdp, teacher, student = families.cliff(GAMMAS[:2], 0.1)
    other = FiniteMDP(mdp.transitions, mdp.rewards + torch.tensor([[0, 0.5], [0, 0]]), mdp.start, mdp.gamma)
    found = compare(other, teacher, student)
    assert (found.gap < 0.95 * found.corollary_1).all()
    assert torch.allclose(found.gap, found.corollary_1_least, rtol=1e-9, atol=0), "and so it is less the least value"


def test_equal_policies_have_no_gap_and_no_bound(pairs):
    found = compare(pairs.mdp, pairs.teacher, pairs.teacher)
    assert max(value.abs().max().item() for value in found) == 0


def test_no_policy_is_better_than_the_optimal_one(pairs):
    mdp, teacher, student = pairs
    best = optimal_policy(mdp)
    assert set(best.unique().tolist()) == {0.0, 1.0}
    assert (
        expected_return(mdp, best) >= torch.maximum(expected_return(mdp, teacher), expected_return(mdp, student))
    ).all()
    backed_up = action_values(mdp, best).amax(-1)
    assert torch.allclose(backed_up, state_values(mdp, best), atol=1e-10), "the optimality equation of Bellman"


def test_one_mdp_is_taken_under_many_discounts(pairs):
    mdp, teacher, student = pairs
    many = FiniteMDP(mdp.transitions[3], mdp.rewards[3], mdp.start[3], GAMMAS)
    found = compare(many, teacher[3], student[3])
    for gamma, gap in zip(GAMMAS, found.gap):
        alone = compare(FiniteMDP(mdp.transitions[3], mdp.rewards[3], mdp.start[3], gamma), teacher[3], student[3])
        assert gap.item() == pytest.approx(alone.gap.item(), rel=1e-12)
    assert optimal_policy(many).shape == (4, 6, 3)


def test_an_mdp_depends_on_its_seed_and_number_alone():
    one = families.random_mdps([5, 2], 4, 2, 0.5, seed=1)
    other = families.random_mdps(range(3, 8), 4, 2, 0.5, seed=1)
    assert torch.equal(one.transitions[0], other.transitions[2])
    assert torch.equal(one.rewards[0], other.rewards[2])
    assert not torch.equal(one.rewards[0], families.random_mdps([5], 4, 2, 0.5, seed=2).rewards[0])
    same = families.random_policies([5], 4, 2, "a", seed=1)
    assert torch.equal(same[0], families.random_policies(range(6), 4, 2, "a", seed=1)[5])
    assert not torch.equal(same[0], families.random_policies([5], 4, 2, "b", seed=1)[0])


def test_total_variation_is_half_the_distance():
    first, second = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    assert total_variation(first, second).item() == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.0}, "gamma 1: must be from 0 to below 1"),
        ({"start": [0.5, 0.2]}, "start: every row must hold probabilities that sum to 1; .* a row sums to 0.7"),
        ({"start": [1.5, -0.5]}, "the smallest entry is -0.5"),
        ({"transitions": [[[1.0, 0], [1, 0]], [[1, 0], [0.5, 0]]]}, "transitions: every row"),
        ({"rewards": [1.0, 2.0]}, r"shapes \[2, 2, 2\], \[2\], \[2\]: must be"),
        ({"rewards": [[1.0, float("nan")], [0, 0]]}, "rewards: must be finite"),
    ],
)
def test_what_is_no_mdp_is_named(change, message):
    given = {"transitions": [[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]], "rewards": [[1.0, 0], [0, 0]], "start": [1.0, 0],
             "gamma": 0.9}  # fmt: skip
    FiniteMDP(**given)
    with pytest.raises(ManyoneError, match=message) as caught:
        FiniteMDP(**{**given, **change})
    assert "\n" not in str(caught.value)
