"""Exact match: whether a query has the components of the gold one (Yu et al., EMNLP 2018, section 5).

Each clause is compared by itself, as a bag of its parts; the whole matches where all clauses and the tables do. Values,
the number behind LIMIT, the conditions of joins and DISTINCT do not count, and columns that foreign keys tie are one.
Inside of queries that conditions compare with, only values do not count: there the script compares as written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manyone.data.sql.records import Schema
from manyone.sql.scoring.structure import ColumnUnit, Condition, Conditions, Query, Selected, ValueUnit

CLAUSES = ("select", "select(no AGG)", "where", "where(no OP)", "group(no Having)", "group", "order", "and/or", "IUEN",
           "keywords")  # fmt: skip
"""The clauses that are scored, by the names in Spider's tables."""


@dataclass(frozen=True)
class ClauseScore:
    """Parts of a clause in prediction and gold, and whether all of them match."""

    predicted: int
    gold: int
    match: bool


@dataclass(frozen=True)
class Match:
    """Whether everything matches, and each clause by itself."""

    exact: bool
    clauses: Mapping[str, ClauseScore]


class Matcher:
    """Exact match for the queries of one schema, whose foreign keys it knows."""

    def __init__(self, schema: Schema) -> None:
        self.same = tied_columns(schema)

    def __call__(self, predicted: Query, gold: Query) -> Match:
        """Compares ``predicted`` with ``gold``; an empty :class:`Query` stands for one that cannot be read."""
        return compare(self.comparable(predicted), self.comparable(gold))

    def comparable(self, query: Query) -> Query:
        """``query`` without values, and with one column for all that foreign keys tie, of its own tables."""
        own = {name for name in query.tables if isinstance(name, str)}
        same = {column: other for column, other in self.same.items() if column.partition(".")[0] in own}
        return _with_columns(without_values(query), same)


def tied_columns(schema: Schema) -> dict[str, str]:
    """Column -> the first column of those that foreign keys tie to it, as "table.column" in lower case.

    Keys are gone through once, in their order, as the script does: two groups that a later key ties stay two.
    """
    order = {
        f"{t.name}.{c.name}".lower(): n for n, (t, c) in enumerate((t, c) for t in schema.tables for c in t.columns)
    }
    groups: list[set[str]] = []
    for key in schema.foreign_keys:
        ends = {f"{key.table}.{key.column}".lower(), f"{key.to_table}.{key.to_column}".lower()}
        group = next((g for g in groups if g & ends), None)
        if group is None:
            groups.append(group := set())
        group |= ends
    found: dict[str, str] = {}
    for group in groups:
        first = min(group, key=lambda column: order.get(column, len(order)))
        found |= dict.fromkeys(group, first)
    return found


def without_values(query: Query) -> Query:
    """``query`` without what conditions compare with, but for queries; those behind FROM keep theirs."""

    def stripped(conditions: Conditions) -> Conditions:
        items = tuple(replace(c, first=_inner(c.first), second=_inner(c.second)) for c in conditions.items)
        return replace(conditions, items=items)

    plain = replace(query, on=stripped(query.on), where=stripped(query.where), having=stripped(query.having))
    return _behind(plain, without_values)


def _inner(value: Any) -> Query | None:
    return without_values(value) if isinstance(value, Query) else None


def _behind(query: Query, change: Callable[[Query], Query]) -> Query:
    """``query`` with the queries behind INTERSECT, UNION and EXCEPT changed."""
    ours, union, otherwise = (q if q is None else change(q) for q in (query.intersect, query.union, query.otherwise))
    return replace(query, intersect=ours, union=union, otherwise=otherwise)


