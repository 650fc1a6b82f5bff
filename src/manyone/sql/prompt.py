"""The text that a model reads before it writes SQL: the schema, values that the question names, and the question.

The form is that of CodeS, which KID follows (arXiv 2410.11371, appendix; ``render``). ``training_view`` and
``ranked_view`` choose the tables and columns of a wide schema that fit into a prompt: around the gold ones while a
model learns, by a ranking when it answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.errors import ManyoneError
from manyone.randomness import counter_words, seed_for

Matched = Mapping[tuple[str, str], Sequence[str]]
"""(table, column) -> the values of that column which a question names; in any case."""
Used = Mapping[str, Collection[str]]
"""Table -> those of its columns that an SQL query reads; in any case."""
Ranker = Callable[[Schema, str, Matched], Mapping[tuple[str, str], float]]
"""(schema, question, matched) -> a score for every (table, column) in lower case; column "" is the table itself."""
Style = Literal["full", "compact"]
"""``full``: section by section, as a pretrained model reads it. ``compact``: one line of names, for models of a
thousand tokens' vocabulary that start from scratch."""

MATCHED_LIMIT = 25
"""At most so many matched values of one column."""
_SHOWN_VALUES = 2
_VALUE_LENGTH = 25
_QUOTED = re.compile(r"[() \-/`]")
_UPPER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_WORD = re.compile(r"[^\W_]+")
_T = TypeVar("_T", Table, Column)


def lower(name: str) -> str:
    """``name`` in lower case where SQLite, too, takes both cases for one: ASCII letters alone."""
    return name.translate(_UPPER)


def quoted(name: str) -> str:
    """``name`` in lower case, in back-ticks where it has spaces, parentheses, dashes or slashes."""
    name = lower(_one_line(name))
    return f"`{name.replace('`', '``')}`" if _QUOTED.search(name) else name


def render(
    schema: Schema, question: str, evidence: str = "", matched: Matched | None = None, *, style: Style = "full"
) -> str:
    """The prompt: what ``schema`` shows, the values in ``matched``, then evidence and question; ends with a newline.

    Everything comes in the schema's order, so that equal inputs give equal text. Matched values of tables or columns
    that ``schema`` lacks (a view of a wider one) are left out, as are SQLite's own tables.
    """
    known = {(lower(t), lower(c)): values for (t, c), values in (matched or {}).items()}
    tables = [t for t in schema.tables if lower(t.name) != "sqlite_sequence"]
    names = {(lower(t.name), lower(c.name)) for t in tables for c in t.columns}
    keys = [k for k in schema.foreign_keys if _ends(k)[0] in names and _ends(k)[1] in names]
    found = [(t, c, values) for t in tables for c in t.columns
             if (values := known.get((lower(t.name), lower(c.name)), ())[:MATCHED_LIMIT])]  # fmt: skip
    asked = " ".join(part for part in (_one_line(evidence), _one_line(question)) if part)
    if style == "compact":
        return " | ".join([*_compact(tables, keys, found), asked]) + "\n"
    if style != "full":
        raise ManyoneError(f"style {style!r} of a prompt: full or compact")
    lines = ["database schema :", *(_table(t) for t in tables)]
    lines += ["foreign keys :", *(_link(k) for k in keys)] if keys else ["foreign keys : None"]
    lines += (
        ["matched contents :", *(f"{_place(t, c)} ( {' , '.join(map(_one_line, v))} )" for t, c, v in found)]
        if found
        else ["matched contents : None"]
    )
    return "\n".join([*lines, asked]) + "\n"


def training_view(
    schema: Schema,
    used: Used,
    *names: str | int,
    tables: int = 6,
    columns: int = 10,
    shuffle: bool = False,
) -> Schema:
    """``schema`` with the tables and columns in ``used`` and random others up to ``tables`` and ``columns`` a table.

    Gold tables and columns stay even where there are more than that. The draw depends on ``names`` (a seed, the
    pair's number, the epoch, ...) and the schema alone. ``shuffle`` also draws the order of tables and columns, as a
    small model must not learn places by heart; otherwise they stay in the schema's.
    """
    gold = {lower(t): {lower(c) for c in found} for t, found in used.items()}
    kept = [
        (t, _filled(t.columns, gold.get(lower(t.name), ()), columns, shuffle, *names, schema.db_id, lower(t.name)))
        for t in _filled(schema.tables, gold, tables, shuffle, *names, schema.db_id)
    ]
    return _view(schema, kept)


def ranked_view(
    schema: Schema,
    question: str,
    matched: Matched | None = None,
    *,
    tables: int = 6,
    columns: int = 10,
    rank: Ranker | None = None,
) -> Schema:
    """``schema`` with the ``tables`` tables and the ``columns`` columns of each that ``rank`` scores highest.

    Ties go to what comes first in the schema, and what is kept stays in its order. Without ``rank`` it is
    ``lexical_rank``; a trained classifier has the same signature. A schema that fits is returned as it is.
    """
    if len(schema.tables) <= tables and all(len(t.columns) <= columns for t in schema.tables):
        return schema
    scores = (rank or lexical_rank)(schema, question, matched or {})
    chosen = _best(schema.tables, [scores[lower(t.name), ""] for t in schema.tables], tables)
    kept = [(t, _best(t.columns, [scores[lower(t.name), lower(c.name)] for c in t.columns], columns)) for t in chosen]
    return _view(schema, kept)


