"""Element types, shapes and conversions of stored tensors, known without PyTorch.

Importing PyTorch takes longer than merging models of ordinary size, so what only adds float32 or float64 numbers does
without it. Values travel as flat numpy arrays in their stored form: as themselves where numpy has the type, as unsigned
integers of the same width otherwise (bfloat16, 8-bit floats). PyTorch is loaded for narrow floats only.
Public names: :class:`DType`, :data:`DTYPES`, :func:`dtype_of`, :class:`TensorInfo`, :func:`is_float`,
:func:`difference`, :func:`stored_form`, :func:`wide`, :func:`narrow`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DType(NamedTuple):
    """An element type: ``code`` in safetensors' headers, ``name`` in numpy and PyTorch, and the type that holds it."""

    code: str
    name: str
    stored: np.dtype[Any]
    largest: float = 0.0
    """The largest finite value of a floating-point type, 0 for all others."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.stored.itemsize

    @property
    def is_floating_point(self) -> bool:
        """Whether it takes part in arithmetic."""
        return self.largest > 0

    @property
    def torch(self) -> torch.dtype:
        """The same type in PyTorch (which this imports)."""
        import torch

        found: torch.dtype = getattr(torch, self.name)
        return found

    def __str__(self) -> str:
        return self.name


def _dtypes() -> dict[str, DType]:
    known = [DType(f"I{bits}", f"int{bits}", np.dtype(f"int{bits}")) for bits in (64, 32, 16, 8)]
    known += [DType(f"U{bits}", f"uint{bits}", np.dtype(f"uint{bits}")) for bits in (64, 32, 16, 8)]
    known += [DType("BOOL", "bool", np.dtype(bool)), DType("C64", "complex64", np.dtype(np.complex64))]
    for code, name in (("F64", "float64"), ("F32", "float32"), ("F16", "float16")):
        known.append(DType(code, name, np.dtype(name), float(np.finfo(name).max)))
    known.append(DType("BF16", "bfloat16", np.dtype(np.uint16), (2 - 2**-7) * 2.0**127))
    known.append(DType("F8_E4M3", "float8_e4m3fn", np.dtype(np.uint8), 448.0))
    known.append(DType("F8_E5M2", "float8_e5m2", np.dtype(np.uint8), 57344.0))
    return {dtype.code: dtype for dtype in known}


DTYPES = _dtypes()
"""All element types of the safetensors format that are understood, by code."""
_NAMED = {dtype.name: dtype for dtype in DTYPES.values()}


def dtype_of(dtype: torch.dtype | str) -> DType:
    """The element type of a PyTorch dtype, or by name ("bfloat16")."""
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMED:
        raise ManyoneError(f"tensors of type {name} are not supported; supported are {', '.join(_NAMED)}")
    return _NAMED[name]


class TensorInfo(NamedTuple):
    """dtype and shape of a stored tensor."""

    dtype: DType
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorInfo:
        """That of a tensor in memory."""
        return cls(dtype_of(tensor.dtype), tuple(tensor.shape))

    @property
    def numel(self) -> int:
        """Number of elements (1 for a scalar)."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self.numel * self.dtype.itemsize


def is_float(info: TensorInfo) -> bool:
    """Whether the tensor takes part in arithmetic (counters, masks and position ids do not)."""
    return info.dtype.is_floating_point


def _kind(dtype: DType) -> str:
    """``float``, ``bool``, ``complex`` or ``integer``: what two models must agree on; float precisions may differ."""
    return "float" if dtype.is_floating_point else {"BOOL": "bool", "C64": "complex"}.get(dtype.code, "integer")


def difference(base: TensorInfo, expert: TensorInfo) -> str | None:
    """Why ``expert`` cannot be combined with ``base``, in words; ``None`` when it can."""
    if base.shape != expert.shape:
        return f"has shape {list(expert.shape)}, the base has {list(base.shape)}"
    if _kind(base.dtype) != _kind(expert.dtype):
        return f"is {_kind(expert.dtype)} ({expert.dtype}), the base is {_kind(base.dtype)} ({base.dtype})"
    return None


def stored_form(tensor: Tensor) -> np.ndarray:
    """A flat CPU tensor as an array that shares its memory."""
    dtype = dtype_of(tensor.dtype)
    as_itself = dtype.name == dtype.stored.name
    return tensor.numpy() if as_itself else tensor.view(dtype_of(dtype.stored.name).torch).numpy()


def wide(values: np.ndarray) -> bool:
    """Whether numpy computes with these values as fast as PyTorch does: float32 and float64."""
    return values.dtype.kind == "f" and values.dtype.itemsize >= 4


def narrow(values: np.ndarray, dtype: DType, out: np.ndarray) -> np.ndarray:
    """float32 or float64 ``values`` rounded to ``dtype``, in its stored form in ``out`` (of that type and length)."""
    if wide(out):
        np.copyto(out, values, casting="same_kind")
    else:
        import torch

        torch.from_numpy(out).view(dtype.torch).copy_(torch.from_numpy(values))
    return out
