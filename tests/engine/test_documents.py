"""JSON, TOML and YAML from outside: limits, and one line for whatever is none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from manyone.engine.arrays import load_npy
from manyone.engine.documents import loads_json, parse_toml, parse_yaml, read_json, read_text, sound
from manyone.errors import LONGEST, ManyoneError

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
"""A kilobyte that stands for a billion values."""


@pytest.mark.parametrize("data", [b"{", b"[" * 200_000, b"\xff\xfe", b"1" * 10_000, "[" * 200_000])
def test_json_that_is_none_is_a_value_error(data):
    with pytest.raises(ValueError):
        loads_json(data)


def test_a_file_of_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.json"
    cases = ((b'{"a": 1,\n}', "line 2: not JSON"), (b"\xff", "no UTF-8 text"), (b"[" * 99_999, "too deeply"))
    for data, words in cases:
        path.write_bytes(data)
        with pytest.raises(ManyoneError, match=words) as problem:
            read_json(path, "the list")
        assert str(problem.value).startswith(str(path))
        assert "\n" not in str(problem.value)
    path.write_text("[1, 2]")
    assert read_json(path) == [1, 2]
    with pytest.raises(ManyoneError, match="6 bytes are more than the 5"):
        read_json(path, largest=5)
    with pytest.raises(ManyoneError, match="cannot read the list: No such file"):
        read_json(tmp_path / "none.json", "the list")


def test_aliases_are_refused_or_counted_before_they_are_written_out():
    with pytest.raises(ManyoneError, match="uses YAML aliases"):
        parse_yaml("a: &x [1]\nb: *x\n", "f.yaml")
    assert parse_yaml("a: &x [1]\nb: *x\n", "f.yaml", aliases=True) == {"a": [1], "b": [1]}
    with pytest.raises(ManyoneError, match=r"stand for [\d,]+ values"):
        parse_yaml(LAUGHS, "f.yaml", aliases=True)


@pytest.mark.parametrize("text", ["a = [", "a = " + "[" * 50_000, "a = 1\na = 2"])
def test_toml_that_is_none_is_one_line(text):
    with pytest.raises(ManyoneError, match=r"f\.toml: not TOML"):
        parse_toml(text, "f.toml")


def test_values_of_another_kind_are_said_with_the_place(tmp_path):
    with pytest.raises(ManyoneError, match=r"f: not a list of models .*'x' is missing"), sound("f", "a list of models"):
        _ = {}["x"]
    path = tmp_path / "t"
    path.write_bytes(b"\xff")
    with pytest.raises(ManyoneError, match="not UTF-8"):
        read_text(path)


def test_a_message_is_one_line_and_keeps_its_ends():
    told = str(ManyoneError("begins" + "x" * 9000 + "\nends"))
    assert told.startswith("begins")
    assert told.endswith("ends")
    assert "\n" not in told
    assert len(told) <= LONGEST


def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(3, np.float32))
    assert load_npy(path).tolist() == load_npy(path, "r").tolist() == [1, 1, 1]
    whole = path.read_bytes()
    for claim in (b"(3000000000,)", b"(3, 'x')", b"(-3,)", b"(((((,)"):
        header = claim + b", }"  # as long as the one that was there, with its spaces
        damaged = whole.replace(b"(3,), }".ljust(len(header)), header)
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            load_npy(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError):
        load_npy(path)
