"""Generative replay: what it reads, how its losses weigh, and that what it generates is like what it saw."""

from __future__ import annotations

import pytest
import torch
from tests.policies.vqcd.strategies.toy import ACTIONS, ROWS, STATES, T, Toy, adam, run, train_task

from manyone.policies.vqcd.strategy import make_strategy

FEW = {"replay_windows": 16, "replay_width": 16}


def test_losses_weigh_as_tasks_do_and_earlier_tasks_are_equally_likely():
    strategy = make_strategy("replay", Toy(), FEW)
    assert strategy.shares(0, 5) == [(0, 1.0)]
    found = [strategy.shares(2, step) for step in range(600)]
    assert all(own == (2, 1 / 3) and share == 2 / 3 for own, (_, share) in found)
    assert torch.tensor([earlier for _, (earlier, _) in found]).bincount().tolist() == pytest.approx([300] * 2, abs=50)


def test_earlier_tasks_are_replayed_from_a_pool_of_generated_windows():
    toy = Toy()
    strategy = make_strategy("replay", toy, FEW)
    for task in range(2):
        train_task(toy, strategy, task, adam, toy.steps)
    strategy.begin(2)
    assert sorted(strategy.pool) == [0, 1]
    for task, pool in strategy.pool.items():
        assert pool.states.shape == (16, T, STATES)
        assert pool.actions.shape == (16, T, ACTIONS)
        assert pool.states.dtype == torch.float64
        assert bool(((pool.returns >= 0) & (pool.returns <= 1)).all())
        batch = strategy.windows(task, 0)
        assert len(batch.states) == 4
        assert all(bool((pool.states == row).flatten(1).all(1).any()) for row in batch.states)
    assert strategy.windows(2, 0) is None


def test_a_task_is_generated_at_its_own_times_and_the_same_each_time():
    toy = Toy()
    strategy = run("replay", toy, **FEW)
    ours, again = strategy.generated(1, 2), strategy.generated(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, again))
    times = torch.cat([toy.batch(1, k, "replay times").times for k in range(4)])
    assert torch.equal(ours.times, times.float().double())


def test_what_is_generated_is_like_what_was_seen():
    toy = Toy(tasks=1, steps=250)
    toy.states = 0.1 * toy.states + torch.linspace(-2, 2, ROWS)[:, None, None]  # the later, the higher
    strategy = run("replay", toy, replay_windows=64, replay_width=48)
    found = strategy.generated(0, 1)
    expected = -2 + 4 * found.times
    assert float((found.states.mean((1, 2)) - expected).abs().mean()) < 0.4
    assert float(found.returns.mean()) == pytest.approx(1, abs=0.2)


def test_the_generator_counts_and_a_task_adds_its_times():
    strategy = make_strategy("replay", Toy(), FEW)
    own = sum(p.numel() for p in strategy.generator.parameters())
    plain = make_strategy("finetune", Toy(), {}).sizes()
    assert strategy.sizes() == {"parameters": plain["parameters"] + own, "bytes_per_task": 16 * 4}
