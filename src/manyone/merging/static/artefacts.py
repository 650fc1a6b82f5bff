"""Model folders of this project in a merge: weights are merged, all else is equal, joined by task or refused.

What is what the folders say themselves (:mod:`manyone.engine.mergeable`); no field is known here. A team's graph, a
classifier's scaling, masks as bits: equal, to the byte, or the merge is refused in one line with both values. Rows of a
table of tasks: those of all models, each with its task. ``config.json``, its checksum and the model card are written
anew for what the merge made. Needs no PyTorch. Public names: :func:`join`, :class:`Joined`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manyone.engine.card import read_card, split_card
from manyone.engine.documents import read_json
from manyone.engine.files import sha256
from manyone.engine.mergeable import (
    CARD,
    CONFIG,
    DESCRIPTION,
    DIGEST,
    FORMAT,
    MERGED,
    SECTION,
    WEIGHTS,
    ByTask,
    Mergeable,
    at_path,
    config_text,
    is_model,
    matches,
    mergeable,
    of_earlier,
)
from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Entry, MappedEntry
from manyone.weights.tensor_info import TensorInfo, is_float

_LARGEST_CONFIG = 64 << 20  # bytes
_OWN = (DIGEST, SECTION, MERGED, "manyone_format", "format")
"""Entries of the configuration that are the format's, not the model's."""
_BLOCK = 1 << 22  # elements that are compared at a time
Config = dict[str, Any]


@dataclass(frozen=True)
class _Model:
    """One of the models: its tensors, and its configuration where it has one."""

    tensors: Checkpoint
    config: Config | None
    path: Path | None
    """The configuration's file."""

    @property
    def label(self) -> str:
        return self.tensors.label


@dataclass(frozen=True)
class Joined:
    """What is known of a merge before a value of its weights is read.

    ``base`` has the joined tensors in the place of its own, ``experts`` their weights alone; ``settled``: tensors of
    ``base`` that are taken as they are; ``file`` and ``config``: what is written beside the weights; ``tasks`` of the
    merged model, where tables were joined; ``grown``: whether it has some that the base has not.
    """

    base: Checkpoint
    experts: list[Checkpoint]
    settled: frozenset[str]
    file: str
    config: Config
    notes: list[str]
    tasks: tuple[str, ...] = ()
    grown: bool = False
    lost: tuple[str, ...] = ()
    """Entries of the base's configuration that are not true of another model."""
    card: str = ""

    @property
    def single(self) -> bool:
        """Whether the weights must be one file."""
        return self.file == CONFIG

    def write(self, folder: Path, how: Mapping[str, Any], merged: int) -> None:
        """Configuration and model card beside the weights in ``folder``, of which ``merged`` tensors were merged."""
        models = {"base": _short(self.base.label), "experts": [_short(one.label) for one in self.experts]}
        config = {**self.config, MERGED: {**how, **models}}
        if self.single:
            config[DIGEST] = sha256(folder / WEIGHTS)
        try:
            data = config_text(config).encode()
        except (TypeError, ValueError) as error:
            raise ManyoneError(f"{self.base.label}: {self.file} is not JSON that can be written: {error}") from None
        (folder / self.file).write_bytes(data)
        (folder / CARD).write_bytes(self._card(how, models, merged).encode(errors="replace"))

    def _card(self, how: Mapping[str, Any], models: Mapping[str, Any], merged: int) -> str:
        options = ", ".join(f"{name} {value}" for name, value in how.get("options", {}).items())
        head, of_base = split_card(self.card)
        front = f"---\n{head}\n---\n\n" if head else ""
        known = f"\nTasks: {', '.join(self.tasks)}; statistics, targets and the like are each task's own.\n"
        lost = "".join(
            f"\nThe base's {name} is not there: load the model and save it to make it.\n" for name in self.lost
        )
        return (
            f"{front}# A merged model ({how['method']})\n\n"
            f"{merged} tensors of weights are merged by `{how['method']}`" + f" ({options})" * bool(options)
            + f" from the base `{models['base']}` and the experts\n\n"
            + "".join(f"- `{name}`\n" for name in models["experts"])
            + "\nWhat is no weight is the same in all of them.\n" * (not self.tasks) + known * bool(self.tasks) + lost
            + "\nScores and other figures in the cards of base and experts were measured on those: **they do not hold "
            "for this model**.\nHow it is loaded stands in the base's card:\n" * bool(of_base)
            + (f"\n---\n\n{of_base}" if of_base else "")
        )  # fmt: skip


