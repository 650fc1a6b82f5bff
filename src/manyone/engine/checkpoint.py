"""Checkpoints: any nested state as safetensors + JSON, written atomically, verified by SHA-256 when read.

One folder per checkpoint, ``step-00000100/`` with ``state.safetensors`` (the tensors), ``state.json`` (everything
else) and ``manifest.json`` (sizes and SHA-256 of both). It is built under a temporary name, forced to the disk and
renamed, so a folder with a final name is complete; what the disk damages afterwards the hashes find.
"""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from manyone.engine.documents import loads_json
from manyone.engine.files import part_beside, sha256, sync_file, sync_folder, writing
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError

_log = logging.getLogger("manyone")
_TENSORS, _VALUES, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


class _Damaged(Exception):
    """A checkpoint that does not agree with its manifest."""


def save(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes ``state`` as the checkpoint of ``step`` and returns its path; older checkpoints are not touched.

    A checkpoint of the same step is replaced once the new one is safe on the disk. Raises ``ManyoneError`` when the
    disk refuses, after removing what had been written.
    """
    target = folder / f"step-{step:08d}"
    newest = max((s for s, _ in _found(folder)), default=None)
    kept = "no checkpoint had been written" if newest is None else f"the checkpoint of step {newest} is intact"
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_encode(state, "", tensors), allow_nan=False)
    with writing(target, kept), part_beside(target) as part:
        new = part / "new"
        new.mkdir()
        save_tensors(_separate(tensors), new / _TENSORS)
        (new / _VALUES).write_text(values, encoding="utf-8")
        manifest = {
            "step": step,
            "files": {
                name: {"bytes": (new / name).stat().st_size, "sha256": sha256(new / name)}
                for name in (_TENSORS, _VALUES)
            },
        }
        (new / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for name in (_TENSORS, _VALUES, _MANIFEST):
            sync_file(new / name)
        sync_folder(new)
        if target.exists():
            target.rename(part / "old")
        new.rename(target)
        sync_folder(folder)
    return target


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest intact checkpoint as (step, state), tensors on the CPU; None when there is no checkpoint.

    A damaged one is reported by a warning and the one before it is used. When all are damaged ``ManyoneError`` is
    raised, because to start again from nothing is the user's decision.
    """
    found = sorted(_found(folder), reverse=True)
    problems = []
    for step, path in found:
        try:
            state = _read(path, step)
        except _Damaged as damage:
            problems.append(f"{path} is damaged ({damage})")
            continue
        for problem in problems:
            _log.warning("checkpoint %s; using the one of step %d", problem, step)
        return step, state
    if problems:
        raise ManyoneError(f"no checkpoint is intact: {problems[0]}; to start again from step 0 remove {folder}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints, and what interrupted writers left behind."""
    with writing(folder, "its newest checkpoints are intact"):
        for _, path in sorted(_found(folder))[:-keep]:
            _remove(path)
        for path in folder.glob(".step-*"):
            _remove(path)


def set_aside(folder: Path, after: int) -> None:
    """Renames checkpoints later than step ``after`` (damaged ones, by then) so that they no longer count."""
    with writing(folder):
        for step, path in list(_found(folder)):
            if step > after:
                aside = folder / f"damaged-{path.name}"
                _remove(aside)
                path.rename(aside)


def not_finite(state: Any) -> set[str]:
    """The names of the floating-point tensors in ``state`` that hold a NaN or an infinity."""
    tensors: dict[str, Tensor] = {}
    _encode(state, "", tensors)
    continuous = {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    # one-byte floats have no isfinite of their own
    return {name for name, t in continuous.items() if not (t.float() if t.itemsize == 1 else t).isfinite().all()}


def random_state() -> dict[str, Any]:
    """The state of the global random generators of Python, numpy and torch (CPU and every CUDA device in use)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Puts the global random generators back to where ``random_state`` found them."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() >= len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def _found(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("step-*"):
        if path.is_dir() and path.name[5:].isdigit():
            yield int(path.name[5:]), path


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _read(path: Path, step: int) -> dict[str, Any]:
    try:
        manifest = loads_json((path / _MANIFEST).read_bytes())
        entries = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"])
                   for name in (_TENSORS, _VALUES)}  # fmt: skip
        if manifest["step"] != step:
            raise _Damaged(f"its manifest says step {manifest['step']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{_MANIFEST} cannot be read: {error}") from error
    for name, (size, digest) in entries.items():
        try:
            actual = (path / name).stat().st_size
            if actual != size:
                raise _Damaged(f"{name} has {actual} bytes, not {size}")
            if sha256(path / name) != digest:
                raise _Damaged(f"the SHA-256 of {name} differs")
        except OSError as error:
            raise _Damaged(f"{name} cannot be read: {error.strerror}") from error
    tensors = safetensors.torch.load_file(path / _TENSORS)
    return _decode(loads_json((path / _VALUES).read_bytes()), tensors)


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors are put into ``tensors`` and referred to by name."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, Tensor):
        return {"$tensor": _put(value.detach(), name, tensors)}
    if isinstance(value, np.ndarray):
        return {"$array": _put(torch.from_numpy(np.array(value)), name, tensors)}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return {k: _encode(v, f"{name}/{k}" if name else k, tensors) for k, v in value.items()}
        pairs = [[_encode(k, name, tensors), _encode(v, f"{name}/{k}", tensors)] for k, v in value.items()]
        return {"$items": pairs}
    raise TypeError(f"a checkpoint cannot hold {name or 'the state'} of type {type(value).__name__}")


def _put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"a checkpoint cannot hold {name}: only dense tensors with values can be saved")
    while name in tensors:
        name += "'"
    tensors[name] = tensor
    return name


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` on the CPU, contiguous; views and aliases are copied, because safetensors refuses shared memory."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return tensors[value["$array"]].numpy()
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_decode(v, tensors) for v in value["$tuple"])
    if "$items" in value:
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value["$items"]}
    return {k: _decode(v, tensors) for k, v in value.items()}
