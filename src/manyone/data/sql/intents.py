"""What is asked: sixteen intents, each a SQL and several ways to ask for it, filled with columns and constants.

An intent is a function of the database's facts and of draws that gives a :class:`Draft`, or None where the database has
nothing to fill it with. Constants are those of real rows; conditions that are joined by "and" are of one row, so that
something fulfils them. A draft's ``say`` makes the question for a :class:`~manyone.data.sql.phrases.Wording`.
Public: ``INTENTS``, ``Draft``, ``draft``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manyone.data.sql.facts import ColumnFacts, Facts, Join, Role, TableFacts, literal, shown
from manyone.data.sql.files import Row, Value
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.names import plural
from manyone.data.sql.phrases import Condition, Wording, agreed, article

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


def draft(facts: Facts, draws: Draws) -> Draft | None:
    """One draft of an intent that is drawn by its weight, or None where it does not fit the database."""
    place = draws.uniform() * sum(weight for _, weight in INTENTS.values())
    for make, weight in INTENTS.values():
        place -= weight
        if place < 0:
            return make(_Choice(facts, draws))
    return None


class _Choice:
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


# --- SQL --------------------------------------------------------------------------------------------------------------


def _where(conditions: Sequence[Condition], joint: str = "AND", *, full: bool = False) -> str:
    return " WHERE " + f" {joint} ".join(_test(c, full) for c in conditions) if conditions else ""


def _test(c: Condition, full: bool) -> str:
    name = c.column.full if full else c.column.name
    if c.operator == "between":
        return f"{name} BETWEEN {literal(c.value)} AND {literal(c.high)}"
    if c.operator in ("contains", "starts"):
        return f"{name} LIKE {literal(('%' if c.operator == 'contains' else '') + str(c.value) + '%')}"
    return f"{name} {c.operator} {literal(c.value)}"


def _list(columns: Sequence[ColumnFacts], *, full: bool = False) -> str:
    return ", ".join(c.full if full else c.name for c in columns)


def _from(join: Join) -> str:
    return f"{join.child.name} JOIN {join.parent.name} ON {join.sql}"


# --- intents ----------------------------------------------------------------------------------------------------------


def _projection(c: _Choice) -> Draft | None:
    table = c.one(c.facts.tables)
    options = table.of("label", "category", "measure", "time", "text") or table.columns
    columns = c.some(options, 3)
    sql = f"SELECT {_list(columns)} FROM {table.name}"
    ordered = c.one([m for m in table.of("measure", "time", "label") if not m.nulls]) if c.chance(0.3) else None
    if ordered is None:
        return Draft("projection", sql, lambda w: w.pick(
            lambda: f"What are the {w.columns(columns, many=True)} of all {w.many(table)}?",
            lambda: f"List the {w.columns(columns)} of every {w.one(table)}.",
            lambda: f"Show the {w.columns(columns, many=True)} of all the {w.many(table)}.",
            lambda: f"Give me the {w.columns(columns)} of each {w.one(table)}.",
            lambda: f"For all {w.many(table)}, return the {w.columns(columns)}.",
        )())  # fmt: skip
    down = c.chance(0.5)
    order = f" ORDER BY {ordered.name}{' DESC' if down else ''}"

    def say(w: Wording) -> str:
        if ordered.role == "label":
            way = (
                w.pick("in reverse alphabetical order", "from Z to A")
                if down
                else w.pick("alphabetically", "from A to Z")
            )
            tail = f"sorted by {w.column(ordered)} {way}"
        else:
            way = w.pick("in descending order of", "from the highest to the lowest") if down else w.pick(
                "in ascending order of", "from the lowest to the highest")  # fmt: skip
            tail = f"{way} {w.column(ordered)}"
        head = w.pick("What are", "List", "Show", "Give me")
        return (
            f"{head} the {w.columns(columns, many=True)} of all {w.many(table)} {tail}{'?' if head[0] == 'W' else '.'}"
        )

    ties = f"SELECT {ordered.name} FROM {table.name}{order}"
    return Draft("projection", sql + order, say, ties, 0)


def _filter(c: _Choice) -> Draft | None:
    table = c.one(c.facts.tables)
    columns = c.shown_columns(table)
    if not columns:
        return None
    conditions = c.conditions(table, avoid=columns)
    if not conditions:
        return None
    joint = "OR" if len(conditions) == 2 and c.chance(0.25) else "AND"
    sql = f"SELECT {_list(columns)} FROM {table.name}{_where(conditions, joint)}"
    return Draft("filter", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of {w.many(table)}{w.where(conditions, joint.lower())}?",
        lambda: f"List the {w.columns(columns)} of {w.many(table)}{w.where(conditions, joint.lower())}.",
        lambda: f"Show me the {w.columns(columns, many=True)} of the {w.many(table)}"
                f"{w.where(conditions, joint.lower())}.",
        lambda: f"Find the {w.columns(columns)} of all {w.many(table)}{w.where(conditions, joint.lower())}.",
        lambda: f"Which {w.many(table)} are there{w.where(conditions, joint.lower())}? "
                f"Give their {w.columns(columns, many=True)}.",
    )())  # fmt: skip


def _count(c: _Choice) -> Draft | None:
    table = c.one(c.facts.tables)
    conditions = c.conditions(table) if c.chance(0.8) else []
    return Draft("count", f"SELECT COUNT(*) FROM {table.name}{_where(conditions)}", lambda w: w.pick(
        lambda: f"How many {w.many(table)} are there{w.where(conditions)}?",
        lambda: f"Count the {w.many(table)}{w.where(conditions)}.",
        lambda: f"What is the number of {w.many(table)}{w.where(conditions)}?",
        lambda: f"Find the total number of {w.many(table)}{w.where(conditions)}.",
    )())  # fmt: skip


def _distinct(c: _Choice) -> Draft | None:
    table = c.table("category")
    if table is None:
        return None
    column = c.one(table.of("category"))
    conditions = c.conditions(table, 1, avoid=[column]) if c.chance(0.6) else []
    where = _where(conditions)
    if c.chance(0.5):
        return Draft("distinct", f"SELECT COUNT(DISTINCT {column.name}) FROM {table.name}{where}", lambda w: w.pick(
            lambda: f"How many different {plural(w.column(column))} do {w.many(table)}{w.where(conditions)} have?",
            lambda: f"Count the distinct {plural(w.column(column))} of {w.many(table)}{w.where(conditions)}.",
            lambda: f"What is the number of different {plural(w.column(column))} among {w.many(table)}"
                    f"{w.where(conditions)}?",
        )())  # fmt: skip
    return Draft("distinct", f"SELECT DISTINCT {column.name} FROM {table.name}{where}", lambda w: w.pick(
        lambda: f"What are the different {plural(w.column(column))} of {w.many(table)}{w.where(conditions)}?",
        lambda: f"List the distinct {plural(w.column(column))} of {w.many(table)}{w.where(conditions)}.",
        lambda: f"Which {plural(w.column(column))} occur among {w.many(table)}{w.where(conditions)}? "
                "Show each only once.",
        lambda: f"Show all {plural(w.column(column))} of {w.many(table)}{w.where(conditions)} without repetition.",
    )())  # fmt: skip


_AGGREGATES = {
    "AVG": ("average", "mean"), "SUM": ("total", "overall"), "MAX": ("maximum", "highest", "largest"),
    "MIN": ("minimum", "lowest", "smallest"),
}  # fmt: skip


def _aggregates(c: _Choice, column: ColumnFacts, most: int) -> list[str]:
    options = list(_AGGREGATES) if column.summable else ["MAX", "MIN"]
    chosen = []
    for _ in range(1 + c.draws.below(most)):
        if options:
            chosen.append(options.pop(c.draws.below(len(options))))
    return chosen


def _named(w: Wording, names: Sequence[str], column: ColumnFacts) -> str:
    """The aggregates of a column, in words that are none of the column's own: "average and highest price"."""
    taken = column.natural.split()
    words = [w.pick(*[word for word in _AGGREGATES[name] if word not in taken]) for name in names]
    return f"{' and '.join(words)} {w.column(column)}"


