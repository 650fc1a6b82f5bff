import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.artefacts import replace_tensors

from manyone.behavior.artefact import Distilled, Frame, is_distilled, load_distilled, save_distilled
from manyone.behavior.inner import InnerLoop
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.students.policies import save_policies
from manyone.behavior.students.training import train
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
    replace_tensors(folder, tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"0.states": torch.zeros(6, 4)}), "pairs of"),
        (lambda t: t.update({"0.mean": torch.zeros(4)}), "statistics or bounds"),
        (lambda t: t.update({"0.deviation": torch.zeros(5)}), "statistics or bounds"),
        (lambda t: t.pop("0.low"), "statistics or bounds"),
        (lambda t: t.pop("0.actions"), "damaged"),
        (lambda t: t.update({"0.deviation": -torch.ones(5)}), "statistics or bounds"),
        (lambda t: t.update({"0.high": -torch.ones(2)}), "statistics or bounds"),  # as low
        *(
            (lambda t, k=k: t[k].fill_(float("nan")), f"0.{k[2:]} has numbers that are not finite")
            for k in ("0.actions", "0.states", "0.mean", "0.low")
        ),
        *(
            (lambda t, d=d: t.update({"0.states": torch.ones(6, 5).to(d)}), "0.states is")
            for d in (torch.int64, torch.bool, torch.complex64)
        ),
    ],
)
def test_damaged_files_are_named(data, tmp_path, change, words):
    save_distilled(tmp_path / "set", distilled(data))
    _tensors(tmp_path / "set", change)
    with pytest.raises(ManyoneError, match=words) as problem:
        load_distilled(tmp_path / "set")
    assert str(tmp_path) in str(problem.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_precisions_are_read_as_ours(data, tmp_path, kind):
    save_distilled(tmp_path / "set", distilled(data))
    _tensors(tmp_path / "set", lambda t: t.update({k: v.to(kind) for k, v in t.items()}))
    found = load_distilled(tmp_path / "set")
    assert found.states.dtype == found.frame.mean.dtype == torch.float32
    assert train(found, 2).actions(np.zeros((3, 5), np.float32)).shape == (2, 3, 2)


@pytest.mark.parametrize(
    "path",
    [
        ("name",), ("pairs",), ("frame", "choices"), ("frame", "horizon"), ("frame", "name"), ("frame", "environment"),
        ("frame", "reference"), ("spec", "width"), ("spec", "layers"), ("spec", "kind"), ("spec", "gaussian"),
        ("spec", "output"), ("inner", "steps"), ("inner", "lr"), ("inner", "momentum"), ("inner", "mode"),
    ],
)  # fmt: skip
def test_no_configuration_hangs_takes_the_memory_or_says_more_than_a_line(data, tmp_path, path):
    save_distilled(tmp_path / "set", distilled(data))
    file = tmp_path / "set/config.json"
    config = json.loads(file.read_text())
    at = config["sets"][0]
    for key in path[:-1]:
        at = at[key]
    for value in ("a\nb" * 200, "5\n", 10**9, 10**400, -1, 1e30, float("nan"), float("inf"), [1, 2, 3], {"a": []}):
        if path == ("inner", "lr") and value in (10**9, 1e30):  # finite: training says that it diverges
            continue
        at[path[-1]] = value
        file.write_text(json.dumps(config))
        with pytest.raises(ManyoneError) as problem:
            load_distilled(tmp_path / "set")
        told = str(problem.value).replace(str(tmp_path), "")
        assert "\n" not in told
        assert len(told) < 200


def test_other_artefacts_are_called_what_they_are(data, tmp_path):
    save_policies(tmp_path / "policy", train(distilled(data), 2))
    with pytest.raises(ManyoneError, match="a 'policies', not a distilled set: give the model folder of an obd run"):
        load_distilled(tmp_path / "policy")


def test_scores_are_counted_from_random_to_expert(data):
    frame = Frame.of(data)
    assert frame.normalised(5.0) is None
    known = Frame.of(type(data)(**{**data.__dict__, "reference": (-20.0, 80.0)}))
    assert known.normalised(-20.0) == 0
    assert known.normalised(80.0) == 1
