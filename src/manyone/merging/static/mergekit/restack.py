"""Which tensors of which models make up every tensor of the output, where slices put layers in new places.

A slice of n layers takes, of each of its sources, n consecutive layers. What lies outside the layers comes from the
first slice where it stands before them (embeddings) and from the last otherwise. Nothing is copied: the sources appear
as checkpoints under the output's names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.mergekit.schema import Complaints, Slice
from manyone.merging.static.mergekit.settings import Place
from manyone.merging.static.plan import Plan
from manyone.merging.static.stream import Method, WholeTensors
from manyone.weights.checkpoint import Checkpoint, Entry

_LAYER = re.compile(r"(?:^|\.)(\d{1,6})\.")
_BEFORE = re.compile(r"(?!.*\bembed_out\b).*(?:emb|\bwte\b|\bwpe\b|relative_pe|_token$)")
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


@dataclass(frozen=True)
class Group:
    """The tensors of one slice: ``models[i]`` is source i under the output's names; ``leading`` is the source that
    gives names, shapes and dtypes: the base, or else the first."""

    part: Slice
    models: list[Checkpoint]
    leading: int
    places: Mapping[str, Place]


def split_layer(name: str) -> tuple[str, int, str] | None:
    """("model.layers.", 3, ".mlp.up_proj.weight"), or None outside the layers."""
    found = _LAYER.search(name)
    return (name[: found.start(1)], int(found[1]), name[found.end(1) :]) if found else None


def layer_counts(names: Iterable[str]) -> Counter[str]:
    """Number of layers by the beginning of their names."""
    counts: Counter[str] = Counter()
    for name in names:
        if layer := split_layer(name):
            counts[layer[0]] = max(counts[layer[0]], layer[1] + 1)
    return counts


def group_tensors(
    no: Complaints, slices: Sequence[Slice], whole: bool, models: Mapping[str, Checkpoint]
) -> list[Group]:
    """The output's tensors by slice, in the output's order."""
    if whole:
        return [_whole(slices[0], models)]
    groups: list[Group] = []
    offset = 0
    for k, part in enumerate(slices):
        group, length = _slice(no, part, models, offset, first=k == 0, last=k == len(slices) - 1)
        groups.append(group)
        offset += length
    return groups


def _leading(part: Slice) -> int:
    return next((i for i, source in enumerate(part.sources) if source.model == part.base), 0)


def _whole(part: Slice, models: Mapping[str, Checkpoint]) -> Group:
    sources = [models[source.model] for source in part.sources]
    leading = _leading(part)
    counts = layer_counts(sources[leading])
    places = {}
    for name in sources[leading]:
        layer = split_layer(name)
        t = 0.0 if layer is None else layer[1] / (counts[layer[0]] - 1) if counts[layer[0]] > 1 else 1.0
        places[name] = Place(t, [name] * len(sources))
    return Group(part, sources, leading, places)


def _slice(
    no: Complaints, part: Slice, models: Mapping[str, Checkpoint], offset: int, *, first: bool, last: bool
) -> tuple[Group, int]:
    spans = [source.layers for source in part.sources if source.layers is not None]
    lengths = {b - a for a, b in spans}
    if len(lengths) != 1:
        raise ManyoneError(
            f"{no.path}: {part.where}: its sources take {' and '.join(map(str, sorted(lengths)))} layers; "
            "all layer_range of one slice must have the same length"
        )
    length = lengths.pop()
    leading = _leading(part)
    stacks = [_stack(no, part.where, models[source.model]) for source in part.sources]
    for i, (source, (_, count), span) in enumerate(zip(part.sources, stacks, spans, strict=True)):
        if span[1] > count:
            where = f"{part.where}.sources[{i}].layer_range"
            raise no.refuse(where, list(span), f"{source.model} has {count} layers: use at most [0, {count}]")
    prefix = stacks[leading][0]
    renames: list[dict[str, str]] = []  # of each source: its name -> the output's
    takes: list[list[tuple[str, str]]] = []
    for source, (own, _), span in zip(part.sources, stacks, spans, strict=True):
        model = models[source.model]
        taken = []
        for name in model:
            layer = split_layer(name)
            if layer is None:
                if first if _BEFORE.match(name) else last:
                    taken.append((name, name))
            elif layer[0] == own and span[0] <= layer[1] < span[1]:
                taken.append((name, f"{prefix}{offset + layer[1] - span[0]}{layer[2]}"))
        takes.append(taken)
        renames.append(dict(taken))
    ordered = sorted(takes[leading], key=lambda pair: _order(pair[1]))
    back = [{new: old for old, new in renaming.items()} for renaming in renames]
    places = {}
    for _, new in ordered:
        layer = split_layer(new)
        t = 0.0 if layer is None else (layer[1] - offset) / (length - 1) if length > 1 else 1.0
        places[new] = Place(t, [names.get(new, new) for names in back])
    sources = [models[source.model].renamed(renaming) for source, renaming in zip(part.sources, renames, strict=True)]
    if leading < len(sources):
        sources[leading] = _in_order(sources[leading], [new for _, new in ordered])
    return Group(part, sources, leading, places), length


def _order(name: str) -> tuple[int, int]:
    layer = split_layer(name)
    return (1, layer[1]) if layer else (0 if _BEFORE.match(name) else 2, 0)


def _in_order(model: Checkpoint, names: Sequence[str]) -> Checkpoint:
    return model.with_entries({name: model.entries[name] for name in names})


def _stack(no: Complaints, where: str, model: Checkpoint) -> tuple[str, int]:
    """The beginning of the names of the model's layers, and their number."""
    counts = layer_counts(model)
    if len(counts) != 1:
        found = ", ".join(sorted(counts)[:4]) or "no numbered layers"
        raise ManyoneError(
            f"{no.path}: {where}: {model.label} has {found}; slices need a model with one stack of layers, "
            "merge it as a whole with models"
        )
    return next(iter(counts.items()))


