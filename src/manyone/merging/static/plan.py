"""What a static merge does with every tensor, decided from names and shapes before a value is read.

Floating-point tensors that all models share are merged; integer and boolean buffers, and what ``exclude`` names, are
copied from the base. Everything that does not fit is an error with the option that resolves it. Tied tensors are merged
once, under one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.tensor_info import DType, TensorInfo, difference, is_float

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
    in the output, ``dtypes`` that of single tensors.
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
    notes: list[str] = []
    models = []
    for expert in experts:
        aligned, note = _align(base, expert)
        models.append(aligned)
        notes += [note] if note else []
    # A tied tensor is kept under the first of its names that every expert has too.
    groups: dict[str, list[str]] = {}
    for alias, name in base.aliases.items():
        groups.setdefault(name, [name]).append(alias)
    aliases: dict[str, str] = {}
    for names in groups.values():
        names = [name for name in names if name in base]
        common = [name for name in names if all(name in model for model in models)] or names
        aliases |= {name: common[0] for name in names if name != common[0]}
    for pattern in patterns:
        if not any(pattern.search(name) for model in (base, *models) for name in model):
            tops = ", ".join(list(dict.fromkeys(name.split(".", 1)[0] for name in base))[:8])
            raise ManyoneError(f"--exclude {pattern.pattern!r}: no tensor has such a name; they begin with {tops}")
    excluded = {name for name in base if any(p.search(name) for p in patterns)}
    own = [name for name in base if name not in aliases]
    merged = [name for name in own if name not in excluded and is_float(base.info(name))]
    copied = [name for name in own if name not in merged or name in excluded]
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
    if not merged:
        raise ManyoneError(f"{base.label}: no tensor is left to merge")
    return Plan(base, models, merged, copied, aliases, sorted(dropped), notes)


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
