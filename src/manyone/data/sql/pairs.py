"""``load_pairs``: pairs by the place where they lie or the name that they are registered under.

    load_pairs("spider-dev")        Spider's development set, its databases filled with made-up rows
    load_pairs("chinook")           generated pairs about a database of real rows (lahman, flights, elements)
    load_pairs("schemas3")          a suite for studies (``manyone.data.sql.suites``)
    load_pairs("path/to/spider")    a folder in one of the published layouts, or one that was made here
    load_pairs("pairs.jsonl")       a file of rows
    load_pairs("xlangai/spider")    a data set of the hub (extra ``hub``)

Public: ``load_pairs``, ``REGISTERED``, ``MADE_UP``.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from os import PathLike
from pathlib import Path

from manyone.assets.cache import cache_folder, locked
from manyone.data.sql.files import is_sqlite
from manyone.data.sql.fuzz import INSTANCES
from manyone.data.sql.fuzz_cache import FUZZ_VERSION, fuzzed, spider_databases
from manyone.data.sql.generate import VERSION
from manyone.data.sql.layouts import PAIR_FILES, databases_in, from_hub, load_file, load_folder, told_schemas
from manyone.data.sql.made import make_pairs
from manyone.data.sql.packages import DATABASES, SPIDER_LICENCE, database_path, spider_dev, spider_schemas
from manyone.data.sql.records import Pair, PairSet, Split
from manyone.data.sql.schema import with_values
from manyone.data.sql.suites import SUITES, load_sql_suite
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

REGISTERED = {
    "spider-dev": "Spider's development set: 1,034 questions over 20 databases with made-up rows",
    **{name: f"generated and real pairs: {suite.summary}" for name, suite in SUITES.items()},
}
"""The sets that are known by name, and what they are."""
MADE_UP = "made-up"
"""In the place of a folder of databases: rows that are made up."""
_MADE_UP_NOTE = "rows of the databases are made up from the golds' constants (fuzz databases)"
_PAIRS = 5000


def load_pairs(
    place: str | PathLike[str],
    *,
    tables: str | PathLike[str] | None = None,
    databases: str | PathLike[str] | None = None,
    evidence: bool = True,
    seed: int = 0,
    instances: int = INSTANCES,
    pairs: int | None = None,
) -> PairSet:
    """The pairs at ``place``: a registered name, a folder, a file of rows, or an id of the hub.

    ``tables`` (a ``tables.json``) and ``databases`` (a folder of ``DB/DB.sqlite``) add what the place lacks; without
    ``tables``, schemas of rows and of the hub may also be Spider's 166. ``evidence`` keeps BIRD's external knowledge.
    ``seed`` and ``instances`` are those of made-up rows; ``pairs`` is how many are generated for a suite or about a
    database of real rows (default: the suite's own number, 5,000), which the cache keeps. :class:`ManyoneError` where
    there is no such place.

    ``databases="made-up"`` makes fuzz databases for the pairs' schemas, sown with the constants of their SQL, where a
    set comes without rows.
    """
    name, path = str(place), Path(place)
    told = Path(tables) if tables else None
    made_up = databases == MADE_UP
    files = Path(databases) if databases and not made_up else None
    if not path.exists() and (name in REGISTERED or name in DATABASES):
        return _registered(name, pairs, seed, instances)
    if path.is_dir():
        found = load_folder(path, tables=told, databases=files, evidence=evidence)
    elif path.is_file() and path.suffix in PAIR_FILES:
        found = load_file(path, tables=told, databases=files)
    elif path.is_file():
        advice = f"make pairs about it: manyone data make sql-pairs --db {path} --out pairs"
        raise ManyoneError(f"{path}: {'a database, which has no pairs; ' + advice if is_sqlite(path) else _NO_PAIRS}")
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")) and " " not in name:
        schemas = told_schemas(told) if told else spider_schemas()
        found = from_hub(name, schemas=schemas, databases=databases_in(files) if files else {}, evidence=evidence)
    else:
        hint = suggestion(name, [*REGISTERED, *DATABASES])
        raise ManyoneError(f"{name}: no such folder or file, and no set of that name; {hint}")
    return _with_rows(found, seed, instances) if made_up else found


_NO_PAIRS = "neither JSON nor JSON lines; a file of pairs ends in .json or .jsonl"


def _registered(name: str, pairs: int | None, seed: int, instances: int) -> PairSet:
    if name in DATABASES:
        return _about(name, _PAIRS if pairs is None else pairs, seed, instances)
    if name in SUITES:
        return load_sql_suite(name, pairs=pairs, seed=seed, instances=instances)
    real, schemas = spider_dev()
    found = spider_databases(list(schemas), seed=seed, instances=instances)
    schemas = {db_id: with_values(schema, found[db_id][0]) for db_id, schema in schemas.items()}
    splits: dict[Split, list[Pair]] = {"train": [], "val": [], "test": real}
    return PairSet(name, splits, schemas, found, SPIDER_LICENCE, (_MADE_UP_NOTE,))


def _about(name: str, pairs: int, seed: int, instances: int) -> PairSet:
    """Generated pairs about a database of real rows, and its test suite, in the cache."""
    path = database_path(name)
    key = f"{path.parent.name}-{pairs}-s{seed}-k{instances}-v{VERSION}.{FUZZ_VERSION}"
    folder = cache_folder("sql", "pairs") / key
    with locked(f"sql-pairs-{name}"):
        if not folder.is_dir():
            make_pairs([name], folder, pairs=pairs, seed=seed, instances=instances - 1)
    return replace(load_folder(folder), name=name, licence=DATABASES[name].licence)


def _with_rows(found: PairSet, seed: int, instances: int) -> PairSet:
    """``found`` with fuzz databases in the place of its own."""
    golds: dict[str, list[str]] = {db_id: [] for db_id in found.schemas}
    for pairs in found.splits.values():
        for pair in pairs:
            golds[pair.db_id].append(pair.sql)
    mark = zlib.crc32(repr(sorted(found.schemas.items())).encode())
    files = fuzzed(found.schemas, golds, origin=f"{mark:08x}", seed=seed, instances=instances)
    schemas = {db_id: with_values(schema, files[db_id][0]) for db_id, schema in found.schemas.items()}
    notes = (*(n for n in found.notes if "SQLite" not in n), _MADE_UP_NOTE)
    return replace(found, schemas=schemas, databases=files, notes=notes)
