"""GAE, what finished episodes gave, and the running normalisation of value targets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyone.envs.teams.types import Observation, Step
from manyone.teams.ppo import value_norm
from manyone.teams.ppo.returns import bootstrapped, finished_episodes, gae, own_ends, with_stand_ins
from manyone.teams.ppo.value_norm import ValueNorm

T, B, N = 7, 3, 2


def draw(seed=0, done_rate=0.0):
    g = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(T, B, N, generator=g, dtype=torch.float64) for _ in range(2))
    last = torch.randn(B, N, generator=g, dtype=torch.float64)
    done = (torch.rand(T, B, 1, generator=g) < done_rate).expand(T, B, N)
    terminated = done & (torch.rand(T, B, 1, generator=g) < 0.5)
    return rewards, values, last, terminated, done


NO_CUTS = torch.empty(0, 2, dtype=torch.int64), torch.empty(0, N, dtype=torch.float64)


def test_with_lambda_0_an_advantage_is_the_one_step_temporal_difference():
    rewards, values, last, terminated, done = draw()
    following = bootstrapped(values, last, *NO_CUTS)
    advantages, _ = gae(rewards, values, following, terminated, done, gamma=0.9, lam=0.0)
    assert torch.allclose(advantages, rewards + 0.9 * torch.cat([values[1:], last[None]]) - values)


def test_with_lambda_1_and_no_end_an_advantage_is_the_discounted_return_minus_the_value():
    rewards, values, last, terminated, done = draw()
    advantages, returns = gae(
        rewards, values, bootstrapped(values, last, *NO_CUTS), terminated, done, gamma=0.9, lam=1.0
    )
    running = last
    for t in reversed(range(T)):
        running = rewards[t] + 0.9 * running
        assert torch.allclose(advantages[t], running - values[t])
        assert torch.allclose(returns[t], running)


def advantage_at(t, ends, alive, rewards, values, cut_values, last, gamma, lam):
    """Of one agent that acts at step t: sum over its decisions of (discount lambda)^k delta, up to its own end.

    All arguments are lists over steps of this agent; ``ends``: "terminated", "cut" or "" at each step. Between two of
    its decisions it may be absent: then it is paid, and nothing is predicted.
    """
    found, factor, decision = 0.0, 1.0, t
    while True:
        paid, discount, step = 0.0, 1.0, decision
        while True:
            paid, discount = paid + discount * rewards[step], discount * gamma
            if ends[step] or step + 1 == len(rewards) or alive[step + 1]:
                break
            step += 1
        over = ends[step] or step + 1 == len(rewards)
        if ends[step] == "terminated":
            after = 0.0
        elif ends[step] == "cut":
            after = cut_values[step]
        else:
            after = last if over else values[step + 1]
        found += factor * (paid + discount * after - values[decision])
        if over:
            return found
        factor, decision = factor * discount * lam, step + 1


def check_against_the_plain_form(rewards, values, last, terminated, over, cut_values, alive):
    cuts = (over & ~terminated).any(-1).nonzero()
    at = cuts[:, 0], cuts[:, 1]
    following = bootstrapped(values, last, cuts, cut_values[at], (over & ~terminated)[at])
    advantages, returns = gae(rewards, values, following, terminated, over, alive, gamma=0.9, lam=0.8)
    for b in range(values.shape[1]):
        for i in range(values.shape[2]):
            kinds = ["terminated" if end else "cut" if any_end else ""
                     for end, any_end in zip(terminated[:, b, i].tolist(), over[:, b, i].tolist())]  # fmt: skip
            lists = [part[:, b, i].tolist() for part in (alive, rewards, values, cut_values)]
            for t in range(len(values)):
                if alive[t, b, i]:
                    expected = advantage_at(t, kinds, *lists, float(last[b, i]), 0.9, 0.8)
                    assert float(advantages[t, b, i]) == pytest.approx(expected, abs=1e-12)
                    assert float(returns[t, b, i]) == pytest.approx(expected + lists[2][t], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_truncation_bootstraps_with_the_value_before_the_restart_and_termination_does_not(seed):
    rewards, values, last, terminated, done = draw(seed, done_rate=0.4)
    cut_values = torch.randn(T, B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    everyone = torch.ones(T, B, N, dtype=torch.bool)
    check_against_the_plain_form(rewards, values, last, terminated, done, cut_values, everyone)
    assert (done & ~terminated)[-1].any() or seed != 1  # a cut at the very end of the buffer is among the cases


KINDS = ["acts", "waits", "terminated", "cut", "terminated away", "cut away"]
LIFE = st.lists(st.sampled_from(KINDS), min_size=T, max_size=T)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lives=st.lists(LIFE, min_size=2, max_size=2), seed=st.integers(0, 1000))
def test_each_agents_advantages_end_with_its_own_life_whatever_the_others_and_its_successor_do(lives, seed):
    """Where it ends it has acted for the last time, or is away; what acts afterwards is a newcomer."""
    g = torch.Generator().manual_seed(seed)
    rewards, values, cut_values = (torch.randn(T, 1, 2, generator=g, dtype=torch.float64) for _ in range(3))
    last = torch.randn(1, 2, generator=g, dtype=torch.float64)

    def table(*kinds):
        return torch.tensor([[[kind in kinds for kind in moment]] for moment in zip(*lives)])

    alive, terminated = table("acts", "terminated", "cut"), table("terminated", "terminated away")
    over = terminated | table("cut", "cut away")
    check_against_the_plain_form(rewards, values, last, terminated, over, cut_values, alive)


def seen(alive):
    alive = torch.tensor(alive)
    return Observation(torch.zeros(*alive.shape, 1), alive)


def step_of(after, final=None, terminated=(False,), truncated=(False,), **alone):
    zero = torch.zeros(1)
    ends = torch.tensor(terminated), torch.tensor(truncated)
    extra = {name: torch.tensor(value) for name, value in alone.items()}
    return Step(seen(after), torch.zeros(1, 3), *ends, None if final is None else seen(final), zero > 1, {}, **extra)


@pytest.mark.parametrize(
    ("step", "terminated", "truncated"),
    [(step_of([[True, False, False]]), [False, True, False], [False, False, False]),
     # the second left and another has its number; the first was cut
     (step_of([[False, True, False]], [[True, True, False]], left=[[False, True, False]], cut=[[True, False, False]]),
      [False, True, False], [True, False, False]),
     # it waits: a pause, or a shared reward
     (step_of([[True, False, False]], left=[[False, False, False]]), [False, False, False], [False, False, False]),
     # the team's end: who died at the last step is not continued
     (step_of([[True, True, True]], [[True, False, False]], truncated=[True]),
      [False, True, False], [True, False, True]),
     (step_of([[True, True, True]], [[True, True, False]], terminated=[True]), [True, True, True], [False] * 3)],
)  # fmt: skip
def test_how_each_agent_ends_is_read_off_a_step(step, terminated, truncated):
    found = own_ends(torch.tensor([[True, True, False]]), step)
    assert [part.tolist() for part in found] == [[terminated], [truncated]]


def test_absent_agents_are_worth_what_those_present_are_on_average_unless_they_see_something():
    values, alive = torch.tensor([[1.0, 3.0, 99.0], [1.0, 1.0, 1.0]]), torch.tensor([[True, True, False], [False] * 3])
    blind = Observation(torch.zeros(2, 3, 4), alive)
    assert with_stand_ins(values, blind).tolist() == [[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]
    seen = torch.tensor([[[0.0], [1.0], [1.0]], [[0.0]] * 3])
    assert with_stand_ins(values, Observation(seen, alive)).tolist() == [[1.0, 3.0, 99.0], [0.0, 0.0, 0.0]]


def test_a_batch_without_anybody_alive_leaves_the_statistics_as_they_are():
    norm = ValueNorm()
    norm.update(torch.tensor([5.0, 7.0]))
    before = [float(part) for part in norm.statistics()]
    norm.update(torch.tensor([1e9]), torch.tensor([False]))
    assert [float(part) for part in norm.statistics()] == before


def test_returns_and_lengths_of_episodes_that_run_over_several_buffers():
    rewards = torch.ones(4, 2)
    done = torch.tensor([[True, False], [False, False], [True, False], [False, False]])
    returns, lengths = torch.tensor([5.0, 0.0]), torch.tensor([2.0, 0.0])
    ended, steps = finished_episodes(rewards, done, returns, lengths)
    assert ended[done].tolist() == [6.0, 2.0]
    assert steps[done].tolist() == [3.0, 2.0]
    assert returns.tolist() == [1.0, 4.0]
    assert lengths.tolist() == [1.0, 4.0]


def test_normalise_and_denormalise_are_inverse():
    norm = ValueNorm()
    for seed in range(5):
        norm.update(3 + 2 * torch.randn(50, generator=torch.Generator().manual_seed(seed)))
    values = torch.linspace(-9, 9, 40)
    assert torch.allclose(norm.denormalise(norm.normalise(values)), values, atol=1e-5)


def test_before_any_update_nothing_is_changed():
    assert ValueNorm().normalise(torch.tensor([1.5, -2.0])).tolist() == [1.5, -2.0]


@pytest.mark.parametrize("constant", [0.0, -7.0, 1000.0])
def test_after_one_update_with_a_constant_the_mean_is_that_constant_and_the_variance_its_floor(constant):
    norm = ValueNorm()
    norm.update(torch.full((10, 2), constant))
    mean, deviation = norm.statistics()
    assert float(mean) == pytest.approx(constant)
    assert float(deviation) == pytest.approx(0.1)


def test_the_statistics_are_weighted_sums_without_bias(monkeypatch):
    monkeypatch.setattr(value_norm, "BETA", 0.8)
    norm, batches = ValueNorm(), torch.randn(3, 20, generator=torch.Generator().manual_seed(1)).double()
    for batch in batches:
        norm.update(batch)
    weights = torch.tensor([0.64, 0.8, 1.0], dtype=torch.float64) / 2.44
    mean = (weights * batches.mean(1)).sum()
    variance = (weights * batches.square().mean(1)).sum() - mean.square()
    assert float(norm.statistics()[0]) == pytest.approx(float(mean))
    assert float(norm.statistics()[1] ** 2) == pytest.approx(float(variance))


def test_masked_targets_do_not_count():
    targets, mask = torch.tensor([1.0, 2.0, 1e9]), torch.tensor([True, True, False])
    masked, plain = ValueNorm(), ValueNorm()
    masked.update(targets, mask)
    plain.update(targets[:2])
    assert float(masked.statistics()[0]) == pytest.approx(float(plain.statistics()[0]))
    assert float(masked.statistics()[1]) == pytest.approx(float(plain.statistics()[1]))
