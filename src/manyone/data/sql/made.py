"""Folders of pairs that are made here: Spider's layout, with an account of where every pair comes from.

    DIR/train.json, val.json, test.json     db_id, question, query, intent, source
    DIR/test-synonyms.json, ...             the test questions in other words (``robust``)
    DIR/tables.json                         the schemas
    DIR/database/DB/DB.sqlite               the database; DB_1.sqlite, ... its test suite
    DIR/pairs.json                          seed, sizes, intents, fingerprints, what was dropped and why

Public: ``make_pairs``, ``load_robust``, ``account``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from manyone.data.sql.facts import shown
from manyone.data.sql.files import Reader, quote
from manyone.data.sql.fuzz import fuzz_databases
from manyone.data.sql.generate import PHRASINGS, Execute, Generated, generate
from manyone.data.sql.layouts import load_folder, read_json, told_schemas
from manyone.data.sql.packages import DATABASES, database_path, real_database, real_schema
from manyone.data.sql.phrases import MODES
from manyone.data.sql.records import Pair, PairSet, Schema
from manyone.data.sql.sandbox import Value, fingerprint
from manyone.data.sql.schema import combined, read_schema, tables_entry
from manyone.data.sql.splits import SPLITS, split_of
from manyone.data.sql.synonyms import synonyms
from manyone.engine.extras import need
from manyone.engine.files import check_writable, part_beside, writing
from manyone.errors import ManyoneError

VERSION = 1
SOURCE = "generated"
"""The ``source`` of generated pairs; in other words "generated, synonyms" and so on."""
INSTANCES = 3
"""Databases of a test suite besides the database itself."""
_MOST_ROWS, _MOST_VALUES = 500, 40  # rows of a table, and values of a column that its fuzz databases draw from


def make_pairs(
    databases: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    pairs: int = 5000,
    seed: int = 0,
    phrasings: int = PHRASINGS,
    instances: int = INSTANCES,
    workers: int = 1,
    robust: bool = False,
    tables: str | PathLike[str] | None = None,
    overwrite: bool = False,
    execute: Execute | None = None,
    show: bool | None = None,
) -> PairSet:
    """Makes ``pairs`` questions about ``databases`` (SQLite files or names of real databases) in the folder ``out``.

    Splits are by SQL. ``instances`` adds databases with other rows of the same columns to every database: its test
    suite. ``robust`` adds the test questions with synonyms, without the columns that a constant implies, and in the
    words of the field: sets of our own in the spirit of Spider-Syn, -Realistic and -DK. ``tables`` (a ``tables.json``)
    names tables and columns in plain words. Only a folder that was made here is replaced, and only by ``overwrite``;
    after a failure nothing is left. :class:`ManyoneError` for what is no database, and where nothing can be asked.
    """
    target = Path(out)
    _check_target(target, overwrite)
    told = told_schemas(Path(tables)) if tables else {}
    found: dict[str, tuple[Schema, Path]] = {}
    for place in databases:
        schema, path = _opened(str(place), told)
        if schema.db_id in found:
            raise ManyoneError(f"{place}: a second database called {schema.db_id}; rename one of the files")
        found[schema.db_id] = schema, path
    if not found:
        raise ManyoneError("no database to ask about: give one or more SQLite files")
    if instances < 0:
        raise ManyoneError(f"instances {instances}: must be 0 or more")
    if instances:
        need("sqlglot", "a test suite (instances above 0)", "sql")  # before minutes of work
    other = synonyms(schema for schema, _ in found.values()) if robust else {}
    made = generate(found, pairs, seed=seed, phrasings=phrasings, workers=workers, robust=robust, synonyms=other,
                    execute=execute, show=show)  # fmt: skip
    with _beside(target) as work:
        _write(work, found, made, seed=seed, phrasings=phrasings, instances=instances, robust=robust)
    return load_folder(target)


def _check_target(target: Path, overwrite: bool) -> None:
    if os.path.lexists(target):
        ours = (target / "pairs.json").is_file()
        empty = target.is_dir() and not any(target.iterdir())
        if not empty and not (ours and overwrite):
            advice = "add --overwrite to replace it" if ours else "it was not made here, so choose another folder"
            raise ManyoneError(f"{target}: there is something already; {advice}")
    check_writable(target.parent)


def _opened(place: str, told: Mapping[str, Schema]) -> tuple[Schema, Path]:
    path = Path(place)
    if place in DATABASES and not path.exists():
        return real_schema(place), real_database(place)
    schema = read_schema(path)
    return (combined(schema, told[schema.db_id]) if schema.db_id in told else schema), path


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``target`` when the block ends well, and is gone otherwise."""
    with writing(target), part_beside(target) as part:
        work = part / "new"
        work.mkdir()
        yield work
        if target.exists():
            target.rename(part / "old")
        work.rename(target)