def join(base: Checkpoint, experts: Sequence[Checkpoint], excluded: Callable[[str], bool]) -> Joined | None:
    """How ``base`` and ``experts`` go together as model folders of this project; None where they are none.

    ``excluded``: whether a tensor is to stay as it is in the base. ``ManyoneError`` names what does not fit, with both
    values.
    """
    models = [_Model(one, *_config(one, CONFIG)) for one in (base, *experts)]
    if any(is_model(one.config) for one in models):
        return _joined(models, excluded)
    told = [_Model(one, *_config(one, DESCRIPTION)) for one in (base, *experts)]
    return _described(told) if any(is_model(one.config) for one in told) else None


def _described(models: Sequence[_Model]) -> Joined:
    """Of models in another library's folders, which have a description beside them: it alone is joined."""
    base, *experts = (one.tensors for one in models)
    having = [one for one in models if one.config is not None]
    rule, notes = _rule(having)
    config, _ = _joined_config(rule, having)
    return Joined(base, experts, frozenset(), DESCRIPTION, config, notes, card=_read_card(base))


def _joined(models: Sequence[_Model], excluded: Callable[[str], bool]) -> Joined:
    base, *experts = models
    for one in models:
        if one.config is None and one is not base:
            continue
        if not is_model(one.config):
            other = next(model for model in models if is_model(model.config))
            what = "bare tensors" if one.config is None else "a model of another library"
            raise ManyoneError(f"{one.label}: {what}, but {other.label} is a model folder of manyone, in which not all "
                               "tensors are weights: give base and experts as model folders of one kind")  # fmt: skip
        _check_digest(one)
    having = [one for one in models if one.config is not None]
    rule, notes = _rule(having)
    bare = [one.label for one in experts if one.config is None]
    notes += [
        f"{label}: bare tensors, of which only names, shapes and what is no weight are compared" for label in bare
    ]
    config, tasks = _joined_config(rule, having)
    new, grown = dict(base.tensors.entries), False
    names = list(dict.fromkeys(name for one in models for name in one.tensors))
    for name in names:
        if _is_weight(rule, name, models):
            continue
        if rule.tasks is not None and matches(name, rule.tasks.rows):
            _check_not_excluded(name, excluded, "has a row a task")
            new[name] = _rows(name, rule.tasks, models, tasks)
        elif matches(name, rule.united):
            _check_not_excluded(name, excluded, "is of one task")
            new[name] = _united(name, models)
            grown |= name not in base.tensors
        elif not excluded(name):
            _check_equal(name, models)
    for name in [n for n in names if rule.tasks is not None and matches(n, rule.tasks.rows)]:
        grown |= new[name].info.shape[:1] != base.tensors.entries.get(name, new[name]).info.shape[:1]
    settled = frozenset(name for name in new if not _is_weight(rule, name, models))
    own = base.tensors
    whole = own.with_entries(new)
    parts = [one.tensors.renamed({n: n for n in one.tensors if n not in settled and n in names}) for one in experts]
    lost = tuple(p for p in rule.renewed if "." not in p and at_path(base.config, p) is not None)
    return Joined(whole, parts, settled, CONFIG, config, notes, tuple(tasks), grown, lost, _read_card(own))


def _is_weight(rule: Mergeable, name: str, models: Sequence[_Model]) -> bool:
    """Whether ``name`` is merged: what counts (integers) never is."""
    return rule.is_weight(name) and all(is_float(one.tensors.info(name)) for one in models if name in one.tensors)