def _with_columns(query: Query, same: Mapping[str, str]) -> Query:
    """``query`` with the columns of ``same``, also behind UNION and its like (with these tables' columns only)."""

    def column(unit: ColumnUnit) -> ColumnUnit:
        return ColumnUnit(unit.aggregate, same.get(unit.column, unit.column), None)

    def value(unit: ValueUnit) -> ValueUnit:
        return replace(unit, left=column(unit.left), right=None if unit.right is None else column(unit.right))

    def conditions(found: Conditions) -> Conditions:
        return replace(found, items=tuple(replace(c, unit=value(c.unit)) for c in found.items))

    plain = replace(
        query,
        distinct=None,
        select=tuple(Selected(item.aggregate, value(item.unit)) for item in query.select),
        on=conditions(query.on),
        where=conditions(query.where),
        group=tuple(column(unit) for unit in query.group),
        having=conditions(query.having),
        order=tuple(value(unit) for unit in query.order),
    )
    return _behind(plain, lambda found: _with_columns(found, same))


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(predicted: Query, gold: Query) -> Match:
    """Compares two queries that :meth:`Matcher.comparable` has given."""
    clauses = {
        "select": _bag(predicted.select, gold.select),
        "select(no AGG)": _bag([s.unit for s in predicted.select], [s.unit for s in gold.select]),
        "where": _bag(predicted.where.items, gold.where.items),
        "where(no OP)": _bag([c.unit for c in predicted.where.items], [c.unit for c in gold.where.items]),
        "group(no Having)": _bag(_names(predicted), _names(gold)),
        "group": _group(predicted, gold),
        "order": _order(predicted, gold),
        "and/or": _connectors(predicted.where, gold.where),
        "IUEN": _sets(predicted, gold),
        "keywords": _bag(sorted(keywords(predicted)), sorted(keywords(gold))),
    }
    tables = not gold.tables or Counter(predicted.tables) == Counter(gold.tables)
    return Match(tables and all(score.match for score in clauses.values()), clauses)


def _bag(predicted: Sequence[Any], gold: Sequence[Any]) -> ClauseScore:
    return ClauseScore(len(predicted), len(gold), Counter(predicted) == Counter(gold))


def _names(query: Query) -> list[str]:
    """The columns behind GROUP BY without their tables."""
    return [unit.column.rpartition(".")[2] for unit in query.group]


def _group(predicted: Query, gold: Query) -> ClauseScore:
    """GROUP BY, its columns in order, with HAVING."""
    ends = bool(predicted.group), bool(gold.group)
    columns = [[unit.column for unit in query.group] for query in (predicted, gold)]
    same = columns[0] == columns[1] and predicted.having == gold.having
    return ClauseScore(*ends, ends == (False, False) or (all(ends) and same))


def _order(predicted: Query, gold: Query) -> ClauseScore:
    """ORDER BY with its direction, and whether there is a LIMIT."""
    ends = bool(predicted.direction), bool(gold.direction)
    same = (predicted.direction, predicted.order) == (gold.direction, gold.order)
    limits = predicted.limited == gold.limited
    return ClauseScore(*ends, ends == (False, False) or (all(ends) and same and limits))


def _connectors(predicted: Conditions, gold: Conditions) -> ClauseScore:
    """AND and OR between conditions, each counted once; where they differ, the script takes one side for the other."""
    first, second = set(predicted.connectors), set(gold.connectors)
    return ClauseScore(1, 1, True) if first == second else ClauseScore(len(second), len(first), False)


def _sets(predicted: Query, gold: Query) -> ClauseScore:
    """The queries behind INTERSECT, EXCEPT and UNION."""
    pairs = [
        (predicted.intersect, gold.intersect),
        (predicted.otherwise, gold.otherwise),
        (predicted.union, gold.union),
    ]
    matches = sum(compare(p, g).exact for p, g in pairs if p is not None and g is not None)
    counts = sum(p is not None for p, _ in pairs), sum(g is not None for _, g in pairs)
    return ClauseScore(*counts, counts[0] == counts[1] == matches)


def keywords(query: Query) -> set[str]:
    """The words of SQL that ``query`` uses, as far as they count."""
    items: list[Condition] = [c for conditions in (query.on, query.where, query.having) for c in conditions.items]
    connectors = query.on.connectors + query.where.connectors + query.having.connectors
    there = {
        "where": bool(query.where.items),
        "group": bool(query.group),
        "having": bool(query.having.items),
        "order": bool(query.direction),
        query.direction: bool(query.direction),
        "limit": query.limited,
        "except": query.otherwise is not None,
        "union": query.union is not None,
        "intersect": query.intersect is not None,
        "or": "or" in connectors,
        "not": any(item.negated for item in items),
        "in": any(item.operator == "in" for item in items),
        "like": any(item.operator == "like" for item in items),
    }
    return {name for name, found in there.items() if found}
