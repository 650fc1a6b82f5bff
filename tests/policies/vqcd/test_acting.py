"""Acting with a planner: in lock-step, in any spaces, some steps a plan."""

import numpy as np
import pytest
import torch
from tests.policies.vqcd.planners import WIDTHS, learner, run

from manyone.errors import ManyoneError
from manyone.policies.vqcd.acting import normal_noise


class Episode:
    def __init__(self, task, target=None):
        self.task, self.target = task, target


@pytest.fixture(scope="module")
def trained():
    return run(learner())


def observations(rows, seed=0):
    return np.random.Generator(np.random.Philox(seed)).normal(size=(rows, 17)).astype(np.float32)


def test_every_task_gets_actions_of_its_own_width_within_its_bounds(trained):
    policy = trained.policy()
    policy.start([Episode(f"t{n}") for n in range(3)])
    found = policy.act([0, 1, 2], observations(3))
    assert found.shape == (3, 6)
    for row, (_, width) in zip(found, WIDTHS):
        assert np.abs(row[:width]).max() <= 1
        assert bool((row[:width] != 0).all())
        assert bool((row[width:] == 0).all())


def test_episodes_in_lock_step_are_those_of_one_at_a_time(trained):
    policy, alone = trained.policy(), trained.policy()
    tasks = ["t1", "t0", "t1", "t2"]
    policy.start([Episode(t) for t in tasks])
    alone.start([Episode(t) for t in tasks])
    for step in range(3):
        seen = observations(4, step)
        together = policy.act(range(4), seen)
        each = np.concatenate([alone.act([slot], seen[slot : slot + 1]) for slot in range(4)])
        np.testing.assert_allclose(together, each, atol=1e-5)
        policy.reward(range(4), np.ones(4))
        alone.reward(range(4), np.ones(4))


def test_a_plan_is_executed_for_as_many_steps_as_asked(trained):
    trained.plan_every = 3
    try:
        policy = trained.policy()
        policy.start([Episode("t1"), Episode("t1")])
        planned, acted = [], []
        plans = policy.plans

        def counted(slots, seen):
            planned.append(slots.tolist())
            return plans(slots, seen)

        policy.plans = counted
        seen = observations(2)
        for step in range(7):
            if step == 4:
                policy.restart([1], [Episode("t1")])
            acted.append(policy.act([0, 1], seen))
            policy.reward([0, 1], np.zeros(2))
        assert planned == [[0, 1], [0, 1], [1], [0]]
        assert not np.array_equal(acted[0], acted[1])
    finally:
        trained.plan_every = 1


def test_where_other_actions_were_taken_the_rest_of_a_plan_is_void(trained):
    trained.plan_every = 3
    try:
        policy, fresh = trained.policy(), trained.policy()
        policy.start([Episode("t1"), Episode("t1")])
        fresh.start([Episode("t1"), Episode("t1")])
        for step in range(3):
            seen = observations(2, step)
            fresh.restart([0], [Episode("t1")])  # plans anew at every step
            fresh.clock[0] = step
            acted, anew = policy.act([0, 1], seen), fresh.act([0, 1], seen)
            np.testing.assert_array_equal(acted[0], anew[0])
            np.testing.assert_array_equal(acted[1], anew[1])  # goes on with its plan in both
            policy.took([0], acted[:1] + 1)
            for one in (policy, fresh):
                one.reward([0, 1], np.zeros(2))
    finally:
        trained.plan_every = 1


def test_what_is_asked_for_is_a_share_of_the_data(trained):
    policy = trained.policy()
    table = policy.table
    worst, best = (table.target - 0.95 * table.scale)[1], (table.target + 0.05 * table.scale)[1]
    policy.start([Episode("t1"), Episode("t1", float(best)), Episode("t1", float(worst))])
    np.testing.assert_allclose(policy.targets, [0.95, 1, 0], atol=1e-5)
    policy.restart([2], [Episode("t0")])
    assert policy.targets[2] == pytest.approx(0.95)
    assert policy.names[2] == "t0"


def test_a_task_that_is_yet_to_be_learned_is_unknown():
    policy = run(learner(), 10).policy()
    policy.start([Episode("t0")])
    assert policy.act([0], observations(1)[:, :4]).shape == (1, 1)
    with pytest.raises(ManyoneError, match="'t2' is unknown to this policy: it has t0"):
        policy.start([Episode("t2")])


def test_in_the_middle_of_a_task_it_acts_alone():
    policy = run(learner(), 16).policy()
    policy.start([Episode("t1")])
    assert policy.act([0], observations(1)[:, :11]).shape == (1, 3)


def test_the_live_network_is_left_alone(trained):
    before = [p.clone() for p in trained.live.parameters()]
    policy = trained.policy()
    policy.start([Episode("t0")])
    policy.act([0], observations(1))
    assert all(torch.equal(a, b) for a, b in zip(before, trained.live.parameters()))


def test_more_steps_a_plan_than_it_has_are_refused(trained):
    trained.plan_every = 8
    try:
        with pytest.raises(ManyoneError, match="plan_every = 8: must be 1 to 7"):
            trained.policy()
    finally:
        trained.plan_every = 1


def test_noise_is_normal_and_a_function_of_its_place():
    slots, steps = np.arange(50), np.full(50, 7)
    found = normal_noise(1, slots, steps, 161)
    assert found.shape == (50, 161)
    assert abs(float(found.mean())) < 0.05
    assert abs(float(found.std()) - 1) < 0.05
    torch.testing.assert_close(found[9:10], normal_noise(1, slots[9:10], steps[9:10], 161))
    for other in ((2, slots, steps, 161), (1, slots, steps + 1, 161), (1, slots, steps, 161, 1)):
        assert not torch.equal(found, normal_noise(*other))


@pytest.mark.parametrize("words", [{"requantise": True}, {"plan": "state-actions"}, {"inverse": "shared"}])
def test_every_way_of_acting_gives_actions(words):
    policy = run(learner(WIDTHS[:2], **words)).policy()
    policy.start([Episode("t0"), Episode("t1")])
    found = policy.act([0, 1], observations(2)[:, :11])
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1
