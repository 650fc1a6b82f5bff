"""A model's parameters on disk or in memory, read by name, by slice, and without loading the rest.

A ``Checkpoint`` is also a ``Mapping[str, Tensor]``, so it goes wherever a state dict goes.
:func:`manyone.weights.open.open_checkpoint` opens files and folders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

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

    ``aliases`` maps the further names of a tied tensor to the name under which it is kept, which may be the only one
    that is stored. ``outdated`` are the keys of config.json that do not hold for these values (a quantisation that was
    undone while reading).
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        *,
        label: str,
        path: Path | None = None,
        folder: Path | None = None,
        aliases: Mapping[str, str] | None = None,
        outdated: tuple[str, ...] = (),
    ) -> None:
        self.entries = dict(entries)
        self.label, self.path, self.folder = label, path, folder
        self.aliases = dict(aliases or {})
        self.outdated = outdated

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
        info = self.info(name)
        return self.read_flat(name, 0, info.numel).view(info.shape).to(info.dtype.torch, copy=True)

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
        return self.with_entries(entries, aliases)

    def with_entries(self, entries: Mapping[str, Entry], aliases: Mapping[str, str] | None = None) -> Checkpoint:
        """The same model with other tensors; ``aliases`` None keeps its own."""
        return Checkpoint(
            entries,
            label=self.label,
            path=self.path,
            folder=self.folder,
            aliases=self.aliases if aliases is None else aliases,
            outdated=self.outdated,
        )


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
