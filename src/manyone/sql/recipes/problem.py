"""What sql recipes read: pairs with their schemas and databases, and the text that a model sees of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from manyone.data.sql.pairs import load_pairs
from manyone.data.sql.records import Pair, PairSet
from manyone.data.sql.sandbox import fingerprint
from manyone.data.sql.splits import SPLITS, hold_out, spelled
from manyone.data.sql.suites import SUITES, load_sql_suite
from manyone.engine.fabric import processors
from manyone.engine.inputs import digest
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.recipes.options import Split
from manyone.sql.collate import Example, encode, encode_prompt
from manyone.sql.databases import open_database
from manyone.sql.prompt import Matched, Style, ranked_view, render, training_view
from manyone.sql.queries import Normal, normal, used
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.retrieval import ValueIndex

_VALIDATION = 200  # pairs on which the loss is watched


@dataclass(frozen=True)
class Form:
    """What models read and write of a pair; a model's description says it, so that it is asked alike."""

    style: Style
    matched: bool
    """Whether values that the question names are shown."""
    tables: int
    columns: int
    """What a prompt shows of a schema at most: tables, and columns of each."""
    normal: bool
    """Whether golds are learned in their normal form: keywords upper, names lower, aliases expanded."""
    max_input: int
    max_output: int

    def description(self) -> dict[str, Any]:
        """As the artefact tells it."""
        return {name: getattr(self, name) for name in ("style", "matched", "tables", "columns", "max_input",
                                                       "max_output")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SQLProblem:
    """Pairs of one recipe by split, in the order that example numbers count."""

    data: PairSet
    form: Form
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    seed: int = 0
    """Of what wide schemas show beside the gold tables while a model learns."""
    named: Mapping[Pair, Matched] = field(default_factory=dict)
    """The values of its database that a question names."""
    _prompts: dict[tuple[Pair, bool], str] = field(default_factory=dict)  # all models of a run read the same
    _normal: dict[Pair, Normal] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        """What the data held, by content."""
        parts = [json.dumps([p.db_id, p.question, p.evidence, p.sql, p.source], ensure_ascii=False)
                 for split in (self.train, self.validation, self.test) for p in split]  # fmt: skip
        schemas = [repr(schema) for _, schema in sorted(self.data.schemas.items())]
        return {self.data.name: digest(*parts, *schemas)}

    def prompt(self, pair: Pair, *, learning: bool = False) -> str:
        """The text before the SQL of ``pair``. ``learning``: a wide schema is shown around the gold tables."""
        key = pair, learning
        if key not in self._prompts:
            self._prompts[key] = self._prompt(pair, learning)
        return self._prompts[key]

    def _prompt(self, pair: Pair, learning: bool) -> str:
        schema, form = self.data.schemas[pair.db_id], self.form
        matched = self.named.get(pair, {})
        fits = len(schema.tables) <= form.tables and all(len(t.columns) <= form.columns for t in schema.tables)
        if not fits:
            tables, columns = form.tables, form.columns
            if learning:
                gold, names = used(pair.sql, schema), (self.seed, pair.question)
                schema = training_view(schema, gold, *names, tables=tables, columns=columns)
            else:
                schema = ranked_view(schema, pair.question, matched, tables=tables, columns=columns)
        return render(schema, pair.question, pair.evidence, matched if form.matched else {}, style=form.style)

    def target(self, pair: Pair) -> str:
        """The SQL that a model learns to write."""
        return self._written(pair).sql if self.form.normal else pair.sql

    def unparsed(self) -> int:
        """How many gold queries of training have no normal form, since they cannot be parsed."""
        return sum(not self._written(pair).parsed for pair in self.train) if self.form.normal else 0

    def _written(self, pair: Pair) -> Normal:
        if pair not in self._normal:
            self._normal[pair] = normal(pair.sql, self.data.schemas[pair.db_id])
        return self._normal[pair]

    def examples(self, tokenizer: Any, pairs: Sequence[Pair]) -> list[Example]:
        """Token ids of pairs to learn from, one example each."""
        form = self.form
        return [
            encode(tokenizer, self.prompt(p, learning=True), self.target(p), max_input=form.max_input,
                   max_output=form.max_output)
            for p in pairs
        ]  # fmt: skip

    def prompts(self, tokenizer: Any, pairs: Sequence[Pair], *, learning: bool = False) -> list[tuple[int, ...]]:
        """Token ids of the prompts alone."""
        return [encode_prompt(tokenizer, self.prompt(p, learning=learning), self.form.max_input) for p in pairs]

    def texts(self) -> list[str]:
        """Everything that a tokenizer of these pairs is trained on."""
        return [text for p in self.train for text in (self.prompt(p, learning=True), self.target(p))]

    def of(self, split: Split) -> tuple[Pair, ...]:
        """The pairs of a split."""
        return {"train": self.train, "val": self.validation, "test": self.test}[split]


def load_problem(o: DistilOptions) -> SQLProblem:
    """The data that ``o`` names, made if need be."""
    if o.suite is None:
        sets = [hold_out(replace(load_pairs(place), name=name)) for name, place in places(o)]
        return problem_of(joined(sets), o)
    if o.suite not in SUITES:
        raise ManyoneError(f"--suite {o.suite}: {suggestion(o.suite, SUITES)}")
    return problem_of(load_sql_suite(o.suite, seed=o.data_seed, workers=o.workers or processors()), o)


def problem_of(data: PairSet, o: DistilOptions) -> SQLProblem:
    """``data``, which has all three splits, as the options limit and show it."""
    train, validation, test = (tuple(data.splits.get(split, ())) for split in SPLITS)
    for split, pairs in zip(SPLITS, (train, validation, test), strict=True):
        if not pairs:
            raise ManyoneError(f"{data.name}: no pairs of the split {split}")
    if o.train_pairs is not None:
        train = _some(train, o.train_pairs, o.data_seed)
    small = o.student == "scratch" and (o.teacher == "scratch" or not o.needs_teacher)
    style: Style = ("compact" if small else "full") if o.style == "auto" else o.style
    matched = style == "full" if o.matched == "auto" else o.matched == "yes"
    form = Form(style, matched, o.tables, o.columns, o.normal, o.max_input, o.max_output)
    validation, test = _some(validation, _VALIDATION, 0), _limited(test, o.eval_pairs)
    named = _matches(data, [*train, *validation, *test]) if matched or not _fits(data, form) else {}
    return SQLProblem(data, form, train, validation, test, o.data_seed, named)


def places(o: DistilOptions) -> list[tuple[str, str]]:
    """(name, place) of own data; a place without a name is called by its last part."""
    found = []
    for word in o.data:
        name, equals, place = word.partition("=")
        found.append((name, place) if equals else (word.rstrip("/").rpartition("/")[2], word))
    return found


def joined(sets: Sequence[PairSet]) -> PairSet:
    """Several sets as one: pairs that come twice once, and of training none whose SQL another set tests or watches.

    Raises ``ManyoneError`` where two have different databases of one name.
    """
    if len(sets) == 1:
        return sets[0]
    first, *others = sets
    for other in others:
        for name in first.schemas.keys() & other.schemas.keys():
            files = [_bytes(data, name) for data in (first, other)]
            if first.schemas[name] != other.schemas[name] or (all(files) and files[0] != files[1]):
                raise ManyoneError(f"{first.name} and {other.name} both have a database {name!r}, with different "
                                   "tables or rows: rename one of them")  # fmt: skip
        splits = {s: (*first.splits.get(s, ()), *other.splits.get(s, ())) for s in SPLITS}
        first = PairSet(f"{first.name}+{other.name}", splits, {**first.schemas, **other.schemas},
                        {**first.databases, **other.databases}, notes=(*first.notes, *other.notes))  # fmt: skip
    every = sum(map(len, first.splits.values()))
    asked = {spelled(pair) for split in ("val", "test") for pair in first.splits[split]}
    own = {split: tuple(dict.fromkeys(pairs)) for split, pairs in first.splits.items()}
    own["train"] = tuple(pair for pair in own["train"] if spelled(pair) not in asked)
    left_out = every - sum(map(len, own.values()))
    note = f"{left_out} pairs are left out: they come twice, or train on a query that another set tests or watches"
    return replace(first, splits=own, notes=(*first.notes, *[note][: int(left_out > 0)]))


def _bytes(data: PairSet, name: str) -> list[str]:
    """Which files a database is, by their SHA-256; none where there is a schema alone."""
    return [fingerprint(file) for file in data.databases.get(name, ())]


def _fits(data: PairSet, form: Form) -> bool:
    """Whether every schema is shown whole."""
    return all(
        len(s.tables) <= form.tables and all(len(t.columns) <= form.columns for t in s.tables)
        for s in data.schemas.values()
    )


def _matches(data: PairSet, pairs: Sequence[Pair]) -> dict[Pair, Matched]:
    """The values of its database that each question names; of databases without a file none."""
    found: dict[Pair, Matched] = {}
    by_database: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_database.setdefault(pair.db_id, []).append(pair)
    for name, own in by_database.items():
        if not (files := data.databases.get(name)):
            continue
        with contextlib.ExitStack() as stack:
            index = stack.enter_context(ValueIndex.open(stack.enter_context(open_database(files[0]))))
            found |= {pair: index.match(pair.question) for pair in own}
    return found


def _some(pairs: Sequence[Pair], most: int, seed: int) -> tuple[Pair, ...]:
    """At most so many, a random choice in their order."""
    if len(pairs) <= most:
        return tuple(pairs)
    chosen = torch.randperm(len(pairs), generator=generator_for(seed, "some pairs", len(pairs)))[:most]
    return tuple(pairs[i] for i in sorted(chosen.tolist()))


def _limited(pairs: Sequence[Pair], most: int | None) -> tuple[Pair, ...]:
    """At most so many of each source."""
    if most is None:
        return tuple(pairs)
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    return tuple(pair for own in by_source.values() for pair in _some(own, most, 0))
