"""How hard a query is by Spider's rules (Yu et al., EMNLP 2018, section 5): easy, medium, hard or extra.

Counted are components: WHERE, GROUP BY, ORDER BY, LIMIT, each JOIN, OR and LIKE; queries inside it; and four others
(several aggregates, columns, conditions, groups).
"""

from __future__ import annotations

from typing import Literal

from manyone.sql.scoring.structure import Conditions, Query

Hardness = Literal["easy", "medium", "hard", "extra"]
LEVELS: tuple[Hardness, ...] = ("easy", "medium", "hard", "extra")


def hardness(query: Query) -> Hardness:
    """The level of ``query``, a gold query."""
    parts, nested, others = components(query), len(inner_queries(query)), other_components(query)
    if parts <= 1 and others == 0 and nested == 0:
        return "easy"
    if nested == 0 and ((others <= 2 and parts <= 1) or (parts <= 2 and others < 2)):
        return "medium"
    if nested == 0 and ((others > 2 and parts <= 2) or (2 < parts <= 3 and others <= 2)):
        return "hard"
    return "hard" if nested <= 1 and parts <= 1 and others == 0 else "extra"


def components(query: Query) -> int:
    """Clauses, joins, ORs and LIKEs."""
    clauses = bool(query.where.items) + bool(query.group) + bool(query.direction) + query.limited
    joins = max(len(query.tables) - 1, 0)
    ors = sum(c == "or" for conditions in _conditions(query) for c in conditions.connectors)
    likes = sum(item.operator == "like" for conditions in _conditions(query) for item in conditions.items)
    return clauses + joins + ors + likes


def inner_queries(query: Query) -> list[Query]:
    """Those that conditions compare with, and those behind UNION and its like; not those behind FROM."""
    values = (value for conditions in _conditions(query) for c in conditions.items for value in (c.first, c.second))
    behind = (query.intersect, query.otherwise, query.union)
    return [found for found in (*values, *behind) if isinstance(found, Query)]


def other_components(query: Query) -> int:
    """Which of these there are several of: aggregates, columns, conditions, groups.

    As Spider's script counts, a negated condition is an aggregate, as is every word between conditions behind HAVING:
    the levels of its golds rest on that.
    """
    ordered = [unit for value in query.order for unit in (value.left, value.right) if unit is not None]
    aggregates = sum(bool(item.aggregate) for item in query.select)
    aggregates += sum(item.negated for item in query.where.items)
    aggregates += sum(bool(unit.aggregate) for unit in (*query.group, *ordered))
    aggregates += sum(item.negated for item in query.having.items) + len(query.having.connectors)
    several = (aggregates, len(query.select), len(query.where.items), len(query.group))
    return sum(count > 1 for count in several)


def _conditions(query: Query) -> tuple[Conditions, Conditions, Conditions]:
    return query.on, query.where, query.having
