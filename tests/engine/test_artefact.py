"""The model folder of every field: what is written comes back, whole or not at all; damage is named in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.artefacts import without_digest

from manyone.engine import artefact, checkpoint
from manyone.engine.artefact import load_weights, made_of, read_model, write_model
from manyone.engine.files import writing
from manyone.errors import ManyoneError


def write(folder: Path, value: float = 1.0, **more: object) -> None:
    shared = torch.full((2, 3), value)
    write_model(folder, {"a": shared, "b": shared.T}, {"kind": "toy", "note": "größer"}, "# A toy\n", **more)  # type: ignore[arg-type]


def test_what_is_written_comes_back_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    write(tmp_path, more={"more.bin": lambda path: path.write_bytes(b"x")})
    config, tensors = read_model(tmp_path, "a toy", ("kind",))
    assert config == {"manyone_format": 1, "kind": "toy", "note": "größer"}
    assert torch.equal(tensors["a"].T, tensors["b"])
    write(tmp_path, 2.0, more={"more.bin": None})
    assert read_model(str(tmp_path), "a toy", ())[1]["a"][0, 0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "mine.txt", "model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_all_files_of_models_and_checkpoints_have_the_mode_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "model", more={"more.bin": lambda path: path.write_bytes(b"x")})
        write(tmp_path / "model", 2.0)  # also where a file is replaced
        checkpoint.save(tmp_path / "checkpoints", 1, {"w": torch.ones(5)})
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()}
    assert len(modes) == 7
    assert set(modes.values()) == {oct(mode)}


def test_no_file_of_tensors_is_written_past_save_tensors() -> None:
    source = Path(__file__).parents[2] / "src/manyone"
    users = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if "save_file(" in p.read_text("utf-8")}
    assert users == {"engine/tensors.py", "teams/processes/executor.py"}  # the executor's file is private, and goes


def test_a_failure_leaves_the_model_of_before(tmp_path: Path) -> None:
    write(tmp_path)

    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(ManyoneError, match=r"cannot write .*the disk is full"):
        write(tmp_path, 2.0, more={"more.bin": full})
    with pytest.raises(ManyoneError, match=r"config\.json: not written: .*JSON data"):
        write_model(tmp_path, {}, {"score": float("nan")}, "")
    assert read_model(tmp_path, "a toy", ())[1]["a"][0, 0] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    outer = pytest.raises(ManyoneError, match=r"cannot write place: the disk is full: free some space; all is well$")
    with outer, writing(Path("place"), "all is well"):
        write(tmp_path, 2.0, more={"more.bin": full})


def test_damage_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"

    def refused(words: str) -> None:
        with pytest.raises(ManyoneError, match=words) as caught:
            read_model(tmp_path, "a toy", ("kind",))
        assert "\n" not in str(caught.value)
        write(tmp_path)

    refused(r"no config\.json, so this is not a toy of manyone: give the `model` folder of a run")
    for text in ("{", "[" * 100_000, "\ufeff"):
        config.write_text(text, encoding="utf-8")
        refused(r"config\.json: damaged \(.*\): save a toy again")
    config.write_bytes(b"\xff\xfe\xff")
    refused(r"config\.json: damaged")
    for other in ({}, {"model_type": "bert"}, [1], {"manyone_format": 1}, {"manyone_format": "1", "kind": "toy"}):
        config.write_text(json.dumps(other))
        refused(r"config\.json: not a toy that manyone wrote")
    config.write_text(json.dumps({"manyone_format": 2, "kind": "toy"}))
    refused(r"config\.json: format 2; this version of manyone knows 1: use a newer one")
    weights.unlink()
    refused(r"model\.safetensors: cannot be read")
    weights.write_bytes(weights.read_bytes()[:-4])
    refused(r"model\.safetensors: cannot be read")
    monkeypatch.setattr(artefact, "_LARGEST_CONFIG", 10)
    refused(r"config\.json: damaged \(\d+ bytes\)")


def test_the_number_had_another_name_in_models_of_minimax_runs(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "kind": "score"}))
    assert read_model(tmp_path, "a minimax model", ("kind",))[0]["kind"] == "score"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    for wrong, words in (
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"m: weight is \[2, 4\].*describes \[2, 3\].*belong"),
        ({"weight": torch.zeros(2, 3)}, r"m: bias is missing, .*describes \[2\]"),
        (layer.state_dict() | {"odd": torch.zeros(1)}, r"m: odd is \[1\], .*describes no such tensor"),
    ):
        with pytest.raises(ManyoneError, match=words):
            load_weights(layer, wrong, "m")
    load_weights(layer, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "m")
    assert layer.bias.tolist() == [1, 1]
    with pytest.raises(ManyoneError, match=r"damaged \('kind' is missing\): save the model again"), made_of(tmp_path):
        {}["kind"]
    with pytest.raises(ManyoneError, match=r"^c\.json: damaged \(a b\)"), made_of("c.json"):
        raise ValueError("a\nb")


def test_a_merge_of_bare_files_is_named_for_what_it_is(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ManyoneError, match=r"tensors without config\.json, as a merge of bare files leaves them"):
        read_model(tmp_path, "a merged model", ("encoder",))


def test_a_changed_bit_is_found_and_older_models_without_a_digest_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ManyoneError, match=r"model\.safetensors: its SHA-256 is not the one in config\.json"):
        artefact.read_model(tmp_path, "a model", ())
    without_digest(tmp_path)
    config, _ = artefact.read_model(tmp_path, "a model", ())
    assert artefact.DIGEST not in config


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(10**9))),
        lambda: torch.nn.Linear(10**6, 10**6),
        lambda: torch.nn.Embedding(10**9, 4),
        lambda: torch.arange(10**12),
    ],
)
def test_no_network_is_built_that_is_far_larger_than_its_tensors(build: Callable[[], Any], tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(ManyoneError, match="far larger than its tensors"), made_of(tmp_path, {"w": torch.ones(3)}):
        build()
    assert time.process_time() - began < 20  # a billion layers would take hours


def test_what_fits_is_built(tmp_path: Path) -> None:
    with made_of(tmp_path, {"w": torch.ones(3)}):
        torch.nn.Transformer(32, 2, 1, 1, 64)
