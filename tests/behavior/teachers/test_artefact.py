"""The artefact of a teacher: it comes back, takes up other statistics, and is refused where it does not fit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from tests.artefacts import replace_tensors

from manyone.behavior.artefact import Frame
from manyone.behavior.teachers.artefact import SavedTeacher, load_teacher, read_teacher
from manyone.behavior.teachers.bc import CloningTeacher
from manyone.behavior.teachers.calql import CalQLTeacher
from manyone.behavior.teachers.iql import IQLTeacher
from manyone.behavior.teachers.packaged import pack, unpack
from manyone.errors import ManyoneError


@pytest.fixture
def learner(tiny):
    learner = CalQLTeacher(tiny["random"](), width=8, steps=5, batch_size=8, scale=2.0)
    learner.step()
    return learner


def values(teacher, data):
    actions = teacher.actions(data.states)
    return actions, teacher.values(data.states, actions)


def test_what_is_exported_is_the_teacher_that_was_trained(learner, tmp_path):
    learner.export(tmp_path)
    loaded = load_teacher(tmp_path, learner.data)
    for mine, theirs in zip(values(loaded, learner.data), values(learner.teacher(), learner.data)):
        assert torch.equal(mine, theirs)
    saved = read_teacher(tmp_path)
    assert saved.info == {"data": "tiny", "digest": "0" * 64, "steps": 1, "seed": 0}
    assert (loaded.name, loaded.scale) == ("calql", 2.0)


@pytest.mark.parametrize("kind", [IQLTeacher, CloningTeacher])
def test_discrete_teachers_and_teachers_without_critics_come_back(tiny, tmp_path, kind):
    data = tiny["random"](choices=3)
    learner = kind(data, width=8, steps=5)
    learner.export(tmp_path)
    loaded = load_teacher(tmp_path, data)
    assert torch.equal(loaded.actions(data.states), learner.teacher().actions(data.states))
    assert (loaded.critics is None) == (kind is CloningTeacher)
    act = read_teacher(tmp_path).policy().act(range(4), data.states[:4].numpy())
    assert act.sum(1).tolist() == [1, 1, 1, 1]  # choices as one-hot rows


def test_training_on_does_not_change_what_was_saved(learner):
    saved = learner.saved()
    before = saved.teacher.actions(learner.data.states)
    learner.step()
    assert torch.equal(before, saved.teacher.actions(learner.data.states))


def test_a_packed_teacher_is_a_small_file_and_hardly_another_teacher(learner, tmp_path):
    learner.export(tmp_path / "whole")
    pack(tmp_path / "packed.safetensors", learner.saved())
    whole, packed = (tmp_path / name for name in ("whole/model.safetensors", "packed.safetensors"))
    assert packed.stat().st_size < 0.75 * whole.stat().st_size + 1500  # the configuration is in the file
    saved = unpack(packed)
    assert saved.info == learner.saved().info
    assert saved.teacher.policy.net.weights[0].dtype == torch.float32
    loaded = saved.for_data(learner.data, "packed")
    for mine, theirs in zip(values(loaded, learner.data), values(learner.teacher(), learner.data)):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)


def test_data_that_other_statistics_standardise_are_seen_as_before(learner, tmp_path):
    learner.export(tmp_path)
    data, mean, deviation = learner.data, torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.3, 1.0])
    other = dataclasses.replace(data, states=(data.states - mean) / deviation, mean=mean, deviation=deviation)
    expected = values(learner.teacher(), data)
    for mine, theirs in zip(values(load_teacher(tmp_path, other), other), expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(values(learner.teacher(), other)[1], expected[1], atol=1e-2)  # it does matter


def test_a_saved_teacher_acts_in_the_environment_s_own_numbers(learner):
    low, high = torch.tensor([0.0, -3.0]), torch.tensor([2.0, 3.0])
    frame = dataclasses.replace(Frame.of(learner.data), mean=torch.full((3,), 5.0), low=low, high=high)
    saved = SavedTeacher(learner.teacher().copy(), frame)
    observations = learner.data.states[:6] + 5
    unit = learner.teacher().actions(learner.data.states[:6])
    expected = torch.stack([unit[:, 0] + 1, 3 * unit[:, 1]], 1)
    torch.testing.assert_close(torch.from_numpy(saved.policy().act(range(6), observations.numpy())), expected)


def test_a_teacher_of_other_widths_or_bounds_is_refused(learner, tiny, tmp_path):
    learner.export(tmp_path)
    for other, found in (
        ({"states": 4}, "states of width 4 and 2 actions"),
        ({"actions": 3}, "states of width 3 and 3 actions"),
        ({"choices": 2}, "states of width 3 and 2 choices"),
    ):
        with pytest.raises(ManyoneError, match=f"a teacher for states of width 3 and 2 actions; tiny has {found}"):
            load_teacher(tmp_path, tiny["random"](**other))
    wide = dataclasses.replace(learner.data, high=torch.full((2,), 4.0))
    with pytest.raises(ManyoneError, match=r"actions with high \[1.0, 1.0\], those of tiny have \[4.0, 4.0\]"):
        load_teacher(tmp_path, wide)


def test_other_folders_and_damaged_ones_are_said_to_be_that(learner, tmp_path):
    with pytest.raises(ManyoneError, match="this is not a teacher of manyone"):
        read_teacher(tmp_path)
    learner.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def write(**changed):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))

    write(behavior="policies")
    with pytest.raises(ManyoneError, match="a policies, not a teacher"):
        read_teacher(tmp_path)
    write(policy={**config["policy"], "width": 9})
    with pytest.raises(ManyoneError, match="the two files do not belong together"):
        read_teacher(tmp_path)
    write(critics={"sizes": "many"})
    with pytest.raises(ManyoneError, match="critics: a size of 'm': must be a whole number"):
        read_teacher(tmp_path)


@pytest.mark.parametrize(
    "path", [("policy", "states"), ("policy", "actions"), ("policy", "width"), ("policy", "layers"), ("policy", "head"),
             ("critics", "members"), ("critics", "norm"), ("critics", "sizes"), ("scale",), ("value",)],
)  # fmt: skip
def test_nothing_is_made_that_the_file_has_no_tensors_for(learner, tmp_path, path):
    learner.export(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    at = config
    for key in path[:-1]:
        at = at[key]
    wrong = [0, -1, 10**400, "a\nb", None, float("nan"), [], {}]
    wrong += [] if path == ("scale",) else [10**9, 10**18, 1.5, "8"]
    for value in wrong:
        at[path[-1]] = value
        file.write_text(json.dumps(config))
        with pytest.raises(ManyoneError) as problem:
            read_teacher(tmp_path)
        told = str(problem.value).replace(str(tmp_path), "")
        assert "\n" not in told
        assert len(told) < 200


@pytest.mark.parametrize("name", ["policy.net.weights.0", "critics.biases.1", "mean", "high"])
def test_numbers_that_are_not_finite_or_not_real_are_refused(learner, tmp_path, name):
    for change in (lambda t: t * float("nan"), lambda t: t.to(torch.int32), lambda t: t.to(torch.complex64)):
        learner.export(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        replace_tensors(tmp_path, tensors | {name: change(tensors[name])})
        with pytest.raises(ManyoneError, match=f"{name} (is|has numbers that are not finite)"):
            read_teacher(tmp_path)
