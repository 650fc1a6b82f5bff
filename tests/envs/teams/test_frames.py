"""The frame stack against a plain deque for every slot: over ends of episodes, through saved states, in any batch."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.envs.teams.odd_parallel import Nim
from tests.envs.teams.own_parallel import Countdown, Forgetful

from manyone.envs.teams.frames import FrameMemory, FrameStack, frames_of, stack_frames
from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation, TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

torch.set_num_threads(1)
PREY = "predator-prey:size=3,predators=2,limit=6"  # short enough that many episodes end, either way
CARS = "traffic-junction-easy:limit=9"  # cars leave and others appear under their numbers


def actions_for(env, t):
    return torch.randint(0, env.spec.actions, (16, env.spec.agents), generator=generator_for("act", t))[: env.batch]


class Deques:
    """For every slot and agent the observations of its running episode, newest first."""

    def __init__(self, batch, agents, frames):
        self.frames = frames
        self.held = [[deque(maxlen=frames) for _ in range(agents)] for _ in range(batch)]

    def see(self, slot, seen, alive):
        for i, held in enumerate(self.held[slot]):
            if alive[slot, i]:
                held.appendleft(seen[slot, i].numpy())
            else:
                held.clear()

    def stack(self, slot):
        return [list(held) for held in self.held[slot]]

    def clear(self, slot):
        for held in self.held[slot]:
            held.clear()

    def padded(self, slot, width):
        rows = np.zeros((len(self.held[slot]), self.frames, width), np.float32)
        for i, held in enumerate(self.held[slot]):
            for k, seen in enumerate(held):
                rows[i, k] = seen
        return rows.reshape(len(rows), -1)


@pytest.mark.parametrize(("task", "frames"), [(PREY, 2), (PREY, 4), (PREY, 9), (CARS, 3)])
def test_every_slot_shows_what_a_deque_of_its_running_episode_holds(task, frames):
    batch = 5
    plain, stacked = make_team(task, batch), make_team(task, batch, frames=frames)
    width, agents = plain.spec.observation_dim, plain.spec.agents
    assert isinstance(stacked, TeamEnv)
    assert stacked.spec.observation_dim == frames * width
    assert (stacked.spec.details["frames"], frames_of(stacked.spec), frames_of(plain.spec)) == (frames, frames, 1)
    assert stacked.spec.name == plain.spec.name

    reference, seen, shown = Deques(batch, agents, frames), plain.reset(4), stacked.reset(4)
    for b in range(batch):
        reference.see(b, seen.observations, seen.alive)
    cut = solved = 0
    for t in range(60):
        for b in range(batch):
            assert np.array_equal(shown.observations[b].numpy(), reference.padded(b, width)), (t, b)
        step, also = plain.step(actions_for(plain, t)), stacked.step(actions_for(plain, t))
        for name in ("rewards", "terminated", "truncated", "success"):
            assert torch.equal(getattr(step, name), getattr(also, name))
        assert (step.final is None) == (also.final is None)
        for b in step.done.nonzero()[:, 0].tolist():
            reference.see(b, step.final.observations, step.final.alive)
            assert np.array_equal(also.final.observations[b].numpy(), reference.padded(b, width)), (t, b)
            assert torch.equal(also.final.alive[b], step.final.alive[b])
            reference.clear(b)
        cut, solved = cut + int(step.truncated.sum()), solved + int(step.terminated.sum())
        seen, shown = step.observation, also.observation
        for b in range(batch):
            reference.see(b, seen.observations, seen.alive)
        assert torch.equal(shown.alive, seen.alive)
        assert not shown.observations[~shown.alive].any()
    assert cut > 10
    assert solved > 3 or task is CARS


def test_what_was_returned_stays_as_it_was_and_may_be_written_to():
    kept, spoilt = make_team(PREY, 3, frames=3), make_team(PREY, 3, frames=3)
    first = kept.reset(1).observations
    copy = first.clone()
    spoilt.reset(1).observations.fill_(7.0)
    for t in range(8):
        step, other = kept.step(actions_for(kept, t)), spoilt.step(actions_for(kept, t))
        assert torch.equal(step.observation.observations, other.observation.observations)
        other.observation.observations.fill_(7.0)
    assert torch.equal(first, copy)


@pytest.mark.parametrize(("task", "options"), [(PREY, {}), (Countdown, {"workers": 0})])
def test_a_state_saved_in_mid_episode_goes_on_exactly(task, options):
    env = make_team(task, 4, frames=3, **options)
    env.reset(2)
    for t in range(3):
        env.step(allowed(env, t))
    state = env.state_dict()
    shown = env.step(allowed(env, 3)).observation.observations
    further = [env.step(allowed(env, t)) for t in range(4, 14)]

    again = make_team(task, 4, frames=3, **options)
    loaded = again.load_state_dict(state)
    assert loaded.observations.shape[-1] == again.spec.observation_dim
    assert torch.equal(again.state_dict()["frames"], state["frames"])
    assert torch.equal(again.step(allowed(again, 3)).observation.observations, shown)
    for t, step in zip(range(4, 14), further, strict=True):
        found = again.step(allowed(again, t))
        assert torch.equal(found.observation.observations, step.observation.observations)
        assert (found.final is None) == (step.final is None)
        if found.final is not None:
            assert torch.equal(found.final.observations[found.done], step.final.observations[step.done])
    env.close()
    again.close()


def allowed(env, t):
    """Random actions, or the one that Countdown's mask always allows."""
    return actions_for(env, t) if env.spec.reports_success else torch.zeros(env.batch, env.spec.agents).long()


