import errno
import json
import logging
import math
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyone.engine import checkpoint
from manyone.errors import ManyoneError


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def test_nested_state_comes_back_with_types_and_bits(tmp_path):
    weight = torch.randn(4, 3)
    state = {
        "tensors": [weight, weight.T, weight[1:], weight, torch.tensor(3), torch.zeros(0, 2)],
        "types": {"bf16": weight.bfloat16(), "bool": weight > 0, "int": torch.tensor([1, -2]), "u8": weight.byte()},
        "adam": {0: {"step": torch.tensor(1.0)}, 1: {"step": None}, "$odd": 1, (1, 2): "tuple key"},
        "values": (1, 2.5, -0.0, 1e-300, float("nan"), float("inf"), "text", None, True, 2**70, [], {}, ()),
        "arrays": [np.arange(3, dtype=np.uint32), np.array(1.5)],
        "a/b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
    }
    checkpoint.save(tmp_path, 7, state)
    step, loaded = checkpoint.load_newest(tmp_path)
    assert step == 7
    assert same(state, loaded)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_any_values_survive_the_json_form(value):
    encoded = json.loads(json.dumps(checkpoint._encode(value, "", {}), allow_nan=False))
    assert same(value, checkpoint._decode(encoded, {}))


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match="model/hook of type function"):
        checkpoint.save(tmp_path, 1, {"model": {"hook": same}})
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path / "none") is None


def test_keeps_the_newest_and_clears_leftovers(tmp_path):
    for step in (5, 10, 100000000, 15):
        checkpoint.save(tmp_path, step, {"step": step})
    (tmp_path / ".step-00000020.1.tmp").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000015", "step-100000000"]
    assert checkpoint.load_newest(tmp_path)[0] == 100000000


def test_the_same_step_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 5, {"x": 1})
    checkpoint.save(tmp_path, 5, {"x": 2})
    assert checkpoint.load_newest(tmp_path) == (5, {"x": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "tensor bit": lambda folder: flip_a_bit(folder / "state.safetensors"),
    "value bit": lambda folder: flip_a_bit(folder / "state.json"),
    "truncated": lambda folder: os.truncate(folder / "state.safetensors", 10),
    "empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "missing": lambda folder: (folder / "state.json").unlink(),
    "other step": lambda folder: (folder / "manifest.json").write_text('{"step": 1, "files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_reported_and_the_one_before_used(tmp_path, caplog, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": torch.full((50,), float(step)), "text": "x" * 100})
    DAMAGE[damage](tmp_path / "step-00000002")
    with caplog.at_level(logging.WARNING, "manyone"):
        step, state = checkpoint.load_newest(tmp_path)
    assert step == 1
    assert torch.equal(state["w"], torch.ones(50))
    assert "step-00000002 is damaged" in caplog.text
    assert "using the one of step 1" in caplog.text


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    checkpoint.save(tmp_path, 1, {"w": torch.ones(5)})
    flip_a_bit(tmp_path / "step-00000001" / "state.safetensors")
    with pytest.raises(ManyoneError, match=r"no checkpoint is intact.*SHA-256 of state.safetensors differs"):
        checkpoint.load_newest(tmp_path)


def test_set_aside_frees_the_names_of_later_steps(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"x": step})
    checkpoint.set_aside(tmp_path, after=1)
    assert checkpoint.load_newest(tmp_path)[0] == 1
    assert (tmp_path / "damaged-step-00000002").is_dir()


@pytest.mark.parametrize("where", ["tensors", "values", "fsync"])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(tmp_path, monkeypatch, where):
    checkpoint.save(tmp_path, 1, {"w": torch.ones(5)})
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_, **__):
        raise full

    if where == "tensors":  # the form in which safetensors reports it
        from safetensors import SafetensorError

        full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        monkeypatch.setattr("manyone.engine.checkpoint.save_tensors", refuse)
    elif where == "values":
        monkeypatch.setattr("pathlib.Path.write_text", refuse)
    else:
        monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(ManyoneError, match=r"the disk is full.*step 1 is intact") as caught:
        checkpoint.save(tmp_path, 2, {"w": torch.zeros(5)})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert torch.equal(checkpoint.load_newest(tmp_path)[1]["w"], torch.ones(5))


def test_a_crash_before_the_rename_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"x": 1})

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.rename", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {"x": 2})
    monkeypatch.undo()
    assert checkpoint.load_newest(tmp_path) == (1, {"x": 1})


def test_random_generators_go_back_to_where_they_were(tmp_path):
    def draws():
        return [random.random(), np.random.rand(), torch.rand(3).tolist()]

    random.gauss(0, 1)  # leaves half a pair behind, which is state too
    checkpoint.save(tmp_path, 1, checkpoint.random_state())
    expected = [*draws(), random.gauss(0, 1)]
    checkpoint.restore_random_state(checkpoint.load_newest(tmp_path)[1])
    assert [*draws(), random.gauss(0, 1)] == expected


def test_not_finite_names_the_tensors():
    state = {"a": torch.tensor([1.0, float("inf")]), "b": [torch.ones(2)], "c": torch.tensor([1]), "d": float("nan")}
    assert checkpoint.not_finite(state) == {"a"}
    assert checkpoint.not_finite({"e": torch.ones(2).to(torch.float8_e4m3fn), "f": torch.empty(0)}) == set()
