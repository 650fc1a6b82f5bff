"""A user's own data as classification tasks: image folders, text tables and Hugging Face data sets.

Layouts (``load_task`` tells them apart):

- image folder: one sub-folder a class with PNG or JPEG files; or ``train``, ``val`` and ``test`` folders of that kind;
- text table: a CSV, TSV, JSON-lines file with a text and a label column; or a folder with ``train.*``, ``val.*``,
  ``test.*`` files;
- Hugging Face ``datasets``: a folder that ``save_to_disk`` wrote, or the hub id of a data set.

What is not split already is split 70/10/20 by a seeded, stratified draw. Image size and colour follow the model's
``preprocessor_config.json`` and text is cut by the model's own tokeniser, where a model folder is named.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.data.images.pixels import image_format, read_images
from manyone.data.tasks import Inputs, Split, Suite, Task
from manyone.engine.documents import LARGEST_JSON, loads_json, read_text
from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
Tokenizer = Callable[[list[str]], Mapping[str, Sequence[Sequence[int]]]]
Parts = dict[str, list[tuple[Any, str]]]
"""Per split (train, val, test, or all) pairs of something to read and its class name."""


def load_task(
    path: Path | str,
    *,
    name: str | None = None,
    model: Path | str | None = None,
    size: int | None = None,
    channels: int | None = None,
    text: str = "text",
    label: str = "label",
    max_length: int = 128,
    classes: Sequence[str] | None = None,
    tokenizer: Tokenizer | None = None,
    limit: int | None = None,
    seed: int = 0,
    transform: Callable[[list[str]], list[str]] | None = None,
) -> Task:
    """A folder, file or data set as a :class:`~manyone.data.tasks.Task`.

    Args:
        path: an image folder, a text table or a folder of them, a saved ``datasets`` folder, or a hub id.
        name: the task's name; by default the folder's or file's.
        model: a model folder or hub id whose preprocessing (images) or tokeniser (text) is used.
        size: image side in pixels where no model tells it (then 32).
        channels: 1 or 3 where no model tells it (then 3).
        text: name of the text column; for pairs of texts ``"first+second"``.
        label: name of the label column.
        max_length: most tokens a text.
        classes: the class names in the order of the expert's head; by default in order of number or alphabet, or as
            the data set itself lists them.
        tokenizer: instead of ``model``: texts -> {"input_ids", "attention_mask"} as lists.
        limit: at most this many samples a split, drawn stratified by ``seed``.
        seed: with ``name``, if that is given, names the draw of the splits and of ``limit``; a file's name does not.
        transform: applied to raw texts before the tokeniser, e.g. a corruption.
    """
    where, listed = Path(path), None
    title = name or (where.stem if where.suffix in TABLE_SUFFIXES else where.name)
    if where.is_dir() and ((where / "dataset_info.json").is_file() or (where / "dataset_dict.json").is_file()):
        parts, images, listed = _hugging_face(path, text, label)
    elif where.is_dir() and (tables := _tables(where)):
        parts, images = {s: _table(f, text, label) for s, f in tables.items()}, False
    elif where.is_dir():
        parts, images = _image_parts(where), True
    elif where.is_file():
        if where.suffix not in TABLE_SUFFIXES:
            raise ManyoneError(f"{where}: unknown kind of file; use {', '.join(TABLE_SUFFIXES)} or a folder of images")
        parts, images = {"all": _table(where, text, label)}, False
    elif str(path).count("/") <= 1 and not str(path).startswith((".", "/", "~")):
        parts, images, listed = _hugging_face(path, text, label)
    else:
        raise ManyoneError(f"{path}: no such file or folder")

    found = {c for rows in parts.values() for _, c in rows}
    classes = tuple(classes or listed or sorted(found, key=_class_order))
    if len(found) < 2:
        raise ManyoneError(f"{path}: {len(found)} class found; a classification task needs two or more")
    if unknown := sorted(found - set(classes)):
        raise ManyoneError(f"{path}: class {unknown[0]!r} is not among the expected {', '.join(classes)}")
    drawn_for = name or ""  # what a file happens to be called decides nothing
    parts = _split(parts, seed, title, drawn_for)
    if limit is not None:
        parts = {s: _limited(rows, limit, seed, drawn_for, s) for s, rows in parts.items()}
    number = {c: i for i, c in enumerate(classes)}
    splits = {}
    if images:
        shape = image_format(model, size, channels)
    else:
        tokenizer = tokenizer or _tokenizer(model, path, max_length)
    for split, rows in parts.items():
        labels = torch.tensor([number[c] for _, c in rows], dtype=torch.int64)
        inputs: Inputs
        if images:
            inputs = read_images([item for item, _ in rows], shape)
        else:
            texts = [item for item, _ in rows]
            inputs = _tokenised(transform(texts) if transform else texts, tokenizer, max_length)
        splits[split] = Split(inputs, labels)
    return Task(title, classes, splits["train"], splits["val"], splits["test"], source=str(path))


def load_tasks(paths: Sequence[Path | str], **options: Any) -> Suite:
    """Several of the user's tasks as one suite; ``options`` as for :func:`load_task`. Names must differ."""
    tasks = tuple(load_task(path, **options) for path in paths)
    names = [t.name for t in tasks]
    if len(set(names)) != len(names):
        raise ManyoneError(f"two tasks have one name among {', '.join(names)}: rename a folder")
    kinds = {"images" if isinstance(t.train.inputs, Tensor) else "text" for t in tasks}
    if len(kinds) != 1:
        raise ManyoneError("image tasks and text tasks cannot be merged into one model")
    return Suite("user", kinds.pop(), tasks)


