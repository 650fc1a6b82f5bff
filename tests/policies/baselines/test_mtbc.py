"""Multi-task behaviour cloning: which tasks a step takes, and what it says of its training."""

from __future__ import annotations

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.mtbc import CloningLearner
from manyone.policies.tasks import PolicyData


def make(data, **options):
    network = CloningNetwork(data.state_dim, data.action_dim, len(data), width=8, layers=1, seed=3)
    return CloningLearner(network, data, steps=6, seed=1, batch_size=5, **options)


def test_a_step_takes_the_next_tasks_in_turn(tasks, monkeypatch):
    data = PolicyData(tasks(3), context=1)
    taken = []
    draw = PolicyData.batch
    monkeypatch.setattr(PolicyData, "batch", lambda *a, **k: taken.append(list(a[1])) or draw(*a, **k))
    learner = make(data, tasks_per_step=2)
    for _ in range(3):
        learner.step()
    assert taken == [[0, 1], [2, 0], [1, 2]]


def test_without_a_choice_a_step_takes_every_task(tasks):
    data = PolicyData(tasks(3), context=1)
    default, all_ = make(data), make(data, tasks_per_step=3)
    assert [default.step() for _ in range(4)] == [all_.step() for _ in range(4)]
    for (name, mine), theirs in zip(default.network.named_parameters(), all_.network.parameters()):
        assert torch.equal(mine, theirs), name


def test_updates_and_samples_a_task_are_counted(tasks):
    learner = make(PolicyData(tasks(3), context=1), tasks_per_step=1)
    for _ in range(6):
        learner.step()
    assert learner.effort() == {"updates": 6, "samples_per_task": pytest.approx(6 * 5 / 3)}


@pytest.mark.parametrize("wrong", [0, 4])
def test_a_step_takes_one_to_all_tasks(tasks, wrong):
    with pytest.raises(ManyoneError, match=rf"tasks_per_step = {wrong}: must be 1\.\.3, the tasks"):
        make(PolicyData(tasks(3), context=1), tasks_per_step=wrong)