def _write(
    folder: Path, databases: Mapping[str, tuple[Schema, Path]], made: Generated, *, seed: int, phrasings: int,
    instances: int, robust: bool,
) -> None:  # fmt: skip
    rows: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    others: dict[str, list[dict[str, str]]] = {mode: [] for mode in MODES}
    intents: Counter[str] = Counter()
    for kept in made.kept:
        split = split_of(kept.sql)
        for question in kept.questions:
            row = {"db_id": kept.db_id, "question": question.text, "query": kept.sql, "intent": kept.intent}
            rows[split].append({**row, "source": SOURCE})
            intents[kept.intent] += 1
            if split == "test":
                for mode, text in question.others.items():
                    others[mode].append({**row, "question": text, "source": f"{SOURCE}, {mode}"})
    for split in SPLITS:
        _dump(folder / f"{split}.json", rows[split])
    if robust:
        for mode in MODES:
            _dump(folder / f"test-{mode}.json", others[mode])
    _dump(folder / "tables.json", [tables_entry(schema) for schema, _ in databases.values()])
    described = {}
    for db_id, (schema, path) in databases.items():
        place = folder / "database" / db_id
        place.mkdir(parents=True)
        shutil.copyfile(path, place / f"{db_id}.sqlite")
        if instances:
            golds = [kept.sql for kept in made.kept if kept.db_id == db_id]
            _suite(schema, path, golds, place, instances, seed)
        with Reader(path) as reader:
            sizes = {t.name: reader.rows(f"SELECT count(*) FROM {quote(t.name)}")[0][0] for t in schema.tables}
        described[db_id] = {"file": path.name, "fingerprint": fingerprint(path), "rows": sizes}
    licences = {db_id: DATABASES[db_id].licence for db_id, (_, path) in databases.items()
                if db_id in DATABASES and path == database_path(db_id)}  # fmt: skip
    account = {
        "format": "manyone sql pairs",
        "version": VERSION,
        "source": SOURCE,
        "licence": "; ".join(f"{db_id}: {licence}" for db_id, licence in licences.items()),
        "seed": seed,
        "phrasings": phrasings,
        "instances": instances,
        "pairs": {split: len(rows[split]) for split in SPLITS},
        "sql": len(made.kept),
        "robust": {mode: len(others[mode]) for mode in MODES} if robust else {},
        "intents": dict(sorted(intents.items())),
        "candidates": made.candidates,
        "dropped": {reason: round(n / made.candidates, 4) for reason, n in made.dropped.items()},
        "exhausted": list(made.exhausted),
        "databases": described,
        "note": "generated from the databases' own rows and executed; not Spider, whose layout it has",
    }
    _dump(folder / "pairs.json", account)


def _suite(schema: Schema, path: Path, golds: Sequence[str], folder: Path, instances: int, seed: int) -> None:
    """Further databases of the same columns: their values are the real ones, their rows are not."""
    values: dict[tuple[str, str], Sequence[Value]] = {}
    with Reader(path, seconds=5.0) as reader:
        for table in schema.tables:
            cells = ", ".join(quote(c.name) for c in table.columns)
            rows = reader.rows(f"SELECT {cells} FROM {quote(table.name)} LIMIT {_MOST_ROWS}")
            for i, column in enumerate(table.columns):
                different = dict.fromkeys(row[i] for row in rows if shown(row[i]) is not None)
                values[table.name, column.name] = list(different)[:_MOST_VALUES]
    # instance 0 is the real database
    fuzz_databases(schema, golds, folder, instances=instances + 1, seed=seed, values=values, first=1)


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_robust(folder: str | PathLike[str]) -> dict[str, list[Pair]]:
    """The test questions of a folder that was made with ``robust``, by mode; the pairs' source says which it is."""
    found: dict[str, list[Pair]] = {}
    for mode in MODES:
        path = Path(folder) / f"test-{mode}.json"
        if path.is_file():
            rows = read_json(path)
            found[mode] = [Pair(r["db_id"], r["question"], r["query"], source=r["source"]) for r in rows]
    if not found:
        raise ManyoneError(f"{folder}: no questions in other words; make it with --robust")
    return found


def account(folder: str | PathLike[str]) -> dict[str, Any]:
    """What ``pairs.json`` says."""
    facts = read_json(Path(folder) / "pairs.json")
    if not isinstance(facts, dict) or facts.get("format") != "manyone sql pairs":
        raise ManyoneError(f"{folder}: pairs.json is not one that was made here")
    return facts
