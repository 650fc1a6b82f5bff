"""Schemas: read from a SQLite file, from Spider's ``tables.json``, from BIRD's descriptions, or from two of them.

Whatever is read is somebody else's: sizes are bounded, names are checked, and a file that is no database or no list of
schemas is one line that says so.
Public: ``read_schema``, ``schemas_from_tables``, ``tables_entry``, ``combined``, ``with_values``,
``with_descriptions``, ``column_type``, ``check_db_id``.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone.data.sql.files import QueryError, Reader, quote
from manyone.data.sql.names import natural_name
from manyone.data.sql.records import Column, ColumnType, ForeignKey, Schema, Table
from manyone.errors import ManyoneError

MOST_COLUMNS = 20_000
"""Columns that one schema may have."""
_NAME_LENGTH = 500
_VALUES, _VALUE_LENGTH = 2, 25  # CodeS shows two values, of 1 to 25 characters
_VALUE_SECONDS = 1.0
_DESCRIPTION_BYTES = 10_000_000
_COMMENT_LENGTH = 200
_DB_ID = re.compile(r"[^\s./\\:*?\"<>|][^/\\:*?\"<>|\x00-\x1f]{0,199}")
_KINDS: dict[ColumnType, re.Pattern[str]] = {
    "boolean": re.compile(r"BOOL"),
    "time": re.compile(r"DATE|TIME|YEAR"),
    "text": re.compile(r"CHAR|TEXT|CLOB|STRING|ENUM|JSON|^$"),
    "number": re.compile(r"INT|NUM|DEC|REAL|FLOA|DOUB|BIT|MONEY|SERIAL"),
}


def column_type(declared: str) -> ColumnType:
    """Spider's kind of a declared type: ``VARCHAR(20)`` is text, ``DECIMAL(8,2)`` number, ``DATETIME`` time."""
    upper = declared.upper().strip()
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(upper)), "others")


def check_db_id(db_id: Any, where: str) -> str:
    """``db_id`` where it is a plain name, which may be a folder's; :class:`ManyoneError` otherwise."""
    if not isinstance(db_id, str) or not _DB_ID.fullmatch(db_id) or ".." in db_id:
        raise ManyoneError(f"{where}: db_id {str(db_id)[:80]!r} is no plain name of a database; correct it")
    return db_id


def read_schema(path: Path | str, db_id: str = "", *, values: bool = True) -> Schema:
    """The schema of a SQLite file, by its own description; nothing is written and no row is changed.

    ``db_id`` is the file's name without its ending unless given. ``values`` adds up to two distinct values of every
    column (those of 1 to 25 characters). Tables of SQLite's own and of its search indices are left out, as are views.
    """
    path = Path(path)
    db_id = check_db_id(db_id or path.stem, str(path))
    with Reader(path, seconds=_VALUE_SECONDS, most=MOST_COLUMNS) as reader:
        try:
            names = [str(n) for (n,) in reader.rows("SELECT name FROM sqlite_master WHERE type = 'table' "
                                                    "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY rowid")]  # fmt: skip
            names = [n for n in names if not n.lower().startswith("sqlite_") and not _is_shadow(reader, n)]
            if not names:
                raise ManyoneError(f"{path}: the database has no table; give one that holds data")
            tables, budget = [], MOST_COLUMNS
            for name in names:
                tables.append(_read_table(reader, name, values))
                budget -= len(tables[-1].columns)
                if budget < 0:
                    raise ManyoneError(f"{path}: more than {MOST_COLUMNS} columns, which is refused")
            links = [link for table in tables for link in _read_links(reader, table, tables)]
        except QueryError as problem:
            raise ManyoneError(f"{path}: its schema cannot be read ({problem})") from None
    return Schema(db_id, tuple(tables), tuple(links))


def _is_shadow(reader: Reader, name: str) -> bool:
    return any(row[2] == "shadow" for row in reader.pragma("table_list", name))


def _read_table(reader: Reader, name: str, values: bool) -> Table:
    columns = []
    for _, column, declared, _, _, key, hidden in reader.pragma("table_xinfo", name):
        if hidden == 1:
            continue  # a virtual table's own
        shown = _values(reader, name, str(column)) if values else ()
        kind = column_type(str(declared or ""))
        columns.append(Column(str(column), kind, natural_name(str(column)), bool(key), "", shown))
    if not columns:
        raise ManyoneError(f"{reader.path}: table {name!r} has no column that can be read")
    return Table(name, tuple(columns), natural_name(name))


