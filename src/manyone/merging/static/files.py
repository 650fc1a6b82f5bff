"""The folder that a static merge writes: weights, and what else ``from_pretrained`` needs, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.engine.documents import read_json
from manyone.engine.files import stays_inside
from manyone.errors import ManyoneError
from manyone.merging.static.plan import Plan
from manyone.weights.open import StrPath
from manyone.weights.safetensors_file import SafetensorsWriter, parse_size

logger = logging.getLogger(__name__)

# What a Hugging Face folder holds beside weights, as data: configurations, tokenizers, processors, templates, licences.
# Never code, which `from_pretrained(trust_remote_code=True)` would run under the name of the merged model.
_COMPANIONS = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm"}
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_NOT = ("adapter_config.json", "training_args", "trainer_state", "requirements.txt")


@dataclass(frozen=True)
class Companions:
    """What differs from the base beside the weights: ``config`` are entries of config.json, ``write`` puts further
    files into the folder before it appears."""

    config: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[Path], None] | None = field(default=None, repr=False)


@contextlib.contextmanager
def new_folder(out: StrPath, *, before: Callable[[], object] | None = None) -> Iterator[Path]:
    """A folder to work in; on leaving without an error it becomes ``out``, all of it at once.

    It is a hidden folder beside the first folder on the way to ``out`` that does not exist yet, and it is removed if
    anything fails. ``out`` may exist only as an empty folder; ``before`` is called when the work has succeeded and may
    make room for it.
    """
    out = Path(out).absolute()
    if before is None:
        _check_free(out)
    ancestor = next(parent for parent in out.parents if parent.is_dir())
    part = ancestor / f".{out.name}.{os.getpid()}.tmp"
    try:
        part.mkdir()
    except OSError as error:
        raise ManyoneError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        try:
            yield part
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


@contextlib.contextmanager
def model_folder(
    plan: Plan,
    out: StrPath,
    *,
    max_shard_size: str | int | None = None,
    companions: Companions | None = None,
    before: Callable[[], object] | None = None,
) -> Iterator[SafetensorsWriter]:
    """A writer for the merged tensors in a :func:`new_folder`, which gets the base's other files too."""
    limit = parse_size(max_shard_size)
    with new_folder(out, before=before) as part:
        names = [n for n in plan.base if n in plan.merged or n in plan.copied]
        metadata = {"format": "pt"} | {a: b for a, b in plan.aliases.items() if b in names}
        tensors = {name: plan.info(name) for name in names}
        writer = SafetensorsWriter(part, tensors, max_shard_size=limit, metadata=metadata)
        try:
            yield writer
            writer.commit()
        finally:
            writer.abort()
        companions = companions or Companions()
        _copy_companions(plan, part, companions.config)
        if companions.write is not None:
            companions.write(part)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManyoneError(f"{out}: exists already; choose another folder or remove it")


def _copy_companions(plan: Plan, folder: Path, config: Mapping[str, Any]) -> None:
    source = plan.base.folder
    if source is None:
        return
    left = []
    for path in sorted(source.iterdir()):
        name = path.name
        data = path.suffix in _COMPANIONS or name.startswith(_LICENCES)
        if path.suffix == ".py":
            left.append(f"{name} (code)")
        elif data and path.is_file() and not name.startswith((".", *_NOT)) and not name.endswith(".index.json"):
            if _stays_inside(path):
                shutil.copyfile(path, folder / name)
            else:
                left.append(f"{name} (a link out of the folder)")
    if left:
        logger.warning(f"{source}: not copied beside the merged weights: {', '.join(left)}; copy what you trust")
    target = folder / "config.json"
    if config and target.is_file():
        target.write_text(json.dumps(hf_config(target) | dict(config), indent=2) + "\n")


def hf_config(path: Path) -> dict[str, Any]:
    """A model's ``config.json``, which must be a JSON object."""
    found = read_json(path, "the model's configuration")
    if not isinstance(found, dict):
        raise ManyoneError(f"{path}: not a model's configuration: it must be a JSON object")
    return found


def _stays_inside(path: Path) -> bool:
    """Whether ``path`` is a file of its folder, or a link to one, or to one of the same repository in a hub's cache."""
    folder = path.parent.resolve()
    if stays_inside(path, folder):
        return True
    blobs = folder.parents[1] / "blobs"  # models--NAME/snapshots/REVISION/FILE -> ../../blobs/HASH
    return folder.parent.name == "snapshots" and not blobs.is_symlink() and stays_inside(path, blobs)
