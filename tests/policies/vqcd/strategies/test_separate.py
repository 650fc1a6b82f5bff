"""Separate networks: as many as tasks, together about as large as the one that they stand beside."""

from __future__ import annotations

import torch
from tests.policies.vqcd.strategies.toy import Toy, run


def test_the_networks_are_drawn_apart_and_the_live_one_never_moves():
    toy = Toy()
    before = [p.clone() for p in toy.network.parameters()]
    strategy = run("separate", toy)
    assert all(torch.equal(a, b) for a, b in zip(before, toy.network.parameters()))
    assert len({id(strategy.network(task)) for task in range(3)}) == 3
    sizes = [sum(p.numel() for p in strategy.network(task).parameters()) for task in range(3)]
    assert strategy.sizes()["parameters"] == sum(sizes)
    assert strategy.sizes()["bytes_per_task"] == sum(sizes) / 3 * 8


def test_a_task_trains_its_own_network_alone():
    toy, seen = Toy(), {}

    def check(task, strategy):
        for number in range(3):
            own = torch.cat([p.detach().flatten() for p in strategy.network(number).parameters()])
            if number in seen:
                assert torch.equal(own, seen[number]) == (number != task)
            seen[number] = own

    run("separate", toy, after=check)
