"""Gold queries and predictions from files, as Spider, BIRD and everybody's models write them.

    gold          gold.txt, dev_gold.sql   a line each: SQL, a tab, the database's name
                  dev.json, *.jsonl        objects with db_id, query or SQL (question, difficulty)
    predictions   *.txt, *.sql             a line each: SQL, or SQL, a tab and the database; an empty line is empty
                  predict_dev.json         BIRD's {"0": "SQL\\t----- bird -----\\tdb_id", ...}; 0 is empty
                  *.json, *.jsonl          texts, or objects with one of sql, SQL, query, predicted, prediction, pred;
                                           tabs are part of the SQL

A file is somebody else's: its size is bounded, every line is checked, and what is wrong is named with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyone.data.sql.files import is_sqlite
from manyone.data.sql.layouts import databases_in, told_schemas
from manyone.data.sql.records import Pair, Schema
from manyone.data.sql.schema import check_db_id, read_schema
from manyone.errors import ManyoneError

MOST_BYTES = 1 << 28
"""Bytes of a file that is read; more is refused."""
_GOLD = ("query", "SQL", "sql", "gold")
_PREDICTED = ("sql", "SQL", "predicted", "prediction", "pred", "predicted_sql", "query")
_QUESTION = ("question", "SpiderSynQuestion", "utterance")
_BIRD = "\t----- bird -----\t"
_NAME = re.compile(r"[A-Za-z_][\w.-]*")  # of a database, as it stands behind the last tab of a line
_LONGEST = 1_000_000  # characters of a gold query


@dataclass(frozen=True)
class Gold:
    """Gold queries in their order, and BIRD's difficulties where the file has them."""

    pairs: tuple[Pair, ...]
    difficulties: tuple[str, ...] | None = None


def read_gold(path: Path) -> Gold:
    """The gold queries of a file. Raises ``ManyoneError`` that names the line."""
    if path.suffix not in (".json", ".jsonl"):
        return Gold(tuple(_gold_lines(path)))
    rows = _rows(path)
    pairs = [_pair(row, f"{path}, {place}") for place, row in rows]
    difficulties = [row.get("difficulty") for _, row in rows]
    known = all(isinstance(found, str) and found for found in difficulties)
    return Gold(tuple(pairs), tuple(difficulties) if known else None)


def read_predictions(path: Path, pairs: Sequence[Pair]) -> list[str]:
    """The predictions for ``pairs``, in their order. Raises ``ManyoneError`` where there are more or fewer, or where a
    prediction names another database than its gold query."""
    if path.suffix not in (".json", ".jsonl"):
        found = [_line(line, f"{path}, line {n}") for n, line in enumerate(_lines(path), 1)]
    elif path.suffix == ".json" and isinstance(content := _json(path), Mapping):
        found = _by_number(content, path)
    else:
        found = [_predicted(row, f"{path}, {place}") for place, row in _rows(path, objects=False)]
    if len(found) != len(pairs):
        raise ManyoneError(
            f"{path}: {len(found)} predictions for {len(pairs)} gold queries: give one for each, in order"
        )
    for number, ((_, name), pair) in enumerate(zip(found, pairs), 1):
        if name and name != pair.db_id:
            raise ManyoneError(f"{path}: prediction {number} is for {name!r}, its gold query for {pair.db_id!r}: "
                               "do both files have the same order?")  # fmt: skip
    return [sql for sql, _ in found]


