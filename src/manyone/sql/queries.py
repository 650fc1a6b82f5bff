"""SQL as a parsed tree: one way to write a query, the tables and columns that it reads, and other dialects.

``normal`` writes keywords in capitals, names in lower case and table aliases ``t1`` ... ``t10`` as the tables that they
stand for, always on the tree that sqlglot parses and never as replaced text. What sqlglot cannot parse stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from manyone.data.sql.records import Schema
from manyone.engine.extras import need
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.sql.prompt import lower

need("sqlglot", "parsing SQL", "sql")  # says what is missing before the imports below fail

import sqlglot  # noqa: E402
from sqlglot import Dialect, ErrorLevel, exp  # noqa: E402
from sqlglot.dialects.sqlite import SQLite  # noqa: E402
from sqlglot.errors import SqlglotError  # noqa: E402

_LENGTH = 20_000
_QUERY = re.compile(r"\s*(select|with|values|\()", re.IGNORECASE)
_ALIAS = re.compile(r"t([1-9]|10)")
_LIKE_IGNORES_CASE = ("sqlite", "mysql", "singlestore", "doris", "starrocks", "tsql", "fabric")
"""Dialects in which LIKE, as SQLite's, does not tell capitals by default; in others it becomes ILIKE."""


_ALSO_CALLED = {"postgresql": "postgres", "pg": "postgres", "mariadb": "mysql", "mssql": "tsql", "sqlserver": "tsql",
                "sqlite3": "sqlite"}  # fmt: skip


class _Generator(SQLite.Generator):  # type: ignore[name-defined,misc,valid-type]
    """Writes ``x NOT IN``, as people and models do, for ``NOT x IN``."""

    def not_sql(self, expression: exp.Not) -> str:
        inner = expression.this
        text, left = self.sql(inner), self.sql(inner.this)
        if isinstance(inner, exp.In | exp.Like | exp.Glob | exp.Between) and text.startswith(f"{left} "):
            return f"{left} NOT {text[len(left) + 1 :]}"
        if isinstance(inner, exp.Is) and text.startswith(f"{left} IS "):
            return f"{left} IS NOT {text[len(left) + 4 :]}"
        return f"NOT {text}"


class _Written(SQLite):
    """SQLite with names in ``quote``: back-ticks, as the prompt has them, where "..." could be taken for a text."""

    Generator = _Generator

    def __init__(self, quote: str = '"') -> None:
        super().__init__()
        self.IDENTIFIER_START = self.IDENTIFIER_END = quote


class Normal(NamedTuple):
    """A query in its normal form, or as it was where it could not be parsed."""

    sql: str
    parsed: bool


def normal(sql: str, schema: Schema | None = None) -> Normal:
    """``sql`` (in SQLite's dialect) in its normal form; applied twice it gives the same.

    With ``schema``, a text in double quotes that names no column is written in single quotes, as SQLite reads it;
    without, what stands in double quotes alone is left untouched. An alias stays where its table's name would mean
    something else: a table joined with itself, or a subquery about the same table as the query around it.
    """
    tree = parse(sql, schema)
    if tree is None:
        return Normal(sql, False)
    _expand_aliases(tree)
    for name in tree.find_all(exp.Identifier):
        if not (schema is None and _may_be_text(name)):
            name.set("this", lower(name.this))
    return Normal(tree.sql(dialect=_Written("`" if schema else '"'), comments=False), True)


def used(sql: str, schema: Schema) -> dict[str, set[str]]:
    """Table -> its columns that ``sql`` reads, by their names in ``schema`` in lower case.

    Of a query that cannot be parsed: the tables whose names occur in it as words, with their columns that do.
    """
    tree = parse(sql, schema)
    if tree is None:
        words = set(re.findall(r"\w+", lower(sql)))
        return {lower(t.name): {lower(c.name) for c in t.columns if lower(c.name) in words}
                for t in schema.tables if lower(t.name) in words}  # fmt: skip
    found: dict[str, set[str]] = {}
    for node in tree.find_all(exp.Table):
        if schema.table(node.name):
            found.setdefault(lower(node.name), set())
    for column in tree.find_all(exp.Column):
        for source in _sources_of(column):
            table = schema.table(source.name) if isinstance(source, exp.Table) else None
            if table is None:
                continue
            if isinstance(column.this, exp.Star):
                found[lower(table.name)].update(lower(c.name) for c in table.columns)
            elif table.column(column.name):
                found[lower(table.name)].add(lower(column.name))
                break
    for star in tree.find_all(exp.Star):
        if isinstance(star.parent, exp.Select):
            for source in _sources(star.parent):
                if isinstance(source, exp.Table) and (table := schema.table(source.name)):
                    found[lower(table.name)].update(lower(c.name) for c in table.columns)
    return found


def dialect(name: str) -> str:
    """``name`` as sqlglot knows it; raises ``ManyoneError`` with the nearest name for a dialect that it lacks."""
    known = sorted(d for d in Dialect.classes if d and d != _Written.__name__.lower())
    if name.lower() in known:
        return name.lower()
    alias = _ALSO_CALLED.get(name.lower())
    hint = f"did you mean '{alias}'?" if alias else suggestion(name, known)
    raise ManyoneError(f"unknown SQL dialect '{name}'; {hint}")