def _aggregate(c: _Choice) -> Draft | None:
    table = c.table("measure")
    if table is None:
        return None
    column = c.one(table.of("measure"))
    names = _aggregates(c, column, 2)
    conditions = c.conditions(table, 1, avoid=[column]) if c.chance(0.7) else []
    cells = ", ".join(f"{name}({column.name})" for name in names)
    many = len(names) > 1
    return Draft("aggregate", f"SELECT {cells} FROM {table.name}{_where(conditions)}", lambda w: w.pick(
        lambda: f"What {'are' if many else 'is'} the {_named(w, names, column)} of "
                f"{'' if conditions else 'all '}{w.many(table)}{w.where(conditions)}?",
        lambda: f"Find the {_named(w, names, column)} of {w.many(table)}{w.where(conditions)}.",
        lambda: f"Compute the {_named(w, names, column)} across {w.many(table)}{w.where(conditions)}.",
        lambda: f"For {w.many(table)}{w.where(conditions)}, what {'are' if many else 'is'} the "
                f"{_named(w, names, column)}?",
    )())  # fmt: skip


def _superlative(c: _Choice) -> Draft | None:
    table = c.one([t for t in c.facts.tables if t.of("measure") or t.of("time")])
    if table is None:
        return None
    most = c.chance(0.6)
    column = c.one([m for m in table.of("measure", "time") if most or not m.nulls])
    if column is None:
        return None
    columns = [x for x in c.shown_columns(table) if x != column]
    if not columns:
        return None
    conditions = c.conditions(table, 1, avoid=[column, *columns]) if c.chance(0.35) else []
    count = c.one((1, 1, 1, 3, 5))
    tail = f" FROM {table.name}{_where(conditions)} ORDER BY {column.name}{' DESC' if most else ''}"
    return Draft("superlative", f"SELECT {_list(columns)}{tail} LIMIT {count}", lambda w: w.pick(
        lambda: f"What {'is' if count == len(columns) == 1 else 'are'} the {w.columns(columns, many=count > 1)} "
                f"of {w.extreme(table, column, most, count, conditions)}?",
        lambda: f"Find the {w.columns(columns)} of {w.extreme(table, column, most, count, conditions)}.",
        lambda: f"Give the {w.columns(columns, many=count > 1)} of "
                f"{w.extreme(table, column, most, count, conditions)}.",
        lambda: f"Which {w.one(table) if count == 1 else w.many(table)} "
                f"{'is' if count == 1 else 'are'} {w.extreme(table, column, most, count, conditions)}? "
                f"Show the {w.columns(columns)}.",
    )(), f"SELECT {column.name}{tail}", count)  # fmt: skip


