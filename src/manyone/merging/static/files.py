"""The folder that a static merge writes: weights, and what else the model's loader needs, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.engine.card import inherited, loader_of, with_head
from manyone.engine.files import part_beside, stays_inside, writing
from manyone.engine.mergeable import CARD
from manyone.errors import ManyoneError
from manyone.merging.static.movement import names_of
from manyone.merging.static.plan import Plan
from manyone.weights.model_config import hf_config
from manyone.weights.open import StrPath
from manyone.weights.safetensors_file import SafetensorsWriter, parse_size

logger = logging.getLogger(__name__)

# What a Hugging Face folder holds beside weights, as data: configurations, tokenizers, processors, templates, licences.
# Never code, which `from_pretrained(trust_remote_code=True)` would run under the name of the merged model.
_COMPANIONS = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".spm"}
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")
_NOT = ("adapter_config.json", "training_args", "trainer_state", "requirements.txt",
        "hf_quant_config.json", "quantize_config.json", "quant_config.json")  # fmt: skip
# Sub-folders that belong to the model: sentence-transformers' modules (1_Pooling, 2_Dense, ...) and further templates.
_PARTS = re.compile(r"[0-9]{1,2}_\w{1,60}|additional_chat_templates")
_UNMERGED = ".safetensors"  # weights of such a module: data, which the experts' modules are not merged into
_LARGEST = 1 << 30  # bytes of such a file
_MOST = 100  # files of a sub-folder


@dataclass(frozen=True)
class Companions:
    """What differs from the base beside the weights: ``config`` are entries of config.json, ``write`` puts further
    files into the folder before it appears."""

    config: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[Path], None] | None = field(default=None, repr=False)


@contextlib.contextmanager
def new_folder(out: StrPath, *, before: Callable[[], object] | None = None) -> Iterator[Path]:
    """A folder to work in; on leaving without an error it becomes ``out``, all of it at once.

    It is a hidden folder beside the first folder on the way to ``out`` that does not exist yet. It is removed if
    anything fails, and by the next command that writes ``out`` if this process is killed. ``out`` may exist only as an
    empty folder; ``before`` is called when the work has succeeded and may make room for it.
    """
    out = Path(out).absolute()
    if before is None:
        _check_free(out)
    # Beside the first folder on the way to ``out`` that is not there yet: a failure leaves no empty folders either.
    first = next(path for path in (*reversed(out.parents), out) if path == out or not path.is_dir())
    with writing(out), part_beside(first) as part:
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
    if plan.joined is not None and plan.joined.single:
        limit = None
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
        if plan.joined is not None:
            plan.joined.write(part, plan.how, len(plan.merged))
        else:
            _write_card(plan, part)
        if companions.write is not None:
            companions.write(part)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManyoneError(f"{out}: exists already; choose another folder or remove it")


def _copy_companions(plan: Plan, folder: Path, config: Mapping[str, Any]) -> None:
    source = plan.base.folder
    if source is None:
        return
    own = plan.joined is not None and plan.joined.single  # whose files are known, and written anew
    left: list[str] = []
    _copy_data(source, source, folder, left, frozenset() if own else _COMPANIONS)
    for path in sorted(source.iterdir()):
        if path.is_dir() and _PARTS.fullmatch(path.name) and not own:
            if len(list(path.iterdir())) > _MOST:
                left.append(f"{path.name}/ (more than {_MOST} files)")
            else:
                _copy_data(source, path, folder / path.name, left, _COMPANIONS | {_UNMERGED})
    if left:
        logger.warning(f"{source}: not copied beside the merged weights: {', '.join(left)}; copy what you trust")
    target = folder / "config.json"
    changes = {**plan.config, **config}
    if (changes or plan.base.outdated) and target.is_file():
        kept = {key: value for key, value in hf_config(target).items() if key not in plan.base.outdated}
        target.write_text(json.dumps(kept | changes, indent=2) + "\n")


def _write_card(plan: Plan, folder: Path) -> None:
    """What was merged of what, how it is loaded, and the terms of the base."""
    method, (base, *experts) = plan.how.get("method", "merging"), names_of([plan.base, *plan.experts])
    library, loads = loader_of(folder)
    head = {"library_name": library, "tags": ["manyone", "merging", method.partition(" ")[0]]}
    head |= {} if plan.base.folder is None else inherited(plan.base.folder)
    options = ", ".join(f"{name} {value}" for name, value in plan.how.get("options", {}).items())
    body = (
        f"# A merged model ({method})\n\n"
        f"{len(plan.merged)} tensors are merged by `{method}`{f' ({options})' * bool(options)} from the base `{base}` "
        f"and the experts {', '.join(f'`{name}`' for name in experts)}"
        + f"; {len(plan.copied)} are the base's" * bool(plan.copied)
        + f".\n{loads}"
    )
    (folder / CARD).write_text(with_head(head, body), encoding="utf-8", errors="replace")


def _copy_data(source: Path, place: Path, folder: Path, left: list[str], suffixes: Collection[str]) -> None:
    """Copies the licences and the files with ``suffixes`` of ``place``, ``source`` itself or a folder of it.

    What is left out is added to ``left``.
    """
    for path in sorted(place.iterdir()):
        name, shown = path.name, str(path.relative_to(source))
        weights = path.suffix == _UNMERGED
        data = path.suffix in suffixes or name.upper().startswith(_LICENCES)
        if path.suffix == ".py":
            left.append(f"{shown} (code)")
        elif data and path.is_file() and not name.startswith((".", *_NOT)) and not name.endswith(".index.json"):
            if not _stays_inside(path, source):
                left.append(f"{shown} (a link out of the folder)")
            elif place != source and path.stat().st_size > _LARGEST:
                left.append(f"{shown} (more than {_LARGEST >> 20} MB)")
            else:
                folder.mkdir(exist_ok=True)
                shutil.copyfile(path, folder / name)
                if weights:
                    logger.warning(f"{path}: copied from the base, not merged with the experts'")


def _stays_inside(path: Path, source: Path) -> bool:
    """Whether ``path`` is a file of the model, or a link to one, or to one of the same repository in a hub's cache."""
    folder = source.resolve()
    if stays_inside(path, folder):
        return True
    blobs = folder.parents[1] / "blobs"  # models--NAME/snapshots/REVISION/FILE -> ../../blobs/HASH
    return folder.parent.name == "snapshots" and not blobs.is_symlink() and stays_inside(path, blobs)
