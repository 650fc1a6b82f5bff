"""What is asked: sixteen intents, each a SQL and several ways to ask for it, filled with columns and constants.

An intent is a function of a :class:`~manyone.data.sql.intents.drafts.Choice` that gives a ``Draft``, or None where the
database has nothing to fill it with. A draft's ``say`` makes the question for a ``Wording`` of
:mod:`manyone.data.sql.phrases`.
Public: ``INTENTS``, ``Draft``, ``draft``.
"""

from __future__ import annotations

from collections.abc import Callable

from manyone.data.sql.facts import Facts
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.intents.drafts import Choice, Draft
from manyone.data.sql.intents.joins import join_back, join_count, join_filter, join_through, without_rows
from manyone.data.sql.intents.single import (
    aggregated,
    compared_with_average,
    counted,
    distinct_values,
    filtered,
    grouped,
    groups_having,
    most_common,
    projection,
    set_operation,
    superlative,
)

INTENTS: dict[str, tuple[Callable[[Choice], Draft | None], float]] = {
    "projection": (projection, 1.0),
    "filter": (filtered, 3.0),
    "count": (counted, 2.0),
    "distinct": (distinct_values, 1.0),
    "aggregate": (aggregated, 1.5),
    "superlative": (superlative, 2.0),
    "group": (grouped, 1.2),
    "having": (groups_having, 1.0),
    "group argmax": (most_common, 0.8),
    "join": (join_filter, 2.0),
    "join back": (join_back, 1.0),
    "join three": (join_through, 1.0),
    "join count": (join_count, 2.0),
    "not in": (without_rows, 1.0),
    "set operation": (set_operation, 1.0),
    "nested": (compared_with_average, 1.0),
}
"""Intent -> its function and how often it is drawn, relatively; "join count" makes "join argmax", "join having" too."""


def draft(facts: Facts, draws: Draws) -> Draft | None:
    """One draft of an intent that is drawn by its weight, or None where it does not fit the database."""
    place = draws.uniform() * sum(weight for _, weight in INTENTS.values())
    for make, weight in INTENTS.values():
        place -= weight
        if place < 0:
            return make(Choice(facts, draws))
    return None