def _group(c: _Choice) -> Draft | None:
    table = c.one([t for t in c.facts.tables if any(not g.nulls for g in t.of("category"))])
    if table is None:
        return None
    by = c.one([g for g in table.of("category") if not g.nulls])
    measures = table.of("measure")
    if measures and c.chance(0.5):
        column = c.one(measures)
        names = _aggregates(c, column, 2)
        cells = ", ".join(f"{name}({column.name})" for name in names)
        return Draft("group", f"SELECT {by.name}, {cells} FROM {table.name} GROUP BY {by.name}", lambda w: w.pick(
            lambda: f"For each {w.column(by)}, what is the {_named(w, names, column)} of its "
                    f"{w.many(table)}?",
            lambda: f"Show the {_named(w, names, column)} of {w.many(table)} for every {w.column(by)}.",
            lambda: f"What is the {_named(w, names, column)} of {w.many(table)} by {w.column(by)}? "
                    f"List the {w.column(by)} first.",
            lambda: f"List each {w.column(by)} of {w.many(table)} with the {_named(w, names, column)}.",
        )())  # fmt: skip
    conditions = c.conditions(table, 1, avoid=[by]) if c.chance(0.3) else []
    sql = f"SELECT {by.name}, COUNT(*) FROM {table.name}{_where(conditions)} GROUP BY {by.name}"
    return Draft("group", sql, lambda w: w.pick(
        lambda: f"How many {w.many(table)}{w.where(conditions)} are there for each {w.column(by)}?",
        lambda: f"For every {w.column(by)}, count the {w.many(table)}{w.where(conditions)}.",
        lambda: f"Show each {w.column(by)} and the number of {w.many(table)}{w.where(conditions)}.",
        lambda: f"List the {plural(w.column(by))} and how many {w.many(table)}{w.where(conditions)} each has.",
    )())  # fmt: skip