# -------------------------------------------------------------------- images


def _image_parts(folder: Path) -> Parts:
    named = _named_splits(p for p in folder.iterdir() if p.is_dir())
    roots = named if "train" in named or "test" in named else {"all": folder}
    parts: Parts = {}
    for split, root in roots.items():
        rows = []
        for kind in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
            files = sorted(f for f in kind.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
            rows += [(f, kind.name) for f in files]
        if not rows:
            raise ManyoneError(f"{root}: no PNG or JPEG files in sub-folders named after classes")
        parts[split] = rows
    return parts


# -------------------------------------------------------------------- text


def _tables(folder: Path) -> dict[str, Path]:
    """The split tables of a folder; a single table of any name counts as the whole."""
    files = sorted(f for f in folder.iterdir() if f.suffix in TABLE_SUFFIXES and f.is_file())
    named = _named_splits(files)
    if "train" in named or "test" in named:
        return named
    return {"all": files[0]} if len(files) == 1 and not any(f.is_dir() for f in folder.iterdir()) else {}


def _named_splits(paths: Iterator[Path] | Sequence[Path]) -> dict[str, Path]:
    found = {}
    for path in sorted(paths):
        for split, names in _SPLITS.items():
            if (path.name if path.is_dir() else path.stem).lower() in names:
                found[split] = path
    return found


def _table(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    try:
        if path.suffix in (".jsonl", ".json"):
            rows = _json_rows(path)
        else:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ManyoneError(
            f"{path}: cannot be read as a table ({error}); it must be UTF-8 {path.suffix[1:]}"
        ) from error
    if not rows:
        raise ManyoneError(f"{path}: the table has no rows")
    return [_row(row, text, label, f"{path}: row {i + 1}") for i, row in enumerate(rows)]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = read_text(path, "a table", largest=LARGEST_JSON)
    whole = content.lstrip().startswith("[")
    rows: list[Any] = []
    for number, piece in enumerate([content] if whole else content.splitlines(), 1):
        try:
            if piece.strip():
                rows += loads_json(piece) if whole else [loads_json(piece)]
        except ValueError as error:
            line = getattr(error, "lineno", number) if whole else number
            raise ManyoneError(f"{path}: line {line} is not JSON ({getattr(error, 'msg', error)})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ManyoneError(f"{path}: every row must be a JSON object")
    return rows


def _row(row: Mapping[str, Any], text: str, label: str, where: str) -> tuple[str, str]:
    columns = text.split("+")
    for column in (*columns, label):
        if row.get(column) is None:
            known = ", ".join(str(k) for k in row if k is not None)
            raise ManyoneError(f"{where} has no {column!r}; the columns are {known} (name them with text= and label=)")
    return " ".join(str(row[c]) for c in columns), str(row[label])


def _tokenizer(model: Path | str | None, path: Path | str, max_length: int) -> Tokenizer:
    if model is None:
        raise ManyoneError(f"{path}: text needs a tokeniser; name the model folder that holds it")
    transformers = need("transformers", "text data", "text")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{model}: no tokeniser found there ({str(error).splitlines()[0]})") from error
    return lambda texts: tokenizer(texts, truncation=True, max_length=max_length)


def _tokenised(texts: list[str], tokenizer: Tokenizer | None, max_length: int) -> dict[str, Tensor]:
    assert tokenizer is not None
    ids = [list(row)[:max_length] for row in tokenizer(texts)["input_ids"]] if texts else []
    width = max((len(row) for row in ids), default=1)
    tokens = torch.zeros(len(ids), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[i, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}


# -------------------------------------------------------------------- Hugging Face datasets


def _hugging_face(path: Path | str, text: str, label: str) -> tuple[Parts, bool, list[str] | None]:
    what = "is a Hugging Face data set and" if Path(path).is_dir() else "is no file or folder; to read it from the hub"
    datasets = need("datasets", f"{path}: {what}", "hub")
    try:
        loaded = datasets.load_from_disk(str(path)) if Path(path).is_dir() else datasets.load_dataset(str(path))
    except (OSError, ValueError, ConnectionError) as error:
        raise ManyoneError(f"{path}: cannot be loaded as a data set ({str(error).splitlines()[0]})") from error
    tables = dict(loaded) if isinstance(loaded, Mapping) else {"all": loaded}
    renamed = {s: tables[n] for s, names in _SPLITS.items() for n in names if n in tables}
    return hugging_face_parts(renamed or {"all": next(iter(tables.values()))}, path, text, label)


def hugging_face_parts(
    tables: Mapping[str, Any], path: Path | str, text: str, label: str
) -> tuple[Parts, bool, list[str] | None]:
    """Rows of ``datasets.Dataset`` objects, whether they are images (column ``image`` or ``img``), listed classes."""
    columns = next(iter(tables.values())).column_names
    image = next((c for c in ("image", "img") if c in columns), None)
    parts: Parts = {}
    names = None
    for split, table in tables.items():
        names = getattr(table.features.get(label), "names", None)
        rows = []
        for i, row in enumerate(table):
            if image is not None and text not in row:
                item, kind = row[image], row.get(label)
                if kind is None:
                    raise ManyoneError(f"{path}: the data set has no column {label!r}; it has {', '.join(columns)}")
            else:
                item, kind = _row(row, text, label, f"{path}: row {i + 1}")
                kind = int(kind) if names else kind
            rows.append((item, names[kind] if names else str(kind)))
        parts[split] = rows
    return parts, image is not None and text not in columns, names


# -------------------------------------------------------------------- splits


def _class_order(name: str) -> tuple[int, int, str]:
    """Numbers by value, before names by alphabet."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _split(parts: Parts, seed: int, name: str, drawn_for: str) -> Parts:
    """train, val and test: what is missing is drawn from train (or from all), 70/10/20 of the whole."""
    if "all" in parts:
        rows = parts["all"]
        test, val = 0.2, 0.1
    else:
        rows = parts.get("train") or parts["test"]
        test, val = (0.0 if "test" in parts and "train" in parts else 0.2), (0.0 if "val" in parts else 0.1)
    order = _stratified([c for _, c in rows], seed, drawn_for, "split")
    n_test, n_val = (max(round(share * len(rows)), 1) if share else 0 for share in (test, val))
    drawn = {
        "test": [rows[i] for i in sorted(order[:n_test])],
        "val": [rows[i] for i in sorted(order[n_test : n_test + n_val])],
        "train": [rows[i] for i in sorted(order[n_test + n_val :])],
    }
    given = {} if "all" in parts or "train" not in parts else {s: r for s, r in parts.items() if s != "train"}
    result = {s: given.get(s) or drawn[s] for s in ("train", "val", "test")}
    for split, part in result.items():
        if not part:
            raise ManyoneError(f"task {name!r} has too few samples ({len(rows)}) for a {split} split")
    return result


def _stratified(classes: Sequence[str], seed: int, *names: str) -> list[int]:
    """A seeded order in which every run of samples holds the classes in their shares."""
    order = torch.randperm(len(classes), generator=generator_for(seed, "folders", *names)).tolist()
    size: dict[str, int] = {}
    for c in classes:
        size[c] = size.get(c, 0) + 1
    seen: dict[str, int] = {}
    place = {}
    for i in order:
        seen[classes[i]] = seen.get(classes[i], 0) + 1
        place[i] = (seen[classes[i]] - 0.5) / size[classes[i]]
    return sorted(order, key=lambda i: place[i])


def _limited(rows: list[tuple[Any, str]], limit: int, seed: int, *names: str) -> list[tuple[Any, str]]:
    order = _stratified([c for _, c in rows], seed, *names, "limit")[:limit]
    return [rows[i] for i in sorted(order)]
