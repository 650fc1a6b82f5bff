"""What every team environment of the project promises: shapes, independence of slots, exact saving, plain errors."""

import numpy as np
import pytest
import torch

from manyone.envs.teams import make
from manyone.envs.teams.make import make_team, team_names
from manyone.envs.teams.types import Observation, TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

torch.set_num_threads(1)
OWN = [name for name in team_names() if ":" not in name]
TASKS = [*OWN, "predator-prey:size=4,predators=2,limit=7,vision=2", "predator-capture-prey:captors=2,size=4,limit=9"]


def actions_for(env, step, batch=None):
    """The same actions for the same slot and step, whatever the batch."""
    made = torch.randint(0, env.spec.actions, (8, env.spec.agents), generator=generator_for("act", step))
    return made[: batch or env.batch]


def flat(step):
    observation, final = step.observation, step.final
    parts = [*observation, step.rewards, step.terminated, step.truncated, step.success, *step.measures.values()]
    ended = step.done
    parts += [] if final is None else [None if part is None else part[ended] for part in final]
    return [part for part in parts if part is not None]


def same(first, second):
    one, two = flat(first), flat(second)
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two))


def check_observation(observation, env):
    batch, agents, spec = env.batch, env.spec.agents, env.spec
    assert isinstance(observation, Observation)
    assert observation.observations.shape == (batch, agents, spec.observation_dim)
    assert observation.observations.dtype == torch.float32
    assert (observation.alive.shape, observation.alive.dtype) == ((batch, agents), torch.bool)
    if observation.available is not None:
        assert observation.available.shape == (batch, agents, spec.actions)
        assert observation.available.dtype == torch.bool
        assert bool(observation.available.any(dim=2).all())
    assert not observation.observations[~observation.alive].any()
    assert observation.state is None
    assert spec.state_dim == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_field_has_the_shape_and_type_of_the_protocol(task):
    env = make_team(task, 5)
    assert isinstance(env, TeamEnv)
    assert env.spec.discrete
    assert env.spec.reports_success
    check_observation(env.reset(3), env)
    seen_final = False
    for t in range(env.spec.horizon + 2):
        step = env.step(actions_for(env, t))
        check_observation(step.observation, env)
        assert (step.rewards.shape, step.rewards.dtype) == ((5, env.spec.agents), torch.float32)
        for part in (step.terminated, step.truncated, step.success, step.done):
            assert (part.shape, part.dtype) == ((5,), torch.bool)
        assert not bool((step.terminated & step.truncated).any())
        assert all(value.shape == (5,) for value in step.measures.values())
        assert (step.final is not None) == bool(step.done.any())
        if step.final is not None:
            seen_final = True
            assert step.final.observations.shape == step.observation.observations.shape
            assert bool(torch.isfinite(step.final.observations).all())
    assert seen_final


@pytest.mark.parametrize("task", TASKS)
def test_slot_b_does_not_depend_on_the_size_of_the_batch(task):
    large, small = make_team(task, 8), make_team(task, 3)
    first, second = large.reset(5), small.reset(5)
    assert torch.equal(first.observations[:3], second.observations)
    for t in range(2 * min(large.spec.horizon, 25) + 3):
        one, two = large.step(actions_for(large, t)), small.step(actions_for(small, t))
        cut = one._replace(
            observation=one.observation.select(slice(3)),
            final=one.final.select(slice(3)) if two.final is not None else None,
            measures={name: value[:3] for name, value in one.measures.items()},
            **{name: getattr(one, name)[:3] for name in ("rewards", "terminated", "truncated", "success")},
        )
        assert same(cut, two)


@pytest.mark.parametrize("task", TASKS)
def test_a_state_saved_within_episodes_is_exact_and_independent_of_what_follows(task):
    env = make_team(task, 4)
    env.reset(9)
    for t in range(min(env.spec.horizon, 25) + 6):
        last = env.step(actions_for(env, t))
    saved = env.state_dict()
    steps = [env.step(actions_for(env, 100 + t)) for t in range(40)]
    for other in (env, make_team(task, 4)):
        observation = other.load_state_dict(saved)
        assert torch.equal(observation.observations, last.observation.observations)
        assert torch.equal(observation.alive, last.observation.alive)
        assert all(same(other.step(actions_for(env, 100 + t)), step) for t, step in enumerate(steps))


@pytest.mark.parametrize("task", OWN)
def test_what_was_returned_is_not_changed_by_later_steps(task):
    env = make_team(task, 4)
    env.reset(2)
    steps = [env.step(actions_for(env, t)) for t in range(45)]
    again = make_team(task, 4)
    again.reset(2)
    assert all(same(again.step(actions_for(env, t)), step) for t, step in enumerate(steps))