def _having(c: _Choice) -> Draft | None:
    table = c.one([t for t in c.facts.tables if any(not g.nulls for g in t.of("category"))])
    if table is None:
        return None
    by = c.one([g for g in table.of("category") if not g.nulls])
    measures = [m for m in table.of("measure") if m.summable]
    if measures and c.chance(0.35):
        column = c.one(measures)
        bound = c.one([v for v in column.values if shown(v) is not None])
        more = c.chance(0.5)
        if bound is None:
            return None
        sql = (f"SELECT {by.name} FROM {table.name} GROUP BY {by.name} "
               f"HAVING AVG({column.name}) {'>' if more else '<'} {literal(bound)}")  # fmt: skip
        return Draft("having", sql, lambda w: w.pick(
            lambda: f"Which {plural(w.column(by))} have {w.many(table)} with an average {w.column(column)} "
                    f"{'above' if more else 'below'} {w.value(bound)}?",
            lambda: f"Find each {w.column(by)} whose {w.many(table)} have an average {w.column(column)} "
                    f"{'greater' if more else 'less'} than {w.value(bound)}.",
            lambda: f"List the {plural(w.column(by))} for which the mean {w.column(column)} of {w.many(table)} is "
                    f"{'higher' if more else 'lower'} than {w.value(bound)}.",
        )())  # fmt: skip
    # how often values occur in the sample says which numbers cut the groups in two
    index = table.columns.index(by)
    sizes = sorted({sum(r[index] == v for r in table.rows) * table.count // len(table.rows) for v in by.values})
    size = max(1, c.one(sizes))
    operator = c.one((">", "=") if size == 1 else (">", ">=", "<", "="))
    words = {">": ("more than", "over"), ">=": ("at least", "no fewer than"), "<": ("fewer than", "less than"),
             "=": ("exactly",)}[operator]  # fmt: skip
    sql = f"SELECT {by.name} FROM {table.name} GROUP BY {by.name} HAVING COUNT(*) {operator} {size}"
    noun = lambda w: w.many(table) if size != 1 else w.one(table)  # noqa: E731
    return Draft("having", sql, lambda w: w.pick(
        lambda: f"Which {plural(w.column(by))} have {w.pick(*words)} {size} {noun(w)}?",
        lambda: f"Find the {plural(w.column(by))} with {w.pick(*words)} {size} {noun(w)}.",
        lambda: f"List every {w.column(by)} that has {w.pick(*words)} {size} {noun(w)}.",
        lambda: f"What are the {plural(w.column(by))} that {w.pick(*words)} {size} {noun(w)} "
                f"{'share' if size != 1 else 'has'}?",
    )())  # fmt: skip


def _common(c: _Choice) -> Draft | None:
    """The most or least frequent value."""
    table = c.one([t for t in c.facts.tables if any(not g.nulls for g in t.of("category"))])
    if table is None:
        return None
    by = c.one([g for g in table.of("category") if not g.nulls])
    most, counted = c.chance(0.7), c.chance(0.3)
    tail = f" FROM {table.name} GROUP BY {by.name} ORDER BY COUNT(*){' DESC' if most else ''}"
    cells = f"{by.name}, COUNT(*)" if counted else by.name
    end = " and how many are there" if counted else ""
    word = ("most", "largest number of", "most common") if most else ("fewest", "smallest number of", "least common")
    return Draft("group argmax", f"SELECT {cells}{tail} LIMIT 1", lambda w: w.pick(
        lambda: f"Which {w.column(by)} has the {word[w.draws.below(2)]} {w.many(table)}{end}?",
        lambda: f"What is the {word[2]} {w.column(by)} of {w.many(table)}{end}?",
        lambda: f"Find the {w.column(by)} with the {word[w.draws.below(2)]} {w.many(table)}"
                f"{', and their number' if counted else ''}.",
        lambda: f"Give the {w.column(by)} that {'most' if most else 'the fewest'} {w.many(table)} have"
                f"{', with the number' if counted else ''}.",
    )(), f"SELECT COUNT(*){tail}", 1)  # fmt: skip


def _join_filter(c: _Choice) -> Draft | None:
    """Rows by a condition on the row that they refer to."""
    join = c.one(c.facts.joins)
    if join is None:
        return None
    columns = c.shown_columns(join.child)
    conditions = c.conditions(join.parent, 1)
    if not conditions or not columns:
        return None
    if c.chance(0.3):
        sql = f"SELECT COUNT(*) FROM {_from(join)}{_where(conditions, full=True)}"
        return Draft("join", sql, lambda w: w.pick(
            lambda: f"How many {w.children(join, conditions)} are there?",
            lambda: f"Count the {w.children(join, conditions)}.",
            lambda: f"What is the number of {w.children(join, conditions)}?",
        )())  # fmt: skip
    sql = f"SELECT {_list(columns, full=True)} FROM {_from(join)}{_where(conditions, full=True)}"
    return Draft("join", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of the {w.children(join, conditions)}?",
        lambda: f"List the {w.columns(columns)} of all {w.children(join, conditions)}.",
        lambda: f"Show the {w.columns(columns, many=True)} of {w.children(join, conditions)}.",
        lambda: f"Find the {w.columns(columns)} of every one of the {w.children(join, conditions)}.",
    )())  # fmt: skip


def _join_back(c: _Choice) -> Draft | None:
    """Rows by a condition on a row that refers to them."""
    join = c.one([j for j in c.facts.joins if j.only])
    if join is None:
        return None
    columns = c.shown_columns(join.parent, 1)
    conditions = c.conditions(join.child, 1)
    if not conditions or not columns:
        return None
    sql = f"SELECT DISTINCT {_list(columns, full=True)} FROM {_from(join)}{_where(conditions, full=True)}"
    return Draft("join", sql, lambda w: w.pick(
        lambda: f"What are the different {w.columns(columns, many=True)} of {w.many(join.parent)} that have "
                f"{w.many(join.child)}{w.where(conditions)}?",
        lambda: f"Which {w.many(join.parent)} have any {w.many(join.child)}{w.where(conditions)}? "
                f"List the distinct {w.columns(columns, many=True)}.",
        lambda: f"Find the distinct {w.columns(columns, many=True)} of the {w.many(join.parent)} of "
                f"{w.many(join.child)}{w.where(conditions)}.",
    )())  # fmt: skip


def _through(c: _Choice) -> Draft | None:
    """Rows of one table by a condition on another, through a table that links the two."""
    chains = [(a, b) for a in c.facts.joins for b in c.facts.joins
              if a.child is b.child and a.parent is not b.parent and a.only and b.only
              and len(a.child.of("label", "category", "measure", "time")) <= 3]  # fmt: skip
    chain = c.one(chains)
    if chain is None:
        return None
    near, far = chain
    columns = c.shown_columns(near.parent, 1)
    conditions = c.conditions(far.parent, 1)
    if not conditions or not columns:
        return None
    tables = f"{near.parent.name} JOIN {near.child.name} ON {near.sql} JOIN {far.parent.name} ON {far.sql}"
    sql = f"SELECT DISTINCT {_list(columns, full=True)} FROM {tables}{_where(conditions, full=True)}"
    return Draft("join three", sql, lambda w: w.pick(
        lambda: f"What are the different {w.columns(columns, many=True)} of {w.many(near.parent)} that have "
                f"{w.many(near.child)} of {w.many(far.parent)}{w.where(conditions)}?",
        lambda: f"Find the distinct {w.columns(columns, many=True)} of the {w.many(near.parent)} linked by "
                f"{w.many(near.child)} to {w.many(far.parent)}{w.where(conditions)}.",
        lambda: f"Which {w.many(near.parent)} are connected through {w.many(near.child)} with {w.many(far.parent)}"
                f"{w.where(conditions)}? List the distinct {w.columns(columns, many=True)}.",
    )())  # fmt: skip


def _join_count(c: _Choice) -> Draft | None:
    """How many, or how much, for each row that is referred to; those with most; those with at least some."""
    join = c.one([j for j in c.facts.joins if j.only])
    if join is None:
        return None
    child, parent = join.child, join.parent
    column = c.one(parent.labels)
    if column is None:
        return None
    tables, group = _from(join), f" GROUP BY {join.key.full}"
    measures = [m for m in child.of("measure") if m.summable]
    way = c.draws.uniform()
    if way < 0.2 and measures:
        measure = c.one(measures)
        name = c.one(("AVG", "SUM", "MAX"))
        sql = f"SELECT {column.full}, {name}({measure.full}) FROM {tables}{group}"
        return Draft("join count", sql, lambda w: w.pick(
            lambda: f"For each {w.one(parent)}, show the {w.column(column)} and the {_named(w, [name], measure)} of "
                    f"its {w.many(child)}.",
            lambda: f"What is the {_named(w, [name], measure)} of the {w.many(child)} of each {w.one(parent)}? "
                    f"List it after the {w.column(column)}.",
            lambda: f"List the {w.column(column)} of every {w.one(parent)} with the {_named(w, [name], measure)} of "
                    f"the {w.many(child)}.",
        )())  # fmt: skip
    if way < 0.45:
        sql = f"SELECT {column.full}, COUNT(*) FROM {tables}{group}"
        return Draft("join count", sql, lambda w: w.pick(
            lambda: f"How many {w.many(child)} does each {w.one(parent)} have? List the {w.column(column)} and the "
                    "number.",
            lambda: f"For every {w.one(parent)} with {w.many(child)}, show the {w.column(column)} and how many "
                    f"{w.many(child)} there are.",
            lambda: f"Show the {w.column(column)} of each {w.one(parent)} and its number of {w.many(child)}.",
        )())  # fmt: skip
    if way < 0.75:
        most = c.chance(0.75)
        tail = f" FROM {tables}{group} ORDER BY COUNT(*){' DESC' if most else ''}"
        word = ("most", "largest number of") if most else ("fewest", "smallest number of")
        return Draft("join argmax", f"SELECT {column.full}{tail} LIMIT 1", lambda w: w.pick(
            lambda: f"Which {w.one(parent)} has the {w.pick(*word)} {w.many(child)}? Give the {w.column(column)}.",
            lambda: f"What is the {w.column(column)} of the {w.one(parent)} with the {w.pick(*word)} {w.many(child)}?",
            lambda: f"Find the {w.column(column)} of the {w.one(parent)} that has the {w.pick(*word)} {w.many(child)}.",
        )(), f"SELECT COUNT(*){tail}", 1)  # fmt: skip
    size = c.one((1, 2, 3, 4, 5, 8, 10, 20))
    operator = c.one((">", "=") if size == 1 else (">", ">=", "="))
    words = {">": ("more than", "over"), ">=": ("at least", "no fewer than"), "=": ("exactly",)}[operator]
    sql = f"SELECT {column.full} FROM {tables}{group} HAVING COUNT(*) {operator} {size}"
    noun = lambda w: w.many(child) if size != 1 else w.one(child)  # noqa: E731
    return Draft("join having", sql, lambda w: w.pick(
        lambda: f"What are the {plural(w.column(column))} of {w.many(parent)} that have {w.pick(*words)} {size} "
                f"{noun(w)}?",
        lambda: f"Find the {w.column(column)} of each {w.one(parent)} with {w.pick(*words)} {size} {noun(w)}.",
        lambda: f"Which {w.many(parent)} have {w.pick(*words)} {size} {noun(w)}? Show the {w.column(column)}.",
    )())  # fmt: skip


def _not_in(c: _Choice) -> Draft | None:
    join = c.one([j for j in c.facts.joins if not j.column.nulls])  # NOT IN (..., NULL) holds for nothing
    if join is None:
        return None
    child, parent = join.child, join.parent
    columns = c.shown_columns(parent)
    if not columns:
        return None
    conditions = c.conditions(child, 1) if c.chance(0.5) else []
    inner = f"SELECT {join.column.name} FROM {child.name}{_where(conditions)}"
    as_ = (lambda w: "") if join.only else (lambda w: f" as their {w.column(join.column)}")
    if c.chance(0.3):
        sql = f"SELECT COUNT(*) FROM {parent.name} WHERE {join.key.name} NOT IN ({inner})"
        return Draft("not in", sql, lambda w: w.pick(
            lambda: f"How many {w.many(parent)} have no {w.many(child)}{w.where(conditions)}{as_(w)}?",
            lambda: f"Count the {w.many(parent)} without any {w.many(child)}{w.where(conditions)}{as_(w)}.",
        )()) if join.only else None  # fmt: skip
    sql = f"SELECT {_list(columns)} FROM {parent.name} WHERE {join.key.name} NOT IN ({inner})"
    if not join.only:
        return None
    return Draft("not in", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of {w.many(parent)} that do not have any "
                f"{w.many(child)}{w.where(conditions)}?",
        lambda: f"Which {w.many(parent)} have no {w.many(child)}{w.where(conditions)}? "
                f"Show their {w.columns(columns, many=True)}.",
        lambda: f"List the {w.columns(columns)} of every {w.one(parent)} without {w.many(child)}{w.where(conditions)}.",
        lambda: f"Find the {w.columns(columns)} of the {w.many(parent)} for which there are no {w.many(child)}"
                f"{w.where(conditions)}.",
    )())  # fmt: skip