def find_databases(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Name -> its SQLite files: ``DB/DB.sqlite`` first and the others of that folder behind it, or ``DB.sqlite``."""
    found = databases_in(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix == ".sqlite" and path.is_file() and path.stem not in found and is_sqlite(path):
            found[path.stem] = (path,)
    if not found:
        raise ManyoneError(f"{folder}: no SQLite databases: give the folder that holds DB/DB.sqlite of every database")
    return found


def find_schemas(
    names: Sequence[str], databases: Mapping[str, Sequence[Path]], tables: Path | None
) -> dict[str, Schema]:
    """The schemas of the databases called ``names``: those of ``tables`` (a ``tables.json``), else from their files."""
    told = told_schemas(tables) if tables is not None else {}
    found = {}
    for name in dict.fromkeys(names):
        if name in told:
            found[name] = told[name]
        elif name in databases:
            found[name] = read_schema(databases[name][0], name, values=False)
    return found


# --- gold -------------------------------------------------------------------------------------------------------------


def _gold_lines(path: Path) -> list[Pair]:
    pairs = []
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            raise ManyoneError(f"{where} is empty: dialogues (SParC, CoSQL) are not scored")
        sql, tab, name = line.rpartition("\t")
        if not tab or not sql.strip():
            raise ManyoneError(f"{where}: no SQL, tab and name of a database: is this a file of gold queries?")
        pairs.append(Pair(check_db_id(name.strip(), where), "", _checked(sql.strip(), where)))
    return pairs


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    sql = _text(row, _GOLD)
    if sql is None or not sql.strip():
        raise ManyoneError(f"{where}: no SQL in {', '.join(_GOLD[:2])}: is this a file of gold queries?")
    question, evidence = (_whole(_text(row, names) or "") for names in (_QUESTION, ("evidence",)))
    return Pair(check_db_id(row.get("db_id"), where), question, _checked(sql, where), evidence)


def _checked(sql: str, where: str) -> str:
    if len(sql) > _LONGEST:
        raise ManyoneError(f"{where}: {len(sql):,} characters of SQL: more than {_LONGEST:,}")
    if sql != _whole(sql):
        raise ManyoneError(f"{where}: the SQL holds half a character (a lone surrogate): mend the file")
    return sql


def _whole(text: str) -> str:
    """``text`` with a question mark for each half of a character, which JSON can hold and no file."""
    return text.encode("utf-8", "replace").decode()


# --- predictions ------------------------------------------------------------------------------------------------------

_Named = tuple[str, str]
"""SQL and, where the file says so, the name of its database."""


def _by_number(content: Mapping[str, Any], path: Path) -> list[_Named]:
    try:
        numbers = {int(key): value for key, value in content.items()}
    except ValueError:
        raise ManyoneError(f"{path}: an object of predictions has the numbers 0, 1, ... as its keys") from None
    if sorted(numbers) != list(range(len(content))):
        missing = next(k for k in range(len(content)) if k not in numbers)
        raise ManyoneError(f"{path}: no prediction {missing}: give an empty text where there is none")
    return [_predicted(numbers[k], f"{path}, prediction {k}") for k in range(len(content))]


def _predicted(row: Any, where: str) -> _Named:
    if row is None or row == 0:  # BIRD's sign for none
        return "", ""
    if isinstance(row, str):
        return _named_sql(row, where)
    if isinstance(row, Mapping):
        name = row.get("db_id")
        for key in _PREDICTED:
            if key in row:
                sql, own = _predicted(row[key], where) if not isinstance(row[key], Mapping) else (None, "")
                if sql is not None:
                    return sql, own or (name if isinstance(name, str) else "")
    raise ManyoneError(f"{where}: no SQL: give a text, or an object with {_PREDICTED[0]}")


def _named_sql(text: str, where: str) -> _Named:
    sql, bird, name = text.partition(_BIRD)
    return (sql, check_db_id(name.strip(), where)) if bird else (text, "")


def _line(text: str, where: str) -> _Named:
    """A line of text, whose last tab may stand before the name of its database, as in a file of gold queries."""
    if _BIRD in text:
        return _named_sql(text, where)
    sql, tab, name = text.rpartition("\t")
    return (sql, name.strip()) if tab and _NAME.fullmatch(name.strip()) else (text, "")


# --- files ------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ManyoneError(f"{path}: more than {MOST_BYTES >> 20} MB: too large for a file of queries")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManyoneError(f"{path}: cannot read it: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ManyoneError(f"{path}: not UTF-8 text: save it so") from None


def _lines(path: Path) -> list[str]:
    """The lines without their ends; the empty line behind the last end is none."""
    lines = [line.removesuffix("\r") for line in _content(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def _json(path: Path) -> Any:
    return _decoded(_content(path), str(path))


def _decoded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManyoneError(f"{where}: not JSON: {error}") from None


def _rows(path: Path, *, objects: bool = True) -> list[tuple[str, Any]]:
    """The items of a list in JSON, or the lines of a file of JSON lines, each with its place."""
    if path.suffix == ".jsonl":
        lines = [(f"line {n}", line) for n, line in enumerate(_lines(path), 1) if line.strip()]
        rows = [(place, _decoded(line, f"{path}, {place}")) for place, line in lines]
    else:
        content = _json(path)
        if not isinstance(content, list):
            raise ManyoneError(f"{path}: must hold a list of queries")
        rows = [(f"item {n}", row) for n, row in enumerate(content, 1)]
    for place, row in rows:
        if objects and not isinstance(row, Mapping):
            raise ManyoneError(f"{path}, {place}: must be an object with db_id and query")
    return rows


def _text(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    pick: Callable[[str], Any] = row.get
    return next((value for name in names if isinstance(value := pick(name), str)), None)