@pytest.mark.parametrize("task", OWN)
def test_seeds_episodes_and_slots_differ_and_no_global_stream_is_used(task):
    streams = torch.get_rng_state(), np.random.get_state()[1].copy()
    env = make_team(task, 6)
    history = []
    for seed in (0, 1, 0):
        env.reset(seed)
        history.append(torch.stack([env.step(actions_for(env, t) * 0).observation.observations for t in range(45)]))
    assert torch.equal(history[0], history[2])
    assert not torch.equal(history[0], history[1])
    assert len({history[0][:, slot].numpy().tobytes() for slot in range(6)}) == 6
    assert torch.equal(streams[0], torch.get_rng_state())
    assert np.array_equal(streams[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("name", "options", "canonical"),
    [
        ("predator-prey", {}, "predator-prey"),
        ("predator-prey:size=5,vision=1", {}, "predator-prey"),
        ("predator-prey:vision=0", {"predators": 5}, "predator-prey:predators=5,vision=0"),
        ("relay-gate:need=0.25", {"agents": 4}, "relay-gate:agents=4,need=0.25"),
        ("predator-prey: size = 6 , reward = cooperative", {}, "predator-prey:reward=cooperative,size=6"),
        ("traffic-junction-hard", {"arrival": 0.02}, "traffic-junction-hard:arrival=0.02"),
    ],
)
def test_the_name_in_the_spec_makes_the_same_task_again(name, options, canonical):
    env = make_team(name, 2, **options)
    assert env.spec.name == canonical
    again = make_team(env.spec.name, 2)
    assert again.spec == env.spec
    assert torch.equal(again.reset(4).observations, env.reset(4).observations)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("predator", {}, "unknown team task 'predator'; allowed: relay, "),
        ("predator-prey:sise=4", {}, "unknown setting 'sise'; allowed: blind, limit, predators, reward, size, vision"),
        ("predator-prey:captors=1", {}, "unknown setting 'captors'"),
        ("predator-prey:size", {}, "'size' is not a setting: write NAME:key=value"),
        ("predator-prey:size=4,size=5", {}, "size is set twice"),
        ("predator-prey:size=4", {"size": 5}, "size is set in the name and as an option"),
        ("predator-prey:size=many", {}, "size=many: must be a whole number from 2 to 100"),
        ("predator-prey:size=2", {"predators": 4}, "4 agents and a prey need more than the 4 cells"),
        ("predator-prey", {"blind": 4}, "blind=4: must be a whole number from 0 to 3"),
        ("predator-prey", {"reward": "shared"}, "must be one of mixed, cooperative, competitive"),
        ("relay", {"need": 1.5}, "need=1.5: must be a probability"),
        ("relay", {"agents": 1}, "agents=1: must be a whole number from 2"),
        ("traffic-junction-easy:level=hard", {}, "unknown setting 'level'"),
    ],
)
def test_wrong_names_and_settings_are_named(name, options, message):
    with pytest.raises(ManyoneError, match=".*".join(message.split("; "))) as caught:
        make_team(name, 2, **options)
    assert "\n" not in str(caught.value)


def test_wrong_calls_are_named():
    env = make_team("predator-prey", 2)
    good = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ManyoneError, match="call reset"):
        env.step(good)
    env.reset(0)
    for actions, message in [
        (good[:1], r"torch.int64 \[1, 3\]: needs torch.int64 \[2, 3\]"),
        (good.float(), "torch.float32"),
        (good - 1, "is -1 or -1: needs 0 to 4"),
        (good + 5, "is 5 or 5: needs 0 to 4"),
    ]:
        with pytest.raises(ManyoneError, match=message):
            env.step(actions)
    with pytest.raises(ManyoneError, match="batch=0"):
        make_team("relay", 0)
    with pytest.raises(ManyoneError, match="the saved state is of predator-prey with batch 2"):
        make_team("predator-prey", 3).load_state_dict(env.state_dict())
    with pytest.raises(ManyoneError, match="the environment is predator-prey:size=6"):
        make_team("predator-prey:size=6", 2).load_state_dict(env.state_dict())


def test_prefixed_names_and_factories_go_to_the_adapters(monkeypatch):
    calls = []
    monkeypatch.setattr(make, "make_adapter", lambda *args, **options: calls.append((args, options)))

    def factory():
        return None

    make_team("mpe:simple_spread_v3", 4, workers=0, N=5)
    make_team(factory, 2)
    assert calls == [
        (("mpe:simple_spread_v3", 4), {"device": "cpu", "workers": 0, "N": 5}),
        ((factory, 2), {"device": "cpu", "workers": None}),
    ]


@pytest.mark.parametrize("task", TASKS)
def test_frames_are_readable_pictures_of_one_size_that_follow_the_slot(task):
    env = make_team(task, 3)
    env.reset(1)
    for t in range(12):
        env.step(actions_for(env, t))
    frames = [env.frame(slot) for slot in range(3)]
    assert all(frame.dtype == np.uint8 and frame.shape == frames[0].shape for frame in frames)
    assert frames[0].shape[2] == 3
    assert 200 <= max(frames[0].shape) <= 400
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 4
    assert not np.array_equal(frames[0], frames[1])
    assert np.array_equal(env.frame(0), frames[0])
