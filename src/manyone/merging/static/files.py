"""The folder that a static merge writes: weights, and what else ``from_pretrained`` needs, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from manyone.errors import ManyoneError
from manyone.merging.static.plan import Plan
from manyone.weights.open import StrPath
from manyone.weights.safetensors_file import SafetensorsWriter, parse_size

# Everything in a Hugging Face folder that is not weights: configurations, tokenizers, processors, model code.
_COMPANIONS = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm", ".py"}
_NOT = ("adapter_config.json", "training_args", "trainer_state", "requirements.txt")


@contextlib.contextmanager
def model_folder(
    plan: Plan,
    out: StrPath,
    *,
    max_shard_size: str | int | None = None,
    config: Mapping[str, Any] | None = None,
    before: Callable[[], object] | None = None,
) -> Iterator[SafetensorsWriter]:
    """A writer for the merged tensors; on leaving without an error everything appears under ``out`` at once.

    The work is done in a hidden folder beside the first folder on the way to ``out`` that does not exist yet, and that
    hidden folder is removed if anything fails. ``out`` may exist only as an empty folder; ``before`` is called when the
    merge has succeeded and may make room for it.
    """
    out = Path(out).absolute()
    if before is None:
        _check_free(out)
    limit = parse_size(max_shard_size)
    ancestor = next(parent for parent in out.parents if parent.is_dir())
    part = ancestor / f".{out.name}.{os.getpid()}.tmp"
    try:
        part.mkdir()
    except OSError as error:
        raise ManyoneError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        names = [n for n in plan.base if n in plan.merged or n in plan.copied]
        metadata = {"format": "pt"} | {a: b for a, b in plan.aliases.items() if b in names}
        tensors = {name: plan.info(name) for name in names}
        writer = SafetensorsWriter(part, tensors, max_shard_size=limit, metadata=metadata)
        try:
            yield writer
            writer.commit()
        finally:
            writer.abort()
        try:
            _copy_companions(plan, part, config or {})
            if before is not None:
                before()
                _check_free(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.exists():
                out.rmdir()
            part.rename(out)
        except OSError as error:
            raise ManyoneError(f"{out}: cannot be written ({error.strerror})") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManyoneError(f"{out}: exists already; choose another folder or remove it")


def _copy_companions(plan: Plan, folder: Path, config: Mapping[str, Any]) -> None:
    source = plan.base.folder
    if source is None:
        return
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _COMPANIONS or path.name.startswith("."):
            continue
        if path.name.endswith(".index.json") or path.name.startswith(_NOT):
            continue
        shutil.copyfile(path, folder / path.name)
    if config:
        target = folder / "config.json"
        target.write_text(json.dumps(json.loads(target.read_text()) | dict(config), indent=2) + "\n")
