import json

import numpy as np
import pytest
import torch
from manyone.behavior.inner import InnerLoop
from manyone.behavior.students.network import StudentSpec
from safetensors.torch import load_file, save_file

from manyone.behavior.artefact import Distilled, Frame, is_distilled, load_distilled, save_distilled
from manyone.errors import ManyoneError


def distilled(data, size=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    states = torch.randn(size, data.state_dim, generator=rng)
    actions = 2 * torch.randn(size, data.action_dim, generator=rng)
    spec = StudentSpec(layers=3, width=8, output="softmax" if data.choices else "tanh")
    info = {"objective": "av-pbc", "seed": seed, "teacher": "iql"}
    return Distilled.of(data, states, actions, spec=spec, inner=InnerLoop(steps=3, lr=0.25), info=info)


@pytest.mark.parametrize("set_", ["data", "discrete"])
def test_what_is_saved_is_read_again(set_, request, tmp_path):
    one = distilled(request.getfixturevalue(set_))
    save_distilled(tmp_path / "set", one)
    found = load_distilled(tmp_path / "set")
    assert torch.equal(found.states, one.states)
    assert torch.equal(found.actions, one.actions)
    assert (found.spec, found.inner, found.info) == (one.spec, one.inner, one.info)
    assert found.frame.config() == one.frame.config()
    for name, value in one.frame.tensors().items():
        assert torch.equal(found.frame.tensors()[name], value)
    assert is_distilled(tmp_path / "set")
    assert not is_distilled(tmp_path)


def test_it_says_where_it_comes_from(data, tmp_path):
    save_distilled(tmp_path / "set", distilled(data))
    info = json.loads((tmp_path / "set/config.json").read_text())["sets"][0]
    assert info["info"]["digest"] == data.digest
    assert {"objective", "seed", "teacher", "data", "transitions"} <= set(info["info"])
    assert {"environment", "name"} <= set(info["frame"])
    assert set(load_file(tmp_path / "set/model.safetensors")) >= {"0.mean", "0.deviation", "0.low", "0.high"}


def test_the_npz_has_the_environment_s_own_units(data, tmp_path):
    one = distilled(data)
    save_distilled(tmp_path / "set", one)
    with np.load(tmp_path / "set/distilled.npz", allow_pickle=False) as arrays:
        raw = one.states * data.deviation + data.mean
        np.testing.assert_allclose(arrays["observations"], raw, rtol=1e-6)
        assert (arrays["actions"] >= data.low.numpy()).all()
        assert (arrays["actions"] <= data.high.numpy()).all()
    assert one.beyond() > 0


def test_several_sets_are_read_by_name(data, discrete, tmp_path):
    save_distilled(tmp_path / "sets", {"walk": distilled(data), "choose": distilled(discrete)})
    assert load_distilled(tmp_path / "sets", "choose").frame.choices == 3
    with pytest.raises(ManyoneError, match="give name= one of walk, choose"):
        load_distilled(tmp_path / "sets")
    with pytest.raises(ManyoneError, match="no set called 'x'; one of walk, choose"):
        load_distilled(tmp_path / "sets", "x")
    with np.load(tmp_path / "sets/distilled.npz", allow_pickle=False) as arrays:
        assert {"walk/observations", "choose/actions"} <= set(arrays)


def _tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"0.states": torch.zeros(6, 4)}), "pairs of"),
        (lambda t: t.update({"0.mean": torch.zeros(4)}), "statistics or bounds"),
        (lambda t: t.update({"0.deviation": torch.zeros(5)}), "statistics or bounds"),
        (lambda t: t.pop("0.low"), "statistics or bounds"),
        (lambda t: t.pop("0.actions"), "damaged"),
        (lambda t: t.update({"0.actions": torch.full((6, 2), float("nan"))}), "not finite"),
    ],
)
def test_damaged_files_are_named(data, tmp_path, change, words):
    save_distilled(tmp_path / "set", distilled(data))
    _tensors(tmp_path / "set", change)
    with pytest.raises(ManyoneError, match=words) as problem:
        load_distilled(tmp_path / "set")
    assert str(tmp_path) in str(problem.value)


def test_scores_are_counted_from_random_to_expert(data):
    frame = Frame.of(data)
    assert frame.normalised(5.0) is None
    known = Frame.of(type(data)(**{**data.__dict__, "reference": (-20.0, 80.0)}))
    assert known.normalised(-20.0) == 0
    assert known.normalised(80.0) == 1
