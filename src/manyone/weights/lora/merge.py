"""The tensors of a LoRA adapter found in its base, and the base with them merged in.

Which tensor of the file stands for what is read from its name, as peft writes it; where it goes and how it is laid out,
from the names and shapes of the base. Whatever does not fit is one line, before a value of the base is read.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Entry
from manyone.weights.lora.config import AdapterConfig
from manyone.weights.lora.entries import LoraEntry, LowRank, RowsEntry
from manyone.weights.lora.start import kasa, olora, pissa
from manyone.weights.tensor_info import TensorInfo, is_float

_LORA = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector|diag))"
    r"(?:\.(?!weight$|bias$)\w+)?(?P<end>\.weight|\.bias)?$"
)
_ROWS = re.compile(r"^(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.\w+)?$")
_UNUSED = re.compile(r"\.token_adapter\.trainable_tokens_original\b|\.original_module\.|\.lora_velora_embed\b")
_SAVED = re.compile(r"\.modules_to_save\.(?P<first>\w+)(?P<rest>\..+)?$")
_MATRIX = 2  # dimensions


class Site(NamedTuple):
    """Where matrices A and B stand in the file: a module, within ``depth`` wrappers of the same module."""

    module: str
    depth: int
    head: bool
    """The output projection of an attention that peft adapts as a whole."""


@dataclass
class Found:
    """The tensors of an adapter, by what they stand for."""

    replaced: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Key in the base -> name in the file, and whether it is the weight below a LoRA layer."""
    rows: dict[str, str] = field(default_factory=dict)
    """Module -> name in the file."""
    parts: dict[Site, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Site -> part -> name in the file."""


class Layout(NamedTuple):
    """How A and B become a change of a stored tensor: W is a matrix or [experts, ...], perhaps [in, out]."""

    target: str
    experts: int
    transposed: bool


def merge_adapter(config: AdapterConfig, adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """``base`` with the tensors of ``adapter`` merged in, as ``config`` says."""
    return _Merge(config, adapter, base).merged()


class _Merge:
    """One adapter and its base; ``entries`` is the state of the merge so far."""

    def __init__(self, config: AdapterConfig, adapter: Checkpoint, base: Checkpoint) -> None:
        self.config, self.adapter, self.base = config, adapter, base
        self.folder = config.path.parent
        self.entries: dict[str, Entry] = dict(base.entries)
        self.aliases = dict(base.aliases)
        self.below: set[str] = set()  # targets whose weight below the LoRA layer is in the file
        self.changed: set[str] = set()

    def merged(self) -> Checkpoint:
        found = self._sorted()
        for key, (name, below) in found.replaced.items():
            self._replace(key, name, below)
        # Of tied modules peft merges the input embedding first, which is the one that the base names.
        for module in sorted(found.rows, key=self._unnamed):
            self._replace_rows(module, found.rows[module])
        for site in sorted(found.parts, key=lambda site: self._unnamed(site.module)):
            self._change(site, found.parts[site])
        entries = self.entries
        entries |= {a: entries[b] for a, b in self.aliases.items() if a in entries and b in entries}
        return Checkpoint(
            entries,
            label=str(self.folder),
            path=self.folder,
            folder=self.base.folder,
            aliases=self.aliases,
            outdated=self.base.outdated,
        )

    def _unnamed(self, module: str) -> bool:
        return find(f"{module}.weight", self.base) is None

    def _sorted(self) -> Found:
        """The adapter's tensors by what their names say."""
        found = Found()
        for name in self.adapter:
            key = name.removeprefix("base_model.model.")
            if match := _LORA.match(key):
                module, part = match["module"], match["part"] + (".bias" if match["end"] == ".bias" else "")
                bare = re.sub(r"\.base_layer(?=\.|$)", "", module)
                head = bool(re.search(r"\.base_layer\.out_proj$", module))
                depth = 0 if head else module.count(".base_layer")
                if (part, False) in (("lora_diag", self.config.kasa), ("lora_magnitude_vector", self.config.dora)):
                    raise self._variant(name)
                self._once(found.parts[Site(bare, depth, head)], part, name)
            elif match := _ROWS.match(key):
                self._once(found.rows, match["module"], name)
            elif any(piece.startswith("lora_") and piece != "lora_velora_embed" for piece in key.split(".")):
                raise self._variant(name)
            elif not _UNUSED.search(key):
                below = ".base_layer." in key
                key = re.sub(r"\.(token_adapter|base_layer)(?=\.)", "", key)
                if match := _SAVED.search(key):
                    key = self._saved(key, match)
                if key in found.replaced:
                    raise ManyoneError(f"{self.folder}: two tensors stand for {key}, {name!r} is one of them")
                found.replaced[key] = name, below
        return found

    def _variant(self, name: str) -> ManyoneError:
        return ManyoneError(
            f"{self.folder}: tensor {name!r} is of a LoRA variant that is not supported or that adapter_config.json "
            "does not name; merge it with peft's merge_and_unload and give the folder of the result"
        )

    def _once(self, parts: dict[str, str], part: str, name: str) -> None:
        if part in parts:
            raise ManyoneError(f"{self.folder}: {name!r} and {parts[part]!r} stand for the same tensor")
        if not is_float(self.adapter.info(name)):
            raise ManyoneError(
                f"{self.folder}: tensor {name!r} holds {self.adapter.info(name).dtype} codes, no weights; "
                "save the adapter in float32, float16 or bfloat16"
            )
        parts[part] = name

    def _saved(self, key: str, match: re.Match[str]) -> str:
        """Older names of modules_to_save hold the wrapper's name, with or without the adapter's."""
        whole = f"{key[: match.start()]}.{match['first']}{match['rest'] or ''}"
        bare = f"{key[: match.start()]}{match['rest'] or ''}"
        return bare if match["rest"] and find(whole, self.base) is None else whole

    # -- biases, modules_to_save, rows of tokens ---------------------------------------------------------------------

    def _target(self, key: str) -> str | None:
        """The base's name for ``key``, the first of tied ones."""
        name = find(key, self.base) or find(key, self.base.aliases)
        return self.base.aliases.get(name, name) if name else None

    def _replace(self, key: str, name: str, below: bool) -> None:
        """A tensor of the file in the place of the base's."""
        entry = self.adapter.entries[name]
        if below and (target := self._target(key)) is not None:  # tied weights stay tied below their LoRA layers
            self.entries[target] = entry
            self.below.add(target)
            return
        own = find(key, self.base) or find(key, self.base.aliases) or key
        self.entries[own] = entry
        for alias, kept in self.base.aliases.items():
            if own in (alias, kept) and alias in self.aliases:  # the trained module has a weight of its own
                del self.aliases[alias]
                other = kept if own == alias else alias
                if other not in self.entries and kept in self.base:
                    self.entries[other] = self.base.entries[kept]

    def _replace_rows(self, module: str, name: str) -> None:
        target = self._target(f"{module}.weight")
        if target is None:
            raise self._absent(f"{module}.weight")
        tokens = self.config.tokens
        if isinstance(tokens, dict):
            keys = [key for key in tokens if module == key or module.endswith(f".{key}")]
            tokens = tokens[max(keys, key=len)] if keys else None
        entry, info = self.entries[target], self.adapter.info(name)
        shape = entry.info.shape
        fits = tokens is not None and len(shape) == _MATRIX and info.shape == (len(tokens), shape[1])
        if tokens is None or not fits or any(row >= shape[0] for row in tokens):
            raise ManyoneError(
                f"{self.folder}: trained rows of {module} have shape {list(info.shape)}; they do not fit "
                f"trainable_token_indices ({len(tokens or [])} rows) and the base weight {list(shape)}"
            )
        self._check_float(target)
        if tokens:
            self.entries[target] = RowsEntry(entry, tokens, self.adapter.read(name))

    # -- A and B -----------------------------------------------------------------------------------------------------

    def _change(self, site: Site, parts: Mapping[str, str]) -> None:
        """W + s B A, with whatever else the file has for this module."""
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        if not set(names) <= set(parts):
            missing = " and ".join(name for name in names if name not in parts)
            raise ManyoneError(
                f"{self.folder}: {site.module} has only one of the two LoRA matrices, or neither ({missing} is missing)"
            )
        a, b = (self._matrix(parts[name], site.module) for name in names)
        layout = self._layout(site, a, b, embedding)
        target, entry = layout.target, self.entries[layout.target]
        self._check_float(target)
        rank = a.shape[0] // layout.experts
        parameter = target.rpartition(".")[2]
        by_name = parameter in self._parameters(site.module)
        scale = self.config.scale(f"{site.module}.{parameter}" if by_name else site.module, rank)
        if "lora_B.bias" in parts:
            self._add_bias(site.module, parts["lora_B.bias"], scale)
        if site.head:
            scale *= 2  # peft adds the change of an attention's output projection twice, in training as in merging
        if self.config.kasa:
            b = b * self._vector(parts.get("lora_diag"), "lora_diag", site.module, rank)
        outputs = b.shape[0]
        magnitude = None
        if self.config.dora:
            magnitude = self._vector(parts.get("lora_magnitude_vector"), "lora_magnitude_vector", site.module, outputs)
        if target in self.changed and (magnitude is not None or self.config.init in ("pissa", "olora")):
            raise ManyoneError(
                f"{self.folder}: {site.module} changes {target}, which another module of the adapter is tied to; "
                "merge the adapter with peft's merge_and_unload and give the folder of the result"
            )
        self.changed.add(target)
        self.entries[target] = LoraEntry(
            entry,
            _change_of(a, b, layout, scale),
            taken=None if embedding or target in self.below else self._taken(site, layout, entry, rank, scale),
            magnitude=magnitude,
            by_column=layout.transposed,
        )

    def _matrix(self, name: str, module: str) -> Tensor:
        """[r, in] or [out, r]: a convolution's A is [r, in, kh, kw] and its B [out, r, 1, 1]."""
        values = self.adapter.read(name).float()
        if values.dim() < _MATRIX or not values.numel():
            raise ManyoneError(f"{self.folder}: {name!r} is no matrix (shape {list(values.shape)})")
        if not values.isfinite().all():
            raise ManyoneError(f"{self.folder}: NaN or Inf in the LoRA matrices of {module}")
        return values.flatten(1)

    def _vector(self, name: str | None, part: str, module: str, length: int) -> Tensor:
        kind = "DoRA" if self.config.dora else "KaSA"
        if name is None:
            raise ManyoneError(f"{self.folder}: {kind} without {part} of {module}; save the adapter again")
        values = self.adapter.read(name).float().flatten()
        if len(values) != length:
            shape = list(self.adapter.info(name).shape)
            raise ManyoneError(f"{self.folder}: {part} of {module} has shape {shape}; {length} values fit its matrices")
        if not values.isfinite().all():
            raise ManyoneError(f"{self.folder}: NaN or Inf in {part} of {module}")
        return values

    def _add_bias(self, module: str, name: str, scale: float) -> None:
        """b + s b_B (lora_bias)."""
        target = self._target(f"{module}.bias")
        info = self.adapter.info(name)
        if target is None:
            raise ManyoneError(
                f"{self.folder}: a trained lora_bias of {module}, which has no bias in the base; "
                "it cannot be merged without changing the architecture"
            )
        entry = self.entries[target]
        if entry.info.shape != info.shape:
            raise ManyoneError(
                f"{self.folder}: lora_bias of {module} has shape {list(info.shape)}, the base {list(entry.info.shape)}"
            )
        values = self.adapter.read(name).float()
        if not values.isfinite().all():
            raise ManyoneError(f"{self.folder}: NaN or Inf in lora_bias of {module}")
        self.entries[target] = LoraEntry(entry, LowRank.of(values[:, None], values.new_ones(1, 1), scale))

    def _taken(self, site: Site, layout: Layout, entry: Entry, rank: int, scale: float) -> partial[LowRank] | None:
        init = self.config.init
        if init not in ("pissa", "olora") and not self.config.kasa:
            return None
        if len(entry.info.shape) != _MATRIX or site.head or (self.config.kasa and layout.transposed):
            raise ManyoneError(
                f"{self.folder}: {site.module} is no linear layer: peft has no "
                f"{'KaSA' if self.config.kasa else init} of it"
            )
        if self.config.kasa:
            if init in ("pissa", "olora") or rank >= min(entry.info.shape):
                raise ManyoneError(
                    f"{self.folder}: kasa_config of {site.module}: peft has it for ranks below {min(entry.info.shape)} "
                    f"without PiSSA or OLoRA (rank {rank}, init_lora_weights {init})"
                )
            return partial(kasa, entry, rank)
        return partial(pissa, entry, rank, layout.transposed) if init == "pissa" else partial(olora, entry, rank, scale)

    # -- where and how -----------------------------------------------------------------------------------------------

    def _layout(self, site: Site, a: Tensor, b: Tensor, embedding: bool) -> Layout:
        target = self._target(f"{site.module}.weight")
        if target is None and not site.depth:
            target = self._target(f"{site.module}.in_proj_weight")
        if target is None and self.config.parameters:
            return self._parameter(site, a, b)
        if target is None:
            raise self._absent(f"{site.module}.weight")
        shape = self.entries[target].info.shape
        if len(shape) > _MATRIX and self.config.parameters and "weight" in self._parameters(site.module):
            return self._parameter(site, a, b)
        matrix = (shape[0], math.prod(shape[1:])) if shape else ()
        plain = (b.shape[0], a.shape[1])
        transposed = embedding or (plain != matrix if plain != plain[::-1] else self._transposed(target))
        if a.shape[0] != b.shape[1] or matrix != (plain[::-1] if transposed else plain) or site.depth:
            raise ManyoneError(
                f"{self.folder}: LoRA matrices of {site.module} have shapes A {list(a.shape)}, B {list(b.shape)}; "
                f"they do not fit the base weight {list(shape)}"
            )
        return Layout(target, 1, transposed)

    def _transposed(self, target: str) -> bool:
        """Whether a square weight is stored as [in, out]: as its namesakes that are not square, else as configured.

        peft goes by the class of each module (GPT-2's Conv1D) and may leave ``fan_in_fan_out`` as the last one had it.
        """
        end = "." + ".".join(target.split(".")[-2:])
        for name, info in _infos(self.base):
            if name.endswith(end) and len(info.shape) == _MATRIX and info.shape[0] != info.shape[1]:
                bias = self.base.entries.get(name.removesuffix("weight") + "bias")
                if bias is not None:
                    return bias.info.shape == info.shape[1:]
        return self.config.fan_in_fan_out

    def _parameters(self, module: str) -> list[str]:
        """Own names of the parameters of ``module`` that the configuration targets."""
        wanted = self.config.parameters
        if not wanted:
            return []
        found = find(module + ".", [name.rpartition(".")[0] + "." for name in self.base])
        prefix = found or module + "."
        own = [name for name in self.base if name.startswith(prefix) and "." not in name[len(prefix) :]]
        return [name[len(prefix) :] for name in own if any(name == key or name.endswith(f".{key}") for key in wanted)]

    def _parameter(self, site: Site, a: Tensor, b: Tensor) -> Layout:
        """The parameter (target_parameters) whose shape A [experts r, in] and B [out, experts r] fit, if it is one.

        Several parameters of one module are told apart by their shapes alone, and so is the order of a stack's axes.
        """
        fits = []
        for parameter in self._parameters(site.module):
            target = self._target(f"{site.module}.{parameter}")
            shape = self.entries[target].info.shape if target else ()
            if target is None or a.shape[0] != b.shape[1]:
                continue
            pair = (b.shape[0], a.shape[1])
            if shape == pair:
                fits.append(Layout(target, 1, False))
            elif len(shape) == _MATRIX + 1 and a.shape[0] % shape[0] == 0:
                fits += [Layout(target, shape[0], False)] * (shape[1:] == pair)
                fits += [Layout(target, shape[0], True)] * (shape[1:] == pair[::-1])
        if len(fits) != 1:
            raise ManyoneError(
                f"{self.folder}: target_parameters of {site.module}: matrices A {list(a.shape)}, B {list(b.shape)} fit "
                f"{len(fits)} of its parameters, and must fit one; merge the adapter with peft's merge_and_unload"
            )
        if (
            self.config.dora
            or self.config.kasa
            or self.config.init in ("pissa", "olora")
            or fits[0].target in self.changed
        ):
            raise ManyoneError(
                f"{self.folder}: target_parameters of {site.module} is merged as plain LoRA only; "
                "merge the adapter with peft's merge_and_unload"
            )
        return fits[0]

    def _absent(self, key: str) -> ManyoneError:
        return ManyoneError(f"{self.folder}: the adapter changes {key}, which {self.base.label} does not have")

    def _check_float(self, target: str) -> None:
        info = self.entries[target].info
        if not is_float(info):
            raise ManyoneError(
                f"{self.folder}: {target} of {self.base.label} holds {info.dtype} codes, no weights; "
                "give the base that is not quantised"
            )


def find(key: str, names: Mapping[str, object] | list[str]) -> str | None:
    """The base's name for ``key``: equal, or the only one that differs by a prefix alone (wrapped and bare models)."""
    if key in names:
        return key
    near = [name for name in names if name.endswith(f".{key}") or key.endswith(f".{name}")]
    near = [name for name in near if name.count(".") == max(n.count(".") for n in near)]
    return near[0] if len(set(near)) == 1 else None


def _infos(base: Checkpoint) -> Iterator[tuple[str, TensorInfo]]:
    for name, entry in base.entries.items():
        yield name, entry.info


def _change_of(a: Tensor, b: Tensor, layout: Layout, scale: float) -> LowRank:
    """s B A; of a stack s B_e A_e of every expert e, A [experts r, in] and B [out, r experts] (their orders differ)."""
    if layout.experts == 1:
        return LowRank.of(b, a, scale, layout.transposed)
    a = a.view(layout.experts, -1, a.shape[1])  # [experts, r, in]
    b = b.view(b.shape[0], -1, layout.experts).permute(2, 0, 1)  # [experts, out, r]
    left, right = (a.mT, b.mT) if layout.transposed else (b, a)
    return LowRank(left.contiguous(), right.contiguous(), scale)
