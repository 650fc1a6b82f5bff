"""What sql recipes read: pairs with their schemas and databases, and the text that a model sees of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from manyone.data.sql.pairs import load_pairs
from manyone.data.sql.records import Pair, PairSet
from manyone.engine.inputs import digest
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.recipes.options import Split
from manyone.sql.collate import Example, encode, encode_prompt
from manyone.sql.prompt import Matched, render
from manyone.sql.recipes.options import DistilOptions

Style = Literal["full", "compact"]


@dataclass(frozen=True)
class SQLProblem:
    """Pairs of one recipe by split, in the order that example numbers count."""

    data: PairSet
    style: Style
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def digests(self) -> dict[str, str]:
        """What the data held, by content."""
        parts = [json.dumps([p.db_id, p.question, p.evidence, p.sql, p.source], ensure_ascii=False)
                 for split in (self.train, self.validation, self.test) for p in split]  # fmt: skip
        schemas = [repr(schema) for _, schema in sorted(self.data.schemas.items())]
        return {self.data.name: digest(*parts, *schemas)}

    def prompt(self, pair: Pair) -> str:
        """The text before the SQL of ``pair``."""
        return render(self.data.schemas[pair.db_id], pair.question, pair.evidence, self.matched(pair), style=self.style)

    def matched(self, pair: Pair) -> Matched:
        """Values of the database that the question names."""
        return {}

    def examples(self, tokenizer: Any, pairs: Sequence[Pair], o: DistilOptions) -> list[Example]:
        """Token ids of pairs, one example each."""
        return [encode(tokenizer, self.prompt(p), p.sql, max_input=o.max_input, max_output=o.max_output) for p in pairs]

    def prompts(self, tokenizer: Any, pairs: Sequence[Pair], o: DistilOptions) -> list[tuple[int, ...]]:
        """Token ids of the prompts alone."""
        return [encode_prompt(tokenizer, self.prompt(p), o.max_input) for p in pairs]

    def of(self, split: Split) -> tuple[Pair, ...]:
        """The pairs of a split."""
        return {"train": self.train, "val": self.validation, "test": self.test}[split]


def load_problem(o: DistilOptions) -> SQLProblem:
    """The data that ``o`` names, made if need be."""
    if o.suite is not None:
        data = load_pairs(o.suite, seed=o.data_seed)
    else:
        data = joined([replace(load_pairs(place), name=name) for name, place in places(o)])
    return problem_of(data, o)


def problem_of(data: PairSet, o: DistilOptions) -> SQLProblem:
    """``data`` as the options split and limit it."""
    train, validation, test = (tuple(data.splits.get(split, ())) for split in ("train", "val", "test"))
    if not train:
        raise ManyoneError(f"{data.name}: no pairs to train on")
    if o.train_pairs is not None:
        train = _some(train, o.train_pairs, o.data_seed)
    if not validation:  # what training may look at while it goes on: never the test pairs
        validation = train[:: max(1, len(train) // 100)]
    small = o.student == "scratch" and (o.teacher == "scratch" or not o.needs_teacher)
    style: Style = ("compact" if small else "full") if o.style == "auto" else o.style
    return SQLProblem(data, style, train, _some(validation, 200, 0), _limited(test or validation, o.eval_pairs))


def places(o: DistilOptions) -> list[tuple[str, str]]:
    """(name, place) of own data; a place without a name is called by its last part."""
    found = []
    for word in o.data:
        name, equals, place = word.partition("=")
        found.append((name, place) if equals else (word.rstrip("/").rpartition("/")[2], word))
    return found


def joined(sets: Sequence[PairSet]) -> PairSet:
    """Several sets as one. Raises ``ManyoneError`` where two have different databases of one name."""
    first, *others = sets
    for other in others:
        for name, schema in other.schemas.items():
            if first.schemas.get(name, schema) != schema:
                raise ManyoneError(f"{first.name} and {other.name} both have a database {name!r}, with different "
                                   "tables: rename one of them")  # fmt: skip
        splits = {s: (*first.splits.get(s, ()), *other.splits.get(s, ())) for s in {**first.splits, **other.splits}}
        first = PairSet(f"{first.name}+{other.name}", splits, {**first.schemas, **other.schemas},
                        {**first.databases, **other.databases})  # fmt: skip
    return first


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
