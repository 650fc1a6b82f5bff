"""Low-rank adapters beside the plain formulation."""

from __future__ import annotations

import numpy as np
import torch
from tests.policies.vqcd.strategies.toy import Toy, adam, answers, run, train_task
from tests.reference import continual as plain

from manyone.policies.vqcd.strategy import make_strategy


def test_the_first_task_is_fine_tuning_and_its_weights_never_move_again():
    toys = Toy(), Toy()
    first = []
    run("lora", toys[0], rank=2, after=lambda *_: first.append([p.clone() for p in toys[0].network.parameters()]))
    strategy = make_strategy("finetune", toys[1], {})
    train_task(toys[1], strategy, 0, adam, toys[1].steps)
    for later in first:
        assert all(torch.equal(a, b) for a, b in zip(later, toys[1].network.parameters()))


def test_a_task_begins_as_the_first_one_ended():
    toy = Toy()
    strategy = make_strategy("lora", toy, {"rank": 2})
    train_task(toy, strategy, 0, adam, toy.steps)
    before = answers(toy, strategy, 1)
    strategy.begin(1)
    assert torch.equal(answers(toy, strategy, 1), before)
    assert all(torch.equal(value, toy.network.get_parameter(n)) for n, value in strategy.overrides().items())


def test_a_tasks_weights_are_the_base_and_the_product_of_the_plain_formulation():
    strategy = run("lora", Toy(), rank=2)
    kept = strategy.kept()
    for task in (1, 2):
        own = kept.of(task)
        for name, (b, a) in kept.factors[task].items():
            assert b.shape[1] == a.shape[0] == 2
            expected = plain.adapted(kept.shared[name].numpy(), b.numpy(), a.numpy())
            np.testing.assert_allclose(own[name].numpy(), expected, rtol=1e-12)
            assert not torch.equal(own[name], kept.shared[name])
        rest = set(own) - set(kept.factors[task])
        assert rest
        assert all(torch.equal(own[name], kept.shared[name]) for name in rest)


def test_the_rank_is_at_most_that_of_the_matrix_and_bytes_are_the_factors():
    strategy = run("lora", Toy(), rank=64)
    shapes = [(b.shape, a.shape) for b, a in strategy.kept().factors[1].values()]
    assert shapes == [((6, 6), (6, 6)), ((6, 6), (6, 6)), ((3, 3), (3, 6))]
    assert strategy.sizes()["bytes_per_task"] == 2 / 3 * (72 + 72 + 27) * 8
