"""Cloning with rehearsal: what a step compares, what is remembered, going on from a saved state."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.policies.conftest import make_tasks
from tests.reference import continual as plain

from manyone.errors import ManyoneError
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.rehearsal import Pairs, RehearsalLearner, given_pairs
from manyone.policies.loading import load_policy
from manyone.policies.tasks import PolicyData


def made(count: int = 3, **options: object) -> RehearsalLearner:
    data = PolicyData(make_tasks(count), 1, hold_out=False)
    network = CloningNetwork(data.state_dim, data.action_dim, count, width=8, layers=1, seed=0)
    return RehearsalLearner(network, data, **({"steps": 6, "batch_size": 8, "memory": 5, "lr": 0.01} | options))


def trained(learner: RehearsalLearner, steps: int | None = None) -> RehearsalLearner:
    for _ in range(learner.total if steps is None else steps):
        learner.step()
    return learner


def weights(learner: RehearsalLearner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.network.parameters()])


def test_the_loss_is_that_of_the_plain_formulation_over_data_and_memory():
    learner = trained(made(), 8)
    task, step = 1, 2
    own = learner.drawn(task, step, 4)
    of, old = learner.remembered(task, step, 4)
    assert set(of.tolist()) == {0}
    layers = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in learner.network.layers]
    pairs = [(s, 1, a) for s, a in zip(*own)] + [(s, int(j), a) for s, j, a in zip(old.states, of, old.actions)]
    expected = plain.cloning_loss(layers, [(s.numpy(), j, a.numpy()) for s, j, a in pairs], tasks=3)
    assert learner.step()["loss"] == pytest.approx(expected, rel=1e-5)


def test_without_a_memory_each_task_is_cloned_alone_by_an_optimiser_of_its_own():
    learner, other = trained(made(memory=0)), made(memory=0)
    for task in range(3):
        adam = torch.optim.Adam(other.network.parameters(), lr=0.01)
        for step in range(6):
            adam.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * step / 6))
            pairs = other.drawn(task, step, 8)
            loss = (other.network(pairs.states, torch.full((8,), task)) - pairs.actions).square().mean(-1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    assert torch.equal(weights(learner), weights(other))


def test_no_data_but_the_present_tasks_are_read_and_memory_only_holds_earlier_tasks():
    learner = made()
    read: list[tuple[int, str]] = []
    batch = learner.data.batch

    def spy(tasks, *arguments, **options):
        read.extend((t, options["purpose"]) for t in tasks)
        return batch(tasks, *arguments, **options)

    learner.data.batch = spy
    for _ in range(learner.total):
        task = learner.iteration // learner.steps
        read.clear()
        assert sorted(learner.kept) == list(range(task))
        learner.step()
        assert {t for t, _ in read} == {task}
    assert {task: len(pairs.states) for task, pairs in learner.kept.items()} == dict.fromkeys(range(3), 5)


def test_remembered_pairs_are_the_memorys_and_tasks_are_equally_likely():
    learner = trained(made(memory=5))
    learner.kept[0] = Pairs(*(part[:2] for part in learner.kept[0]))
    tasks, pairs = learner.remembered(2, 0, 3000)
    assert tasks.bincount().tolist() == pytest.approx([1000] * 3, abs=150)
    for task, states, actions in zip(tasks[:100].tolist(), pairs.states, pairs.actions):
        kept = learner.kept[task]
        same = (kept.states == states).all(1) & (kept.actions == actions).all(1)
        assert bool(same.any())


def test_a_distilled_set_takes_the_place_of_a_tasks_memory():
    data = PolicyData(make_tasks(3), 1, hold_out=False)
    own = given_pairs(data, 0, np.ones((4, 5), np.float32), np.full((4, 2), 0.25, np.float32), "d.npz")
    expected = (torch.ones(4, 5) - data.table.mean[0]) / data.table.deviation[0]
    assert torch.allclose(own.states, expected)
    assert torch.equal(own.actions, torch.full((4, 2), 0.25))
    learner = trained(made(given={0: own}))
    assert torch.equal(learner.kept[0].states, own.states)
    assert len(learner.kept[1].states) == 5
    with pytest.raises(ManyoneError, match=r"^d.npz: observations and actions are \[4, 3\] and \[4, 2\]; task-0 has"):
        given_pairs(data, 0, np.ones((4, 3)), np.ones((4, 2)), "d.npz")


@pytest.mark.parametrize("stop", [3, 6, 8])
def test_going_on_from_a_saved_state_is_the_uninterrupted_run(stop):
    whole, other = made(), made()
    trained(whole, stop)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    trained(whole, whole.total - stop)
    trained(other, other.total - stop)
    assert torch.equal(weights(whole), weights(other))
    assert all(torch.equal(a, b) for t in range(3) for a, b in zip(whole.kept[t], other.kept[t]))


def test_scores_fill_a_matrix_and_its_figures():
    scores = iter([{"return/task-0": 5.0}, {"return/task-0": 3.0, "return/task-1": 8.0}])
    learner = made(2, evaluate=lambda one: next(scores))
    assert learner.evaluate() == {"tasks_learned": 0}
    trained(learner, 6)
    assert learner.scored() == ("task-0",)
    learner.evaluate()
    trained(learner, 6)
    found = learner.evaluate()
    assert learner.scoring.matrix() == [[5.0, 3.0], [None, 8.0]]
    assert (found["average"], found["forgetting"], found["plasticity"]) == (5.5, 1.0, 6.5)


def test_what_is_exported_acts(tmp_path):
    learner = trained(made())
    (tmp_path / "model").mkdir()
    learner.export(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    policy.reset("task-1")
    seen = np.linspace(-1, 1, 5, dtype=np.float32)
    state = (torch.from_numpy(seen) - learner.table.mean[1]) / learner.table.deviation[1]
    expected = learner.network(state[None], torch.tensor([1]))[0]
    np.testing.assert_allclose(policy.act(seen), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert learner.sizes()["bytes_per_task"] == 5 * 7 * 4


@pytest.mark.parametrize(("name", "value"), [("share", 1.0), ("memory", -1), ("batch_size", 1), ("steps", 0)])
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ManyoneError, match=rf"^{name} = {value}: must be"):
        made(**{name: value})
