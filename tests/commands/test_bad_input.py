"""Bad input at the command line: one line that names the file and the problem, exit code 2, nothing written."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file


def weights(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "layer.0.weight": torch.randn(8, 4, generator=generator),
        "layer.0.bias": torch.randn(8, generator=generator),
        "position_ids": torch.arange(4),
    }
    return tensors | changes


class Malicious:
    """Unpickling this would run code."""

    def __reduce__(self):
        return (print, ("the checkpoint ran its code",))


@pytest.fixture
def models(tmp_path):
    save_file(weights(0), tmp_path / "base.safetensors")
    save_file(weights(1), tmp_path / "good.safetensors")
    return tmp_path


def refuses(manyone, folder, words, *parts, writes=()):
    """Checks the exit code, the one line and that no file has come."""
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code, out, err = manyone(*words)
    assert code == 2, (out, err)
    assert err.count("\n") == 1, err
    assert err.startswith("manyone: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def merge(folder, expert, method="task-arithmetic"):
    return ("run", method, "--base", "base.safetensors", "--experts", "good.safetensors", expert, "--out", "out")


@pytest.mark.parametrize("method", ["task-arithmetic", "ties"])
def test_truncated_safetensors(manyone, models, method):
    data = (models / "good.safetensors").read_bytes()
    (models / "cut.safetensors").write_bytes(data[:-20])
    refuses(manyone, models, merge(models, "cut.safetensors", method), "cut.safetensors", "truncated")


def test_garbage_instead_of_safetensors(manyone, models):
    (models / "noise.safetensors").write_bytes(b"\xff" * 200)
    refuses(manyone, models, merge(models, "noise.safetensors"), "noise.safetensors")


def test_mismatching_keys(manyone, models):
    tensors = weights(1)
    tensors["layer.1.weight"] = tensors.pop("layer.0.weight")
    save_file(tensors, models / "keys.safetensors")
    refuses(manyone, models, merge(models, "keys.safetensors"), "keys.safetensors", "layer.0.weight")


def test_mismatching_shapes(manyone, models):
    save_file(weights(1, **{"layer.0.bias": torch.zeros(9)}), models / "shape.safetensors")
    refuses(manyone, models, merge(models, "shape.safetensors"), "shape.safetensors", "layer.0.bias", "9", "8")


def test_mismatching_dtypes(manyone, models):
    save_file(weights(1, **{"layer.0.bias": torch.zeros(8, dtype=torch.int64)}), models / "dtype.safetensors")
    refuses(manyone, models, merge(models, "dtype.safetensors"), "dtype.safetensors", "layer.0.bias", "int64")


@pytest.mark.parametrize("method", ["average", "ties", "tsv-m"])
def test_nan_in_an_expert(manyone, models, method):
    tensors = weights(1)
    tensors["layer.0.weight"][3, 2] = float("nan")
    save_file(tensors, models / "nan.safetensors")
    refuses(manyone, models, merge(models, "nan.safetensors", method), "nan.safetensors", "layer.0.weight", "NaN")


def test_a_pickle_with_code_in_it(manyone, models, capsys):
    with (models / "code.pt").open("wb") as file:
        pickle.dump({"layer.0.weight": Malicious()}, file)
    refuses(manyone, models, merge(models, "code.pt"), "code.pt")
    assert "ran its code" not in capsys.readouterr().out


def test_missing_file(manyone, models):
    refuses(manyone, models, merge(models, "nowhere.safetensors"), "nowhere.safetensors")


def test_missing_task(manyone, models):
    words = ("run", "wemoe", "--base", "base", "--experts", "a", "b", "--tasks", "one=here", "--out", "out")
    refuses(manyone, models, words, "2", "1", "--tasks")
    refuses(manyone, models, ("run", "surgery", "--suite", "mini7", "--out", "out"), "mini7", "mini6")


def test_unknown_option_and_value(manyone, models):
    refuses(manyone, models, ("run", "ties", "--densty", "0.2"), "densty", "--density")
    refuses(manyone, models, ("run", "wemoe", "--suite", "fixture", "--routing", "token"), "token")
    refuses(manyone, models, ("run", "wemoes"), "wemoes", "wemoe")
    refuses(manyone, models, ("run", "wemoe", "--suite", "fixture", "--prune-ratio", "1.5"), "prune-ratio", "1.5")


def test_unwritable_folder(manyone, models):
    (models / "file").write_text("not a folder")
    words = (*merge(models, "good.safetensors")[:-1], "file/out")
    refuses(manyone, models, words, "file/out")
    refuses(manyone, models, ("run", "wemoe", "--suite", "fixture", "--steps", "2", "--out", "file/out"), "file/out")


def test_nothing_to_merge(manyone, models):
    refuses(manyone, models, ("run", "wemoe"), "--suite")
    refuses(manyone, models, ("run", "average"), "--base", "--suite")
