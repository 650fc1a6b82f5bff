"""The model folder that every field writes and reads: what a fresh process needs to load a model, and nothing pickled.

``model.safetensors`` holds the tensors, ``config.json`` the format's number and how the tensors belong together,
``README.md`` is the model card. A field says what the configuration holds and makes its model of it; the files, their
safe replacement and the messages about missing or damaged ones are here.
Public: ``write_model``, ``read_model``, ``model_config``, ``read_tensors``,
``plain_tensors``, ``buffers_of``, ``below``, ``load_weights``, ``check_shapes``, ``made_of``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from manyone.engine.bounded import Bounded
from manyone.engine.documents import loads_json
from manyone.engine.files import part_beside, sha256, sync_file, sync_folder, writing
from manyone.engine.mergeable import CARD, CONFIG, DIGEST, FORMAT, SECTION, WEIGHTS, Mergeable, config_text
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError

_LARGEST_CONFIG = 64 << 20  # bytes; what is larger is something else that has this name


def write_model(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    card: str,
    more: Mapping[str, Callable[[Path], None] | None] | None = None,
    *,
    merge: Mergeable | None = None,
) -> None:
    """Writes the model folder; files of other names that are there stay.

    ``config`` is JSON data. ``more``: further files by name, with the function that writes each to a path, or None
    where one of an earlier model is to go. ``merge``: which tensors are weights, and what becomes of all else when
    such models are merged (``manyone run average ...``). Everything is on the disk before the first file takes its
    place, the configuration last: whatever stops the writing before, the model of before is whole.
    """
    folder = Path(folder)
    config = {**config, **({} if merge is None else {SECTION: merge.section()})}
    try:
        config_text({"manyone_format": FORMAT, **config})
    except (TypeError, ValueError) as error:
        raise ManyoneError(f"{folder / CONFIG}: not written: what is saved must be JSON data: {error}") from None
    with writing(folder), part_beside(folder / "model") as part:
        save_tensors(plain_tensors(tensors), part / WEIGHTS)
        (part / CARD).write_text(card, encoding="utf-8")
        for name, write in (more or {}).items():
            if write is not None:
                write(part / name)
        whole = {"manyone_format": FORMAT, **config, DIGEST: sha256(part / WEIGHTS)}
        (part / CONFIG).write_text(config_text(whole), encoding="utf-8")
        names = sorted((path.name for path in part.iterdir()), key=lambda name: name == CONFIG)
        for name in names:
            sync_file(part / name)
        for name in (more or {}).keys() - set(names):
            (folder / name).unlink(missing_ok=True)
        for name in names:
            (part / name).replace(folder / name)
        sync_folder(folder)


def read_model(
    folder: str | os.PathLike[str], what: str, needs: Sequence[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(configuration, tensors) of a model folder.

    ``ManyoneError`` when it holds no ``what`` ("a policy"), whose configurations have the entries ``needs``, when a
    file is missing or damaged, or when a later version wrote it.
    """
    path, config = Path(folder) / CONFIG, model_config(folder, what)
    # models of minimax runs used to call the number "format"
    number = config.get("manyone_format", config.get("format"))
    if type(number) is int and number > FORMAT:
        raise ManyoneError(f"{path}: format {number!r:.40}; this version of manyone knows {FORMAT}: use a newer one")
    if number != FORMAT or any(name not in config for name in needs):
        raise ManyoneError(f"{path}: not {what} that manyone wrote (a Hugging Face folder opens with from_pretrained)")
    tensors, wanted = read_tensors(path.with_name(WEIGHTS), device), config.pop(DIGEST, None)
    if wanted is not None and sha256(path.with_name(WEIGHTS)) != wanted:
        raise ManyoneError(f"{path.with_name(WEIGHTS)}: its SHA-256 is not the one in {CONFIG}: copy the whole folder "
                           f"again, or remove {DIGEST} there if you have changed the tensors yourself")  # fmt: skip
    return config, tensors


def model_config(folder: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The configuration of a model folder, as :func:`read_model` reads it; {} where it is no JSON object."""
    path = Path(folder) / CONFIG
    if not path.is_file() and (path.parent / WEIGHTS).is_file():
        raise ManyoneError(
            f"{folder}: tensors without {CONFIG}, as a merge of bare files leaves them, are not {what}: open "
            f"{WEIGHTS} with safetensors.torch.load_file and put them into your own module"
        )
    if not path.is_file():
        raise ManyoneError(f"{folder}: no {CONFIG}, so this is not {what} of manyone: give the `model` folder of a run")
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"{path.stat().st_size} bytes")
        config = loads_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{path}: damaged ({_line(error)}): save {what} again") from None
    return config if isinstance(config, dict) else {}


def read_tensors(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file; ``ManyoneError`` when it is missing or damaged."""
    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise ManyoneError(f"{path}: cannot be read ({_line(error)}): save the model again") from None


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` as safetensors takes them: on the CPU, contiguous, none sharing memory with another."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def buffers_of(module: nn.Module, prefix: str = "") -> tuple[str, ...]:
    """Names of the tensors of ``module`` that no optimiser moves (running statistics, tables), behind ``prefix``."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return tuple(prefix + name for name in module.state_dict() if name not in learned)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], path: str | os.PathLike[str], *, assign: bool = False
) -> None:
    """Puts ``tensors`` of the file ``path`` into ``module`` (``assign``: as they are, dtype included).

    ``ManyoneError`` names the first that does not fit.
    """
    check_shapes({name: value.shape for name, value in module.state_dict().items()}, tensors, path)
    module.load_state_dict(dict(tensors), assign=assign)


def check_shapes(
    shapes: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    """``ManyoneError`` names the first of ``tensors`` of the file ``path`` that is not as ``shapes`` say."""
    for name in sorted({*shapes, *tensors}):
        found = list(tensors[name].shape) if name in tensors else "missing"
        wanted = list(shapes[name]) if name in shapes else "no such tensor"
        if found != wanted:
            raise ManyoneError(
                f"{path}: {name} is {found}, {CONFIG} describes {wanted}: the two files do not belong together; copy "
                "the whole folder again"
            )


@contextlib.contextmanager
def made_of(path: str | os.PathLike[str], tensors: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Names the configuration ``path`` (or the model folder that holds it) when what is made of it inside fails.

    With the file's ``tensors`` no network is built that is far larger than they are.
    """
    try:
        with Bounded(tensors) if tensors is not None else contextlib.nullcontext():
            yield
    except torch.OutOfMemoryError:  # the device is too small, and nothing is damaged
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
            MemoryError) as error:  # fmt: skip
        path = Path(path) / CONFIG if Path(path).is_dir() else path
        what = f"{error} is missing" if isinstance(error, KeyError) else _line(error)
        raise ManyoneError(f"{path}: damaged ({what}): save the model again") from error


def _line(error: BaseException) -> str:
    return f"{' '.join(str(error).split()):.300}"
