"""Opens a model's parameters from wherever they are stored.

A ``.safetensors`` file, a sharded index, a Hugging Face folder, a PEFT LoRA adapter folder (merged into its base on the
fly), and ``.pt``/``.pth``/``.bin`` files of tensors (never code: weights_only). PyTorch is loaded for the last kind
only. Quantised weights are read as numbers or refused (:mod:`manyone.weights.quantized`).
"""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from manyone.engine.documents import loads_json
from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Entry, MappedEntry, Weights, as_checkpoint
from manyone.weights.lora.config import adapter_config
from manyone.weights.model_config import config_beside, tied_head
from manyone.weights.quantized import undone
from manyone.weights.safetensors_file import map_file, read_header

if TYPE_CHECKING:
    from torch import nn

StrPath: TypeAlias = "str | os.PathLike[str]"
Model: TypeAlias = "Weights | StrPath | nn.Module"
Models: TypeAlias = "Sequence[Model]"

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def open_checkpoint(path: StrPath, base: Checkpoint | StrPath | None = None) -> Checkpoint:
    """Opens a file or folder (see the module's first lines); ``base`` is what a LoRA adapter is merged into."""
    given, path = os.fspath(path), Path(path).expanduser()
    if not path.exists():
        path = _from_hub_cache(given)
    if path.is_dir() and (path / "adapter_config.json").is_file():
        return _open_adapter(path, base)
    return _numbers(_open_weights(path))


def _numbers(stored: Checkpoint) -> Checkpoint:
    """The model with tied names and without codes, as its configuration says."""
    missing = tied_head(config_beside(stored.folder), stored)
    return undone(stored.with_entries(stored.entries, missing | stored.aliases))


def _open_weights(path: Path) -> Checkpoint:
    if path.is_file():
        return _open_index(path) if path.name.endswith(".index.json") else _open_file(path)
    for name in _WEIGHTS:
        if (path / name).is_file():
            return _open_weights(path / name)
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    if len(found) == 1:
        return _open_file(found[0])
    what = (
        f"{len(found)} .safetensors files and no index"
        if found
        else "no model.safetensors, index or adapter_config.json"
    )
    raise ManyoneError(f"{path}: not a model folder ({what}); name the file itself")


def open_model(model: Model, label: str, base: Checkpoint | None = None) -> Checkpoint:
    """A path, state dict, module or ``Checkpoint`` as a ``Checkpoint``; LoRA adapters are merged into ``base``."""
    weights = model.state_dict() if is_module(model) else model
    if isinstance(weights, Mapping):
        return undone(as_checkpoint(weights, label))
    if not isinstance(weights, str | os.PathLike):
        raise ManyoneError(f"{label}: a {type(model).__name__} is no model: give a path, a state dict or a module")
    return open_checkpoint(weights, base)


def is_module(model: object) -> TypeGuard[nn.Module]:
    """Whether ``model`` is a module of PyTorch, which needs not be loaded for the answer."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def open_models(models: Models, word: str, base: Checkpoint | None = None) -> list[Checkpoint]:
    """:func:`open_model` for each of ``models``; messages call the first one in memory "``word`` 1"."""
    if isinstance(models, str | os.PathLike | Mapping) or is_module(models) or not isinstance(models, Iterable):
        raise ManyoneError(f"{word}: give a list of models, not a single one")
    return [open_model(model, f"{word} {i + 1}", base) for i, model in enumerate(models)]


def _open_adapter(folder: Path, base: Checkpoint | StrPath | None) -> Checkpoint:
    """The base with the LoRA adapter in ``folder`` merged in; without ``base`` the one that the adapter names."""
    from manyone.weights.lora.merge import merge_adapter  # with PyTorch

    config = adapter_config(folder)
    if base is None:
        named = config.base
        if not named:
            raise ManyoneError(f"{folder}: a LoRA adapter without its base model; name the base with --base")
        try:
            base = open_checkpoint(named)
        except ManyoneError as error:
            raise ManyoneError(f"{folder}: its base model cannot be opened, name it with --base ({error})") from error
    elif not isinstance(base, Checkpoint):
        base = open_checkpoint(base)
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return merge_adapter(config, open_checkpoint(folder / name), base)
    raise ManyoneError(f"{folder}: has adapter_config.json and no adapter_model.safetensors")


def _open_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        entries, aliases = _mapped(path)
    elif path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        entries, aliases = _torch_entries(path)
    else:
        raise ManyoneError(f"{path}: unknown kind of file; expected .safetensors, .pt, .pth, .bin or an .index.json")
    return Checkpoint(entries, label=str(path), path=path, folder=_config_folder(path), aliases=aliases)


def _open_index(path: Path) -> Checkpoint:
    try:
        weight_map: dict[str, str] = loads_json(path.read_bytes())["weight_map"]
        files = sorted(set(weight_map.values()))
        if not all(isinstance(name, str) for name in files):
            raise ValueError("names of shards are text")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ManyoneError(f"{path}: damaged index, it has no readable weight_map ({error})") from error
    entries: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    for name in files:
        if Path(name).name != name or len(name) > 255 or not name.isprintable():
            raise ManyoneError(f"{path}: shard {name!r:.80} lies outside the model's folder")
        if not (path.parent / name).is_file():
            raise ManyoneError(f"{path.parent / name}: missing shard that {path.name} names")
        shard = _open_file(path.parent / name)
        entries |= {key: e for key, e in shard.entries.items() if weight_map.get(key) == name}
        aliases |= shard.aliases
    for key, name in weight_map.items():
        if key not in entries:
            raise ManyoneError(f"{path.parent / name}: has no tensor {key!r} although {path.name} says so")
    ordered = {key: entries[key] for key in weight_map}
    return Checkpoint(ordered, label=str(path.parent), path=path.parent, folder=_config_folder(path), aliases=aliases)


def _mapped(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    header, metadata = read_header(path)
    data = map_file(path)
    entries: dict[str, Entry] = {n: MappedEntry(s.info, data[s.start : s.stop]) for n, s in header.items()}
    # Tied tensors are stored once; as safetensors' own save_model does, the metadata tells the other names.
    return entries, {a: b for a, b in metadata.items() if b in entries and a not in entries}


def _torch_entries(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    import torch

    try:
        new_format = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=new_format)
    except pickle.UnpicklingError as error:
        raise ManyoneError(
            f"{path}: refused, this pickle holds more than tensors and could run code; save it as .safetensors"
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ManyoneError(f"{path}: damaged or not a PyTorch file ({reason})") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ManyoneError(f"{path}: holds no state dict (a mapping of names to tensors)")
    inner = as_checkpoint(loaded, str(path))
    return inner.entries, inner.aliases


def _config_folder(path: Path) -> Path | None:
    return path.parent if (path.parent / "config.json").is_file() else None


def _from_hub_cache(name: str) -> Path:
    """The folder of a Hugging Face repository that is already in the hub's local cache; nothing is downloaded."""
    problem = f"{name}: no such file or folder"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ManyoneError(problem)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except ImportError:
        raise ManyoneError(problem) from None
    except Exception as error:  # every failure of the look-up means the same to the user: it is not there
        raise ManyoneError(f"{problem}, and the Hugging Face cache does not have it (hf download {name})") from error
