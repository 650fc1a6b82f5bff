"""GAE, what finished episodes gave, and the running normalisation of value targets."""

from __future__ import annotations

import pytest
import torch

from manyone.teams.ppo import value_norm
from manyone.teams.ppo.returns import bootstrapped, finished_episodes, gae
from manyone.teams.ppo.value_norm import ValueNorm

T, B, N = 7, 3, 2


def draw(seed=0, done_rate=0.0):
    g = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(T, B, N, generator=g, dtype=torch.float64) for _ in range(2))
    last = torch.randn(B, N, generator=g, dtype=torch.float64)
    done = torch.rand(T, B, generator=g) < done_rate
    terminated = done & (torch.rand(T, B, generator=g) < 0.5)
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


def reference(rewards, values, last, terminated, done, cut_values, gamma, lam):
    """Episode by episode and agent by agent: sum over k of (gamma lambda)^k delta_{t+k}, up to the episode's end."""
    found = torch.zeros_like(rewards)
    for b in range(B):
        for i in range(N):
            for t in range(T):
                factor = 1.0
                for s in range(t, T):
                    if terminated[s, b]:
                        after = 0.0
                    elif done[s, b]:
                        after = cut_values[s, b, i]
                    else:
                        after = values[s + 1, b, i] if s + 1 < T else last[b, i]
                    found[t, b, i] += factor * (rewards[s, b, i] + gamma * after - values[s, b, i])
                    factor *= gamma * lam
                    if done[s, b]:
                        break
    return found


@pytest.mark.parametrize("seed", range(4))
def test_truncation_bootstraps_with_the_value_before_the_restart_and_termination_does_not(seed):
    rewards, values, last, terminated, done = draw(seed, done_rate=0.4)
    cut_values = torch.randn(T, B, N, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    cuts = (done & ~terminated).nonzero()
    following = bootstrapped(values, last, cuts, cut_values[cuts[:, 0], cuts[:, 1]])
    advantages, _ = gae(rewards, values, following, terminated, done, gamma=0.9, lam=0.8)
    expected = reference(rewards, values, last, terminated, done, cut_values, 0.9, 0.8)
    assert torch.allclose(advantages, expected)
    assert (done & ~terminated)[-1].any() or seed != 1  # a cut at the very end of the buffer is among the cases


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