def translate(sql: str, to: str, schema: Schema | None = None, *, read: str = "sqlite") -> str:
    """``sql`` in the dialect ``to`` ("postgres", "mysql", "duckdb", ...).

    Raises ``ManyoneError`` for a dialect that sqlglot lacks, for SQL that is not one query of the dialect ``read`` and
    for what ``to`` has no words for.
    """
    to, read = dialect(to), dialect(read)
    tree = parse(sql, schema, read)
    if tree is None:
        raise ManyoneError(f"not one query in {read}'s SQL, so it has no form in {to}: {_shown(sql)}")
    if read == "sqlite" and to not in _LIKE_IGNORES_CASE:
        for like in list(tree.find_all(exp.Like)):
            like.replace(exp.ILike(**like.args))
    try:
        return tree.sql(dialect=to, comments=False, unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise ManyoneError(f"{to} cannot say this ({str(error).splitlines()[0]}): {_shown(sql)}") from error


def parse(sql: str, schema: Schema | None = None, read: str = "sqlite") -> exp.Query | None:
    """The tree of ``sql``, or None where it is not exactly one query. With ``schema``, "a text" is a text."""
    tree = _parse(sql, read)
    if tree is None or schema is None or read != "sqlite":
        return tree
    names = {lower(c.name) for n in tree.find_all(exp.Table) if (t := schema.table(n.name)) for c in t.columns}
    names |= {lower(a.alias) for a in tree.find_all(exp.Alias)} | {"rowid", "oid", "_rowid_"}
    texts = [n for n in tree.find_all(exp.Identifier)
             if _may_be_text(n) and lower(n.name) not in names and sql[n.meta["start"]] == '"']  # fmt: skip
    if not texts:
        return tree
    for node in sorted(texts, key=lambda n: -n.meta["start"]):
        text = "'" + node.name.replace("'", "''") + "'"
        sql = sql[: node.meta["start"]] + text + sql[node.meta["end"] + 1 :]
    return _parse(sql, read)


def _parse(sql: str, read: str) -> exp.Query | None:
    if len(sql) > _LENGTH or not _QUERY.match(sql):
        return None
    try:
        trees = [t for t in sqlglot.parse(sql, read=read) if t is not None]
    except (SqlglotError, RecursionError):
        return None
    return trees[0] if len(trees) == 1 and isinstance(trees[0], exp.Query) else None


def _may_be_text(name: exp.Identifier) -> bool:
    """Whether SQLite would read ``name`` as a text if there were no column of that name."""
    return bool(name.args.get("quoted")) and isinstance(name.parent, exp.Column) and not name.parent.table


def _expand_aliases(tree: exp.Query) -> None:
    """Writes tables for their aliases t1 ... t10 wherever every column goes on meaning what it meant."""
    keep: set[str] = set()
    columns = [c for c in tree.find_all(exp.Column) if c.table]
    before = [[id(s) for s in _sources_of(c)] for c in columns]
    while True:
        tables = {
            id(t): t
            for t in tree.find_all(exp.Table)
            if _ALIAS.fullmatch(lower(t.alias)) and not t.args["alias"].columns and lower(t.name) not in keep
        }
        was = {key: t.args["alias"] for key, t in tables.items()}
        said = {id(c): c.args["table"] for c in columns}
        for column in columns:
            source = next(iter(_sources_of(column)), None)
            if source is not None and id(source) in was:
                column.set("table", source.this.copy())
        for table in tables.values():
            table.set("alias", None)
        wrong = {lower(s.name) for c, b in zip(columns, before) if [id(s) for s in _sources_of(c)] != b
                 for s in _all_sources(tree) if id(s) in b or lower(s.alias_or_name) == lower(c.table)}  # fmt: skip
        for select in tree.find_all(exp.Select):
            names = [lower(s.alias_or_name) for s in _sources(select)]
            wrong |= {n for n in names if names.count(n) > 1}
        wrong &= {lower(t.name) for t in tables.values()}
        if not wrong:
            return
        for key, table in tables.items():
            table.set("alias", was[key])
        for column in columns:
            column.set("table", said[id(column)])
        keep |= wrong


def _sources(select: exp.Select) -> Iterator[exp.Expr]:
    """What stands in the FROM and JOINs of ``select``: tables and subqueries, through parentheses."""
    first = select.args.get("from_") or select.args.get("from")
    for node in [*([first.this] if first else []), *(j.this for j in select.args.get("joins") or [])]:
        yield from _flat(node)


def _flat(node: exp.Expr) -> Iterator[exp.Expr]:
    inner = node.this if isinstance(node, exp.Paren | exp.Subquery) and not node.alias else None
    if isinstance(inner, exp.Table | exp.Paren):
        yield from _flat(inner)
    else:
        yield node
    for join in node.args.get("joins") or [] if isinstance(node, exp.Table | exp.Subquery) else []:
        yield from _flat(join.this)


def _all_sources(tree: exp.Expr) -> Iterator[exp.Expr]:
    for select in tree.find_all(exp.Select):
        yield from _sources(select)


def _sources_of(column: exp.Column) -> Sequence[exp.Expr]:
    """What ``column`` may read from: the sources of its name in the nearest query around it that has one, or, where it
    names none, all sources of all queries around it from the inside out."""
    found: list[exp.Expr] = []
    node: exp.Expr | None = column
    while (node := node.find_ancestor(exp.Select) if node else None) is not None:
        here = list(_sources(node))
        if not column.table:
            found += here
        elif match := [s for s in here if lower(s.alias_or_name) == lower(column.table)]:
            return match
    return found


def _shown(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 120 else text[:117] + "..."