def _set(c: _Choice) -> Draft | None:
    """INTERSECT, EXCEPT and UNION of what two conditions give."""
    table = c.one([t for t in c.facts.tables if t.of("category") and len(t.of("category", "measure", "time")) > 1])
    if table is None:
        return None
    column = c.one(table.of("category"))
    first = c.conditions(table, 1, avoid=[column])
    second = c.conditions(table, 1, avoid=[column])
    if not first or not second or _test(first[0], False) == _test(second[0], False):
        return None
    kind = c.one(("INTERSECT", "EXCEPT", "UNION"))
    one, two = (f"SELECT {column.name} FROM {table.name}{_where(x)}" for x in (first, second))
    says: dict[str, Callable[[Wording], str]] = {
        "INTERSECT": lambda w: w.pick(
            lambda: f"Which {plural(w.column(column))} have both {w.many(table)}{w.where(first)} and {w.many(table)}"
                    f"{w.where(second)}?",
            lambda: f"Find the {plural(w.column(column))} shared by {w.many(table)}{w.where(first)} and {w.many(table)}"
                    f"{w.where(second)}.",
            lambda: f"What are the {plural(w.column(column))} of {w.many(table)}{w.where(first)} that are also the "
                    f"{plural(w.column(column))} of {w.many(table)}{w.where(second)}?",
        )(),
        "EXCEPT": lambda w: w.pick(
            lambda: f"Which {plural(w.column(column))} have {w.many(table)}{w.where(first)} but no {w.many(table)}"
                    f"{w.where(second)}?",
            lambda: f"Find the {plural(w.column(column))} of {w.many(table)}{w.where(first)} that no {w.many(table)}"
                    f"{w.where(second)} have.",
            lambda: f"What are the {plural(w.column(column))} of {w.many(table)}{w.where(first)}, except those of "
                    f"{w.many(table)}{w.where(second)}?",
        )(),
        "UNION": lambda w: w.pick(
            lambda: f"What are the different {plural(w.column(column))} of {w.many(table)}{w.where(first)} together "
                    f"with those of {w.many(table)}{w.where(second)}?",
            lambda: f"List every {w.column(column)} of {w.many(table)}{w.where(first)} and of {w.many(table)}"
                    f"{w.where(second)}, each once.",
            lambda: f"Show the distinct {plural(w.column(column))} of {w.many(table)}{w.where(first)} as well as of "
                    f"{w.many(table)}{w.where(second)}.",
        )(),
    }  # fmt: skip
    return Draft("set operation", f"{one} {kind} {two}", says[kind])


