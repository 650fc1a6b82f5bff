"""Acting without a task name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.agnostic import AgnosticPolicy, leak_report, save_agnostic
from manyone.policies.g_harmodt.gate import Gate
from manyone.policies.loading import load_policy
from manyone.policies.masks import TaskMasks, maskable_shapes
from manyone.policies.tasks import PolicyData

POOLED = {"normalisation": "pooled", "scale": "pooled", "target": "pooled"}
STEPS = 14


class Named(NamedTuple):
    task: str


@pytest.fixture
def data(tasks) -> PolicyData:
    return PolicyData(tasks(4), 6, **POOLED)


@pytest.fixture
def model() -> DecisionTransformer:
    net = DecisionTransformer(5, 2, width=16, layers=2, heads=2, context=6, seed=3)
    with torch.no_grad():  # so that masks change actions visibly
        for name, value in net.named_parameters():
            if name.startswith("blocks.") and value.ndim == 2:
                value.mul_(15)
    return net


def masks_of(model: DecisionTransformer, count: int) -> TaskMasks:
    return TaskMasks.random(maskable_shapes(model), count, 0.5, seed=2)


def gate_of(groups: int, context: int = 4) -> Gate:
    return Gate(5, 2, groups, context=context, width=16, seed=8)


def decided(groups: int, group: int) -> Gate:
    """A gate that always says ``group``."""
    gate = gate_of(groups)
    with torch.no_grad():
        gate.head.weight.zero_()
        gate.head.bias.copy_(torch.where(torch.arange(groups) == group, 0.0, -200.0))
    return gate


def play(policy, names, *, steps: int = STEPS, seed: int = 0, lengths=None) -> np.ndarray:
    """Actions [episodes, steps, A] in a made world whose next state depends on the action; episodes may end early."""
    draw = np.random.Generator(np.random.Philox(seed))
    state = draw.normal(size=(len(names), 5)).astype(np.float32)
    lengths = np.full(len(names), steps) if lengths is None else np.asarray(lengths)
    policy.start([Named(n) for n in names])
    found = np.full((len(names), steps, 2), np.nan, np.float32)
    for t in range(steps):
        slots = np.flatnonzero(lengths > t)
        found[slots, t] = policy.act(slots, state[slots])
        state[slots, :2] += found[slots, t]
        state[slots, 2:] *= -0.9
        policy.reward(slots, state[slots].sum(1))
    return found


def test_oracle_gate_equals_inference_with_task_names_exactly(data, model):
    masks = masks_of(model, 4)
    names = ["task-2", "task-0", "task-3", "task-1", "task-0"]
    told = play(SequencePolicy(model, data.table, masks), names)
    oracle = play(AgnosticPolicy(model, data.table, masks, selection="oracle"), names)
    assert np.array_equal(oracle, told)
    assert np.abs(told[1] - told[2]).max() > 1e-3  # the masks matter
    groups = [0, 1, 0, 1]
    told = play(SequencePolicy(model, data.table, masks, assignment=groups), names)
    oracle = play(AgnosticPolicy(model, data.table, masks, assignment=groups, selection="oracle"), names)
    assert np.allclose(oracle, told, atol=1e-5)  # batches are laid out by group, not by task
    one = [play(SequencePolicy(model, data.table, masks, assignment=groups), [n]) for n in names]
    alone = [play(AgnosticPolicy(model, data.table, masks, assignment=groups, selection="oracle"), [n]) for n in names]
    assert np.array_equal(one, alone)


def test_a_gate_that_always_names_a_group_acts_as_that_groups_mask(data, model):
    masks = masks_of(model, 3)
    names = ["task-1"] * 3
    told = play(SequencePolicy(model, data.table, masks, assignment=[0, 2, 1, 0]), names)
    top = AgnosticPolicy(model, data.table, masks, assignment=[0] * 4, gate=decided(3, 2))
    assert np.array_equal(play(top, names), told)
    soft = AgnosticPolicy(model, data.table, masks, assignment=[0] * 4, gate=decided(3, 2), selection="soft")
    assert np.allclose(play(soft, names), told, atol=1e-5)
    assert np.allclose(play(soft, ["task-1"]), play(top, ["task-1"]), atol=1e-5)


def test_soft_masks_are_the_mixture_of_the_groups_masks(data, model):
    masks, gate = masks_of(model, 2), gate_of(2)
    soft = AgnosticPolicy(model, data.table, masks, assignment=[0, 1, 0, 1], gate=gate, selection="soft")
    actions = play(soft, ["a", "b"], steps=1)
    q = soft._belief.probabilities(torch.tensor([0, 1]))
    assert 0.05 < q[0, 0] < 0.95
    for episode in range(2):
        plain = dict(model.named_parameters())
        for name, mask in masks.stacked([0, 1]).items():
            plain[name] = plain[name] * (q[episode, 0] * mask[0] + q[episode, 1] * mask[1])
        soft._time.zero_()
        window = soft.window(torch.tensor([[episode]]))
        window["actions"] = torch.zeros_like(window["actions"])
        expected = model.run(plain, {k: v[0] for k, v in window.items()})[0, -1]
        assert np.allclose(actions[episode, 0], expected.detach(), atol=1e-5)


@pytest.mark.parametrize("selection", ["gate", "soft", "random", "dense"])
def test_no_name_of_a_task_is_read(data, model, selection):
    masks = None if selection == "dense" else masks_of(model, 4)
    gate = gate_of(4) if selection in ("gate", "soft") else None
    policy = AgnosticPolicy(model, data.table, masks, gate=gate, selection=selection)
    named = play(policy, ["task-0", "task-1", "task-2"])
    assert np.array_equal(play(policy, ["task-3", "task-3", "nobody-knows"]), named)
    assert all(policy.leaks().values())
    for rows in (policy.table.mean, policy.table.deviation, policy.table.target[:, None], policy.table.scale[:, None]):
        assert (rows == rows[:1]).all()


def test_leaks_are_refused_with_their_remedy_and_reported(data, model, tasks):
    masks = masks_of(model, 4)
    for options, remedy in (
        ({"scale": "pooled", "target": "pooled"}, "pooled state statistics.*normalisation='pooled'"),
        ({"normalisation": "pooled", "target": "pooled"}, "one scale of returns"),
        ({"normalisation": "pooled", "scale": "pooled"}, "one target return"),
    ):
        table = PolicyData(tasks(4), 6, **options).table
        with pytest.raises(ManyoneError, match=remedy):
            AgnosticPolicy(model, table, masks, selection="random")
    assert AgnosticPolicy(model, table, masks, selection="random", target=9.0).table.target.tolist() == [9.0] * 4
    prompted = DecisionTransformer(5, 2, width=16, layers=1, heads=2, context=6, prompt=2)
    with pytest.raises(ManyoneError, match="no prompt of the task"):
        AgnosticPolicy(prompted, data.table, selection="dense")
    assert leak_report(model, table, selection="task") == {
        "task name not read": False,
        "pooled state statistics": True,
        "one range of actions": True,
        "one target return": False,
        "one scale of returns": True,
        "no prompt of the task": True,
        "no task token": True,
        "gate does not read returns": True,
    }
    assert not AgnosticPolicy(model, data.table, masks, selection="oracle").leaks()["task name not read"]
    greedy = Gate(5, 2, 4, context=4, width=16, use_returns=True)
    reader = AgnosticPolicy(model, data.table, masks, gate=greedy)
    assert not reader.leaks()["gate does not read returns"]
    assert np.isfinite(play(reader, ["task-0"])).all()


def test_wrong_combinations_are_refused(data, model):
    masks = masks_of(model, 4)
    for options, words in (
        ({"masks": masks, "selection": "best"}, "must be gate, soft, oracle, random or dense"),
        ({"masks": masks, "selection": "dense"}, "dense is for a network without masks"),
        ({"selection": "gate"}, "do not fit"),
        ({"masks": masks}, "needs a gate for the 4 groups"),
        ({"masks": masks, "gate": gate_of(3)}, "needs a gate for the 4 groups"),
        ({"masks": masks, "gate": gate_of(4, context=7)}, "at most 6 steps"),
    ):
        with pytest.raises(ManyoneError, match=words):
            AgnosticPolicy(model, data.table, **options)
    with pytest.raises(ManyoneError, match="'elsewhere' has no group"):
        AgnosticPolicy(model, data.table, masks, selection="oracle").start([Named("elsewhere")])


def test_groups_are_inferred_from_the_episodes_own_steps_and_recorded(data, model):
    """The gate here reads the sign of the first state feature at the current step; the world flips it now and then."""
    gate = gate_of(2)
    with torch.no_grad():
        for layer in (gate.fc1, gate.fc2, gate.head):
            layer.weight.zero_()
            layer.bias.zero_()
        gate.fc1.weight[0, 0], gate.fc1.weight[1, 0] = 50.0, -50.0
        gate.fc2.weight[0, 0] = gate.fc2.weight[1, 1] = 1.0
        gate.head.weight[0, 16] = gate.head.weight[1, 17] = 1.0  # the feature of the current step
    policy = AgnosticPolicy(model, data.table, masks_of(model, 2), assignment=[0, 1, 0, 1], gate=gate, decay=0.0)
    mean = data.table.mean[0].numpy()
    policy.start([Named("task-0"), Named("task-1"), Named("stranger")])
    signs = np.array([[1, 1, -1, 1], [-1, -1, -1, -1], [1, -1, 1, -1]])
    for t in range(4):
        slots = np.array([0, 1, 2]) if t < 3 else np.array([0, 1])
        seen = np.tile(mean, (3, 1))
        seen[:, 0] += signs[:, t]
        policy.act(slots, seen[slots])
        policy.reward(slots, np.ones(len(slots)))
    assert policy.group_track(0) == [0, 0, 1, 0]
    assert policy.episode_info(0) == {
        "group": 0,
        "group_changes": [(0, 0), (2, 1), (3, 0)],
        "true_group": 0,
        "group_right": 0.75,
    }
    assert policy.episode_info(1)["group_right"] == 1.0
    assert policy.episode_info(2) == {"group": 0, "group_changes": [(0, 0), (1, 1), (2, 0)]}
    counts = policy.confusion(starts=(0, 2))
    assert counts.tolist() == [[[2, 0], [0, 2]], [[1, 1], [0, 2]]]  # the stranger's group is not known


def test_random_groups_are_drawn_once_an_episode_and_follow_the_seed(data, model):
    masks = masks_of(model, 4)
    policy = AgnosticPolicy(model, data.table, masks, selection="random", seed=1)
    names = ["task-0"] * 30
    play(policy, names, steps=3)
    tracks = [policy.group_track(s) for s in range(30)]
    assert all(len(set(track)) == 1 for track in tracks)
    assert {track[0] for track in tracks} == {0, 1, 2, 3}
    again = AgnosticPolicy(model, data.table, masks, selection="random", seed=1)
    play(again, names[:10], steps=3)
    assert [again.group_track(s) for s in range(10)] == tracks[:10]


def test_episodes_do_not_depend_on_those_that_run_beside_them(data, model):
    policy = AgnosticPolicy(model, data.table, masks_of(model, 4), gate=gate_of(4))
    full = play(policy, ["x"] * 5)
    ragged = play(policy, ["x"] * 5, lengths=[3, STEPS, 7, 1, STEPS])
    for episode, length in enumerate([3, STEPS, 7, 1, STEPS]):
        assert np.allclose(ragged[episode, :length], full[episode, :length], atol=1e-4)
    long = play(policy, ["x"], steps=70)  # the record grows
    assert len(policy.group_track(0)) == 70
    assert np.isfinite(long).all()


@pytest.mark.parametrize("selection", ["gate", "soft", "dense"])
def test_a_loaded_policy_acts_without_a_task_name_as_the_saved_one(data, model, selection, tmp_path):
    masks = None if selection == "dense" else masks_of(model, 2)
    gate = None if selection == "dense" else gate_of(2)
    groups = None if selection == "dense" else [0, 1, 0, 1]
    saved = AgnosticPolicy(model, data.table, masks, assignment=groups, gate=gate, selection=selection)
    save_agnostic(tmp_path, model, data.table, masks, assignment=groups, gate=gate, selection=selection)
    expected = play(saved, ["task-0"])[0]

    policy = load_policy(tmp_path)
    policy.reset()
    draw = np.random.Generator(np.random.Philox(0))
    state, reward = draw.normal(size=(1, 5)).astype(np.float32)[0], 0.0
    for t in range(STEPS):
        action = policy.act(state, reward)
        assert np.allclose(action, expected[t], atol=1e-6)
        state[:2] += action
        state[2:] *= -0.9
        reward = float(state.sum())
    assert all(policy.batched.leaks().values())
    assert "true_group" not in policy.batched.episode_info(0)
    assert len(policy.batched.group_track(0)) == STEPS


def test_what_cannot_act_without_a_name_is_not_saved_so(model, tasks, tmp_path):
    table = PolicyData(tasks(4), 6).table
    with pytest.raises(ManyoneError, match="pooled state statistics"):
        save_agnostic(tmp_path / "x", model, table, masks_of(model, 2), assignment=[0, 1, 0, 1], gate=gate_of(2))
    assert not (tmp_path / "x").exists()
