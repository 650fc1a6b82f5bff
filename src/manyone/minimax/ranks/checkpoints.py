"""Checkpoints of a distributed run: every rank writes its clients' rows, any number of ranks reads them again.

    FOLDER/round-000040/clients-00000-00008.safetensors     the rows of clients 0..7
    FOLDER/round-000040/complete.json                       written last: the state is whole

Rows are found by client, so that a run may go on with another number of ranks. The last two states are kept.
Public: ``save_rows``, ``load_newest``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyone.engine.documents import loads_json
from manyone.engine.files import sha256
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError

KEEP = 2
_MARK, _ROWS, _DIGESTS = "complete.json", "clients-*.safetensors", "sha256"
_log = logging.getLogger("manyone")


def save_rows(
    folder: Path,
    meta: Mapping[str, Any],
    clients: range,
    rows: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    *,
    first: bool,
    barrier: Callable[[], None],
) -> None:
    """Writes ``rows`` (name -> [runs, clients, ...]) of this rank; ``shared`` tensors are equal on all ranks.

    ``meta`` is JSON with at least ``round``, ``clients`` (m) and ``settings``. The ``first`` rank clears the place and
    marks the state as whole once all ranks, meeting at ``barrier``, have written.
    """
    place = folder / f"round-{meta['round']:06d}"
    name = f"clients-{clients.start:05d}-{clients.stop:05d}.safetensors"
    try:
        if first:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        barrier()
        tensors = {k: v.detach().cpu().contiguous() for k, v in (*rows.items(), *shared.items())}
        save_tensors(tensors, place / f"{name}.part")
        _replace(place / f"{name}.part", place / name)
        barrier()
        if first:
            digests = {file.name: sha256(file) for file in sorted(place.glob(_ROWS))}
            (place / f"{_MARK}.part").write_text(json.dumps({**meta, _DIGESTS: digests}))
            _replace(place / f"{_MARK}.part", place / _MARK)
            for old in _whole(folder)[:-KEEP]:
                shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as problem:
        raise ManyoneError(f"{place}: cannot write the checkpoint ({problem}); free space or choose a folder") from None


def load_newest(folder: Path, clients: range, settings: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """(meta, tensors) of the newest whole state, with the rows of ``clients`` (name -> [runs, clients, ...]).

    None when there is none. A damaged state is passed over, with a warning, for the one before; ``ManyoneError`` where
    all are. Clients that the state lacks (their rank had been lost) start from the mean of the others.
    """
    whole, problems = _whole(folder), []
    if not whole:
        return None
    for place in reversed(whole):
        try:
            meta, parts = _read(place)
            break
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as problem:
            problems.append(f"{place}: damaged checkpoint ({' '.join(str(problem).split())})")
            _log.warning(f"{problems[-1]}; the one before is taken")
    else:
        raise ManyoneError(f"{problems[0]}; remove {folder} to begin anew")
    if meta["settings"] != settings:
        raise ManyoneError(f"{place}: this state belongs to a run with other options or data; take another folder")
    tensors: dict[str, Tensor] = {}
    for name in next(iter(parts.values())):
        if name.startswith("shared/"):
            tensors[name] = next(iter(parts.values()))[name]
            continue
        found: dict[int, Tensor] = {}
        for file, part in parts.items():
            start = int(file.stem.split("-")[1])
            found.update({start + k: part[name][:, k] for k in range(part[name].shape[1])})
        joined = torch.stack(list(found.values()))
        mean = joined.mean(0) if joined.is_floating_point() else joined[0]
        tensors[name] = torch.stack([found.get(i, mean) for i in clients], 1)
    return meta, tensors


def _read(place: Path) -> tuple[dict[str, Any], dict[Path, dict[str, Tensor]]]:
    """(meta, file -> rows) of one state, each file compared with the digest that was written when it was whole."""
    meta = loads_json((place / _MARK).read_bytes())
    meta["settings"], meta["round"]
    files = sorted(place.glob(_ROWS))
    digests = meta.pop(_DIGESTS, None)  # states of earlier versions have none
    if digests is not None:
        if set(digests) != {file.name for file in files}:
            raise ValueError("files are missing, or more than were written")
        if wrong := [file.name for file in files if sha256(file) != digests[file.name]]:
            raise ValueError(f"the SHA-256 of {wrong[0]} differs")
    if not files:
        raise ValueError("no clients in it")
    return meta, {file: load_file(file) for file in files}


def _whole(folder: Path) -> list[Path]:
    """Folders of whole states, oldest first."""
    return sorted(mark.parent for mark in folder.glob(f"round-*/{_MARK}"))


def _replace(source: Path, target: Path) -> None:
    """Renames after the content has reached the disk, so that a name never stands for half a file."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
