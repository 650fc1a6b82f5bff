"""Rehearsal: when it happens, of which task, and what it costs to keep."""

from __future__ import annotations

import pytest
import torch
from tests.policies.vqcd.strategies.toy import ACTIONS, STATES, T, Toy, run

from manyone.policies.vqcd.strategies.rehearsal import rehearsed
from manyone.policies.vqcd.strategy import entry_of


def test_every_fourteenth_step_is_of_an_earlier_task_drawn_uniformly():
    found = [rehearsed(0, 3, step, 14) for step in range(14 * 600)]
    assert all(task == 3 for step, task in enumerate(found) if step % 14 != 13)
    earlier = torch.tensor(found[13::14])
    assert sorted(set(earlier.tolist())) == [0, 1, 2]
    assert earlier.bincount().tolist() == pytest.approx([200] * 3, abs=40)
    assert {rehearsed(0, 0, step, 14) for step in range(100)} == {0}


def test_a_rehearsed_batch_takes_the_place_of_one_of_the_tasks_own():
    toy = Toy()
    run("rehearsal", toy, rehearse_every=3)
    assert len(toy.read) == 3 * 12
    assert sum(purpose == "rehearse" for _, purpose, _ in toy.read) == 2 * 4


def test_without_rehearsal_it_is_fine_tuning_bit_for_bit():
    ours, theirs = Toy(), Toy()
    run("rehearsal", ours, rehearse_every=99)
    run("finetune", theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.network.parameters(), theirs.network.parameters()))


def test_a_task_adds_the_steps_of_its_newest_windows():
    strategy = run("rehearsal", Toy(), rehearse_every=3, rehearse_newest=0.05)
    assert strategy.sizes()["bytes_per_task"] == (10 + T - 1) * (STATES + ACTIONS + 1) * 8


def test_return_conditioning_alone_is_rehearsal_that_is_not_told_the_task():
    ours, theirs = entry_of("rcr"), entry_of("rehearsal")
    assert ours == theirs._replace(told=False)
