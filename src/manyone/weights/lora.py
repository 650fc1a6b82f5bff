"""PEFT LoRA adapters as checkpoints: W + s B A is formed slice by slice while it is read, never for the whole model.

LoRA (Hu et al., 2021), equation 3: s = alpha / r; rank-stabilised LoRA (Kalajdzievski, 2023): s = alpha / sqrt(r).
``modules_to_save`` and trained biases replace (or add to) the base's tensors.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.engine.documents import loads_json
from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Entry
from manyone.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

_REPEATS = 3  # in a pattern that a file brings
_LORA = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.(?!weight$)\w+)?(\.weight)?$"
)


class LoraEntry:
    """W + scale * B A with W [rows, columns]; for ``transposed`` weights (fan_in_fan_out) W + scale * (B A)^T."""

    def __init__(self, base: Entry, a: Tensor, b: Tensor, scale: float, transposed: bool) -> None:
        self.info: TensorInfo = base.info
        self._base, self._scale = base, scale
        left, right = (a.T, b.T) if transposed else (b, a)
        self._left, self._right = left.float().contiguous(), right.float().contiguous()

    def flat(self, start: int, stop: int) -> Tensor:
        columns = self._right.shape[1]
        first, last = start // columns, -(-stop // columns)
        delta = (self._left[first:last] @ self._right).view(-1)
        return (
            self._base.flat(start, stop).float() + self._scale * delta[start - first * columns : stop - first * columns]
        )

    def array(self, start: int, stop: int) -> np.ndarray:
        return self.flat(start, stop).numpy()


def merge_adapter(folder: Path, config: dict[str, Any], adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """``base`` with the ``adapter`` tensors of ``folder`` merged in; ``config`` is :func:`adapter_config`'s."""
    entries: dict[str, Entry] = dict(base.entries)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name in adapter:
        module = _strip(name)
        found = _LORA.match(module)
        if found:
            pairs.setdefault(found["module"], {})[found["part"]] = adapter.read(name)
        elif "lora_" in module:
            raise ManyoneError(
                f"{folder}: tensor {name!r} is of a LoRA variant that is not supported (plain LoRA only)"
            )
        else:  # modules_to_save, trained biases
            key = re.sub(r"\.(modules_to_save|original_module)\.\w+\.", ".", module)
            entries[_find(key, base) or key] = adapter.entries[name]
    for module, parts in pairs.items():
        target = _find(f"{module}.weight", base)
        if target is None:
            raise ManyoneError(f"{folder}: the adapter changes {module}.weight, which {base.label} does not have")
        entries[target] = _merged(folder, config, module, parts, base.entries[target])
    return Checkpoint(entries, label=str(folder), path=folder, folder=base.folder, aliases=base.aliases)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration; raises ``ManyoneError`` for kinds that are not supported."""
    path = folder / "adapter_config.json"
    try:
        config = loads_json(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it must be a JSON object")
    except (ValueError, OSError) as error:
        raise ManyoneError(f"{path}: damaged adapter configuration ({error})") from error
    if config.get("peft_type") != "LORA":
        raise ManyoneError(f"{path}: peft_type {config.get('peft_type')!r} is not supported, only LORA is")
    if config.get("use_dora"):
        raise ManyoneError(f"{path}: DoRA adapters are not supported; merge it with peft's merge_and_unload first")
    return config


def _strip(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _find(key: str, base: Checkpoint) -> str | None:
    """The base's name for ``key``: equal, or the only one that differs by a prefix alone (wrapped and bare models)."""
    if key in base:
        return key
    near = [name for name in base if name.endswith(f".{key}") or key.endswith(f".{name}")]
    near = [name for name in near if name.count(".") == max(n.count(".") for n in near)]
    return near[0] if len(near) == 1 else None


def _merged(folder: Path, config: dict[str, Any], module: str, parts: dict[str, Tensor], entry: Entry) -> LoraEntry:
    embedding = "lora_embedding_A" in parts
    a, b = (
        parts.get("lora_embedding_A" if embedding else "lora_A"),
        parts.get("lora_embedding_B" if embedding else "lora_B"),
    )
    if a is None or b is None:
        raise ManyoneError(f"{folder}: {module} has only one of the two LoRA matrices")
    a, b = a.flatten(1), b.flatten(1)  # a convolution's A is [r, in, kh, kw] and its B [out, r, 1, 1]
    rank = a.shape[0]
    alpha = _pattern(folder, config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    transposed = embedding or bool(config.get("fan_in_fan_out"))
    shape = entry.info.shape
    matrix = (shape[0], math.prod(shape[1:])) if shape else ()
    delta = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
    if b.shape[1] != rank or matrix != delta:
        raise ManyoneError(
            f"{folder}: LoRA matrices of {module} have shapes A {list(a.shape)}, B {list(b.shape)}; "
            f"they do not fit the base weight {list(shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ManyoneError(f"{folder}: NaN or Inf in the LoRA matrices of {module}")
    return LoraEntry(entry, a, b, float(scale), transposed)


def _pattern(folder: Path, patterns: Any, module: str, default: Any) -> float:
    """The value for ``module``: of the first pattern that its name ends with, as PEFT compares them."""
    if not isinstance(patterns or {}, dict):
        raise ManyoneError(f"{folder}: alpha_pattern must map names of modules to numbers")
    found = default
    for pattern, value in (patterns or {}).items():
        if _ends_with(folder, pattern, module):
            found = value
            break
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ManyoneError(f"{folder}: alpha {found!r:.40} of {module}: must be a number")
    return found


def _ends_with(folder: Path, pattern: str, module: str) -> bool:
    """Whether the name ends with ``pattern``, a name or a regular expression that a file brings.

    Only expressions that take no more than a moment are run: short, and without repeated groups or many repetitions.
    """
    if re.fullmatch(r"[\w.\-]+", pattern):
        return module == pattern or module.endswith(f".{pattern}")
    repeats = len(re.findall(r"[*+{]", pattern))
    if len(pattern) > 200 or repeats > _REPEATS or re.search(r"\)[*+?{]|\(\?|\\[1-9]", pattern):
        raise ManyoneError(
            f"{folder}: alpha_pattern {pattern!r:.60} is not run: write names of modules, or a simpler one"
        )
    try:
        return re.search(rf"(?:^|\.)(?:{pattern})$", module) is not None
    except re.error as error:
        raise ManyoneError(f"{folder}: alpha_pattern {pattern!r:.60}: {error}") from None
