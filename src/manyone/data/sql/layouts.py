"""Pairs from wherever they lie: Spider's, its variants' and BIRD's folders, a folder made here, files, rows, the hub.

A folder is known by its files and by the fields of its rows:

    ==================  =============================================================  ==========================
    layout              its files                                                      question, SQL
    ==================  =============================================================  ==========================
    made                ``pairs.json``, train.json, val.json, test.json                question, query
    spider              train_spider.json, train_others.json, dev.json, test.json      question, query
    spider-syn          train_spider.json, dev.json                                    SpiderSynQuestion, query
    spider-dk           Spider-DK.json                                                 question, query
    spider-realistic    spider-realistic.json                                          question, query
    bird                train.json, dev.json, mini_dev_sqlite.json                     question, SQL (and evidence)
    ==================  =============================================================  ==========================

beside ``tables.json`` (``dev_tables.json``, ...) and ``database/DB/DB.sqlite`` (``dev_databases``, ...). The official
split is kept. Where there is no test split, what is called "dev" is the test split and a tenth of the training pairs,
by the CRC-32 of their SQL, is for validation: two questions of one SQL are never in two splits.

Public: ``load_folder``, ``load_file``, ``from_rows``, ``from_hub``, ``databases_in``, ``told_schemas``, ``read_json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manyone.data.sql.files import check_file, is_sqlite
from manyone.data.sql.records import Pair, PairSet, Schema, Split
from manyone.data.sql.schema import check_db_id, combined, read_schema, schemas_from_tables, with_descriptions
from manyone.data.sql.splits import SPLITS, hold_out, spelled, split_of
from manyone.engine.documents import loads_json
from manyone.engine.extras import need
from manyone.engine.files import stays_inside
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

MOST_BYTES = 1 << 30
"""Bytes of a file of pairs or schemas that are read; more is refused."""
MOST_PAIRS = 2_000_000
MOST_CHARACTERS = 20_000
"""Length of a question, an evidence or a SQL."""
_ROW_SPLITS: Mapping[str, Literal["train", "val", "test", "dev"]] = {
    "train": "train", "val": "val", "validation": "val", "dev": "dev", "test": "test",
}  # fmt: skip
"""What rows call their split."""
DATABASE_FILES = (".sqlite", ".db", ".sqlite3")
PAIR_FILES = (".json", ".jsonl", ".ndjson")
"""How files of databases and of pairs end."""


@dataclass(frozen=True)
class Layout:
    """How one published data set lies on the disk: its files by official split, and what its fields are called."""

    name: str
    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    question: str = "question"
    sql: str = "query"
    licence: str = ""


MADE = Layout("made", ("train.json",), ("val.json",), ("test.json",))
LAYOUTS = {
    "spider": Layout("spider", ("train_spider.json", "train_others.json"), ("dev.json",), ("test.json",),
                     licence="CC BY-SA 4.0 (Spider)"),
    "spider-syn": Layout("spider-syn", ("train_spider.json",), ("dev.json",), question="SpiderSynQuestion"),
    "spider-dk": Layout("spider-dk", dev=("Spider-DK.json",)),
    "spider-realistic": Layout("spider-realistic", dev=("spider-realistic.json",)),
    "bird": Layout("bird", ("train.json",), ("dev.json", "mini_dev_sqlite.json"), sql="SQL",
                   licence="CC BY-SA 4.0 (BIRD)"),
}  # fmt: skip
_TABLES = ("tables.json", "dev_tables.json", "train_tables.json", "test_tables.json")
_DATABASES = ("database", "databases", "test_database", "dev_databases", "train_databases")


def is_folder(place: Path) -> bool:
    """Whether ``place`` is a folder of pairs in one of the layouts."""
    return place.is_dir() and _recognised(place) is not None


def load_folder(
    folder: Path, *, tables: Path | None = None, databases: Path | None = None, evidence: bool = True
) -> PairSet:
    """The pairs of a folder; :class:`ManyoneError` where it has none of the layouts, or is damaged.

    ``tables`` (a ``tables.json``) and ``databases`` (a folder of folders) take the place of its own, or are what it
    lacks; ``evidence`` keeps BIRD's external knowledge.
    """
    layout = _recognised(folder)
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise ManyoneError(f"{folder}: no pairs of a question and SQL in it; the layouts are {known}, and pairs.json "
                           "with train.json of `manyone data make sql-pairs`")  # fmt: skip
    splits: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    official = [("train", layout.train), ("dev", layout.dev), ("test", layout.test)]
    has_test = any((folder / name).is_file() for name in layout.test)
    notes = []
    for part, names in official:
        split: Split = "train" if part == "train" else "val" if part == "dev" and has_test else "test"
        for name in names:
            if (folder / name).is_file():
                origin = "" if layout is MADE else f"{layout.name}-{part}"
                splits[split] += _pairs(read_json(folder / name), str(folder / name), layout, origin, evidence)
    if splits["train"] and not splits["val"] and layout is not MADE:
        # by its SQL, so that a question of validation is no paraphrase of one of training
        train = splits["train"]
        splits["val"] = [p for p in train if split_of(p.sql) == "val"]
        splits["train"] = [p for p in train if split_of(p.sql) != "val"]
        notes.append("validation: a tenth of the training pairs, by the CRC-32 of their SQL")
    if not any(splits.values()):
        raise ManyoneError(f"{folder}: its files of pairs are empty; restore them")
    told = _schemas_beside(folder, tables)
    files = databases_in(databases) if databases else _own_databases(folder)
    wanted = dict.fromkeys(p.db_id for split in SPLITS for p in splits[split])
    schemas = _schemas(wanted, told, files, folder)
    if not files:
        notes.append("no SQLite files: queries cannot be executed until databases= names their folder")
    licence = layout.licence
    if layout is MADE:
        facts = read_json(folder / "pairs.json")
        licence = str(facts.get("licence", "")) if isinstance(facts, dict) else ""
    return PairSet(
        folder.resolve().name, splits, schemas, {d: files[d] for d in wanted if d in files}, licence, tuple(notes)
    )


def load_file(path: Path, *, tables: Path | None = None, databases: Path | None = None, name: str = "") -> PairSet:
    """The pairs of a JSON (a list) or JSON-lines file, whose rows are those of :func:`from_rows`.

    Schemas come from ``tables`` or a ``tables.json`` beside the file, and from the SQLite files of ``databases`` or of
    a ``database`` folder beside it.
    """
    rows = _read_lines(path) if path.suffix in (".jsonl", ".ndjson") else read_json(path)
    told = _schemas_beside(path.parent, tables)
    files = databases_in(databases) if databases else _own_databases(path.parent)
    return from_rows(rows, schemas=told, databases=files, name=name or path.stem, where=str(path))


def from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    schemas: Mapping[str, Schema] | None = None,
    databases: Mapping[str, Sequence[Path]] | None = None,
    name: str = "rows",
    split: Split | None = None,
    evidence: bool = True,
    where: str = "",
) -> PairSet:
    """The pairs of any rows (a ``datasets`` data set is such): mappings with ``db_id``, a question and a SQL.

    The question is in ``question`` or ``SpiderSynQuestion``, the SQL in ``query``, ``SQL``, ``sql`` or ``gold``;
    ``evidence``, ``source`` and ``split`` are taken where they are there. All are of ``split``, else each of its own
    (train, val or validation, test; dev is test where there is none, else val), else by the CRC-32 of the SQL. Where no
    row tells one, a tenth of the queries is held out for val and test each. What ``schemas`` lacks is read from
    ``databases``.
    """
    where = where or name
    splits: dict[Split, list[Pair]] = {s: [] for s in SPLITS}
    dev: list[Pair] = []
    untold: list[Pair] = []
    count = 0
    for count, row in enumerate(rows, 1):
        pair = _pair(row, f"{where}, row {count}", None, "", evidence)
        told = row.get("split")
        own = split or (_ROW_SPLITS.get(told) if isinstance(told, str) else None)
        if own is None and told not in (None, ""):
            raise ManyoneError(f"{where}, row {count}: split {str(told)[:40]!r}: must be one of "
                               f"{', '.join(_ROW_SPLITS)}")  # fmt: skip
        (dev if own == "dev" else splits[own] if own else untold).append(pair)
        if count > MOST_PAIRS:
            raise ManyoneError(f"{where}: more than {MOST_PAIRS:,} pairs, which is refused")
    if not count:
        raise ManyoneError(f"{where}: no pairs in it; rows with db_id, question and query are expected")
    splits["val" if splits["test"] else "test"] += dev
    alone = not any(splits.values()) and len({spelled(pair) for pair in untold}) > len(SPLITS)
    for pair in untold:
        splits["train" if alone else split_of(pair.sql)].append(pair)
    files = {d: tuple(Path(p) for p in found) for d, found in (databases or {}).items()}
    wanted = dict.fromkeys(p.db_id for s in SPLITS for p in splits[s])
    found = _schemas(wanted, dict(schemas or {}), files, Path(where))
    pairs = PairSet(name, splits, found, {d: files[d] for d in wanted if d in files})
    return hold_out(pairs) if alone else pairs


def from_hub(
    dataset: str,
    *,
    schemas: Mapping[str, Schema] | None = None,
    databases: Mapping[str, Sequence[Path]] | None = None,
    evidence: bool = True,
) -> PairSet:
    """The pairs of a data set of the hub by its id, such as ``xlangai/spider`` (extra ``hub``).

    Its validation split is the test split where it has no test split with SQL of its own, as in folders.
    """
    library = need("datasets", "a data set of the hub", "hub")
    try:
        loaded = library.load_dataset(dataset)
    except Exception as problem:  # the library raises its own, requests' and the system's errors
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"{dataset}: the hub does not give it ({reason}); correct the id or give a folder") from None
    rows: list[dict[str, Any]] = []
    parts = {str(part): list(content) for part, content in loaded.items()}
    for part, content in parts.items():
        official = part if part in ("train", "test") else "val" if "test" in parts else "test"
        rows += [{**row, "split": official, "source": f"{dataset}:{part}"} for row in content]
    if "train" in parts and not any(row["split"] == "val" for row in rows):
        for row in rows:
            if row["split"] == "train" and split_of(str(row.get("query") or row.get("SQL"))) == "val":
                row["split"] = "val"
    return from_rows(rows, schemas=schemas, databases=databases, name=dataset, evidence=evidence)


def databases_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The SQLite files of every database below ``folder``: ``DB/DB.sqlite`` first, then the others of ``DB``'s folder.

    A database is called as its folder; links that lead out of ``folder`` are left out.
    """
    if not folder.is_dir():
        raise ManyoneError(f"{folder}: no such folder; give the one that holds DB/DB.sqlite of every database")
    found = {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = [p for p in sorted(place.iterdir()) if p.suffix in DATABASE_FILES and p.is_file() and is_sqlite(p)]
        files = [p for p in files if stays_inside(p, folder)]
        files.sort(key=lambda p: (p.stem != place.name, p.name))
        if files:
            found[place.name] = tuple(files)
    return found


def _own_databases(folder: Path) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for name in _DATABASES:
        if (folder / name).is_dir():
            found = databases_in(folder / name) | found
    return found


def _recognised(folder: Path) -> Layout | None:
    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    if has("pairs.json") and has("train.json"):
        return MADE
    if has("Spider-DK.json"):
        return LAYOUTS["spider-dk"]
    if has("spider-realistic.json"):
        return LAYOUTS["spider-realistic"]
    for layout in (LAYOUTS["spider"], LAYOUTS["bird"]):
        first = next((folder / n for n in (*layout.dev, *layout.train) if (folder / n).is_file()), None)
        if first is None:
            continue
        rows = read_json(first)
        row = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
        if "SpiderSynQuestion" in row:
            return LAYOUTS["spider-syn"]
        if "SQL" in row:
            return LAYOUTS["bird"]
        if layout.sql in row and layout.question in row:
            return layout
    return None


def _pairs(rows: Any, where: str, layout: Layout, source: str, evidence: bool) -> list[Pair]:
    if not isinstance(rows, list):
        raise ManyoneError(f"{where}: a list of pairs is expected")
    if len(rows) > MOST_PAIRS:
        raise ManyoneError(f"{where}: more than {MOST_PAIRS:,} pairs, which is refused")
    return [_pair(row, f"{where}, pair {i}", layout, source, evidence) for i, row in enumerate(rows, 1)]


def _pair(row: Any, where: str, layout: Layout | None, source: str, evidence: bool) -> Pair:
    if not isinstance(row, Mapping):
        raise ManyoneError(f"{where}: not an object with db_id, question and query")
    questions = (layout.question,) if layout else ("question", "SpiderSynQuestion")
    queries = (layout.sql,) if layout else ("query", "SQL", "sql", "gold")
    question = " ".join(_text(row, questions, where).split())
    sql = _text(row, queries, where).strip().rstrip("; \n\t")
    hint = row.get("evidence") if evidence else ""
    db_id = check_db_id(row.get("db_id"), where)
    known = source or (row.get("source") if isinstance(row.get("source"), str) else "") or ""
    told = " ".join(_text({"evidence": hint}, ("evidence",), where).split()) if hint else ""
    return Pair(db_id, question, sql, told, known)


def _text(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    value = next((row[name] for name in names if isinstance(row.get(name), str)), None)
    if value is None or not value.strip():
        raise ManyoneError(f"{where}: no text in {' or '.join(names)}; correct the row or remove it")
    if len(value) > MOST_CHARACTERS or "\0" in value:
        raise ManyoneError(f"{where}: {names[0]} has {len(value):,} characters (at most {MOST_CHARACTERS:,}, no NUL)")
    return value


def told_schemas(tables: Path) -> dict[str, Schema]:
    """The schemas of a ``tables.json``."""
    if not tables.is_file():
        raise ManyoneError(f"{tables}: no such file; give a tables.json")
    return schemas_from_tables(read_json(tables), str(tables))


def _schemas_beside(folder: Path, tables: Path | None) -> dict[str, Schema]:
    if tables:
        return told_schemas(tables)
    found: dict[str, Schema] = {}
    for path in (folder / name for name in _TABLES):
        if path.is_file():
            found = told_schemas(path) | found
    return found


def _schemas(
    wanted: Iterable[str], told: Mapping[str, Schema], files: Mapping[str, Sequence[Path]], where: Path
) -> dict[str, Schema]:
    found = {}
    names = list(wanted)
    with Progress("reading schemas", len(names), unit="databases") as bar:
        for done, db_id in enumerate(names, 1):
            if db_id in files:
                check_file(files[db_id][0])
                schema = read_schema(files[db_id][0], db_id)
                schema = combined(schema, told[db_id]) if db_id in told else schema
                descriptions = files[db_id][0].parent / "database_description"
                found[db_id] = with_descriptions(schema, descriptions) if descriptions.is_dir() else schema
            elif db_id in told:
                found[db_id] = told[db_id]
            else:
                raise ManyoneError(f"{where}: database {db_id} has neither a SQLite file nor a schema: put database/"
                                   f"{db_id}/{db_id}.sqlite or a tables.json beside the pairs (load_pairs takes "
                                   "databases= and tables=)")  # fmt: skip
            bar.update(done)
    return found


def read_json(path: Path) -> Any:
    """The JSON of a file of bounded size; one line for anything else."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ManyoneError(f"{path}: more than {MOST_BYTES >> 20} MB of JSON, which is refused")
        return loads_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ManyoneError(f"{path}: no such file; correct the path") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as problem:
        reason = "not UTF-8 text" if isinstance(problem, UnicodeDecodeError) else f"not JSON ({problem})"
        raise ManyoneError(f"{path}: {reason}; restore the file") from None


def _read_lines(path: Path) -> list[Any]:
    if not path.is_file():
        raise ManyoneError(f"{path}: no such file; correct the path")
    if path.stat().st_size > MOST_BYTES:
        raise ManyoneError(f"{path}: more than {MOST_BYTES >> 20} MB of JSON lines, which is refused")
    rows, number = [], 0
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):  # noqa: B007
            if line.strip():
                rows.append(loads_json(line))
    except UnicodeDecodeError:
        raise ManyoneError(f"{path}: not UTF-8 text; restore the file") from None
    except (ValueError, RecursionError) as problem:
        raise ManyoneError(f"{path}, line {number}: not JSON ({problem}); correct the line") from None
    return rows