def test_the_loaded_observation_is_the_one_at_the_moment_of_saving():
    env = make_team(PREY, 4, frames=4)
    env.reset(0)
    shown = [env.step(actions_for(env, t)).observation.observations for t in range(5)][-1]
    assert torch.equal(make_team(PREY, 4, frames=4).load_state_dict(env.state_dict()).observations, shown)


def test_agents_that_leave_see_zeros_and_the_others_keep_their_frames():
    env = make_team(Countdown, 2, workers=0, frames=2)
    env.reset(0)
    for t in (1, 2, 3):
        step = env.step(torch.zeros(2, 3).long())
        frames = step.observation.observations.reshape(2, 3, 2, 4)
        assert not frames[~step.observation.alive].any()
        assert frames[:, 2, 0, 1].tolist() == [t, t]  # column 1 is the number of the step
        assert frames[:, 2, 1, 1].tolist() == [t - 1, t - 1]
    step = env.step(torch.zeros(2, 3).long())
    assert bool(step.done.all())
    last = step.final.observations.reshape(2, 3, 2, 4)
    assert last[:, 2, :, 1].tolist() == [[4, 3], [4, 3]]
    assert not step.observation.observations.reshape(2, 3, 2, 4)[:, :, 1].any()
    env.close()


def test_a_player_that_waits_remembers():
    env = make_team(Nim, 2, workers=0, frames=3)
    seen = env.reset(0)
    for takes in (1, 2, 1):
        seen = env.step(torch.where(seen.alive, takes - 1, 0)).observation
    assert seen.observations.view(2, 2, 3, 8).argmax(-1).tolist() == [[[3, 4, 6]] * 2] * 2
    assert seen.alive.tolist() == [[False, True]] * 2


def test_an_environment_that_cannot_be_repeated_begins_anew_with_nothing_remembered():
    plain = make_team(Forgetful, 2, workers=0)
    plain.spec = replace(plain.spec, details={"replayable": False})
    env = FrameStack(plain, 3)
    env.reset(0)
    plain.layout = replace(plain.layout, replayable=False)
    for _ in range(2):
        env.step(torch.ones(2, 2).long())
    shown = env.load_state_dict(env.state_dict()).observations.reshape(2, 2, 3, 2)
    assert shown[:, :, 0].any()
    assert not shown[:, :, 1:].any()
    env.close()


def test_slots_do_not_depend_on_the_size_of_the_batch():
    large, small = make_team(PREY, 9, frames=3), make_team(PREY, 2, frames=3)
    assert torch.equal(large.reset(5).observations[:2], small.reset(5).observations)
    for t in range(20):
        one, two = large.step(actions_for(large, t)), small.step(actions_for(small, t))
        assert torch.equal(one.observation.observations[:2], two.observation.observations)
        for b in two.done.nonzero()[:, 0].tolist():
            assert torch.equal(one.final.observations[b], two.final.observations[b])


def test_one_frame_is_the_environment_itself_and_the_newest_stand_first():
    env = make_team(PREY, 2)
    assert stack_frames(env, 1) is env
    assert "frames" not in make_team(PREY, 2, frames=1).spec.details
    plain, stacked = make_team("relay-gate", 6), make_team("relay-gate", 6, frames=3)
    assert torch.equal(plain.reset(1).observations, stacked.reset(1).observations[..., : plain.spec.observation_dim])


def test_pictures_and_closing_are_the_environments_own():
    plain, stacked = make_team(PREY, 2), make_team(PREY, 2, frames=2)
    plain.reset(3)
    stacked.reset(3)
    assert np.array_equal(stacked.frame(1), plain.frame(1))
    closed = []
    stacked.env.close = lambda: closed.append(True)
    stacked.close()
    assert closed == [True]


def test_what_was_stacked_in_inference_mode_can_be_gone_on_with_outside():
    with torch.inference_mode():
        memory = FrameMemory(2, 1, 1, 1)
        memory.see(torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert memory.see(torch.full((1, 1, 1), 2.0), torch.ones(1, 1, dtype=torch.bool)).tolist() == [[[2.0, 1.0]]]
    memory.forget(torch.tensor([True]))
    last = Observation(torch.full((1, 1, 1), 3.0), torch.ones(1, 1, dtype=torch.bool))
    assert memory.with_last(torch.tensor([0]), last).tolist() == [[[3.0, 0.0]]]


@pytest.mark.parametrize("frames", [0, -2, 1.5, "4", True, 2000])
def test_a_wrong_number_of_frames_gives_one_line(frames):
    with pytest.raises(ManyoneError, match=r"predator-prey.*frames=.*whole number from 1 to 1000") as found:
        make_team(PREY, 2, frames=frames)
    assert "\n" not in str(found.value)


def test_what_does_not_fit_gives_one_line():
    env = make_team(PREY, 2, frames=2)
    env.reset(0)
    with pytest.raises(ManyoneError, match="already shows 2 frames"):
        FrameStack(env, 2)
    for other in (make_team(PREY, 2, frames=3), make_team(PREY, 3, frames=2)):
        other.reset(0)
        with pytest.raises(ManyoneError, match=r"the saved state is of 2 frames, \[2, 2, .*this environment has"):
            other.load_state_dict(env.state_dict())
    with pytest.raises(ManyoneError, match="the saved state is without frames"):
        env.load_state_dict(env.env.state_dict())
