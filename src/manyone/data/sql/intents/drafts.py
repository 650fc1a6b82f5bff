"""What intents are filled with: columns and conditions of real rows by lot, and the pieces of SQL that say them.

Constants are those of real rows; conditions that are joined by "and" are of one row, so that something fulfils them.
Public: ``Draft``, ``Choice``, ``where_clause``, ``comparison``, ``select_list``, ``from_clause``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manyone.data.sql.facts import ColumnFacts, Facts, Join, Role, TableFacts, literal, shown
from manyone.data.sql.files import Row
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.phrases import Condition, Wording
from manyone.data.sql.sandbox import Value

Say = Callable[[Wording], str]


@dataclass(frozen=True)
class Draft:
    """A SQL that may become a pair. ``ties`` is a query of what it orders by, where a tie at its limit makes it vague:
    ``limit`` of its rows are taken."""

    intent: str
    sql: str
    say: Say
    ties: str = ""
    limit: int = 0


class Choice:
    """The facts and the draws of one draft."""

    def __init__(self, facts: Facts, draws: Draws) -> None:
        self.facts, self.draws = facts, draws

    def one(self, options: Sequence):  # type: ignore[no-untyped-def, type-arg]
        """One of the options, or None of none."""
        return options[self.draws.below(len(options))] if options else None

    def chance(self, share: float) -> bool:
        """True in this share of all draws."""
        return self.draws.uniform() < share

    def table(self, *roles: Role) -> TableFacts | None:
        """A table that has columns of every one of these roles."""
        return self.one([t for t in self.facts.tables if all(t.of(role) for role in roles)])

    def some(self, options: Sequence[ColumnFacts], most: int) -> list[ColumnFacts]:
        """One to ``most`` different columns, in the table's order."""
        left, chosen = list(options), []
        for _ in range(1 + self.draws.below(min(most, len(left)))):
            chosen.append(left.pop(self.draws.below(len(left))))
        return sorted(chosen, key=options.index)

    def shown_columns(self, table: TableFacts, most: int = 2) -> list[ColumnFacts]:
        """Columns that answer a question about rows: mostly what names them."""
        every = table.of("label", "category", "measure", "time", "text")
        options = table.labels if self.chance(0.6) else every or table.labels
        return self.some(options, most) if options else []

    def conditions(self, table: TableFacts, most: int = 2, *, avoid: Sequence[ColumnFacts] = ()) -> list[Condition]:
        """One to ``most`` conditions that a sampled row fulfils, on different columns; none where there is nothing."""
        row = self.one(table.rows)
        options = [c for c in table.of("category", "measure", "time", "flag") if c not in avoid]
        if not options or self.chance(0.3):  # a name picks one row: seldom what a person wants to count
            options = [c for c in table.of("label", "category", "measure", "time", "flag") if c not in avoid]
        found: list[Condition] = []
        for column in self.some(options, most) if options and row is not None else []:
            if (condition := self.condition(table, column, row)) is not None:
                found.append(condition)
        return found

    def condition(self, table: TableFacts, column: ColumnFacts, row: Row) -> Condition | None:
        """A condition on ``column`` that ``row`` fulfils."""
        value = table.value(row, column)
        if shown(value) is None:
            return None
        way = self.draws.uniform()
        if column.role == "flag":
            return Condition(column, "=", value)
        if column.role in ("measure", "time"):
            return self._bounded(column, value, way)
        if column.role == "category":
            return self._unequal(column, value) if way < 0.15 else Condition(column, "=", value)
        if way < 0.3 and isinstance(value, str):
            words = [w for w in value.split() if len(w) > 3 and w.isalpha()]
            if words:
                word = self.one(words)
                return Condition(column, "starts" if value.startswith(word) and way < 0.1 else "contains", word)
        return Condition(column, "=", value)

    def _unequal(self, column: ColumnFacts, value: Value) -> Condition | None:
        other = self.one([v for v in column.values if v != value and shown(v) is not None])
        return None if other is None else Condition(column, "!=", other)

    def _bounded(self, column: ColumnFacts, value: Value, way: float) -> Condition | None:
        """``value`` within a bound that another row gives."""
        others = [v for v in column.values if type(v) is type(value) and v != value and shown(v) is not None]
        other = self.one(others)
        if column.role == "time" and isinstance(value, str) and len(value) >= 10 and way < 0.25:
            return Condition(column, "starts", value[:4])
        if other is None or way < 0.1:
            return Condition(column, "=", value)
        low, high = sorted([value, other])  # type: ignore[type-var]
        if way < 0.2:
            return Condition(column, "between", low, high)
        if value == high:
            return Condition(column, ">" if way < 0.6 else ">=", other if way < 0.6 else value)
        return Condition(column, "<" if way < 0.6 else "<=", other if way < 0.6 else value)


def where_clause(conditions: Sequence[Condition], joint: str = "AND", *, full: bool = False) -> str:
    """The WHERE of ``conditions``, empty for none; ``full``: columns with their tables."""
    return " WHERE " + f" {joint} ".join(comparison(c, full) for c in conditions) if conditions else ""


def comparison(c: Condition, full: bool) -> str:
    """One condition."""
    name = c.column.full if full else c.column.name
    if c.operator == "between":
        return f"{name} BETWEEN {literal(c.value)} AND {literal(c.high)}"
    if c.operator in ("contains", "starts"):
        return f"{name} LIKE {literal(('%' if c.operator == 'contains' else '') + str(c.value) + '%')}"
    return f"{name} {c.operator} {literal(c.value)}"


def select_list(columns: Sequence[ColumnFacts], *, full: bool = False) -> str:
    """What is selected."""
    return ", ".join(c.full if full else c.name for c in columns)


def from_clause(join: Join) -> str:
    """Two tables that are joined."""
    return f"{join.child.name} JOIN {join.parent.name} ON {join.sql}"
