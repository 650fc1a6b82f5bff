"""Actions beyond -1 and 1: what a network learns and does does not depend on the units of a task's actions."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.policies import (
    CloningLearner,
    CloningNetwork,
    EachTask,
    GroupedLearner,
    PolicyData,
    PolicyLearner,
    build_model,
    load_policy,
    unseen_policy,
)
from manyone.policies.tasks import POOLED

SHAPE = {"width": 16, "layers": 1, "heads": 2, "max_timestep": 32}
TWO = [(-2, 2), (-0.4, 0.4), (0, 100)]


class Episode(NamedTuple):
    task: str


def in_units(tasks, pairs):
    """The tasks with actions in [low, high] instead of [-1, 1], and these bounds."""
    made, bounds = [], []
    for one, (low, high) in zip(tasks, pairs):
        actions = (low + high) / 2 + (high - low) / 2 * one.actions.astype(np.float64)
        made.append(replace(one, actions=actions))
        bounds.append((np.full(one.action_dim, low), np.full(one.action_dim, high)))
    return made, bounds


def learner_of(method, data):
    if method == "mtbc":
        network = CloningNetwork(data.state_dim, data.action_dim, len(data), width=16)
        return CloningLearner(network, data, steps=9, lr=1e-2, batch_size=4)
    options = {"steps": 9, "warmup": 0, "batch_size": 2, "lr": 1e-2}
    if method == "g-harmodt":
        model = build_model("mt-dt", data, **SHAPE)
        return GroupedLearner(model, data, groups=2, group_after=2, gate_context=3, mask_every=3, **options)
    if method == "task-dt":
        own = [data.subset([i]) for i in range(len(data))]
        return EachTask([PolicyLearner(build_model("mt-dt", o, **SHAPE), o, method="mt-dt", **options) for o in own])
    return PolicyLearner(build_model(method, data, **SHAPE), data, method=method, mask_every=3, eta_max=5, **options)


def play(policy, names, steps=7):
    draw = np.random.Generator(np.random.Philox(5))
    policy.start([Episode(name) for name in names])
    slots, acted = np.arange(len(names)), []
    for _ in range(steps):
        acted.append(policy.act(slots, draw.normal(size=(len(names), 5)).astype(np.float32)))
        policy.reward(slots, draw.random(len(names)).astype(np.float32))
    return np.stack(acted, 1)


@pytest.mark.parametrize("method", ["mtbc", "harmodt", "mt-dt", "prompt-dt", "id-token", "g-harmodt", "task-dt"])
def test_what_is_learned_and_done_does_not_depend_on_the_units_of_the_actions(tasks, tmp_path, method):
    pairs = [(-2, 2)] * 3 if method == "g-harmodt" else TWO  # its tasks must not differ in what tells them
    options = {"context": 4, "prompt": 2 if method in ("harmodt", "prompt-dt") else 0}
    options |= POOLED if method == "g-harmodt" else {}
    made, bounds = in_units(tasks(3), pairs)
    plain = learner_of(method, PolicyData(tasks(3), **options))
    scaled = learner_of(method, PolicyData(made, bounds=bounds, **options))
    for _ in range(9):
        assert scaled.step()["loss"] == pytest.approx(plain.step()["loss"], rel=1e-3)
    names = plain.data.names if method != "task-dt" else ["task-0", "task-1", "task-2"]
    wanted, found = play(plain.policy(), names), play(scaled.policy(), names)
    low, high = (np.array(ends)[:, None, None] for ends in zip(*pairs))
    half = (high - low) / 2
    np.testing.assert_allclose(found, (low + high) / 2 + half * wanted, atol=2e-2 * half.max())
    assert ((found >= low) & (found <= high)).all()
    assert np.abs(found / half).max() > 0.1, "the network has learned something"
    if method != "task-dt":
        scaled.export(tmp_path)
        np.testing.assert_allclose(play(load_policy(tmp_path).batched, names), found, atol=1e-5)


def test_an_unseen_task_acts_within_its_own_bounds(tasks):
    made, bounds = in_units(tasks(3), TWO)
    seen = PolicyData(made[:2], context=4, prompt=2, bounds=bounds[:2])
    policy = unseen_policy(build_model("prompt-dt", seen, **SHAPE), seen.like(made[2:], bounds[2:]))
    found = play(policy, ["task-2"])
    assert 0 <= found.min() < found.max() <= 100
    assert found.mean() == pytest.approx(50, abs=25)


def test_bounds_of_one_change_no_bit(tasks):
    one, mixed = tasks(2), in_units(tasks(2), [(-1, 1), (-2, 2)])
    before = PolicyData(one, context=4, prompt=2, bounds="unit")
    for bounds in (None, [(np.full(2, -1), np.ones(2))] * 2):
        data = PolicyData(one, context=4, prompt=2, bounds=bounds)
        assert data.table.bounds is None
        assert torch.equal(data.windows.flat["actions"], before.windows.flat["actions"])
        assert data.table.tensors().keys() == before.table.tensors().keys()
    data = PolicyData(mixed[0], context=4, prompt=2, bounds=mixed[1])
    assert torch.equal(data.batch([0], 3).steps["actions"], before.batch([0], 3).steps["actions"])
    unit = torch.tensor([[-0.3, 0.7]])
    assert torch.equal(data.table.own_actions(unit, 0), unit)
    assert torch.equal(data.table.own_actions(unit, 1), 2 * unit)
    assert torch.equal(PolicyData(mixed[0], context=4, bounds="unit").windows.flat["actions"][:3],
                       torch.from_numpy(one[0].actions[:3]))  # fmt: skip


def test_bounds_that_nobody_knows_are_those_of_the_data(tasks, caplog):
    made, _ = in_units(tasks(2), [(-2, 2), (-1, 1)])
    data = PolicyData(made, context=4)
    own = torch.from_numpy(np.stack((made[0].actions.min(0), made[0].actions.max(0))))
    assert torch.equal(data.table.bounds[0], own)
    assert data.table.bounds[1].tolist() == [[-1, -1], [1, 1]]
    assert "task-0: 2 of 2 dimensions of the actions have no known bounds: those of the data are taken" in caplog.text
    caplog.clear()
    steady = replace(made[0], actions=np.stack((made[0].actions[:, 0], np.full(len(made[0]), 3.0)), 1))
    half = PolicyData([steady], context=4, bounds=[(np.array([-2, -np.inf]), np.array([2, np.inf]))])
    assert half.table.bounds.tolist() == [[[-2, 2], [2, 4]]]
    assert "1 of 2 dimensions" in caplog.text
    assert not half.windows.flat["actions"][:, 1].any()


def test_an_action_that_has_one_value_only_is_that_value(tasks):
    made, _ = in_units(tasks(1), [(0.3, 0.3)])
    low, high = np.array([-2, 0.3], np.float32), np.array([2, 0.3], np.float32)
    data = PolicyData(made, context=4, bounds=[(low, high)])
    assert torch.isfinite(data.windows.flat["actions"]).all()
    assert not data.windows.flat["actions"][:, 1].any()
    acted = data.table.own_actions(torch.tensor([[-0.5, 0.9], [1, -1]]), 0)
    assert acted.tolist() == [[-1, high[1]], [2, high[1]]]


def test_bounds_of_the_largest_number_are_none(tasks, caplog):
    made, _ = in_units(tasks(1), [(-2, 2)])
    most = np.full(2, np.finfo(np.float32).max)
    data = PolicyData(made, context=4, bounds=[(-most, most)])
    assert torch.equal(data.table.bounds, PolicyData(made, context=4).table.bounds)
    assert torch.isfinite(data.windows.flat["actions"]).all()
    assert "2 of 2 dimensions of the actions have no known bounds" in caplog.text


def test_actions_outside_their_bounds_are_counted_and_clipped(tasks, caplog):
    one = tasks(1)[0]
    actions = one.actions.copy()
    actions[:3, 0] = (1.5, -7, 1 + 1e-7)
    data = PolicyData([replace(one, actions=actions)], context=4, bounds=[(np.full(2, -1), np.ones(2))])
    assert data.windows.flat["actions"][:3, 0].tolist() == [1, -1, 1]
    assert f"task-0: 2 of {len(one)} actions lie outside their bounds (-1 to 1)" in caplog.text
    for wrong in ([(np.ones(2), np.zeros(2))], [(np.full(3, -1), np.ones(3))]):
        with pytest.raises(ManyoneError, match="give 2 least and largest actions"):
            PolicyData([one], context=4, bounds=wrong)
    with pytest.raises(ManyoneError, match="bounds of 2 tasks, but there are 1"):
        PolicyData([one], context=4, bounds=[None, None])


def test_environments_tell_their_bounds():
    assert [x.tolist() for x in make.bounds("gym:Pendulum-v1")] == [[-2], [2]]
    assert [x.tolist() for x in make.bounds("door-open-v3")] == [[-1] * 4, [1] * 4]
    for task in ("cheetah-vel:3", "ant-dir:0"):
        space = make.make_env(task).action_space
        assert [x.tolist() for x in make.bounds(task)] == [space.low.tolist(), space.high.tolist()]
