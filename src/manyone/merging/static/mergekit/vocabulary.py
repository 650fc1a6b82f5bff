"""Embedding rows by token: every model's table under the vocabulary of the output.

A row of the output's table comes from the model's own row of that token. Where the model lacks the token (or a rule
forces it) it takes a common one: what the recipe's rule for the token names; else the row of the only model that has
it; else the base's; else the mean over the models that have it; zero where none has it. Rows beyond the vocabulary
(``pad_to_multiple_of``) are the mean of all others. Rows are looked up while they are read, no table is built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.mergekit.restack import Group, split_layer
from manyone.merging.static.mergekit.schema import Complaints, TokenRule, Vocabulary, short
from manyone.weights.checkpoint import Entry
from manyone.weights.tensor_info import TensorInfo

_TABLES = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embed_out|embeddings|shared|lm_head|output"
    r"|output_layer|decoder|vocab_projector|predictions|linear)\.(?:weight|bias)$"
)


@dataclass(frozen=True)
class Tokens:
    """``vocabulary`` of the output (token -> row), ``own`` of every model, ``sizes`` of their tables."""

    vocabulary: Mapping[str, int]
    own: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    multiple: int | None

    @property
    def used(self) -> int:
        """Rows that tokens have."""
        return max(len(self.vocabulary), 1 + max(self.vocabulary.values(), default=-1))

    @property
    def rows(self) -> int:
        """Rows of the output's tables."""
        return -(-self.used // self.multiple) * self.multiple if self.multiple else self.used

    def row(self, model: str, token: str) -> int:
        """The row of a token in a model's table, -1 if it has none."""
        row = self.own[model].get(token, -1)
        return row if row < self.sizes[model] else -1


def is_table(name: str, info: TensorInfo, size: int) -> bool:
    """Whether the first dimension of a tensor counts the tokens of a vocabulary of this ``size``."""
    return bool(info.shape) and info.shape[0] == size and split_layer(name) is None and bool(_TABLES.search(name))


class RowsEntry:
    """A table whose row r is row ``rows[r]`` of ``sources[which[r]]``; ``which`` -1: zero; -2 - k: the mean of the
    (source, row) pairs ``means[k]``; rows from ``used`` on are the mean of those before."""

    def __init__(
        self,
        info: TensorInfo,
        sources: Sequence[Entry],
        which: np.ndarray,
        rows: np.ndarray,
        means: Sequence[Sequence[tuple[int, int]]],
        used: int,
    ) -> None:
        self.info = info
        self._sources, self._which, self._rows, self._means, self._used = sources, which, rows, means, used
        self._width = info.numel // info.shape[0]
        self._padding: Tensor | None = None

    def flat(self, start: int, stop: int) -> Tensor:
        width = self._width
        first, last = start // width, -(-stop // width)
        table = torch.cat([*self._pieces(first, min(last, self._used)), *self._padded(max(first, self._used), last)])
        return table.reshape(-1)[start - first * width : stop - first * width]

    def array(self, start: int, stop: int) -> np.ndarray:
        return self.flat(start, stop).numpy()

    def _pieces(self, first: int, last: int) -> list[Tensor]:
        """Rows ``first`` to ``last``, one piece for every run of neighbours in one source."""
        if first >= last:
            return []
        which, rows = self._which[first:last], self._rows[first:last]
        breaks = np.flatnonzero((np.diff(which) != 0) | (np.diff(rows) != 1) | (which[1:] < 0)) + 1
        bounds = [0, *breaks.tolist(), last - first]
        return [self._run(int(which[a]), int(rows[a]), b - a) for a, b in itertools.pairwise(bounds)]

    def _run(self, which: int, row: int, count: int) -> Tensor:
        if which >= 0:
            flat = self._sources[which].flat(row * self._width, (row + count) * self._width)
            return self._wide(flat).view(count, self._width)
        total = torch.zeros(1, self._width, dtype=self._dtype)
        if which < -1:
            pairs = self._means[-2 - which]
            for source, at in pairs:
                total += self._run(source, at, 1)
            total /= len(pairs)
        return total

    def _padded(self, first: int, last: int) -> list[Tensor]:
        if first >= last:
            return []
        if self._padding is None:
            total = torch.zeros(1, self._width, dtype=torch.float64)
            step = max(1, (1 << 20) // self._width)
            for at in range(0, self._used, step):
                for piece in self._pieces(at, min(at + step, self._used)):
                    total += piece.sum(0, keepdim=True, dtype=torch.float64)
            self._padding = (total / self._used).to(self._dtype)
        return [self._padding.expand(last - first, -1)]

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.info.dtype.code == "F64" else torch.float32

    def _wide(self, values: Tensor) -> Tensor:
        return values.to(self._dtype)


def align(no: Complaints, group: Group, tokens: Tokens, vocabulary: Vocabulary) -> Group:
    """The group with the tables of all its models under the output's vocabulary."""
    names = [source.model for source in group.part.sources]
    leading = group.models[group.leading]
    tables = [
        name
        for name in leading
        if any(name in m and is_table(name, m.info(name), tokens.sizes[n]) for n, m in zip(names, group.models))
    ]
    entries = [dict(model.entries) for model in group.models]
    for name in tables:
        holders = [i for i, model in enumerate(group.models) if name in model]
        widths = {group.models[i].info(name).shape[1:] for i in holders}
        if len(widths) > 1:
            found = " and ".join(sorted(str(list(group.models[i].info(name).shape)) for i in holders))
            raise ManyoneError(f"{no.path}: {name} has shapes {found}: only the number of tokens may differ")
        for i in holders:
            if group.models[i].info(name).shape[0] < tokens.sizes[names[i]]:
                raise ManyoneError(f"{group.models[i].label}: {name} has fewer rows than the model has tokens")
        base = group.leading if group.part.base == names[group.leading] else None
        choice = _sources(no, tokens, vocabulary, [names[i] for i in holders], None if base is None else names[base])
        for k, i in enumerate(holders):
            info = group.models[i].info(name)
            which, rows, means = choice.table(k)
            shaped = TensorInfo(info.dtype, (tokens.rows, *info.shape[1:]))
            sources = [group.models[j].entries[name] for j in holders]
            entries[i][name] = RowsEntry(shaped, sources, which, rows, means, tokens.used)
    models = [model.with_entries(own) for model, own in zip(group.models, entries, strict=True)]
    return replace(group, models=models)


def check_tables(no: Complaints, group: Group) -> None:
    """Raises ``ManyoneError`` where tables have different numbers of rows and the recipe says nothing of tokens."""
    for name in group.models[group.leading]:
        shapes = [model.info(name).shape for model in group.models if name in model]
        rows = dict.fromkeys(shape[0] for shape in shapes if shape)
        same = len({shape[1:] for shape in shapes}) == 1
        if len(rows) > 1 and same and split_layer(name) is None and _TABLES.search(name):
            raise ManyoneError(
                f"{no.path}: {group.part.where}: {name} has {', '.join(map(str, rows))} rows; align the tokens with "
                "tokenizer_source: union (or base, or a model)"
            )


@dataclass(frozen=True)
class _Choice:
    """Own rows of every model [models, tokens in use] (-1: none), and the common (which, row) of every token."""

    own: np.ndarray
    forced: np.ndarray
    which: np.ndarray
    rows: np.ndarray
    means: list[list[tuple[int, int]]]

    def table(self, k: int) -> tuple[np.ndarray, np.ndarray, list[list[tuple[int, int]]]]:
        mine = (self.own[k] >= 0) & ~self.forced
        return np.where(mine, k, self.which), np.where(mine, self.own[k], self.rows), self.means


def _sources(no: Complaints, tokens: Tokens, vocabulary: Vocabulary, names: Sequence[str], base: str | None) -> _Choice:
    used = tokens.used
    own = np.full((len(names), used), -1, dtype=np.int64)
    for token, row in tokens.vocabulary.items():
        for k, name in enumerate(names):
            own[k, row] = tokens.row(name, token)
    which, rows = np.full(used, -1, dtype=np.int64), np.zeros(used, dtype=np.int64)
    forced = np.zeros(used, dtype=bool)
    means: list[list[tuple[int, int]]] = []
    lacking: np.ndarray = own.min(0, initial=0) < 0
    for token, row in tokens.vocabulary.items():
        rule = vocabulary.tokens.get(token)
        if rule is not None and (rule.force or lacking[row]):
            forced[row] = rule.force
            which[row], rows[row] = _by_rule(no, tokens, token, rule, names)
        elif rule is None and lacking[row]:
            having = np.flatnonzero(own[:, row] >= 0).tolist()
            if len(having) > 1 and base in names and names.index(base) in having:
                having = [names.index(base)]
            if len(having) > 1:
                which[row] = -2 - len(means)
                means.append([(k, int(own[k, row])) for k in having])
            elif having:
                which[row], rows[row] = having[0], own[having[0], row]
    return _Choice(own, forced, which, rows, means)


def _by_rule(no: Complaints, tokens: Tokens, token: str, rule: TokenRule, names: Sequence[str]) -> tuple[int, int]:
    where, source = f"tokenizer.tokens.{token}.source", rule.source
    if source is None:
        raise no.refuse(
            where, None, "some model lacks this token: name a model, {kind: zero} or {kind: model_token, ...}"
        )
    if source.kind == "zero":
        return -1, 0
    if source.model not in names:
        raise no.refuse(where, source.model, f"is none of the models merged there; use one of {', '.join(names)}")
    k = names.index(source.model)
    if source.kind == "model":
        row = tokens.row(source.model, token)
    elif isinstance(source.token, int):
        row = source.token if 0 <= source.token < tokens.sizes[source.model] else -1
    else:
        row = tokens.row(source.model, source.token)
    if row < 0:
        wanted: Any = token if source.kind == "model" else source.token
        raise no.refuse(where, source.model, f"has no token {short(wanted)}; name another model or token")
    return k, row
