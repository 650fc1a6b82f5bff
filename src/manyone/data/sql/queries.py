"""What a gold query says about the data: the literals it compares columns with, the columns it joins; and its mutants.

Queries are parsed by sqlglot (extra ``sql``); nothing is executed here.
Public: ``literals``, ``joined``, ``counted``, ``mutants``, ``parse``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyone.data.sql.records import Column, Schema
from manyone.engine.extras import need
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from sqlglot import exp

Node = Any  # sqlglot's; its base class is called differently in different versions
Place = tuple[str, str]
"""A table and one of its columns, as the schema spells them."""
Literal = int | float | str

KINDS = ("column", "operator", "aggregate", "condition", "direction", "limit", "set operation", "value")
"""What a mutant may differ in."""


def _sqlglot() -> Any:
    return need("sqlglot", "reading the conditions of queries", "sql")


def _expressions() -> Any:
    """sqlglot's classes of nodes."""
    return _sqlglot().exp


def parse(sql: str) -> Node:
    """The parsed query; :class:`ManyoneError` where it is no SQL of SQLite."""
    sqlglot = _sqlglot()
    try:
        return sqlglot.parse_one(sql, read="sqlite")
    except (sqlglot.errors.SqlglotError, RecursionError) as problem:
        reason = next(iter(str(problem).splitlines()), "too deep")
        raise ManyoneError(f"not readable as SQL ({reason}): {sql[:200]}") from None


def literals(sql: str, schema: Schema) -> dict[Place, set[Literal]]:
    """By column, the constants that ``sql`` compares it with; of ``LIKE '%x%'`` a text that matches.

    Spider's golds write text in double quotes too: a quoted name that is no column is text, as SQLite has it.
    """
    exp = _expressions()
    found: dict[Place, set[Literal]] = {}
    for node in parse(sql).find_all(exp.Predicate):
        sides = [side for side in (node.this, *_operands(node)) if side is not None]
        places = [place for side in sides if (place := _place(side, schema)) is not None]
        values = [value for side in sides if (value := _value(side, schema)) is not None]
        if isinstance(node, exp.Like):
            values = [str(v).replace("%", "").replace("_", "a") or "a" for v in values]
        for place in places:
            found.setdefault(place, set()).update(values)
    return {place: values for place, values in found.items() if values}


def _operands(node: Node) -> Iterator[Any]:
    yield node.args.get("expression")
    for name in ("low", "high"):
        yield node.args.get(name)
    yield from node.args.get("expressions") or ()


def joined(sql: str, schema: Schema) -> list[tuple[Place, Place]]:
    """The pairs of columns that ``sql`` sets equal, in joins, conditions or as ``a [NOT] IN (SELECT b ...)``."""
    exp = _expressions()
    found = []
    for node in parse(sql).find_all(exp.EQ, exp.In):
        other = node.args.get("query") if isinstance(node, exp.In) else node.expression
        if isinstance(other, exp.Subquery):
            other = other.this
        if isinstance(other, exp.Select) and len(other.expressions) == 1:
            other = other.expressions[0]
        one, two = _place(node.this, schema), _place(other, schema)
        if one is not None and two is not None and one != two:
            found.append((one, two))
    return found


def counted(sql: str, schema: Schema) -> set[Place]:
    """The columns that ``sql`` takes for numbers: it sums or averages them, or compares them with a number."""
    exp = _expressions()
    found = {_place(node.this, schema) for node in parse(sql).find_all(exp.Avg, exp.Sum)}
    for place, values in literals(sql, schema).items():
        if any(isinstance(value, (int, float)) for value in values):
            found.add(place)
    return {place for place in found if place is not None}


def _place(node: Any, schema: Schema) -> Place | None:
    """The table and column that ``node`` names, looked up in its SELECT and those around it."""
    exp = _expressions()
    while isinstance(node, (exp.Paren, exp.Lower, exp.Upper, exp.Cast)):
        node = node.this
    if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
        return None
    scope: Any = node
    while (scope := scope.find_ancestor(exp.Select)) is not None:
        for alias, name in _sources(scope):
            table = schema.table(name)
            if table is None or (node.table and node.table.lower() != alias):
                continue
            if (column := table.column(node.name)) is not None:
                return table.name, column.name
    return None


def _sources(select: exp.Select) -> list[tuple[str, str]]:
    """(Alias in lower case, table) of the tables in FROM and JOIN of this very SELECT."""
    exp = _expressions()
    parts = [select.args.get("from_") or select.args.get("from"), *(select.args.get("joins") or ())]
    tables = [part.this for part in parts if part is not None and isinstance(part.this, exp.Table)]
    return [(t.alias_or_name.lower(), t.name) for t in tables]


def _value(node: Any, schema: Schema) -> Literal | None:
    exp = _expressions()
    sign = 1
    while isinstance(node, (exp.Paren, exp.Neg)):
        sign *= -1 if isinstance(node, exp.Neg) else 1
        node = node.this
    if isinstance(node, exp.Literal):
        if node.is_string:
            return str(node.this)
        number = float(node.this)
        return sign * (int(number) if number.is_integer() and "." not in node.this else number)
    if isinstance(node, exp.Column) and node.this.args.get("quoted") and not node.table:
        return str(node.name) if _place(node, schema) is None else None
    return None


