"""Quantised checkpoints: 8-bit floats with plain scales are read as the numbers they stand for, all else is refused.

The codes of a quantised weight are no weights: an average of codes is not the code of an average. Read are float8
tensors beside ``..._scale_inv`` or ``..._scale`` (DeepSeek's blocks of 128 x 128, one scale a row or a tensor of
compressed-tensors, FBGEMM, ModelOpt): w = code * scale, formed slice by slice. A file of float8 tensors without any
scale and without ``quantization_config`` is a plain cast: its numbers are what they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Entry
from manyone.weights.model_config import config_beside
from manyone.weights.tensor_info import DType, TensorInfo, dtype_of

if TYPE_CHECKING:
    from torch import Tensor

_SETTINGS = ("quantization_config", "compression_config")
_BESIDE = (  # names beside the codes of a format
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"\.(nested_)?(absmax|quant_map)$|\.quant_state\."), "bitsandbytes, 4 bits"),
    (re.compile(r"\.(SCB|weight_format)$"), "bitsandbytes, 8 bits"),
    (re.compile(r"\.(weight_packed|weight_global_scale|weight_zero_point|bitmask)$"), "compressed-tensors, packed"),
    (re.compile(r"\.weight_scale_2$"), "ModelOpt, 4 bits"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"_blocks$"), "MXFP4"),
)
_CODES = re.compile(r"(^|\.|_)(weight|qweight|weight_packed|W_q|codes|blocks|_data|qdata|bitmask)$")
_SMALL = ("I8", "U8", "I16", "U16", "I32", "U32")
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_OF_ACTIVATIONS = re.compile(
    r"(^|\.|_)(input|activation|output|q|k|v|prob|kv|kv_cache)_scale(_inv)?$"  # of inputs and caches, not of weights
)
_BLOCK = (128, 128)  # DeepSeek's, where no configuration says otherwise
_WAY_OUT = "give the model from before the quantisation, or dequantise it with its own library and save it"


class ScaledEntry:
    """code * scale; ``blocks`` is how many neighbours along each axis share a scale [ceil(size / block), ...]."""

    def __init__(self, codes: Entry, scale: Entry, shape: tuple[int, ...], blocks: tuple[int, ...], dtype: DType):
        self.info = TensorInfo(dtype, codes.info.shape)
        self._codes, self._scale, self._shape, self._blocks = codes, scale, shape, blocks
        self._rows: Tensor | None = None

    def flat(self, start: int, stop: int) -> Tensor:
        columns = self.info.shape[-1]
        first, last = start // columns, -(-stop // columns)
        places = np.unravel_index(np.arange(first, last), self.info.shape[:-1])
        coarse = tuple(place // block for place, block in zip(places, self._blocks, strict=False))
        rows = np.ravel_multi_index(coarse, self._shape[:-1])
        scales = self._scales()[rows].repeat_interleave(self._blocks[-1], dim=1)[:, :columns].reshape(-1)
        return self._codes.flat(start, stop).float() * scales[start - first * columns : stop - first * columns]

    def array(self, start: int, stop: int) -> np.ndarray:
        return self.flat(start, stop).numpy()

    def _scales(self) -> Tensor:
        """[rows of blocks, blocks of a row]."""
        if self._rows is None:
            self._rows = self._scale.flat(0, self._scale.info.numel).float().reshape(-1, self._shape[-1])
        return self._rows


def undone(checkpoint: Checkpoint) -> Checkpoint:
    """The model with numbers in the place of codes; itself where there are none; ``ManyoneError`` for other formats."""
    config = config_beside(checkpoint.folder)
    settings = next((config[key] for key in _SETTINGS if config.get(key)), None)
    if settings is not None and not isinstance(settings, dict):
        raise ManyoneError(f"{checkpoint.label}: quantization_config of its config.json is no JSON object")
    method = str((settings or {}).get("quant_method") or "quantization_config")
    _refuse_codes(checkpoint, method if settings else None)
    float8 = [n for n, e in checkpoint.entries.items() if e.info.dtype.code in _FLOAT8 and len(e.info.shape) > 1]
    scales = {name: scale for name in float8 if (scale := _scale_of(name, checkpoint)) is not None}
    if (settings or scales) and (bare := [name for name in float8 if name not in scales]):
        raise ManyoneError(
            f"{checkpoint.label}: {bare[0]} holds float8 codes ({method}) without a plain scale; {_WAY_OUT}"
        )
    if (settings or {}).get("transform_config"):
        raise ManyoneError(f"{checkpoint.label}: {method} with transform_config (rotated weights); {_WAY_OUT}")
    outdated = tuple({*checkpoint.outdated, *(key for key in _SETTINGS if key in config)})
    if not scales:
        return checkpoint if outdated == checkpoint.outdated else _with(checkpoint, checkpoint.entries, outdated)
    dtype = _dtype(config)
    dropped = {*scales.values(), *(name for name in checkpoint if _OF_ACTIVATIONS.search(name))}
    entries: dict[str, Entry] = {}
    for name, entry in checkpoint.entries.items():
        if name in scales:
            entries[name] = _scaled(checkpoint, name, scales[name], settings or {}, dtype)
        elif name not in dropped:
            entries[name] = entry
    return _with(checkpoint, entries, outdated)


def _with(checkpoint: Checkpoint, entries: Mapping[str, Entry], outdated: tuple[str, ...]) -> Checkpoint:
    found = checkpoint.with_entries(entries)
    found.outdated = outdated
    return found


def _refuse_codes(checkpoint: Checkpoint, method: str | None) -> None:
    """Raises ``ManyoneError`` if there are weights as integers, or the companions that such weights have."""
    forms = {name: form for name in checkpoint if (form := _form(name, checkpoint))}
    for name, entry in checkpoint.entries.items():
        integers = entry.info.dtype.code in _SMALL and len(entry.info.shape) > 1
        if name in forms or (integers and (_CODES.search(name) or method)):
            form = method or next(iter(forms.values()), f"{entry.info.dtype} codes")
            raise ManyoneError(f"{checkpoint.label}: {name} is quantised ({form}), codes are not averaged; {_WAY_OUT}")


def _form(name: str, checkpoint: Checkpoint) -> str | None:
    """The format that has a tensor of this name; of common names only where it holds integers."""
    form = next((words for pattern, words in _BESIDE if pattern.search(name)), None)
    floats = checkpoint.info(name).dtype.is_floating_point
    return None if floats and form in ("MXFP4", "GPTQ or AWQ", "HQQ") else form


def _scale_of(name: str, checkpoint: Checkpoint) -> str | None:
    found = [f"{name}{end}" for end in ("_scale_inv", "_scale") if f"{name}{end}" in checkpoint]
    return found[0] if found and checkpoint.info(found[0]).dtype.itemsize > 1 else None


def _scaled(checkpoint: Checkpoint, name: str, scale: str, settings: Mapping[str, Any], dtype: DType) -> ScaledEntry:
    shape, own = checkpoint.info(name).shape, checkpoint.info(scale).shape
    grid = own
    if math.prod(own) == 1:
        grid = (1,) * len(shape)
    elif len(own) == 1 and own[0] == shape[-2] and len(shape) == len(_BLOCK):
        grid = (*own, 1)
    blocks = _blocks(settings)
    sizes: list[int] = [1] * (len(shape) - len(blocks)) + list(blocks)
    fits = checkpoint.info(scale).dtype.is_floating_point and len(grid) == len(shape)
    for axis, (length, count) in enumerate(zip(shape, grid, strict=False)):
        if count == 1:
            sizes[axis] = max(length, 1)
        elif count == length:
            sizes[axis] = 1
        fits = fits and -(-length // sizes[axis]) == count
    if not fits:
        raise ManyoneError(
            f"{checkpoint.label}: {scale} of shape {list(own)} does not fit {name} of shape {list(shape)} in blocks of "
            f"{' x '.join(map(str, blocks))}; {_WAY_OUT}"
        )
    return ScaledEntry(checkpoint.entries[name], checkpoint.entries[scale], grid, tuple(sizes), dtype)


def _blocks(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block: of ``weight_block_size``, of compressed-tensors' groups, or DeepSeek's."""
    found = settings.get("weight_block_size")
    groups = settings.get("config_groups")
    if found is None and isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        named = [part["block_structure"] for part in weights if isinstance(part, dict) and part.get("block_structure")]
        found = named[0] if named else None
    if found is None:
        return _BLOCK
    if not isinstance(found, list) or [type(size) for size in found] != [int, int] or min(found) < 1:
        raise ManyoneError(f"quantization_config: block size {found!r:.40} is not two whole numbers from 1")
    return found[0], found[1]


def _dtype(config: Mapping[str, Any]) -> DType:
    """What the merged weights are written in: the configuration's dtype, bfloat16 where it names none."""
    name = config.get("dtype") or config.get("torch_dtype")
    return dtype_of(name if name in ("float32", "float16", "bfloat16") else "bfloat16")
