"""Joint training takes the tasks in turn; of one task it is fine-tuning."""

from __future__ import annotations

import torch
from tests.policies.vqcd.strategies.toy import Toy, run

from manyone.policies.vqcd.strategy import entry_of


def test_of_one_task_it_is_fine_tuning_bit_for_bit():
    toys = Toy(tasks=1), Toy(tasks=1)
    run("joint", toys[0], at_once=True)
    run("finetune", toys[1])
    assert entry_of("joint").told == entry_of("finetune").told
    for ours, theirs in zip(toys[0].network.parameters(), toys[1].network.parameters()):
        assert torch.equal(ours, theirs)


def test_it_takes_every_task_in_turn():
    toy = Toy(steps=36)
    run("joint", toy, at_once=True)
    assert [task for task, _, _ in toy.read] == [0, 1, 2] * 12
    assert entry_of("joint").at_once