def _values(reader: Reader, table: str, column: str) -> tuple[str, ...]:
    name = quote(column)
    sql = f"SELECT DISTINCT {name} FROM {quote(table)} WHERE {name} IS NOT NULL LIMIT {_VALUES}"
    try:
        found = [value for (value,) in reader.rows(sql)]
    except QueryError:
        return ()  # a table so long that two values take more than a second: shown without
    texts = [str(value) for value in found if not isinstance(value, bytes)]
    return tuple(text for text in texts if 1 <= len(text) <= _VALUE_LENGTH)


def _read_links(reader: Reader, table: Table, tables: Sequence[Table]) -> list[ForeignKey]:
    by_name = {t.name.lower(): t for t in tables}
    links = []
    for _, order, target, column, to, *_ in reader.pragma("foreign_key_list", table.name):
        other = by_name.get(str(target).lower())
        if other is None:
            continue  # refers to a table that is not there
        keys = [c.name for c in other.columns if c.primary_key]
        if to is None:  # refers to the other table's primary key, by position
            to = keys[int(order or 0)] if int(order or 0) < len(keys) else None
        mine, theirs = table.column(str(column)), other.column(str(to))
        if mine is not None and theirs is not None:
            links.append(ForeignKey(table.name, mine.name, other.name, theirs.name))
    return links[::-1]  # SQLite lists the last first


def schemas_from_tables(entries: Any, where: str) -> dict[str, Schema]:
    """The schemas of a parsed ``tables.json`` (Spider's and BIRD's form), by database.

    A column's comment is its natural name where that says more than its name in SQL. :class:`ManyoneError` that names
    the database and what is wrong with it.
    """
    if not isinstance(entries, list) or not entries:
        raise ManyoneError(f"{where}: a list of schemas is expected (Spider's tables.json)")
    schemas = {}
    for entry in entries:
        db_id = check_db_id(entry.get("db_id") if isinstance(entry, dict) else None, where)
        try:
            schemas[db_id] = _from_entry(db_id, entry)
        except (KeyError, TypeError, ValueError, IndexError) as problem:
            raise ManyoneError(f"{where}: the schema of {db_id} is damaged ({type(problem).__name__}: {problem}); "
                               "restore the file") from None  # fmt: skip
    return schemas


def _from_entry(db_id: str, entry: Mapping[str, Any]) -> Schema:
    names = [_checked(n) for n in entry["table_names_original"]]
    spoken = [_checked(n) for n in entry.get("table_names") or names]
    columns = [(int(t), _checked(n)) for t, n in entry["column_names_original"]]
    comments = [_checked(n) for _, n in entry.get("column_names") or columns]
    types = list(entry["column_types"])
    keys = {int(k) for key in entry["primary_keys"] for k in (key if isinstance(key, list) else [key])}
    if not (len(names) == len(spoken) and len(columns) == len(comments) == len(types)):
        raise ValueError("its lists of names and types are not equally long")
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"more than {MOST_COLUMNS} columns")
    kept = {t for t, n in enumerate(names) if not n.lower().startswith("sqlite_")}
    found: dict[int, list[Column]] = {t: [] for t in kept}
    for i, (t, name) in enumerate(columns):
        if t >= len(names):
            raise ValueError(f"column {name!r} is in table {t} of {len(names)}")
        if t in kept:
            natural = " ".join(comments[i].lower().split()) or natural_name(name)
            found[t].append(
                Column(name, _kind(types[i]), natural, i in keys, natural if _says_more(natural, name) else "")
            )
    tables = tuple(Table(names[t], tuple(found[t]), " ".join(spoken[t].lower().split())) for t in sorted(kept))
    links = []
    for a, b in entry["foreign_keys"]:
        (t, name), (u, other) = columns[a], columns[b]
        if t in kept and u in kept:
            links.append(ForeignKey(names[t], name, names[u], other))
    return Schema(db_id, tables, tuple(links))


def _kind(word: Any) -> ColumnType:
    known: dict[str, ColumnType] = {k: k for k in ("text", "number", "time", "boolean", "others")}
    return known.get(str(word)) or column_type(str(word))


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_LENGTH or "\0" in name:
        raise ValueError(f"{str(name)[:80]!r} is no name of a table or column")
    return name


def _says_more(comment: str, name: str) -> bool:
    def bare(text: str) -> str:
        return text.lower().replace("_", "").replace(" ", "")

    return bool(comment) and bare(comment) != bare(name)