def depth_entries(config: Mapping[str, Any], slices: Sequence[Slice]) -> dict[str, Any]:
    """What the leading model's configuration has to say about the new number of layers."""
    ranges = [part.sources[_leading(part)].layers or (0, 0) for part in slices]
    depth = sum(b - a for a, b in ranges)
    inner = config.get("text_config")
    if isinstance(inner, dict) and not any(key in config for key in _DEPTHS):
        return {"text_config": {**inner, **depth_entries(inner, slices)}}
    changes: dict[str, Any] = {key: depth for key in _DEPTHS if key in config}
    kinds = config.get("layer_types")  # one word a layer
    if isinstance(kinds, list) and all(b <= len(kinds) for _, b in ranges):
        changes["layer_types"] = [kind for a, b in ranges for kind in kinds[a:b]]
    return changes


# --- many slices, one merge -----------------------------------------------------------------------------------------


class Stacked:
    """Every slice's own method for its own tensors."""

    def __init__(self, parts: Sequence[tuple[Plan, Method]]) -> None:
        self.parts = list(parts)
        self.passes = max(method.passes for _, method in parts)
        self.factors = False
        self.multiplies = any(method.multiplies for _, method in parts)
        self._of = {name: part for part in self.parts for name in part[0].merged}

    def prepare(self, plan: Plan, threads: int) -> None:
        for own, method in self.parts:
            method.prepare(own, threads)

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> Any:
        own, method = self._of[name]
        return method.chunk(own, name, start, stop, buffers)

    def revisit(self, plan: Plan) -> Iterable[tuple[str, int, int]]:
        for own, method in self.parts:
            yield from method.revisit(own)

    def whole(self, plan: Plan, name: str) -> bool:
        own, method = self._of[name]
        return isinstance(method, WholeTensors) and method.whole(own, name)

    def tensor(self, plan: Plan, name: str) -> Any:
        own, method = self._of[name]
        assert isinstance(method, WholeTensors)
        return method.tensor(own, name)


def stacked_plan(plans: Sequence[Plan]) -> Plan:
    """One plan over all slices. Its experts are what the slices have at the same place; where one has fewer, its base
    stands in (read by no method)."""
    if len(plans) == 1:
        return plans[0]
    for plan in plans:
        if plan.joined is not None:
            raise ManyoneError(f"{plan.base.label}: layers of a model folder of manyone are not put in new places")

    def joined(parts: Sequence[Checkpoint], like: Checkpoint) -> Checkpoint:
        entries: dict[str, Entry] = {name: entry for part in parts for name, entry in part.entries.items()}
        label = " | ".join(dict.fromkeys(part.label for part in parts))
        outdated = tuple(dict.fromkeys(key for part in parts for key in part.outdated))
        return Checkpoint(entries, label=label, path=like.path, folder=like.folder, outdated=outdated)

    most = max(len(plan.experts) for plan in plans)
    slots = [[plan.experts[k] if k < len(plan.experts) else plan.base for plan in plans] for k in range(most)]
    return replace(
        plans[0],
        base=joined([plan.base for plan in plans], plans[0].base),
        experts=[joined(slot, slot[0]) for slot in slots],
        merged=[name for plan in plans for name in plan.merged],
        copied=[name for plan in plans for name in plan.copied],
        aliases={a: b for plan in plans for a, b in plan.aliases.items()},
        dropped=[name for plan in plans for name in plan.dropped],
        notes=list(dict.fromkeys(note for plan in plans for note in plan.notes)),
        dtypes={name: dtype for plan in plans for name, dtype in plan.dtypes.items()},
        config={key: value for plan in plans for key, value in plan.config.items()},
    )
