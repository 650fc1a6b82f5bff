"""What holds of all strategies, on a small trainee: their names, what they read, and going on from a saved state."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.policies.vqcd.strategies.toy import Toy, adam, answers, digest, run, train_task

from manyone.errors import ManyoneError
from manyone.policies.vqcd.strategies import STRATEGIES
from manyone.policies.vqcd.strategy import entry_of, make_strategy

OPTIONS = {
    "protection": 0.5, "importance_windows": 10, "rehearse_every": 3, "rehearse_newest": 0.05, "rank": 2,
    "retrain": 0.25, "replay_windows": 8, "replay_width": 16,
}  # fmt: skip
NAMES = [name for name in STRATEGIES if name != "masks"]  # tests/policies/vqcd/test_weights.py


def test_an_unknown_name_is_refused():
    with pytest.raises(ManyoneError, match=r"^strategy 'sgd': must be one of masks, finetune, joint"):
        entry_of("sgd")


def test_a_strategy_takes_its_own_options_alone():
    toy = Toy()
    strategy = make_strategy("ewc", toy, OPTIONS)
    assert (strategy.protection, strategy.count, strategy.rule) == (0.5, 10, "fisher")
    assert make_strategy("mas", toy, {}).rule == "sensitivity"


@pytest.mark.parametrize("name", [n for n in NAMES if n != "joint"])
def test_no_task_is_read_before_its_turn_and_only_rehearsal_reads_earlier_ones(name):
    toy = Toy()

    def check(task, strategy):
        seen = {t for t, _, _ in toy.read}
        assert max(seen) == task
        if name in ("rehearsal", "rcr"):
            earlier = [(t, newest) for t, purpose, newest in toy.read if purpose == "rehearse"]
            assert all(t < task and newest == 0.05 for t, newest in earlier)
            assert (len(earlier) > 0) == (task > 0)
        else:
            assert seen == {task}
        toy.read.clear()

    run(name, toy, after=check, **OPTIONS)


STOPS = [(name, stop) for name in NAMES for stop in ((0, 5), (1, 5), (1, 12)) if name != "joint" or stop[0] == 0]


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_going_on_from_a_saved_state_is_the_uninterrupted_run(name, stop):
    task, at = stop
    toys = Toy(), Toy()
    whole, other = (make_strategy(name, toy, OPTIONS) for toy in toys)
    for before in range(task):
        train_task(toys[0], whole, before, adam, toys[0].steps)
    moving = train_task(toys[0], whole, task, adam, at)
    state = copy.deepcopy((toys[0].network.state_dict(), whole.state_dict(), moving.state_dict()))

    toys[1].network.load_state_dict(state[0])
    other.load_state_dict(state[1])
    again = None
    if at < toys[1].steps:
        again = adam(other.trainable(task))
        again.load_state_dict(state[2])
        train_task(toys[0], whole, task, adam, toys[0].steps, first=at, moving=moving)
        train_task(toys[1], other, task, adam, toys[1].steps, first=at, moving=again)
    for later in range(task + 1, 1 if name == "joint" else 3):
        for toy, strategy in zip(toys, (whole, other)):
            train_task(toy, strategy, later, adam, toy.steps)
    assert digest(whole.state_dict()) == digest(other.state_dict())
    for number in range(3):
        assert torch.equal(answers(toys[0], whole, number), answers(toys[1], other, number))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_acts_as_the_strategy_does_and_is_a_copy(name):
    toy = Toy()
    strategy = run(name, toy, at_once=name == "joint", **OPTIONS)
    kept = strategy.kept()
    before = [answers(toy, strategy, task) for task in range(3)]
    for task in range(3):
        own = kept.of(task)
        assert own.keys() == dict(strategy.network(task).named_parameters()).keys()
        found = torch.func.functional_call(strategy.network(task), own, (toy.states[task].flatten(1),))
        assert torch.equal(found, before[task])
    for value in [v for task in range(3) for v in kept.of(task).values()]:
        value.zero_()
    assert all(torch.equal(answers(toy, strategy, task), before[task]) for task in range(3))


@pytest.mark.parametrize("name", ["separate", "packnet", "lora"])
@pytest.mark.parametrize("averaged", [False, True])
def test_strategies_with_weights_of_a_tasks_own_forget_nothing_at_all(name, averaged):
    toy, learned = Toy(), []

    def check(task, strategy):
        learned.append(answers(toy, strategy, task))
        for earlier in range(task):
            assert torch.equal(answers(toy, strategy, earlier), learned[earlier])

    run(name, toy, after=check, averaged=averaged, **OPTIONS)


@pytest.mark.parametrize("name", ["finetune", "ewc", "l2", "mas", "rehearsal", "rcr", "replay"])
def test_strategies_with_one_set_of_weights_do_forget(name):
    toy, learned = Toy(), []
    strategy = run(name, toy, after=lambda task, s: learned.append(answers(toy, s, task)), **OPTIONS)
    assert not torch.equal(answers(toy, strategy, 0), learned[0])
    assert torch.equal(answers(toy, strategy, 2), learned[2])


def test_sizes_count_what_is_kept():
    toy = Toy()
    parameters = sum(p.numel() for p in toy.network.parameters())
    assert run("finetune", toy).sizes() == {"parameters": parameters, "bytes_per_task": 0}
    matrices = sum(p.numel() for p in toy.network.parameters() if p.ndim > 1)
    packnet = run("packnet", Toy()).sizes()
    assert packnet == {"parameters": parameters, "bytes_per_task": -(-matrices // 8)}