def tables_entry(schema: Schema) -> dict[str, Any]:
    """``schema`` as an entry of ``tables.json``, which :func:`schemas_from_tables` reads back."""
    flat = [(t, c) for t, table in enumerate(schema.tables) for c in table.columns]
    at = {(schema.tables[t].name.lower(), c.name.lower()): i + 1 for i, (t, c) in enumerate(flat)}
    links = [(at[f.table.lower(), f.column.lower()], at[f.to_table.lower(), f.to_column.lower()])
             for f in schema.foreign_keys]  # fmt: skip
    return {
        "db_id": schema.db_id,
        "table_names_original": [t.name for t in schema.tables],
        "table_names": [t.natural or natural_name(t.name) for t in schema.tables],
        "column_names_original": [[-1, "*"], *([t, c.name] for t, c in flat)],
        "column_names": [[-1, "*"], *([t, c.natural or natural_name(c.name)] for t, c in flat)],
        "column_types": ["text", *(c.type for _, c in flat)],
        "primary_keys": [i + 1 for i, (_, c) in enumerate(flat) if c.primary_key],
        "foreign_keys": [list(link) for link in links],
    }


def combined(stored: Schema, told: Schema) -> Schema:
    """``stored`` (read from the file) with the natural names, comments and foreign keys that ``told`` knows besides.

    Tables and columns meet by their names in any case; of what ``told`` names and the file lacks nothing is taken.
    """
    tables = []
    for table in stored.tables:
        other = told.table(table.name)
        columns = []
        for column in table.columns:
            known = other.column(column.name) if other else None
            if known is not None:
                column = dataclasses.replace(
                    column, natural=known.natural or column.natural, comment=known.comment or column.comment
                )
            columns.append(column)
        natural = (other.natural if other else "") or table.natural
        tables.append(dataclasses.replace(table, columns=tuple(columns), natural=natural))
    whole = Schema(stored.db_id, tuple(tables))
    links = list(stored.foreign_keys)
    seen = {_link_key(link) for link in links}
    for link in told.foreign_keys:
        table, target = whole.table(link.table), whole.table(link.to_table)  # type: ignore[assignment]
        mine = table.column(link.column) if table else None
        theirs = target.column(link.to_column) if target else None
        if table and target and mine and theirs and _link_key(link) not in seen:
            links.append(ForeignKey(table.name, mine.name, target.name, theirs.name))
    return dataclasses.replace(whole, foreign_keys=tuple(links))


def with_values(told: Schema, path: Path) -> Schema:
    """``told`` with the values that its columns have in the database at ``path``."""
    stored = read_schema(path, told.db_id)
    tables = []
    for table in told.tables:
        other = stored.table(table.name)
        columns = [
            dataclasses.replace(c, values=known.values) if other and (known := other.column(c.name)) else c
            for c in table.columns
        ]
        tables.append(dataclasses.replace(table, columns=tuple(columns)))
    return dataclasses.replace(told, tables=tuple(tables))


def _link_key(link: ForeignKey) -> tuple[str, ...]:
    return tuple(part.lower() for part in (link.table, link.column, link.to_table, link.to_column))


def with_descriptions(schema: Schema, folder: Path) -> Schema:
    """``schema`` with the comments of BIRD's ``database_description`` folder, one CSV file a table.

    A column's comment is its ``column_name`` where that says more than its name in SQL, else its description.
    """
    files = {path.stem.lower(): path for path in sorted(folder.glob("*.csv"))}
    tables = []
    for table in schema.tables:
        path = files.get(table.name.lower())
        told = _descriptions(path) if path else {}
        columns = []
        for column in table.columns:
            name, description = told.get(column.name.lower(), ("", ""))
            comment = name if _says_more(name, column.name) else description
            natural = name.lower() if name else column.natural
            columns.append(
                dataclasses.replace(column, natural=natural, comment=comment[:_COMMENT_LENGTH] or column.comment)
            )
        tables.append(dataclasses.replace(table, columns=tuple(columns)))
    return dataclasses.replace(schema, tables=tuple(tables))


def _descriptions(path: Path) -> dict[str, tuple[str, str]]:
    """Column in lower case -> (its natural name, its description)."""
    if path.stat().st_size > _DESCRIPTION_BYTES:
        raise ManyoneError(f"{path}: more than {_DESCRIPTION_BYTES // 1_000_000} MB of descriptions, which is refused")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", "replace")  # as some of BIRD's own files are written
    found = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            cells = {str(k).strip().lower(): " ".join(str(v or "").split()) for k, v in row.items() if k}
            original = cells.get("original_column_name", "").lower()
            if original:
                found[original] = cells.get("column_name", ""), cells.get("column_description", "")
    except csv.Error as problem:
        raise ManyoneError(f"{path}: not readable as CSV ({problem}); correct or remove it") from None
    return found
