"""Tasks of different widths in one policy: maps of each task's own, and padding that nothing depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.policies.conftest import make_tasks

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.each_task import ByTask
from manyone.policies.baselines.mtbc import CloningLearner
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.variants import build_model
from manyone.policies.held_out import action_errors, half_ranges
from manyone.policies.loading import load_policy
from manyone.policies.masks import maskable_shapes
from manyone.policies.tasks import PolicyData
from manyone.policies.unseen import unseen_policy

SHAPE = {"width": 8, "layers": 2, "heads": 2, "max_timestep": 20}
WIDTHS = ((5, 2), (3, 4), (6, 1))


def mixed() -> list[Trajectories]:
    """Three tasks; none is the widest in both states and actions."""
    found = []
    for number, (states, actions) in enumerate(WIDTHS):
        one = make_tasks(3, states=states, actions=actions)[number]
        found.append(one)
    return found


def make(data=None, method="harmodt", **options):
    data = data or PolicyData(mixed(), context=3, prompt=2, dtype=torch.float64)
    model = build_model(method, data, dropout=0.0, seed=1, **SHAPE)
    defaults = {"steps": 12, "lr": 3e-3, "warmup": 2, "batch_size": 3, "mask_every": 3, "eta_min": 3, "eta_max": 9}
    return PolicyLearner(model, data, method=method, seed=1, **(defaults | options))


def cloner(data, **options):
    network = CloningNetwork(data.state_dim, data.action_dim, len(data), widths=data.widths, width=8, layers=1, seed=3)
    return CloningLearner(network.to(data.dtype), data, steps=6, seed=1, batch_size=5, **options)


def soil(data: PolicyData, value: float) -> PolicyData:
    """The same data with ``value`` wherever a narrower task is padded."""
    for task, (states, actions) in enumerate(WIDTHS):
        rows = slice(*data.windows.first_row[task : task + 2].tolist())
        data.windows.flat["observations"][rows, states:] = value
        data.windows.flat["actions"][rows, actions:] = value
        data.table.prompt["observations"][task, :, states:] = value
        data.table.prompt["actions"][task, :, actions:] = value
    return data


def test_each_tasks_statistics_and_bounds_are_its_own_and_padding_is_zero():
    made = mixed()
    data = PolicyData(made, context=3, prompt=2)
    assert (data.state_dim, data.action_dim, data.widths) == (6, 4, WIDTHS)
    for task, (one, (states, actions)) in enumerate(zip(made, WIDTHS)):
        mean, deviation = one.statistics()
        assert torch.equal(data.table.mean[task], torch.cat((torch.from_numpy(mean), torch.zeros(6 - states))))
        assert torch.equal(data.table.deviation[task], torch.cat((torch.from_numpy(deviation), torch.ones(6 - states))))
        steps = data.batch([task], 0, batch_size=9).steps
        assert not steps["observations"][..., states:].any()
        assert not steps["actions"][..., actions:].any()
        alone = PolicyData([one], context=3, prompt=2)
        assert alone.widths == ()
        assert torch.equal(data.table.scale[task], alone.table.scale[0])
    assert PolicyData(make_tasks(3), context=3).table.widths is None


@pytest.mark.parametrize("options", [{}, {"tasks_per_step": 2}, {"fisher_samples": True}, {"mask_scope": "all"}])
@pytest.mark.parametrize("value", [1e3, float("nan")])
def test_what_padding_holds_changes_nothing_of_the_training(options, value):
    clean = make(**options)
    soiled = make(soil(PolicyData(mixed(), context=3, prompt=2, dtype=torch.float64), value), **options)
    for _ in range(9):
        assert clean.step() == soiled.step()
    for (name, mine), theirs in zip(clean.model.named_parameters(), soiled.model.parameters()):
        assert torch.equal(mine, theirs), name
    assert torch.equal(clean.masks[0].bits, soiled.masks[0].bits)


def test_what_padding_holds_changes_nothing_of_cloning():
    clean = cloner(PolicyData(mixed(), context=1, prompt=1))
    soiled = cloner(soil(PolicyData(mixed(), context=1, prompt=1), 1e3))
    assert [clean.step() for _ in range(6)] == [soiled.step() for _ in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(clean.network.parameters(), soiled.network.parameters()))


def test_the_loss_is_the_mean_over_a_tasks_own_actions():
    learner = make(method="mt-dt")
    batch = learner.losses.batch([0, 1, 2], 0)
    acted = learner.model.run(
        dict(learner.model.named_parameters()), batch.steps, task=batch.tasks[:, None].expand(-1, 3)
    )
    found = learner.losses(dict(learner.model.named_parameters()), batch)[0]
    for task, (_, actions) in enumerate(WIDTHS):
        valid = batch.steps["valid"][task]
        error = (acted[task] - batch.steps["actions"][task])[valid][:, :actions]
        torch.testing.assert_close(found[task], error.square().mean())


@pytest.mark.parametrize("prompt", [0, 2])
def test_under_one_task_the_network_is_that_tasks_network(prompt):
    model = DecisionTransformer(6, 4, context=3, prompt=prompt, widths=WIDTHS, dropout=0, seed=2, **SHAPE).double()
    data = PolicyData(mixed(), context=3, prompt=2, dtype=torch.float64)
    for task, (states, actions) in enumerate(WIDTHS):
        alone = DecisionTransformer(states, actions, context=3, prompt=prompt, dropout=0, seed=5, **SHAPE).double()
        weights = dict(model.state_dict())
        for name, value in alone.state_dict().items():
            own = weights[name][task] if weights[name].ndim > value.ndim else weights[name]
            weights[name] = own[tuple(slice(n) for n in value.shape)]
        alone.load_state_dict(weights)
        batch = data.batch([task], 0, batch_size=4)
        steps, tail = ({k: v[0] for k, v in part.items()} for part in (batch.steps, batch.prompt))

        def narrow(part, states=states, actions=actions):
            own = {"observations": part["observations"][..., :states], "actions": part["actions"][..., :actions]}
            return part | own

        found = model(steps, tail if prompt else None, task)
        wanted = alone(narrow(steps), narrow(tail) if prompt else None)
        torch.testing.assert_close(found[..., :actions], wanted)
        assert not found[..., actions:].any()


def test_masks_reach_the_blocks_alone_and_a_step_moves_no_other_tasks_maps():
    learner = make(weight_decay=0.0)
    assert learner.masks[0].shapes == maskable_shapes(learner.model)
    assert all(name.startswith("blocks.") for name in learner.masks[0].shapes)
    before = {n: p.clone() for n, p in learner.model.named_parameters() if "head" in n or ".state" in n}
    learner.step()  # of task 0
    for name, value in before.items():
        now = dict(learner.model.named_parameters())[name]
        assert torch.equal(now[1:], value[1:]), name
        assert not torch.equal(now[0], value[0]), name


@pytest.mark.parametrize("method", ["harmodt", "mt-dt", "id-token", "pcgrad"])
def test_methods_that_are_told_their_task_train_resume_and_act(method, tmp_path):
    data = PolicyData(mixed(), context=3, prompt=2)
    learner, again = make(data, method), make(data, method)
    for _ in range(4):
        learner.step()
    again.load_state_dict(learner.state_dict())
    assert [learner.step() for _ in range(4)] == [again.step() for _ in range(4)]
    learner.export(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    together = [[], [], []]
    batched = learner.policy()
    batched.start([type("E", (), {"task": name}) for name in data.names])
    seen = [np.random.default_rng(t).normal(size=(5, s)).astype(np.float32) for t, (s, _) in enumerate(WIDTHS)]
    for step in range(5):
        rows = np.stack([np.pad(s[step], (0, 6 - s.shape[1]), constant_values=9.0) for s in seen])
        acted = batched.act(np.arange(3), rows)
        batched.reward(np.arange(3), np.ones(3, np.float32))
        for task, (_, actions) in enumerate(WIDTHS):
            together[task].append(acted[task, :actions])
            assert not acted[task, actions:].any()
    for task, (name, (_, actions)) in enumerate(zip(data.names, WIDTHS)):
        policy.reset(name)
        alone = np.stack([policy.act(row, 1.0) for row in seen[task]])
        assert alone.shape == (5, actions)
        np.testing.assert_allclose(alone, together[task], atol=1e-5)
    errors = action_errors(batched, mixed(), {one.name: half_ranges(one) for one in mixed()})
    assert all(0 < error < 10 for error in errors.values())


def test_a_saved_cloning_policy_takes_and_gives_each_tasks_own_widths(tmp_path):
    learner = cloner(PolicyData(mixed(), context=1))
    learner.export(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    for name, (states, actions) in zip(learner.data.names, WIDTHS):
        policy.reset(name)
        assert policy.act(np.ones(states)).shape == (actions,)
        with pytest.raises(ManyoneError, match=r"observations \[1, 7\]: expected \[1, 6\]"):
            policy.act(np.ones(7))


def test_a_policy_a_task_gets_and_gives_its_own_widths():
    data = [PolicyData([one], context=3) for one in mixed()]
    models = [build_model("mt-dt", one, dropout=0.0, **SHAPE) for one in data]
    policy = ByTask({d.names[0]: SequencePolicy(m, d.table) for d, m in zip(data, models)})
    policy.start([type("E", (), {"task": d.names[0]}) for d in data])
    found = policy.act(np.arange(3), np.ones((3, 6), np.float32))
    assert found.shape == (3, 4)
    assert [int(np.count_nonzero(row)) for row in found] == [2, 4, 1]
    policy.took(np.arange(3), found)
    policy.reward(np.arange(3), np.ones(3))


def test_what_different_widths_cannot_have_is_refused(tmp_path):
    with pytest.raises(ManyoneError, match=r"widths .*task-0 5 and 2, task-1 3 and 4.* told no task"):
        PolicyData(mixed(), context=3, normalisation="pooled")
    learner = make(method="mt-dt")
    with pytest.raises(ManyoneError, match="none for an unseen task"):
        unseen_policy(learner.model, learner.data)
    with pytest.raises(ManyoneError, match="the network is for tasks of widths"):
        PolicyLearner(learner.model, PolicyData(make_tasks(3, states=6, actions=4), context=3), method="mt-dt", steps=2)
    steps = learner.losses.batch([0], 0).steps
    with pytest.raises(ManyoneError, match="tasks of different widths in one batch"):
        learner.model({k: v[0] for k, v in steps.items()}, None, torch.tensor([0, 1, 0]))
    with pytest.raises(ManyoneError, match="a task number must be given"):
        learner.model({k: v[0] for k, v in steps.items()})