# --- mutants ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A gold query with one thing changed, of one of the :data:`KINDS`."""

    kind: str
    sql: str


def mutants(sql: str, schema: Schema, *, seed: int = 0) -> list[Mutant]:
    """At most one mutant of each kind: what a model that is nearly right would write.

    ``column``: another column of the table in the place of one that is selected, compared, grouped or ordered by.
    ``operator``: > for >=, = for !=, and so on. ``aggregate``: min for max, avg for sum and back, count for sum.
    ``condition``: one part of WHERE or HAVING left out. ``direction``: DESC for ASC. ``limit``: one row more.
    ``set operation``: another one. ``value``: another constant.
    """
    tree = parse(sql)
    plain = tree.sql("sqlite")
    draws = random.Random(seed)
    found = []
    for kind in KINDS:
        options = [option for option in _changes(kind, tree, schema) if option != plain]
        if options:
            found.append(Mutant(kind, options[int(draws.random() * len(options))]))
    return found


def _changes(kind: str, tree: Node, schema: Schema) -> list[str]:
    """All queries that differ from ``tree`` in one node by ``kind``, in the order of the nodes."""
    found = []
    for number, node in enumerate(tree.walk()):
        for choice in range(len(_alternatives(kind, node, schema))):
            copied = tree.copy()
            twin = next(n for i, n in enumerate(copied.walk()) if i == number)
            new = _alternatives(kind, twin, schema)[choice]
            if new is None:
                if not _drop(twin):
                    continue
            elif twin is copied:
                copied = new
            else:
                twin.replace(new)
            found.append(copied.sql("sqlite"))
    return list(dict.fromkeys(found))


def _drop(part: Node) -> bool:
    """Takes a condition out of its AND, or the whole clause with it; whether there was such."""
    exp = _expressions()
    parent = part.parent
    if isinstance(parent, (exp.And, exp.Or)):
        parent.replace(parent.expression if part is parent.this else parent.this)
        return True
    if isinstance(parent, (exp.Where, exp.Having)) and parent.parent is not None:
        parent.pop()
        return True
    return False


def _alternatives(kind: str, node: Node, schema: Schema) -> list[Any]:
    """What may stand in the place of ``node`` by a change of ``kind``; None stands for leaving it out."""
    exp = _expressions()
    if kind == "column":
        return _other_columns(node, schema)
    if kind == "operator":
        swaps: dict[type, tuple[type, ...]] = {
            exp.GT: (exp.GTE, exp.LT), exp.GTE: (exp.GT, exp.LTE), exp.LT: (exp.LTE, exp.GT),
            exp.LTE: (exp.LT, exp.GTE), exp.NEQ: (exp.EQ,), exp.EQ: (exp.NEQ,),
        }  # fmt: skip
        if type(node) not in swaps or node.find_ancestor(exp.Join):
            return []
        return [new(this=node.this.copy(), expression=node.expression.copy()) for new in swaps[type(node)]]
    if kind == "aggregate":
        others: dict[type, tuple[type, ...]] = {
            exp.Max: (exp.Min, exp.Avg), exp.Min: (exp.Max, exp.Avg), exp.Avg: (exp.Sum, exp.Max),
            exp.Sum: (exp.Avg, exp.Count), exp.Count: (),
        }  # fmt: skip
        return [new(this=node.this.copy()) for new in others.get(type(node), ())]
    if kind == "condition":
        clause = node.find_ancestor(exp.Where, exp.Having)
        if clause is None or not isinstance(node, (exp.Predicate, exp.Not)):
            return []
        inner = isinstance(node.parent, (exp.Where, exp.Having, exp.And, exp.Or))
        return [None] if inner else []
    if kind == "direction" and isinstance(node, exp.Ordered):
        return [exp.Ordered(this=node.this.copy(), desc=not node.args.get("desc"))]
    if kind == "limit" and isinstance(node, exp.Limit) and isinstance(node.expression, exp.Literal):
        return [exp.Limit(expression=exp.Literal.number(int(node.expression.this) + 1))]
    if kind == "set operation" and isinstance(node, exp.SetOperation):
        kinds = [k for k in (exp.Union, exp.Intersect, exp.Except) if not isinstance(node, k)]
        return [k(**{**node.copy().args, "distinct": True}) for k in kinds]
    if kind == "value" and isinstance(node, exp.Literal) and isinstance(node.parent, exp.Binary):
        if node.find_ancestor(exp.Where, exp.Having) is None:
            return []
        if node.is_string:
            return [exp.Literal.string(node.this + "x")]
        number = float(node.this) + 2
        return [exp.Literal.number(int(number) if number.is_integer() else number)]
    return []


def _other_columns(node: Node, schema: Schema) -> list[Any]:
    """Other columns of the same table and kind in the place of a column outside of joins."""
    exp = _expressions()
    place = _place(node, schema)
    if place is None or not isinstance(node, exp.Column) or node.find_ancestor(exp.Join):
        return []
    table = schema.table(place[0])
    assert table is not None
    mine = table.column(place[1])
    assert mine is not None
    new = []
    for column in (c for c in table.columns if c.name != mine.name and _alike(c, mine)):
        copied = node.copy()
        copied.set("this", exp.to_identifier(column.name, quoted=not column.name.isidentifier()))
        new.append(copied)
    return new


def _alike(one: Column, two: Column) -> bool:
    return one.type == two.type
