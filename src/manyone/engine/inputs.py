"""What a run reads, remembered by its content, so that a resumed or evaluated run notices other data.

``inputs.json`` in the run folder: label -> SHA-256. Public: ``digest``, ``check_inputs``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from manyone.engine.documents import loads_json
from manyone.engine.fabric import is_writer
from manyone.engine.files import write_atomic, writing
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError

_FILE = "inputs.json"
_BLOCK = 1 << 24  # bytes that are hashed at a time: memory-mapped arrays are never in memory as a whole


def digest(*parts: Any) -> str:
    """SHA-256, in hexadecimal, of ``parts`` in their order: arrays (type, shape and content), bytes, text or None."""
    found = hashlib.sha256()
    for part in parts:
        if part is None or isinstance(part, (str, bytes)):
            content = part.encode() if isinstance(part, str) else part or b""
            found.update(f"{type(part).__name__} {len(content)}\n".encode())
            found.update(content)
            continue
        array = np.asarray(part)
        if array.dtype.hasobject:
            raise TypeError("arrays of Python objects have no content to take a digest of")
        found.update(f"{array.dtype.str} {array.shape}\n".encode())
        rows = array.reshape(1) if array.ndim == 0 else array
        step = max(1, _BLOCK // max(1, rows.nbytes // max(1, len(rows))))
        for first in range(0, len(rows), step):
            found.update(np.ascontiguousarray(rows[first : first + step]).view(np.uint8).data)
    return found.hexdigest()


def check_inputs(folder: RunFolder, digests: Mapping[str, str]) -> None:
    """Remembers what the run reads (label -> digest) or, in a run that began earlier, compares it.

    A runner calls it when its data are loaded, before it trains or evaluates. Raises ``ManyoneError`` that names the
    input and both digests when one has changed; a run of a version that remembered none is taken as it is.
    """
    path = folder.path / _FILE
    if folder.exists and path.is_file():
        try:
            before = loads_json(path.read_bytes())
            changed = {label: before[label] for label in digests if before.get(label, digests[label]) != digests[label]}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ManyoneError(f"{path}: damaged ({error}): remove it to go on with the data as they are") from None
        for label, was in changed.items():
            raise ManyoneError(
                f"{label}: the data are not those that {folder.path} began with (SHA-256 {str(was)[:12]}… then, "
                f"{digests[label][:12]}… now): restore them, or begin a new run"
            )
        return
    if not folder.done and is_writer():
        folder.ensure()
        with writing(path):
            write_atomic(path, (json.dumps(dict(digests), indent=1, ensure_ascii=False) + "\n").encode())
