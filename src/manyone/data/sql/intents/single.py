"""Intents that ask about one table.

Public: ``projection``, ``filtered``, ``counted``, ``distinct_values``, ``aggregated``, ``superlative``, ``grouped``,
``groups_having``, ``most_common``, ``set_operation``, ``compared_with_average``; ``in_words``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manyone.data.sql.facts import ColumnFacts, literal, shown
from manyone.data.sql.intents.drafts import Choice, Draft, comparison, select_list, where_clause
from manyone.data.sql.names import plural
from manyone.data.sql.phrases import Wording, agreed, article


def projection(c: Choice) -> Draft | None:
    """Columns of all rows, in an order or in none."""
    table = c.one(c.facts.tables)
    options = table.of("label", "category", "measure", "time", "text") or table.columns
    columns = c.some(options, 3)
    sql = f"SELECT {select_list(columns)} FROM {table.name}"
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


def filtered(c: Choice) -> Draft | None:
    """Columns of the rows that fulfil one condition or two."""
    table = c.one(c.facts.tables)
    columns = c.shown_columns(table)
    if not columns:
        return None
    conditions = c.conditions(table, avoid=columns)
    if not conditions:
        return None
    joint = "OR" if len(conditions) == 2 and c.chance(0.25) else "AND"
    sql = f"SELECT {select_list(columns)} FROM {table.name}{where_clause(conditions, joint)}"
    return Draft("filter", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of {w.many(table)}{w.where(conditions, joint.lower())}?",
        lambda: f"List the {w.columns(columns)} of {w.many(table)}{w.where(conditions, joint.lower())}.",
        lambda: f"Show me the {w.columns(columns, many=True)} of the {w.many(table)}"
                f"{w.where(conditions, joint.lower())}.",
        lambda: f"Find the {w.columns(columns)} of all {w.many(table)}{w.where(conditions, joint.lower())}.",
        lambda: f"Which {w.many(table)} are there{w.where(conditions, joint.lower())}? "
                f"Give their {w.columns(columns, many=True)}.",
    )())  # fmt: skip


def counted(c: Choice) -> Draft | None:
    """How many rows fulfil conditions."""
    table = c.one(c.facts.tables)
    conditions = c.conditions(table) if c.chance(0.8) else []
    return Draft("count", f"SELECT COUNT(*) FROM {table.name}{where_clause(conditions)}", lambda w: w.pick(
        lambda: f"How many {w.many(table)} are there{w.where(conditions)}?",
        lambda: f"Count the {w.many(table)}{w.where(conditions)}.",
        lambda: f"What is the number of {w.many(table)}{w.where(conditions)}?",
        lambda: f"Find the total number of {w.many(table)}{w.where(conditions)}.",
    )())  # fmt: skip


def distinct_values(c: Choice) -> Draft | None:
    """The different values of a column, or how many there are."""
    table = c.table("category")
    if table is None:
        return None
    column = c.one(table.of("category"))
    conditions = c.conditions(table, 1, avoid=[column]) if c.chance(0.6) else []
    where = where_clause(conditions)
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


def draw_aggregates(c: Choice, column: ColumnFacts, most: int) -> list[str]:
    """One to ``most`` aggregates that make sense of a column."""
    options = list(_AGGREGATES) if column.summable else ["MAX", "MIN"]
    chosen = []
    for _ in range(1 + c.draws.below(most)):
        if options:
            chosen.append(options.pop(c.draws.below(len(options))))
    return chosen


def in_words(w: Wording, names: Sequence[str], column: ColumnFacts) -> str:
    """The aggregates of a column, in words that are none of the column's own: "average and highest price"."""
    taken = column.natural.split()
    words = [w.pick(*[word for word in _AGGREGATES[name] if word not in taken]) for name in names]
    return f"{' and '.join(words)} {w.column(column)}"


def aggregated(c: Choice) -> Draft | None:
    """Aggregates of a column, of all rows or of some."""
    table = c.table("measure")
    if table is None:
        return None
    column = c.one(table.of("measure"))
    names = draw_aggregates(c, column, 2)
    conditions = c.conditions(table, 1, avoid=[column]) if c.chance(0.7) else []
    cells = ", ".join(f"{name}({column.name})" for name in names)
    many = len(names) > 1
    return Draft("aggregate", f"SELECT {cells} FROM {table.name}{where_clause(conditions)}", lambda w: w.pick(
        lambda: f"What {'are' if many else 'is'} the {in_words(w, names, column)} of "
                f"{'' if conditions else 'all '}{w.many(table)}{w.where(conditions)}?",
        lambda: f"Find the {in_words(w, names, column)} of {w.many(table)}{w.where(conditions)}.",
        lambda: f"Compute the {in_words(w, names, column)} across {w.many(table)}{w.where(conditions)}.",
        lambda: f"For {w.many(table)}{w.where(conditions)}, what {'are' if many else 'is'} the "
                f"{in_words(w, names, column)}?",
    )())  # fmt: skip


