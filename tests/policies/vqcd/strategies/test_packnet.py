"""PackNet beside the plain formulation: shares, frozen weights, what a task sees."""

from __future__ import annotations

import pytest
import torch
from tests.policies.vqcd.strategies.toy import Toy, adam, adamw, run, train_task
from tests.reference import continual as plain

from manyone.policies.vqcd.strategies.packnet import FREE
from manyone.policies.vqcd.strategy import make_strategy


def test_the_largest_of_the_free_entries_are_kept_as_in_the_plain_formulation():
    toy = Toy()
    strategy = make_strategy("packnet", toy, {})
    owners = {name: owner.flatten().tolist() for name, owner in strategy.owner.items()}
    for task in range(3):
        strategy.begin(task)
        with torch.no_grad():
            for name, owner in strategy.owner.items():
                value = toy.network.get_parameter(name)
                draw = torch.Generator().manual_seed(task)
                value.copy_(torch.where(owner == FREE, torch.randn(value.shape, generator=draw).to(value), value))
                owners[name] = plain.packnet_share(value.flatten().tolist(), owners[name], task, 3)
        strategy.prune(task)
        for name, owner in strategy.owner.items():
            assert owner.flatten().tolist() == owners[name], name
            assert bool((toy.network.get_parameter(name)[owner == FREE] == 0).all())
        strategy.end(task)
    assert all(FREE not in owner for owner in owners.values()), "the last task takes what is left"


@pytest.mark.parametrize("optimiser", [adam, adamw])
@pytest.mark.parametrize("retrain", [0.0, 0.25])
def test_frozen_weights_never_move_whatever_the_optimiser_does(optimiser, retrain):
    toy, frozen = Toy(), {}

    def check(task, strategy):
        for name, value in toy.network.named_parameters():
            own = strategy.owner[name] if name in strategy.owner else torch.zeros(value.shape, dtype=torch.int16)
            for earlier in range(task):
                mine = own == earlier
                assert torch.equal(value[mine], frozen[name][mine]), name
            frozen[name] = value.detach().clone()

    run("packnet", toy, after=check, optimiser=optimiser, retrain=retrain, averaged=True)


def test_a_task_sees_its_own_and_earlier_weights():
    strategy = run("packnet", Toy())
    masks = strategy.kept().masks
    for task in range(3):
        for name, mask in masks.unpack(task).items():
            assert torch.equal(mask, strategy.owner[name] <= task)
    assert bool(masks.flat(2).all())
    assert masks.active().tolist() == sorted(masks.active().tolist())


def test_what_is_pruned_stays_zero_while_the_rest_is_retrained():
    toy = Toy(steps=12)
    strategy = make_strategy("packnet", toy, {"retrain": 0.5})
    moving = train_task(toy, strategy, 0, adam, 6)
    assert strategy.pruned, "half of the steps come after the pruning"
    kept = {name: (toy.network.get_parameter(name).detach().clone()) for name in strategy.owner}
    train_task(toy, strategy, 0, adam, 11, first=6, moving=moving)
    for name, owner in strategy.owner.items():
        value = toy.network.get_parameter(name)
        assert bool((value[owner == FREE] == 0).all())
        assert not torch.equal(value[owner == 0], kept[name][owner == 0])


def test_one_task_keeps_everything():
    toys = Toy(tasks=1), Toy(tasks=1)
    run("packnet", toys[0])
    run("finetune", toys[1])
    for ours, theirs in zip(toys[0].network.parameters(), toys[1].network.parameters()):
        assert torch.equal(ours, theirs)
