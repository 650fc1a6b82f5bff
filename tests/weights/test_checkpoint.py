"""Reading and writing: every form of checkpoint, and every damage with its one line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import as_checkpoint
from manyone.weights.open import open_checkpoint
from manyone.weights.safetensors_file import SafetensorsWriter, parse_size, read_header
from manyone.weights.tensor_info import DTYPES, TensorInfo, stored_form


def tensors():
    g = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(5, 7, generator=g),
        "b": torch.randn(4, generator=g).bfloat16(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "ids": torch.arange(6),
        "mask": torch.tensor([True, False, True]),
        "half": torch.randn(3, generator=g).half(),
    }


def equal(checkpoint, expected):
    assert set(checkpoint) == set(expected)
    for name, value in expected.items():
        assert checkpoint.info(name) == TensorInfo.of(value)
        assert checkpoint.info(name).dtype.torch == value.dtype
        assert torch.equal(checkpoint[name], value), name
        n = value.numel()
        assert torch.equal(checkpoint.read_flat(name, n // 3, n), value.reshape(-1)[n // 3 :])


def fails(path, match, base=None):
    with pytest.raises(ManyoneError, match=match) as caught:
        open_checkpoint(path, base)
    text = str(caught.value)
    assert "\n" not in text
    assert os.path.basename(path) in text  # noqa: PTH119 - tests the message, not a path
    return text


def test_reads_a_safetensors_file(tmp_path):
    save_file(tensors(), tmp_path / "m.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    equal(checkpoint, tensors())
    assert checkpoint.nbytes == sum(v.nbytes for v in tensors().values())
    checkpoint["a.weight"].zero_()  # a copy: neither the file nor the map changes
    equal(checkpoint, tensors())


def test_reads_data_that_is_not_aligned(tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * ((5 - len(header)) % 8)
    data = struct.pack("<3f", 1, 2, 3)
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert open_checkpoint(tmp_path / "m.safetensors")["x"].tolist() == [1, 2, 3]


def test_reads_a_torch_file_and_nested_state_dicts(tmp_path):
    torch.save(tensors(), tmp_path / "a.pt")
    torch.save({"state_dict": tensors(), "epoch": 3}, tmp_path / "b.bin")
    torch.save(tensors(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.bin", "c.pth"):
        equal(open_checkpoint(tmp_path / name), tensors())


def test_writer_makes_files_that_others_read(tmp_path):
    values = tensors()
    writer = SafetensorsWriter(
        tmp_path / "out", {n: TensorInfo.of(v) for n, v in values.items()}, metadata={"format": "pt"}
    )
    for name, value in values.items():
        flat = value.reshape(-1)
        for start in range(0, len(flat), 2):
            writer.write(name, start, stored_form(flat[start : start + 2]))
    assert not list((tmp_path / "out").glob("*.safetensors"))  # no name before everything is there
    paths = writer.commit()
    assert [p.name for p in paths] == ["model.safetensors"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    loaded = load_file(paths[0])
    assert all(torch.equal(loaded[n], v) for n, v in values.items())
    with safe_open(paths[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
    equal(open_checkpoint(tmp_path / "out"), values)


def test_writer_shards_and_index(tmp_path):
    values = {f"l{i}": torch.full((10,), float(i)) for i in range(7)}
    infos = {n: TensorInfo.of(v) for n, v in values.items()}
    writer = SafetensorsWriter(tmp_path, infos, max_shard_size=100)
    for name, value in values.items():
        writer.write(name, 0, value.numpy())
    names = sorted(p.name for p in writer.commit())
    assert names == [*(f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)), "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 280
    equal(open_checkpoint(tmp_path), values)
    (tmp_path / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(ManyoneError, match=r"model-00002-of-00004\.safetensors: missing shard"):
        open_checkpoint(tmp_path)


def test_writer_that_is_aborted_leaves_nothing(tmp_path):
    writer = SafetensorsWriter(tmp_path, {"x": TensorInfo(DTYPES["F32"], (4,))})
    writer.write("x", 0, np.ones(4, np.float32))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_writer_reports_a_full_disk(tmp_path, monkeypatch):
    with pytest.raises(ManyoneError, match=r"needs .* GB on disk and only"):
        SafetensorsWriter(tmp_path, {"x": TensorInfo(DTYPES["F32"], (1 << 50,))})
    writer = SafetensorsWriter(tmp_path, {"x": TensorInfo(DTYPES["F32"], (4,))})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ManyoneError, match="the disk is full"):
            writer.write("x", 0, np.ones(4, np.float32))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2 << 30), ("100", 100), (7, 7), (None, None)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "5XB", "0"])
def test_sizes_that_mean_nothing(text):
    with pytest.raises(ManyoneError, match="write for example 5GB"):
        parse_size(text)


@pytest.mark.parametrize("keep", [0, 5, 40, 200, -1])
def test_truncated_files_are_named(tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:keep])
    fails(path, "cut.safetensors: .*truncated|not a safetensors file")


def test_damaged_headers_are_named(tmp_path):
    path = tmp_path / "bad.safetensors"

    def write(header, data=b"\0" * 12):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)

    good = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    write({"x": good})
    assert read_header(path)[0]["x"].info.shape == (3,)
    for header, match in [
        (b"{not json", "damaged safetensors header"),
        ([1, 2], "damaged safetensors header"),
        ({"x": {**good, "dtype": "F99"}}, "F99"),
        ({"x": {**good, "shape": [4]}}, "'x' does not fit its shape"),
        ({"x": {**good, "data_offsets": [4, 16]}}, "'x' does not fit"),
        ({"x": good, "y": good}, "does not fit"),
        ({"x": {"dtype": "F32"}}, "damaged safetensors header"),
    ]:
        write(header)
        fails(path, match)
    write({"x": good}, b"\0" * 20)
    fails(path, "too long")


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/manyone-should-not-exist",)


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"w": torch.ones(2), "evil": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "old.bin").write_bytes(pickle.dumps({"evil": Payload()}))
    for name in ("evil.pt", "old.bin"):
        fails(tmp_path / name, "refused, this pickle holds more than tensors")
    assert not os.path.exists("/tmp/manyone-should-not-exist")  # noqa: PTH110


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "text.txt", "unknown kind of file")
    fails(tmp_path / "torn.pt", "damaged or not a PyTorch file|refused")
    fails(tmp_path / "list.pt", "holds no state dict")
    fails(tmp_path / "model.safetensors.index.json", "damaged index")
    fails(tmp_path / "empty", "not a model folder")
    fails(tmp_path / "nothing.safetensors", "no such file or folder")
    with pytest.raises(ManyoneError, match="nobody/nothing: no such file or folder"):
        open_checkpoint("nobody/nothing")


def test_shards_outside_the_folder_are_refused(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}))
    with pytest.raises(ManyoneError, match="lies outside"):
        open_checkpoint(inner)


def test_tied_tensors_become_aliases(tmp_path):
    w = torch.randn(4, 3)
    checkpoint = as_checkpoint({"embed": w, "head": w, "view": w[:2]})
    assert checkpoint.aliases == {"head": "embed"}
    torch.save({"embed": w, "head": w}, tmp_path / "tied.pt")
    assert open_checkpoint(tmp_path / "tied.pt").aliases == {"head": "embed"}
