"""A model's parameters on disk or in memory, read by name, by slice, and without loading the rest.

``open_checkpoint`` understands a ``.safetensors`` file, a sharded index, a Hugging Face folder, a PEFT LoRA adapter
folder (merged into its base on the fly), and ``.pt``/``.pth``/``.bin`` files of tensors (never code: weights_only).
A ``Checkpoint`` is also a ``Mapping[str, Tensor]``, so it goes wherever a state dict goes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from manyone.errors import ManyoneError
from manyone.weights.safetensors_file import map_file, read_header
from manyone.weights.tensor_info import TensorInfo, stored_form, wide

if TYPE_CHECKING:
    from torch import Tensor

    _Tensors = Mapping[str, Tensor]
else:
    _Tensors = Mapping

Weights: TypeAlias = "Mapping[str, Tensor]"


class Entry(Protocol):
    """Where one tensor's values come from."""

    info: TensorInfo

    def flat(self, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` in row-major order; only to be read, never written to."""
        ...

    def array(self, start: int, stop: int) -> np.ndarray:
        """The same in the stored form of their dtype (see :mod:`manyone.weights.tensor_info`)."""
        ...


class MappedEntry:
    """A tensor inside a memory-mapped file; ``data`` are its bytes."""

    def __init__(self, info: TensorInfo, data: np.ndarray) -> None:
        self.info, self._data = info, data
        self._tensor: Tensor | None = None

    def flat(self, start: int, stop: int) -> Tensor:
        size = self.info.dtype.itemsize
        if self._data.ctypes.data % size:  # PyTorch wants aligned numbers
            return _tensor_on(self._data[start * size : stop * size].copy()).view(self.info.dtype.torch)
        if self._tensor is None:
            self._tensor = _tensor_on(self._data).view(self.info.dtype.torch)
        return self._tensor[start:stop]

    def array(self, start: int, stop: int) -> np.ndarray:
        size = self.info.dtype.itemsize
        return self._data[start * size : stop * size].view(self.info.dtype.stored)


def _tensor_on(data: np.ndarray) -> Tensor:
    """The bytes as a tensor on the same memory; where that is a map, writing to it is a crash: never hand it out."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch warns that the array is read-only, which is wanted
        return torch.from_numpy(data)


class TensorEntry:
    """A tensor in memory (any device; slices arrive on the CPU)."""

    def __init__(self, tensor: Tensor) -> None:
        self.info = TensorInfo.of(tensor)
        self.tensor = tensor
        self._flat = tensor.detach().reshape(-1)

    def flat(self, start: int, stop: int) -> Tensor:
        return self._flat[start:stop].cpu()

    def array(self, start: int, stop: int) -> np.ndarray:
        return stored_form(self.flat(start, stop))


class Checkpoint(_Tensors):
    """Named tensors with lazy access. ``label`` names it in messages; ``folder`` holds config files, if any.

    ``aliases`` maps the further names of a tied tensor to the name under which it is kept.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        *,
        label: str,
        path: Path | None = None,
        folder: Path | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.entries = dict(entries)
        self.label, self.path, self.folder = label, path, folder
        self.aliases = dict(aliases or {})

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def info(self, name: str) -> TensorInfo:
        """dtype and shape of ``name``."""
        return self.entries[name].info

    def read(self, name: str) -> Tensor:
        """The tensor in memory of its own, in its stored dtype."""
        import torch

        info = self.info(name)
        flat = self.read_flat(name, 0, info.numel)
        return torch.empty(info.shape, dtype=info.dtype.torch).copy_(flat.view(info.shape))

    def read_flat(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` in row-major order, without a copy where possible: do not write to them.

        A merged LoRA weight arrives in float32, not rounded to the stored dtype.
        """
        return self.entries[name].flat(start, stop)

    def floats(self, name: str, start: int, stop: int, out: np.ndarray) -> np.ndarray:
        """Elements ``start`` to ``stop`` as the float32 or float64 numbers of ``out``.

        Where they are stored so this is a view of them that must not be written to; otherwise they come in ``out``.
        """
        entry = self.entries[name]
        values = entry.array(start, stop)
        if values.dtype == out.dtype:
            return values
        if wide(values):
            np.copyto(out, values, casting="same_kind")
        else:
            import torch

            torch.from_numpy(out).copy_(entry.flat(start, stop))
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in their stored dtype."""
        return sum(entry.info.nbytes for entry in self.entries.values())

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """The same tensors under other names (``names``: old -> new; names that are not in it are dropped)."""
        entries = {names[name]: entry for name, entry in self.entries.items() if name in names}
        aliases = {names[a]: names[b] for a, b in self.aliases.items() if a in names and b in names}
        return Checkpoint(entries, label=self.label, path=self.path, folder=self.folder, aliases=aliases)


def as_checkpoint(weights: Weights, label: str = "weights") -> Checkpoint:
    """A state dict in memory as a ``Checkpoint``; tensors that share memory become one tensor with aliases."""
    if isinstance(weights, Checkpoint):
        return weights
    kept: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    for name, tensor in weights.items():
        place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and kept.setdefault(place, name) != name:
            aliases[name] = kept[place]
        entries[name] = TensorEntry(tensor)
    return Checkpoint(entries, label=label, aliases=aliases)


def open_checkpoint(path: str | Path, base: Checkpoint | str | Path | None = None) -> Checkpoint:
    """Opens a file or folder (see the module's first lines); ``base`` is what a LoRA adapter is merged into."""
    given, path = path, Path(path).expanduser()
    if not path.exists():
        path = _from_hub_cache(str(given))
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _open_index(path)
        return _open_file(path)
    if (path / "adapter_config.json").is_file():
        from manyone.weights.lora import open_adapter

        return open_adapter(path, base)
    for name in (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ):
        if (path / name).is_file():
            return open_checkpoint(path / name)
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    if len(found) == 1:
        return _open_file(found[0])
    what = (
        f"{len(found)} .safetensors files and no index"
        if found
        else "no model.safetensors, index or adapter_config.json"
    )
    raise ManyoneError(f"{path}: not a model folder ({what}); name the file itself")


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
        weight_map: dict[str, str] = json.loads(path.read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ManyoneError(f"{path}: damaged index, it has no readable weight_map ({error})") from error
    entries: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    for name in files:
        if Path(name).name != name:
            raise ManyoneError(f"{path}: shard {name!r} lies outside the model's folder")
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
    import pickle
    import zipfile

    import torch

    try:
        new_format = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=new_format)
    except pickle.UnpicklingError as error:
        raise ManyoneError(
            f"{path}: refused, this pickle holds more than tensors and could run code; save it as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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
