"""What a static merge does with every tensor, decided from names and shapes before a value is read.

Floating-point tensors that all models share are merged; integer and boolean buffers, and what ``exclude`` names, are
copied from the base, as are buffers that are infinite in the same places of all models (masks). Everything that does
not fit is an error with the option that resolves it. Tensors that are tied in all models are merged once, under one
name; a tensor that is tied in some is merged under both of its names. In model folders of this project only what they
call weights is merged (:mod:`manyone.merging.static.artefacts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manyone.errors import ManyoneError
from manyone.merging.static.artefacts import Joined, join
from manyone.weights.checkpoint import Checkpoint, Entry
from manyone.weights.model_config import architecture, config_beside
from manyone.weights.tensor_info import DType, TensorInfo, difference, is_float

_BUFFER = re.compile(r"(^|\.)(?!\w*(weight|bias)$)\w+$")  # what a module calls neither weight nor bias
_MASK = 1 << 24  # entries of such a buffer that is looked through
CHUNK = 1 << 16  # elements worked on at a time: 256 KB of float32, so that a few buffers stay in the cache


def within(option: str, value: object, holds: bool, allowed: str) -> None:
    """Raises ``ManyoneError`` that names the ``option``, its ``value`` and what is ``allowed``, unless ``holds``."""
    if not holds:
        raise ManyoneError(f"{option} = {value}: must be {allowed}")


@dataclass(frozen=True)
class Plan:
    """``base`` and ``experts`` under the base's names; ``merged`` and ``copied`` partition the output's tensors.

    ``aliases`` maps a tied tensor's further names to the one it is kept under; ``dropped`` are tensors of experts that
    ``exclude`` removed; ``notes`` are decisions that the user should know of; ``dtype`` replaces the base's float dtype
    in the output, ``dtypes`` that of single tensors; ``config`` are entries of the base's config.json that the output
    changes; ``joined``: what becomes of model folders of this project beside their weights; ``how``: the method and its
    options, as the model card tells them.
    """

    base: Checkpoint
    experts: list[Checkpoint]
    merged: list[str]
    copied: list[str]
    aliases: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dtype: DType | None = None
    dtypes: Mapping[str, DType] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    joined: Joined | None = None
    how: dict[str, Any] = field(default_factory=dict)

    def info(self, name: str) -> TensorInfo:
        """dtype and shape of an output tensor, which are the base's unless ``dtype`` or ``dtypes`` say otherwise."""
        info = self.base.info(name)
        wanted = self.dtype or self.dtypes.get(name)
        return info if wanted is None or not is_float(info) else TensorInfo(wanted, info.shape)

    @property
    def elements(self) -> int:
        """Number of merged elements."""
        return sum(self.info(name).numel for name in self.merged)

    @property
    def read_bytes(self) -> int:
        """Bytes of one pass over what is merged, in base and experts."""
        return sum(model.info(name).nbytes for model in [self.base, *self.experts] for name in self.merged)

    @property
    def written_bytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(self.info(name).nbytes for name in [*self.merged, *self.copied])

    def chunks(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, int, int]]:
        """(name, start, stop) of all pieces of at most ``CHUNK`` elements, in the output's order."""
        for name in self.merged if names is None else names:
            numel = self.info(name).numel
            for start in range(0, numel, CHUNK):
                yield name, start, min(start + CHUNK, numel)