def _nested(c: _Choice) -> Draft | None:
    """Rows above or below the average."""
    table = c.one([t for t in c.facts.tables if any(m.summable for m in t.of("measure"))])
    if table is None:
        return None
    column = c.one([m for m in table.of("measure") if m.summable])
    columns = [x for x in c.shown_columns(table) if x != column]
    if not columns:
        return None
    more = c.chance(0.6)
    operator = ">" if more else "<"
    counted = c.chance(0.3)
    cells = "COUNT(*)" if counted else _list(columns)
    sql = (f"SELECT {cells} FROM {table.name} WHERE {column.name} {operator} "
           f"(SELECT AVG({column.name}) FROM {table.name})")  # fmt: skip
    words = ("above", "greater than", "higher than") if more else ("below", "less than", "lower than")
    if counted:
        return Draft("nested", sql, lambda w: agreed(w.pick(
            lambda: f"How many {w.many(table)} have {article(w.column(column))} {w.pick(*words)} the average?",
            lambda: f"Count the {w.many(table)} whose {w.column(column)} is {w.pick(*words)} the average "
                    f"{w.column(column)}.",
        )(), w.column(column)))  # fmt: skip
    return Draft("nested", sql, lambda w: agreed(w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of {w.many(table)} whose {w.column(column)} is "
                f"{w.pick(*words)} the average?",
        lambda: f"Find the {w.columns(columns)} of all {w.many(table)} with {article(w.column(column))} "
                f"{w.pick(*words)} the average of all {w.many(table)}.",
        lambda: f"List the {w.columns(columns)} of the {w.many(table)} that have {article(w.column(column))} "
                f"{w.pick(*words)} the mean.",
    )(), w.column(column)))  # fmt: skip


INTENTS: dict[str, tuple[Callable[[_Choice], Draft | None], float]] = {
    "projection": (_projection, 1.0),
    "filter": (_filter, 3.0),
    "count": (_count, 2.0),
    "distinct": (_distinct, 1.0),
    "aggregate": (_aggregate, 1.5),
    "superlative": (_superlative, 2.0),
    "group": (_group, 1.2),
    "having": (_having, 1.0),
    "group argmax": (_common, 0.8),
    "join": (_join_filter, 2.0),
    "join back": (_join_back, 1.0),
    "join three": (_through, 1.0),
    "join count": (_join_count, 2.0),
    "not in": (_not_in, 1.0),
    "set operation": (_set, 1.0),
    "nested": (_nested, 1.0),
}
"""Intent -> its function and how often it is drawn, relatively; "join count" makes "join argmax", "join having" too."""
