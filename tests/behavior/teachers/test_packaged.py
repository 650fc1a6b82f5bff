"""The teachers that come with the package, and the experts behind its data."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.teachers.acting import TeacherPolicy
from manyone.behavior.teachers.iql import IQLTeacher
from manyone.behavior.teachers.packaged import expert_teacher, packaged_teacher, packaged_teachers, unpack
from manyone.envs.single.make import BODIES, bounds, spaces
from manyone.errors import ManyoneError


def body_data(tiny, body, n=20):
    """Random rows of the widths of ``body``."""
    states, actions, horizon = spaces(BODIES[body])
    low, high = (torch.from_numpy(value) for value in bounds(BODIES[body]))
    data = tiny["random"](n, states=states, actions=actions)
    return dataclasses.replace(data, environment=BODIES[body], low=low, high=high, horizon=horizon)


@pytest.mark.parametrize("name", sorted(packaged_teachers()))
def test_a_packaged_teacher_is_small_and_fits_its_data(tiny, name):
    path = packaged_teachers()[name]
    assert path.stat().st_size <= 150_000
    _, body, _ = name.split("-", 2)
    data = body_data(tiny, body)
    teacher = packaged_teacher(f"{name}@5000", data)
    actions = teacher.actions(data.states)
    assert actions.shape == data.actions.shape
    assert bool(teacher.values(data.states, actions).isfinite().all())
    info = unpack(path).info
    assert info["data"] == name
    assert {"return", "normalised", "value_correlation", "command", "digest"} <= info.keys()


def test_data_without_a_teacher_of_their_own_have_none(tiny):
    data = tiny["random"]()
    assert packaged_teacher("mujoco-hopper-random", data) is None
    assert packaged_teacher("own data", data) is None


def test_an_expert_acts_and_has_values(tiny):
    data = body_data(tiny, "hopper")
    teacher = expert_teacher(data)
    actions = teacher.actions(data.states)
    assert bool((actions.abs() <= 1).all())
    assert teacher.values(data.states, actions).shape == (len(data),)
    with pytest.raises(ManyoneError, match="teacher expert: tiny has none"):
        expert_teacher(tiny["random"]())


def test_a_teacher_plays_in_its_environment(tiny):
    data = body_data(tiny, "hopper")
    learner = IQLTeacher(data, width=8, steps=2)
    learner.step()
    frame = dataclasses.replace(Frame.of(data), horizon=5)
    with Evaluator(frame, episodes=2, students=1, workers=0) as evaluator:
        scores = evaluator.play(TeacherPolicy(learner.teacher(), frame))
        again = evaluator.play(learner.saved().policy())
    assert scores.returns.shape == (1, 2)
    assert (scores.returns == again.returns).all()
