"""Intents that ask about tables which refer to each other.

Public: ``join_filter``, ``join_back``, ``join_through``, ``join_count``, ``without_rows``.
"""

from __future__ import annotations

from manyone.data.sql.intents.drafts import Choice, Draft, from_clause, select_list, where_clause
from manyone.data.sql.intents.single import in_words
from manyone.data.sql.names import plural


def join_filter(c: Choice) -> Draft | None:
    """Rows by a condition on the row that they refer to."""
    join = c.one(c.facts.joins)
    if join is None:
        return None
    columns = c.shown_columns(join.child)
    conditions = c.conditions(join.parent, 1)
    if not conditions or not columns:
        return None
    if c.chance(0.3):
        sql = f"SELECT COUNT(*) FROM {from_clause(join)}{where_clause(conditions, full=True)}"
        return Draft("join", sql, lambda w: w.pick(
            lambda: f"How many {w.children(join, conditions)} are there?",
            lambda: f"Count the {w.children(join, conditions)}.",
            lambda: f"What is the number of {w.children(join, conditions)}?",
        )())  # fmt: skip
    sql = f"SELECT {select_list(columns, full=True)} FROM {from_clause(join)}{where_clause(conditions, full=True)}"
    return Draft("join", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of the {w.children(join, conditions)}?",
        lambda: f"List the {w.columns(columns)} of all {w.children(join, conditions)}.",
        lambda: f"Show the {w.columns(columns, many=True)} of {w.children(join, conditions)}.",
        lambda: f"Find the {w.columns(columns)} of every one of the {w.children(join, conditions)}.",
    )())  # fmt: skip


def join_back(c: Choice) -> Draft | None:
    """Rows by a condition on a row that refers to them."""
    join = c.one([j for j in c.facts.joins if j.only])
    if join is None:
        return None
    columns = c.shown_columns(join.parent, 1)
    conditions = c.conditions(join.child, 1)
    if not conditions or not columns:
        return None
    where = where_clause(conditions, full=True)
    sql = f"SELECT DISTINCT {select_list(columns, full=True)} FROM {from_clause(join)}{where}"
    return Draft("join", sql, lambda w: w.pick(
        lambda: f"What are the different {w.columns(columns, many=True)} of {w.many(join.parent)} that have "
                f"{w.many(join.child)}{w.where(conditions)}?",
        lambda: f"Which {w.many(join.parent)} have any {w.many(join.child)}{w.where(conditions)}? "
                f"List the distinct {w.columns(columns, many=True)}.",
        lambda: f"Find the distinct {w.columns(columns, many=True)} of the {w.many(join.parent)} of "
                f"{w.many(join.child)}{w.where(conditions)}.",
    )())  # fmt: skip


def join_through(c: Choice) -> Draft | None:
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
    sql = f"SELECT DISTINCT {select_list(columns, full=True)} FROM {tables}{where_clause(conditions, full=True)}"
    return Draft("join three", sql, lambda w: w.pick(
        lambda: f"What are the different {w.columns(columns, many=True)} of {w.many(near.parent)} that have "
                f"{w.many(near.child)} of {w.many(far.parent)}{w.where(conditions)}?",
        lambda: f"Find the distinct {w.columns(columns, many=True)} of the {w.many(near.parent)} linked by "
                f"{w.many(near.child)} to {w.many(far.parent)}{w.where(conditions)}.",
        lambda: f"Which {w.many(near.parent)} are connected through {w.many(near.child)} with {w.many(far.parent)}"
                f"{w.where(conditions)}? List the distinct {w.columns(columns, many=True)}.",
    )())  # fmt: skip


def join_count(c: Choice) -> Draft | None:
    """How many, or how much, for each row that is referred to; those with most; those with at least some."""
    join = c.one([j for j in c.facts.joins if j.only])
    if join is None:
        return None
    child, parent = join.child, join.parent
    column = c.one(parent.labels)
    if column is None:
        return None
    tables, group = from_clause(join), f" GROUP BY {join.key.full}"
    measures = [m for m in child.of("measure") if m.summable]
    way = c.draws.uniform()
    if way < 0.2 and measures:
        measure = c.one(measures)
        name = c.one(("AVG", "SUM", "MAX"))
        sql = f"SELECT {column.full}, {name}({measure.full}) FROM {tables}{group}"
        return Draft("join count", sql, lambda w: w.pick(
            lambda: f"For each {w.one(parent)}, show the {w.column(column)} and the {in_words(w, [name], measure)} of "
                    f"its {w.many(child)}.",
            lambda: f"What is the {in_words(w, [name], measure)} of the {w.many(child)} of each {w.one(parent)}? "
                    f"List it after the {w.column(column)}.",
            lambda: f"List the {w.column(column)} of every {w.one(parent)} with the {in_words(w, [name], measure)} of "
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


def without_rows(c: Choice) -> Draft | None:
    """Rows that no row, or none that fulfils a condition, refers to."""
    join = c.one([j for j in c.facts.joins if not j.column.nulls])  # NOT IN (..., NULL) holds for nothing
    if join is None or not join.only:  # of two links a question would have to say which
        return None
    child, parent = join.child, join.parent
    columns = c.shown_columns(parent)
    if not columns:
        return None
    conditions = c.conditions(child, 1) if c.chance(0.5) else []
    inner = f"SELECT {join.column.name} FROM {child.name}{where_clause(conditions)}"
    if c.chance(0.3):
        sql = f"SELECT COUNT(*) FROM {parent.name} WHERE {join.key.name} NOT IN ({inner})"
        return Draft("not in", sql, lambda w: w.pick(
            lambda: f"How many {w.many(parent)} have no {w.many(child)}{w.where(conditions)}?",
            lambda: f"Count the {w.many(parent)} without any {w.many(child)}{w.where(conditions)}.",
        )())  # fmt: skip
    sql = f"SELECT {select_list(columns)} FROM {parent.name} WHERE {join.key.name} NOT IN ({inner})"
    return Draft("not in", sql, lambda w: w.pick(
        lambda: f"What are the {w.columns(columns, many=True)} of {w.many(parent)} that do not have any "
                f"{w.many(child)}{w.where(conditions)}?",
        lambda: f"Which {w.many(parent)} have no {w.many(child)}{w.where(conditions)}? "
                f"Show their {w.columns(columns, many=True)}.",
        lambda: f"List the {w.columns(columns)} of every {w.one(parent)} without {w.many(child)}{w.where(conditions)}.",
        lambda: f"Find the {w.columns(columns)} of the {w.many(parent)} for which there are no {w.many(child)}"
                f"{w.where(conditions)}.",
    )())  # fmt: skip