def _rule(models: Sequence[_Model]) -> tuple[Mergeable, list[str]]:
    """What the models say of themselves; those that say nothing are merged as carefully as can be."""
    first = models[0]
    assert first.config is not None
    said = [mergeable(one.config, one.path) for one in models if one.config is not None and one.path is not None]
    if any(rule is None for rule in said):
        silent = models[said.index(None)].label
        rule, notes = of_earlier(first.config), [f"{silent}: of an earlier version; all but its weights must be equal"]
    else:
        rule, notes = said[0] or Mergeable(), []
    for one, own in zip(models, said):
        _check_never(one, own or rule)
    _check_never(first, rule)
    return rule, notes


def _check_never(model: _Model, rule: Mergeable) -> None:
    if rule.never:
        raise ManyoneError(f"{model.label}: cannot be merged: {' '.join(rule.never.split()):.300}")


def _joined_config(rule: Mergeable, models: Sequence[_Model]) -> tuple[Config, list[str]]:
    """The merged model's configuration without its checksum, and its tasks."""
    tasks = _tasks(rule.tasks, models)
    named, numbered = (rule.tasks.names, rule.tasks.numbered) if rule.tasks else ("", ())
    found: Config = {"manyone_format": FORMAT}
    for key in dict.fromkeys(key for one in models for key in one.config or () if key not in _OWN):
        if key == named:
            found[key] = tasks
        elif key in numbered:
            found[key] = list(range(len(tasks)))
        elif key in rule.united_entries:
            found[key] = _united_entry(key, models)
        elif matches(key, rule.described):
            for path in (path for path in rule.same if path == key or path.startswith(f"{key}.")):
                _check_same(path, [at_path(one.config, path) for one in models], models)
            values = [_without((one.config or {}).get(key), key, rule.renewed) for one in models]
            kept = _common(values)
            if kept is not None:
                found[key] = kept
            elif isinstance(values[0], Mapping) and key in rule.described:
                found[key] = {}  # whoever loads the model looks into it
        else:
            values = [_without((one.config or {}).get(key), key, rule.renewed) for one in models]
            _check_same(key, values, models)
            found[key] = values[0]
    sections = [(one.config or {}).get(SECTION) for one in models]
    if all(section is not None for section in sections):  # last: what else differs says more
        _check_same(SECTION, sections, models)
        found[SECTION] = sections[0]
    return found, tasks


def _check_same(path: str, values: Sequence[Any], models: Sequence[_Model]) -> None:
    """Refuses the first of ``models`` whose value at ``path`` is not that of the first model."""
    for one, value in zip(models[1:], values[1:]):
        if different := _difference(values[0], value, path):
            _refuse(one, models[0], *different)


def _common(values: Sequence[Any]) -> Any:
    """What is the same in all ``values``; of mappings entry by entry. None where nothing is."""
    first, *others = values
    if all(_difference(first, other, "") is None for other in others):
        return first
    if not all(isinstance(value, Mapping) for value in values):
        return None
    kept = {key: _common([value.get(key) for value in values]) for key in first}
    return {key: value for key, value in kept.items() if value not in (None, {})} or None


def _without(value: Any, key: str, renewed: Sequence[str]) -> Any:
    """``value`` of the entry ``key`` with null at the paths that are ``renewed``."""
    for path in renewed:
        head, _, rest = path.partition(".")
        if head == key and not rest:
            return None
        if head == key and isinstance(value, Mapping) and rest.partition(".")[0] in value:
            inner, _, _ = rest.partition(".")
            value = {**value, inner: _without(value[inner], inner, [rest])}
    return value


def _tasks(by: ByTask | None, models: Sequence[_Model]) -> list[str]:
    return list(dict.fromkeys(name for one in models for name in _names(by, one))) if by else []


