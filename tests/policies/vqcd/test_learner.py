"""Tasks one after the other: nothing is forgotten, nothing old is read, and a run goes on anywhere."""

import copy

import numpy as np
import pytest
import torch
from tests.policies.vqcd.planners import PLANS, SPACES, WIDTHS, learner, run, trajectories

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.vqcd.data import PlanData
from manyone.policies.vqcd.learner import Training
from manyone.policies.vqcd.strategy import Strategy

EVERY = SPACES + PLANS


class Episode:
    def __init__(self, task):
        self.task = task


def actions(one, tasks=("t0",), rows=5):
    """What the policy does in a few states of each of ``tasks``."""
    policy = one.policy_of([one.table.names.index(task) for task in tasks])
    policy.start([Episode(task) for task in tasks for _ in range(rows)])
    draw = torch.Generator().manual_seed(3)
    seen = torch.randn(len(tasks) * rows, 17, generator=draw)[:, : policy.state_dim]
    return torch.from_numpy(policy.act(range(len(seen)), seen.numpy()))


def kept(one):
    """All tensors that are left of the training."""
    found = one.strategy.kept()
    return [*found.shared.values(), *(v for own in found.own for v in own.values()), *one.inverses.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("inverse", ["masked", "per-task"])
def test_the_first_task_acts_the_same_after_all_others(inverse):
    one = run(learner(inverse=inverse), EVERY)
    weights, acted = one.strategy.weights(0), actions(one)
    run(one)
    assert one.learned == 3
    after = one.strategy.weights(0)
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert torch.equal(acted, actions(one))


@pytest.mark.parametrize(("strategy", "options"), [("finetune", {}), ("masks", {"one_dimensional": "shared"})])
def test_without_protection_it_does_not(strategy, options):
    one = run(learner(strategy=strategy, options=options), EVERY)
    acted = actions(one)
    assert not torch.equal(acted, actions(run(one)))


def test_shared_inverse_dynamics_leak():
    one = run(learner(inverse="shared"), EVERY)
    acted = actions(one)
    run(one)
    assert not torch.equal(acted, actions(one))


def test_one_task_is_the_unmasked_network():
    masked, plain = (run(learner(WIDTHS[1:2], strategy=one)) for one in ("masks", Strategy))
    first, second = masked.strategy.weights(0), plain.strategy.weights(0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(actions(masked, ("t0",)), actions(plain, ("t0",)))


STOPS = [
    *(0, 1, SPACES - 1, SPACES, SPACES + 1, EVERY - 1, EVERY, EVERY + 1, EVERY + SPACES, EVERY + SPACES + 1),
    *(2 * EVERY, 3 * EVERY - 1, 3 * EVERY),
]


@pytest.mark.parametrize("strategy", ["masks", "packnet", "rehearsal", "lora", "separate", "joint", "ewc"])
def test_a_run_goes_on_bit_for_bit_wherever_it_was_cut(strategy):
    words = {"strategy": strategy, "inverse": "per-task",
             "options": {"rehearse_every": 2, "importance_windows": 4, "rank": 2}}  # fmt: skip
    whole, states = learner(**words), {}
    while True:
        if whole.iteration in STOPS:
            states[whole.iteration] = copy.deepcopy(whole.state_dict())
        if whole.iteration == whole.total:
            break
        whole.step()
    assert len(states) == len(STOPS)
    for at, state in states.items():
        if strategy != "masks" and at not in (EVERY, EVERY + SPACES + 1, EVERY + 1):
            continue
        again = learner(**words)
        again.load_state_dict(copy.deepcopy(state))
        assert again.iteration == at
        run(again)
        assert equal(kept(whole), kept(again)), at
        assert torch.equal(actions(whole, ("t0", "t2")), actions(again, ("t0", "t2")))


class Spied(PlanData):
    """Remembers whose windows were asked for."""

    def __init__(self, *given, **words):
        super().__init__(*given, **words)
        self.asked = []

    def batch(self, task, *given, **words):
        self.asked.append(task)
        return super().batch(task, *given, **words)


def test_data_of_earlier_tasks_are_never_read():
    data = Spied(trajectories(), 8)
    one = learner(data=data)
    for task in range(3):
        data.asked.clear()
        run(one, (task + 1) * EVERY)
        assert data.asked == [task] * PLANS


def test_joint_training_reads_all_tasks_in_one_phase():
    data = Spied(trajectories(), 8)
    one = run(learner(data=data, strategy="joint"))
    assert data.asked == [0, 1, 2] * PLANS
    assert one.total == 3 * EVERY
    assert one.learned == 3


def test_scores_fill_the_matrix_task_by_task():
    def evaluate(one):
        assert one.scored() == ("t0", "t1", "t2")[: one.learned]
        return {f"return/{name}": 10.0 * one.learned - k for k, name in enumerate(one.scored())}

    one = learner(evaluate=evaluate)
    assert one.evaluate() == {"tasks_learned": 0}
    found = []
    for task in range(3):
        run(one, (task + 1) * EVERY)
        found = one.evaluate()
    assert one.scores() == [[10, 20, 30], [None, 19, 29], [None, None, 28]]
    assert found["forgetting"] == -(20 + 10 + 0) / 3
    assert found["average"] == 29
    assert found["plan_loss/t1"] > 0
    again = learner(evaluate=evaluate)
    again.load_state_dict(copy.deepcopy(one.state_dict()))
    assert again.scores() == one.scores()
    assert again.scored_by == "return"


def test_between_its_ends_a_task_is_scored_alone():
    asked = []

    def evaluate(one):
        asked.append(one.scored())
        return {f"return/{name}": 1.0 for name in one.scored()}

    one = learner(evaluate=evaluate)
    run(one, EVERY + SPACES)
    one.evaluate()  # its alignments are fitted, nothing has been planned for
    assert asked == []
    run(one, EVERY + SPACES + 2)
    assert one.evaluate()["tasks_learned"] == 1
    assert asked == [("t1",)]
    assert one.scoring.rows == []


def test_metrics_name_task_and_phase():
    one = learner()
    assert one.step()["phase"] == "spaces of t0 (1/3)"
    run(one, EVERY + SPACES)
    assert one.step()["phase"] == "plans of t1 (2/3)"


@pytest.mark.parametrize("plan", ["states", "state-actions"])
def test_learning_helps(plan):
    states = np.cumsum(np.full((20, 40, 1), 0.05), 1) + np.linspace(-1, 1, 20)[:, None, None]
    each = [{"observations": one, "actions": np.sin(3 * one), "rewards": one[:, 0]} for one in states]
    data = PlanData([Trajectories.from_episodes("line", each)], 8)
    training = {"steps": 300, "batch_size": 16, "lr": 3e-3, "ema_decay": 0.9}
    one = run(learner(kind="none", data=data, plan=plan, training=training), 1)
    first = one.loss(0, one.batch(0, 0, "held"), 0).item()
    assert run(one).probe()["line"] < 0.5 * first


def test_wrong_arguments_are_named():
    for words, message in (
        ({"training": {"steps": 0}}, "steps = 0"),
        ({"options": {"capacity": 2}}, "capacity = 2"),
        ({"kind": "none"}, "alignment none"),
    ):
        with pytest.raises(ManyoneError, match=message):
            learner(**words)
    with pytest.raises(ManyoneError, match="dropout = 1"):
        Training(5, dropout=1.0)