def make_plan(base: Checkpoint, experts: Sequence[Checkpoint], exclude: Sequence[str] = ()) -> Plan:
    """Matches the experts' tensors to the base's; ``exclude`` holds regular expressions searched in the names."""
    if not experts:
        raise ManyoneError("merging needs at least one expert")
    patterns = _compile(exclude)
    joined = join(base, experts, lambda name: any(p.search(name) for p in patterns))
    settled: frozenset[str] = frozenset()
    if joined is not None:
        base, experts, settled = joined.base, joined.experts, joined.settled
    notes: list[str] = [] if joined is None else list(joined.notes)
    models = []
    for expert in experts:
        aligned, note = (expert, None) if settled else _align(base, expert)
        models.append(aligned)
        notes += [note] if note else []
    _check_architectures(base, models)
    tied = set(base.aliases)
    base, models, untied = _with_ties(base, models, patterns)
    notes += [f"{name}: not tied in all models, merged by itself" for name in untied]
    # A tied tensor is kept under the first of its names that every expert has too.
    groups: dict[str, list[str]] = {}
    for alias, name in base.aliases.items():
        groups.setdefault(name, [name]).append(alias)
    aliases: dict[str, str] = {}
    for names in groups.values():
        stored = [name for name in names if name in base]
        common = [name for name in stored if all(name in model for model in models)] or stored
        aliases |= {name: common[0] for name in names if common and name != common[0]}
    for pattern in patterns:
        if not any(pattern.search(name) for model in (base, *models) for name in model):
            tops = ", ".join(list(dict.fromkeys(name.split(".", 1)[0] for name in base))[:8])
            raise ManyoneError(f"--exclude {pattern.pattern!r}: no tensor has such a name; they begin with {tops}")
    excluded = {name for name in base if any(p.search(name) for p in patterns)} | settled
    own = [name for name in base if name not in aliases]
    merged = [name for name in own if name not in excluded and is_float(base.info(name))]
    dropped: set[str] = set()
    for model in models:
        extra = [n for n in model if n not in base and model.aliases.get(n) not in base]
        dropped |= {name for name in extra if any(p.search(name) for p in patterns)}
        problems = [(n, "is missing") for n in own if n not in excluded and n not in model]
        shared = [n for n in own if n not in excluded and n in model]
        problems += [(n, problem) for n in shared if (problem := difference(base.info(n), model.info(n)))]
        problems += [(n, "is not in the base") for n in extra if n not in dropped]
        if problems:
            raise ManyoneError(_complaint(model, base, problems))
    buffers = [name for name in merged if _BUFFER.search(name) and base.info(name).numel <= _MASK]
    masks = {name for name in buffers if _infinite_in_all(name, base, models)}
    notes += [f"{name}: infinite in the same places of all models, copied" for name in sorted(masks)]
    merged = [name for name in merged if name not in masks]
    if not merged and not (joined is not None and joined.grown):
        raise ManyoneError(f"{base.label}: no tensor is left to merge")
    kept = set(merged)
    copied = [name for name in own if name not in kept]
    config = {"tie_word_embeddings": False} if any(name in tied for name in untied) else {}
    return Plan(base, models, merged, copied, aliases, sorted(dropped), notes, config=config, joined=joined)


def _check_architectures(base: Checkpoint, experts: Sequence[Checkpoint]) -> None:
    """Equal names and shapes are not enough: Llama and Mistral have both in common, and compute different things."""
    own = config_beside(base.folder).get("model_type")
    for expert in experts:
        theirs = config_beside(expert.folder).get("model_type")
        if own and theirs and own != theirs:
            raise ManyoneError(
                f"{expert.label}: is a {theirs!r} model and the base {base.label} a {own!r} (model_type of their "
                "config.json); give experts that were fine-tuned from this base"
            )


def _with_ties(
    base: Checkpoint, experts: Sequence[Checkpoint], exclude: Sequence[re.Pattern[str]]
) -> tuple[Checkpoint, list[Checkpoint], list[str]]:
    """Base and experts with the same ties, and the names that are tied in some of them and have values of their own.

    Of a model that ties a name and leaves it out the tensor that it is tied to stands for it. Ties of names that
    ``exclude`` matches stay as they are in the base.
    """
    models = [base, *experts]
    ties = {alias: name for model in reversed(models) for alias, name in model.aliases.items() if alias != name}
    ties = {
        alias: name
        for alias, name in ties.items()
        if any(alias in model for model in models)
        and not any(pattern.search(end) for pattern in exclude for end in (alias, name))
        and all(_can_have(model, alias, name, base) for model in models)
    }
    untied = [alias for alias, name in ties.items() if not all(_same(model, alias, name) for model in models)]
    separate = {alias for alias in base if alias in ties and base.aliases.get(alias) != ties[alias]} | {*untied}
    found = []
    for model in models:
        entries: dict[str, Entry] = dict(model.entries)
        aliases = {a: b for a, b in model.aliases.items() if a not in separate}
        for alias, name in ties.items():
            if alias in separate:
                entries.setdefault(alias, entries[name])
            else:
                aliases.setdefault(alias, name)
                if alias not in base:
                    entries.pop(alias, None)
        found.append(model.with_entries(entries, aliases))
    return found[0], found[1:], untied