def _names(by: ByTask, model: _Model) -> list[str]:
    """The tasks of one model."""
    names = (model.config or {}).get(by.names, [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ManyoneError(f"{model.path}: {by.names} {names!r:.80}: must be different names; save the model again")
    return names


def _united_entry(key: str, models: Sequence[_Model]) -> Config:
    found: Config = {}
    owner: dict[str, _Model] = {}
    for one in models:
        values = (one.config or {}).get(key, {})
        if not isinstance(values, Mapping):
            raise ManyoneError(f"{one.path}: {key} {values!r:.80}: must be a mapping; save the model again")
        for name, value in values.items():
            if name in found and (different := _difference(found[name], value, f"{key}.{name}")):
                _refuse(one, owner[name], *different)
            found.setdefault(name, value)
            owner.setdefault(name, one)
    return found


def _rows(name: str, by: ByTask, models: Sequence[_Model], tasks: Sequence[str]) -> Entry:
    """The tensor ``name`` with a row for each of ``tasks``, each from the first model that knows the task."""
    pattern = next(one for one in models if name in one.tensors)
    info = pattern.tensors.info(name)
    place: dict[str, tuple[_Model, np.ndarray]] = {}
    for one in models:
        if one.config is None:
            if name in one.tensors:
                _check_equal(name, [models[0], one])
            continue
        values = _own_rows(name, by, one, pattern)
        for task, row in zip(_names(by, one), values, strict=True):
            if task in place and row.tobytes() != place[task][1].tobytes():
                _complain(f"{name} of task {task!r}", info, row, one, place[task][1], place[task][0])
            place.setdefault(task, (one, row))
    array = np.stack([place[task][1] for task in tasks]) if tasks else np.empty((0, *info.shape[1:]), info.dtype.stored)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return MappedEntry(TensorInfo(info.dtype, (len(tasks), *info.shape[1:])), data)


def _own_rows(name: str, by: ByTask, model: _Model, pattern: _Model) -> np.ndarray:
    """[tasks of the model, numbers of a row] of the tensor ``name``."""
    wanted, count = pattern.tensors.info(name), len(_names(by, model))
    if name not in model.tensors:
        if name not in by.absent or wanted.dtype.name != wanted.dtype.stored.name:
            raise ManyoneError(f"{model.label}: {name} is missing, {pattern.label} has it: give models that were "
                               "trained with the same options")  # fmt: skip
        try:
            row = np.broadcast_to(np.asarray(by.absent[name], wanted.dtype.stored), wanted.shape[1:])
        except (TypeError, ValueError):
            raise ManyoneError(f"{model.path}: {SECTION}.tasks.absent does not fit {name}: save it again") from None
        return np.broadcast_to(row.reshape(1, -1), (count, row.size))
    info = model.tensors.info(name)
    if info.dtype != wanted.dtype or info.shape[1:] != wanted.shape[1:] or info.shape[:1] != (count,):
        raise ManyoneError(f"{model.label}: {name} is {info.dtype} {list(info.shape)} for {count} tasks, in "
                           f"{pattern.label} {wanted.dtype} {list(wanted.shape)}: a row a task, all alike")  # fmt: skip
    return model.tensors.entries[name].array(0, info.numel).reshape(count, -1)


def _united(name: str, models: Sequence[_Model]) -> Entry:
    having = [one for one in models if name in one.tensors]
    _check_equal(name, having)
    return having[0].tensors.entries[name]


def _check_equal(name: str, models: Sequence[_Model]) -> None:
    """The tensor ``name`` is the same, to the byte, in all models (of bare experts: where they have it)."""
    first = models[0]
    for one in models[1:]:
        if name not in one.tensors and one.config is None:
            continue
        for lacking, other in ((one, first), (first, one)):
            if name not in lacking.tensors:
                raise ManyoneError(f"{lacking.label}: {name} is missing, {other.label} has it, and it is no weight: "
                                   "give models of the same kind and options")  # fmt: skip
        own, wanted = one.tensors.info(name), first.tensors.info(name)
        if own != wanted:
            raise ManyoneError(f"{one.label}: {name} is {own.dtype} {list(own.shape)}, in {first.label} "
                               f"{wanted.dtype} {list(wanted.shape)}, and it is no weight: must be equal")  # fmt: skip
        for start in range(0, own.numel, _BLOCK):
            stop = min(start + _BLOCK, own.numel)
            mine, theirs = (m.tensors.entries[name].array(start, stop) for m in (one, first))
            if mine.tobytes() != theirs.tobytes():
                _complain(name, own, mine, one, theirs, first, start)


def _complain(
    name: str, info: TensorInfo, mine: np.ndarray, one: _Model, theirs: np.ndarray, other: _Model, start: int = 0
) -> None:
    """Refuses a tensor that differs: where first, and both values."""
    bytes_of = [np.ascontiguousarray(v).view(np.uint8).reshape(len(v.reshape(-1)), -1) for v in (mine, theirs)]
    at = int((bytes_of[0] != bytes_of[1]).any(1).argmax())
    shown = [f"{v.reshape(-1)[at].item():.9g}" if info.dtype.is_floating_point else f"{v.reshape(-1)[at]}"
             for v in (mine, theirs)]  # fmt: skip
    tensor = name.partition(" ")[0]
    keep = f"; or keep the base's with --exclude '^{re.escape(tensor)}$'" if tensor == name else ""
    raise ManyoneError(
        f"{one.label}: {name}, entry {start + at}, is {shown[0]}, in {other.label} {shown[1]}: it is no weight and "
        f"must be equal; train all on data that are prepared alike{keep}"
    )


def _check_not_excluded(name: str, excluded: Callable[[str], bool], why: str) -> None:
    if excluded(name):
        raise ManyoneError(f"--exclude names {name}, which {why} and is never merged: leave it out of the expression")


def _difference(a: Any, b: Any, path: str) -> tuple[str, Any, Any] | None:
    """(path, value in a, value in b) of the first place where two JSON values differ; None where they are the same."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if found := _difference(a.get(key), b.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, (x, y) in enumerate(zip(a, b)):
            if found := _difference(x, y, f"{path}[{place}]"):
                return found
        return None
    same = a == b and isinstance(a, bool) == isinstance(b, bool)
    return None if same or (a != a and b != b) else (path, a, b)


def _refuse(one: _Model, base: _Model, path: str, theirs: Any, own: Any) -> None:
    raise ManyoneError(f"{one.path}: {path:.120} is {own!r:.80}, in {base.path} {theirs!r:.80}: models of the same "
                       "kind, options and data preparation can be merged")  # fmt: skip


def _config(model: Checkpoint, file: str) -> tuple[Config | None, Path | None]:
    """The configuration beside a model's tensors, and its path."""
    home = _home(model)
    if home is None or not (home / file).is_file():
        return None, None
    found = read_json(home / file, "the model's configuration", largest=_LARGEST_CONFIG)
    if not isinstance(found, dict):
        raise ManyoneError(f"{home / file}: not a model's configuration: it must be a JSON object")
    return found, home / file


def _home(model: Checkpoint) -> Path | None:
    """The folder that a model was given as, or its file lies in; an adapter's is its own, not its base's."""
    return model.path if model.path is not None and model.path.is_dir() else model.folder


def _check_digest(model: _Model) -> None:
    path, wanted = model.tensors.path, (model.config or {}).get(DIGEST)
    if path is not None and path.name == WEIGHTS and wanted is not None and sha256(path) != wanted:
        raise ManyoneError(f"{path}: its SHA-256 is not the one in {CONFIG}: copy the whole folder again, or remove "
                           f"{DIGEST} there if you have changed the tensors yourself")  # fmt: skip


def _read_card(base: Checkpoint) -> str:
    """The base's model card; empty where there is none that can be read."""
    home = _home(base)
    return "" if home is None else read_card(home)


def _short(label: str) -> str:
    """A model's name as it is told others, who do not have this machine's folders."""
    *_, run, name = ("", "", *Path(label.removesuffix(f"/{WEIGHTS}")).parts)
    return (f"{run}/{name}" if name == "model" else name).replace("`", "'")