def superlative(c: Choice) -> Draft | None:
    """The rows with the largest or smallest values."""
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
    tail = f" FROM {table.name}{where_clause(conditions)} ORDER BY {column.name}{' DESC' if most else ''}"
    return Draft("superlative", f"SELECT {select_list(columns)}{tail} LIMIT {count}", lambda w: w.pick(
        lambda: f"What {'is' if count == len(columns) == 1 else 'are'} the {w.columns(columns, many=count > 1)} "
                f"of {w.extreme(table, column, most, count, conditions)}?",
        lambda: f"Find the {w.columns(columns)} of {w.extreme(table, column, most, count, conditions)}.",
        lambda: f"Give the {w.columns(columns, many=count > 1)} of "
                f"{w.extreme(table, column, most, count, conditions)}.",
        lambda: f"Which {w.one(table) if count == 1 else w.many(table)} "
                f"{'is' if count == 1 else 'are'} {w.extreme(table, column, most, count, conditions)}? "
                f"Show the {w.columns(columns)}.",
    )(), f"SELECT {column.name}{tail}", count)  # fmt: skip


def grouped(c: Choice) -> Draft | None:
    """A count or aggregates for each value of a column."""
    table = c.one([t for t in c.facts.tables if any(not g.nulls for g in t.of("category"))])
    if table is None:
        return None
    by = c.one([g for g in table.of("category") if not g.nulls])
    measures = table.of("measure")
    if measures and c.chance(0.5):
        column = c.one(measures)
        names = draw_aggregates(c, column, 2)
        cells = ", ".join(f"{name}({column.name})" for name in names)
        return Draft("group", f"SELECT {by.name}, {cells} FROM {table.name} GROUP BY {by.name}", lambda w: w.pick(
            lambda: f"For each {w.column(by)}, what is the {in_words(w, names, column)} of its "
                    f"{w.many(table)}?",
            lambda: f"Show the {in_words(w, names, column)} of {w.many(table)} for every {w.column(by)}.",
            lambda: f"What is the {in_words(w, names, column)} of {w.many(table)} by {w.column(by)}? "
                    f"List the {w.column(by)} first.",
            lambda: f"List each {w.column(by)} of {w.many(table)} with the {in_words(w, names, column)}.",
        )())  # fmt: skip
    conditions = c.conditions(table, 1, avoid=[by]) if c.chance(0.3) else []
    sql = f"SELECT {by.name}, COUNT(*) FROM {table.name}{where_clause(conditions)} GROUP BY {by.name}"
    return Draft("group", sql, lambda w: w.pick(
        lambda: f"How many {w.many(table)}{w.where(conditions)} are there for each {w.column(by)}?",
        lambda: f"For every {w.column(by)}, count the {w.many(table)}{w.where(conditions)}.",
        lambda: f"Show each {w.column(by)} and the number of {w.many(table)}{w.where(conditions)}.",
        lambda: f"List the {plural(w.column(by))} and how many {w.many(table)}{w.where(conditions)} each has.",
    )())  # fmt: skip


def groups_having(c: Choice) -> Draft | None:
    """The values of a column whose rows fulfil a condition together."""
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


def most_common(c: Choice) -> Draft | None:
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


def set_operation(c: Choice) -> Draft | None:
    """INTERSECT, EXCEPT and UNION of what two conditions give."""
    table = c.one([t for t in c.facts.tables if t.of("category") and len(t.of("category", "measure", "time")) > 1])
    if table is None:
        return None
    column = c.one(table.of("category"))
    first = c.conditions(table, 1, avoid=[column])
    second = c.conditions(table, 1, avoid=[column])
    if not first or not second or comparison(first[0], False) == comparison(second[0], False):
        return None
    kind = c.one(("INTERSECT", "EXCEPT", "UNION"))
    one, two = (f"SELECT {column.name} FROM {table.name}{where_clause(x)}" for x in (first, second))
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


def compared_with_average(c: Choice) -> Draft | None:
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
    cells = "COUNT(*)" if counted else select_list(columns)
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