def _can_have(model: Checkpoint, alias: str, name: str, base: Checkpoint) -> bool:
    """Whether both names have values in ``model``, tied or of one shape; a bare model has no output embedding."""
    if name not in model:
        return False
    if alias in model:
        return model.info(alias).shape == model.info(name).shape
    if model.aliases.get(alias) == name:
        return True
    classes = {architecture(config_beside(one.folder)) for one in (model, base)} - {None}
    return config_beside(model.folder).get("tie_word_embeddings") is not False and len(classes) < 2


def _same(model: Checkpoint, alias: str, name: str) -> bool:
    """Whether the two names have the same values."""
    if alias not in model or model.aliases.get(alias) == name or model.entries[alias] is model.entries[name]:
        return True
    return all(np.array_equal(a, b, equal_nan=True) for a, b in _pieces([(model, alias), (model, name)]))


def _infinite_in_all(name: str, base: Checkpoint, experts: Sequence[Checkpoint]) -> bool:
    """Whether the tensor has infinite entries, no NaN, and the same values in all models."""
    infinite = False
    for (values,) in _pieces([(base, name)]):
        if np.isnan(values).any():
            return False
        infinite = infinite or bool(np.isinf(values).any())
    models = [(model, name) for model in (base, *experts)]
    return (
        infinite
        and len({model.info(name).shape for model, name in models}) == 1
        and all(np.array_equal(first, other) for first, *others in _pieces(models) for other in others)
    )


def _pieces(tensors: Sequence[tuple[Checkpoint, str]]) -> Iterator[list[np.ndarray]]:
    """Tensors of one shape, chunk by chunk, as float64 or float32."""
    numel = tensors[0][0].info(tensors[0][1]).numel
    kind = np.float64 if any(model.info(name).dtype.code == "F64" for model, name in tensors) else np.float32
    for start in range(0, numel, CHUNK):
        stop = min(start + CHUNK, numel)
        yield [model.floats(name, start, stop, np.empty(stop - start, kind)) for model, name in tensors]


def _compile(exclude: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(pattern) for pattern in exclude]
    except re.error as error:
        raise ManyoneError(f"--exclude: {error.pattern!r} is not a regular expression ({error})") from error


def _align(base: Checkpoint, expert: Checkpoint) -> tuple[Checkpoint, str | None]:
    """The expert under the base's names when a bare and a wrapped model differ by a prefix such as ``bert.``."""
    known = set(base)
    matched = sum(name in known for name in expert)
    if 2 * matched >= len(known):
        return expert, None
    candidates: list[tuple[dict[str, str], str]] = []
    for prefix in sorted({n.split(".", 1)[0] + "." for n in expert if "." in n}):
        candidates.append(({n: n.removeprefix(prefix) for n in expert}, f"without the prefix {prefix!r}"))
    for prefix in sorted({n.split(".", 1)[0] + "." for n in known if "." in n}):
        names = {n: prefix + n if prefix + n in known else n for n in expert}
        candidates.append((names, f"with the prefix {prefix!r} added"))
    if not candidates:
        return expert, None
    names, words = max(candidates, key=lambda c: sum(n in known for n in c[0].values()))
    count = sum(n in known for n in names.values())
    if 2 * count < len(known) or len(set(names.values())) < len(names):
        return expert, None
    return expert.renamed(names), f"{expert.label}: names taken {words}"


def _complaint(model: Checkpoint, base: Checkpoint, problems: list[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name} {problem}" for name, problem in problems[:4])
    more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
    heads = sorted({name.split(".", 1)[0] for name, _ in problems})
    tops = {name.split(".", 1)[0] for name in base}
    lost = len(problems) > 0.5 * len(base)
    text = f"{model.label}: {len(problems)} tensors do not fit the base {base.label}: {shown}{more}"
    if lost:
        return f"{text}; is this expert fine-tuned from that base?"
    # A whole top-level module is named when it is wrong as a whole (a classifier head), single tensors otherwise.
    wrong = {name for name, _ in problems}
    whole = [h for h in heads if h not in tops or all(n in wrong for n in base if n.split(".", 1)[0] == h)]
    single = sorted(n for n in wrong if n.split(".", 1)[0] not in whole)
    pattern = "|".join([rf"^{re.escape(h)}\b" for h in whole] + [f"^{re.escape(n)}$" for n in single[:4]])
    return f"{text}; leave them as they are in the base with --exclude '{pattern}'"