def lexical_rank(schema: Schema, question: str, matched: Matched) -> dict[tuple[str, str], float]:
    """How much of its name each table and column shares with ``question``: a ranking that needs no training.

    A name scores the share of its words that occur in the question (plurals and case aside), a column of which a
    value was matched one more, and keys a little, as joins need them. A table scores its own name and its best
    columns.
    """
    asked = set(_words(question))
    hit = {(lower(t), lower(c)) for (t, c), values in matched.items() if values}
    joined = {end for key in schema.foreign_keys for end in _ends(key)}
    scores: dict[tuple[str, str], float] = {}
    for t in schema.tables:
        name = lower(t.name)
        own = []
        for c in t.columns:
            at = (name, lower(c.name))
            score = _overlap(asked, c.name, c.natural, c.comment) + (at in hit)
            own.append(score)
            scores[at] = score + 0.25 * (c.primary_key or at in joined)
        scores[name, ""] = 1.5 * _overlap(asked, t.name, t.natural) + sum(sorted(own, reverse=True)[:3])
    # a table between two that the question names is needed to join them, though nobody speaks of it
    direct = {t: s for (t, c), s in scores.items() if not c}
    for name in direct:
        beside = {a if b == name else b for (a, _), (b, _) in map(_ends, schema.foreign_keys) if name in (a, b)}
        strong = sorted((direct.get(b, 0.0) for b in beside - {name}), reverse=True)[:2]
        if len(strong) == 2:
            scores[name, ""] += 0.5 * strong[1]
    return scores


def _table(t: Table) -> str:
    return f"table {quoted(t.name)} , columns = [ {' , '.join(_column(t, c) for c in t.columns)} ]"


def _column(t: Table, c: Column) -> str:
    about = [c.type, *(["primary key"] if c.primary_key else [])]
    comment = _one_line(c.comment or c.natural)
    if comment and _bare(comment) != _bare(c.name):
        about.append(f"comment : {comment}")
    first = list(dict.fromkeys(c.values))[:_SHOWN_VALUES]
    if shown := [_one_line(v) for v in first if 1 <= len(v) <= _VALUE_LENGTH]:
        about.append(f"values : {' , '.join(shown)}")
    return f"{_place(t, c)} ( {' | '.join(about)} )"


def _compact(
    tables: Iterable[Table], keys: Iterable[ForeignKey], found: Iterable[tuple[Table, Column, Sequence[str]]]
) -> list[str]:
    """The parts of a compact prompt: each table with its columns, then each key, then each column's matched values."""
    return [
        *(" ".join([quoted(t.name), ":", *(quoted(c.name) for c in t.columns)]) for t in tables),
        *(_link(k) for k in keys),
        *(f"{_place(t, c)} = {' , '.join(map(_one_line, values))}" for t, c, values in found),
    ]


def _place(t: Table, c: Column) -> str:
    return f"{quoted(t.name)}.{quoted(c.name)}"


def _link(k: ForeignKey) -> str:
    return f"{quoted(k.table)}.{quoted(k.column)} = {quoted(k.to_table)}.{quoted(k.to_column)}"


def _ends(k: ForeignKey) -> tuple[tuple[str, str], tuple[str, str]]:
    return (lower(k.table), lower(k.column)), (lower(k.to_table), lower(k.to_column))


def _one_line(text: str) -> str:
    """``text`` without breaks of lines: a value out of a database must not look like a line of the prompt."""
    return " ".join(text.split())


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _filled(items: Sequence[_T], needed: Collection[str], limit: int, shuffle: bool, *names: str | int) -> list[_T]:
    """Those of ``items`` that are needed (names in lower case), and as many others by lot as fit into ``limit``."""
    if not items:
        return []
    lots = counter_words(seed_for(*names, "view"), (np.arange(len(items)), 0, 0), 2)
    gold = [lower(item.name) in needed for item in items]
    order = sorted(range(len(items)), key=lambda i: (not gold[i], int(lots[i, 0]), i))
    kept = sorted(order[: max(limit, sum(gold))], key=(lambda i: (int(lots[i, 1]), i)) if shuffle else None)
    return [items[i] for i in kept]


def _best(items: Sequence[_T], scores: Sequence[float], limit: int) -> list[_T]:
    chosen = sorted(range(len(items)), key=lambda i: (-scores[i], i))[:limit]
    return [items[i] for i in sorted(chosen)]


def _view(schema: Schema, kept: Iterable[tuple[Table, Sequence[Column]]]) -> Schema:
    tables = tuple(replace(t, columns=tuple(columns)) for t, columns in kept)
    there = {(lower(t.name), lower(c.name)) for t in tables for c in t.columns}
    keys = tuple(k for k in schema.foreign_keys if all(end in there for end in _ends(k)))
    return Schema(schema.db_id, tables, keys)


def _words(text: str) -> list[str]:
    """The words of ``text`` or of a name in snake_case or CamelCase, in lower case and the singular, roughly."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w
            for w in (m.lower() for m in _WORD.findall(split))]  # fmt: skip


def _overlap(asked: set[str], *names: str) -> float:
    """The largest share of the words of one of ``names`` that were ``asked`` for."""
    return max((len(asked.intersection(w)) / len(set(w)) for name in names if (w := _words(name))), default=0.0)
