"""A run knows its data by their content."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from manyone.engine.inputs import check_inputs, digest
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError


@dataclass(kw_only=True)
class Options:
    out: Path | None = None


def test_digests_tell_content_type_shape_and_order_apart():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = rows.copy()
    other[1, 2] += 1
    found = [
        digest(rows), digest(other), digest(rows.astype(np.float64)), digest(rows.T), digest(rows.reshape(4, 3)),
        digest(rows, rows), digest("ab", "c"), digest("a", "bc"), digest(b"ab", "c"), digest(None), digest(""),
        digest(np.float32(0)), digest(rows[:0]),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_a_digest_does_not_depend_on_how_an_array_lies_in_memory():
    rows = np.arange(12.0).reshape(3, 4)
    assert digest(np.asfortranarray(rows)) == digest(rows) == digest(np.repeat(rows, 2, axis=0)[::2])


def test_an_array_of_many_blocks_is_hashed_as_one(monkeypatch):
    rows = np.arange(10_000, dtype=np.int16).reshape(5000, 2)
    whole = digest(rows)
    monkeypatch.setattr("manyone.engine.inputs._BLOCK", 1000)
    assert digest(rows) == whole


def test_a_run_that_is_taken_up_refuses_other_data_and_names_both_digests(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "toy", Options())
    check_inputs(folder, {"a.csv": "1" * 64, "b.csv": "2" * 64})
    again = RunFolder.open(folder.path)
    check_inputs(again, {"a.csv": "1" * 64, "b.csv": "2" * 64})
    with pytest.raises(ManyoneError, match=r"b\.csv: the data are not those .*222222222222… then, 333333333333… now"):
        check_inputs(again, {"a.csv": "1" * 64, "b.csv": "3" * 64})
    assert json.loads((folder.path / "inputs.json").read_text()) == {"a.csv": "1" * 64, "b.csv": "2" * 64}


def test_a_finished_run_of_an_earlier_version_is_evaluated_and_left_as_it_is(tmp_path):
    RunFolder.create(tmp_path / "run", "toy", Options()).finish()
    check_inputs(RunFolder.open(tmp_path / "run"), {"a.csv": "1" * 64})
    assert not (tmp_path / "run" / "inputs.json").exists()


def test_a_damaged_record_is_named(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "toy", Options())
    check_inputs(folder, {"a.csv": "1" * 64})
    (folder.path / "inputs.json").write_text("[]")
    with pytest.raises(ManyoneError, match=r"inputs\.json: damaged"):
        check_inputs(RunFolder.open(folder.path), {"a.csv": "1" * 64})
