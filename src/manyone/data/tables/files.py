"""Tables in files: CSV, Parquet and libsvm, read into plain arrays with errors that name the column and the row.

A file becomes :class:`Columns`: a float64 matrix, the names of its columns and one label (as text) per row. What is
empty, not a number or not finite is refused by default; ``categories="one-hot"`` turns a column that holds words into
one 0/1 column per word. Rows are counted from 1, without the header.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manyone.engine.extras import need
from manyone.errors import ManyoneError

Categories = Literal["refuse", "one-hot"]
CSV_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv"), (".parquet", ".pq")
LIBSVM_SUFFIXES = (".libsvm", ".svm", ".svmlight")
_CHUNK = 20_000
"""Rows of a CSV that are held as text at a time."""


@dataclass(frozen=True)
class Columns:
    """What a file says: ``values`` float64 [n, d], ``names`` of its d columns, ``labels`` one text per row."""

    values: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray


def read_file(path: Path, label: str | None, *, categories: Categories = "refuse", max_bytes: int = 0) -> Columns:
    """Reads ``path`` by its suffix (``.gz`` behind it is allowed); no suffix at all means libsvm, as w5a comes.

    ``label`` names the label's column (by position, from 1, in a CSV without header); a libsvm file has its own.
    ``max_bytes`` (0: half of the machine's memory) bounds a sparse file that becomes dense.
    """
    if not path.is_file():
        raise ManyoneError(f"{path}: no such file; give a .csv, .tsv, .parquet or libsvm file")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in CSV_SUFFIXES + PARQUET_SUFFIXES and label is None:
        raise ManyoneError(f"{path}: which column is the label? give label (on the command line --label NAME)")
    if suffix in CSV_SUFFIXES:
        assert label is not None
        with _text(path) as file:
            return read_csv(file, label, str(path), tab=suffix == ".tsv", categories=categories)
    if suffix in PARQUET_SUFFIXES:
        assert label is not None
        return _read_parquet(path, label, categories)
    if suffix in LIBSVM_SUFFIXES or _looks_like_libsvm(path):
        if label is not None:
            raise ManyoneError(f"{path}: a libsvm file has its label in front of every row; leave label out")
        return read_libsvm(path, max_bytes=max_bytes)
    known = ", ".join(CSV_SUFFIXES + PARQUET_SUFFIXES + LIBSVM_SUFFIXES)
    raise ManyoneError(f"{path}: not a table that can be read; allowed are {known} (also with .gz, but not Parquet)")


def read_csv(
    file: Iterable[str], label: str | int, where: str, *, tab: bool = False, categories: Categories = "refuse"
) -> Columns:
    """Comma-, semicolon- or tab-separated text; the first row is the header unless all its cells are numbers.

    ``label`` is a column name, or a position from 1 (-1: the last) for a file without header.
    """
    lines = iter(file)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise ManyoneError(f"{where}: the file is empty; a header and rows are expected")
    delimiter = "\t" if tab else max(",;\t", key=first.count)
    head = [c.strip() for c in next(csv.reader([first.removeprefix("\ufeff")], delimiter=delimiter))]
    headless = all(_is_number(c) for c in head) or isinstance(label, int)
    names = [str(i + 1) for i in range(len(head))] if headless else head
    if (repeated := next((n for i, n in enumerate(names) if n in names[:i]), None)) is not None:
        raise ManyoneError(f"{where}: two columns are called {repeated!r}; rename one of them")
    position = _label_position(names, label, where)
    rows = csv.reader(([first] if headless else []) + list(lines), delimiter=delimiter, skipinitialspace=True)
    filled = (row for row in rows if any(c.strip() for c in row))
    kept, texts, labels = [], [], []
    done = 0
    for chunk in _chunks(filled, _CHUNK):
        cells = _rectangle(chunk, len(names), done, where)
        labels.append(cells[:, position])
        cells = np.delete(cells, position, axis=1)
        if categories == "refuse":
            kept.append(_numbers(cells, _without(names, position), done, where))
        else:
            texts.append(cells)
        done += len(cells)
    if not done:
        raise ManyoneError(f"{where}: a header but no row")
    words = np.concatenate(labels)
    _require_labels(words, names[position], where)
    columns = _without(names, position)
    if categories == "refuse":
        return Columns(np.concatenate(kept), tuple(columns), words)
    values, encoded = _one_hot(np.concatenate(texts), columns, where)
    return Columns(values, tuple(encoded), words)


def read_libsvm(path: Path, *, max_bytes: int = 0) -> Columns:
    """``label index:value ...`` lines (svmlight), made dense after a check that the matrix fits into memory."""
    from sklearn.datasets import load_svmlight_file

    try:
        matrix, target = load_svmlight_file(str(path))
    except (ValueError, OSError, UnicodeDecodeError) as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"{path}: not a libsvm file ({reason}); every line is 'label index:value ...'") from None
    rows, width = matrix.shape
    need, limit = rows * width * 8, max_bytes or _memory() // 2
    if need > limit:
        raise ManyoneError(
            f"{path}: {rows} x {width} sparse values need {need / 1e9:.1f} GB as a dense table, the limit is "
            f"{limit / 1e9:.1f} GB; keep fewer rows or columns"
        )
    names = [str(i + 1) for i in range(width)]
    values = matrix.toarray()
    _require_finite(values, names, 0, str(path))
    return Columns(values, tuple(names), np.array([f"{t:g}" for t in target]))


def _read_parquet(path: Path, label: str, categories: Categories) -> Columns:
    parquet = need("pyarrow.parquet", f"{path}: reading Parquet (or save it as CSV)", "tables")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as problem:  # pyarrow's own errors derive from these
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"{path}: not a Parquet file ({reason})") from None
    names = list(table.column_names)
    position = _label_position(names, label, str(path))
    if not table.num_rows:
        raise ManyoneError(f"{path}: the table has no row")
    parts: list[np.ndarray] = []
    encoded: list[str] = []
    for i, name in enumerate(names):
        column = table.column(i)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise _missing(str(path), name, row + 1)
        values = column.to_numpy()
        if i == position:
            labels = np.array([_word(v) for v in values.tolist()])
            continue
        if values.dtype.kind in "biuf":
            numbers = values.astype(np.float64)[:, None]
            _require_finite(numbers, [name], 0, str(path))
            parts.append(numbers)
            encoded.append(name)
            continue
        cells = np.array([str(v) for v in values])[:, None]
        if categories == "refuse":
            parts.append(_numbers(cells, [name], 0, str(path)))
            encoded.append(name)
        else:
            made, made_names = _one_hot(cells, [name], str(path))
            parts.append(made)
            encoded.extend(made_names)
    _require_labels(labels, names[position], str(path))
    return Columns(np.concatenate(parts, axis=1), tuple(encoded), labels)


def _text(path: Path) -> io.TextIOWrapper:
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(io.BytesIO(gzip.decompress(path.read_bytes())), encoding="utf-8", newline="")
        return io.TextIOWrapper(io.BytesIO(path.read_bytes().decode("utf-8").encode()), encoding="utf-8", newline="")
    except UnicodeDecodeError as problem:
        raise ManyoneError(f"{path}: not UTF-8 text (byte {problem.start}); save the file as UTF-8") from None
    except (OSError, EOFError) as problem:
        raise ManyoneError(f"{path}: cannot be read ({problem})") from None


def _looks_like_libsvm(path: Path) -> bool:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:  # type: ignore[operator]
        words = file.readline(1 << 16).split()
    return len(words) > 1 and _is_number(words[0].decode("latin1")) and words[1].count(b":") == 1


def _chunks(rows: Iterator[list[str]], size: int) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _rectangle(chunk: list[list[str]], width: int, done: int, where: str) -> np.ndarray:
    """The chunk as an array of stripped text [rows, width], or an error that names the first ragged row."""
    for i, row in enumerate(chunk):
        if len(row) != width:
            raise ManyoneError(f"{where}: row {done + i + 1} has {len(row)} cells but the first line has {width}")
    return np.char.strip(np.array(chunk, dtype=np.str_))


def _numbers(cells: np.ndarray, names: Sequence[str], done: int, where: str) -> np.ndarray:
    """``cells`` (text [rows, d]) as float64, or an error that names the first bad cell."""
    try:
        values = cells.astype(np.float64)
    except ValueError:
        row, column = next((r, c) for r, c in np.ndindex(cells.shape) if not _is_number(str(cells[r, c])))
        if cells[row, column] in ("", "?", "NA", "null", "<null>"):
            raise _missing(where, names[column], done + row + 1) from None
        raise ManyoneError(
            f"{where}: column {names[column]!r}, row {done + row + 1}: {str(cells[row, column])!r} is not a number; "
            f"drop the column, or encode its words as 0/1 columns with categories='one-hot' (--categories one-hot)"
        ) from None
    _require_finite(values, names, done, where)
    return values


def _one_hot(cells: np.ndarray, names: Sequence[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Numeric columns as they are; a column with any word becomes one 0/1 column per word, in sorted order."""
    parts, encoded = [], []
    for c, name in enumerate(names):
        column = cells[:, c]
        if (empty := np.flatnonzero(column == "")).size:
            raise _missing(where, name, int(empty[0]) + 1)
        try:
            values = column.astype(np.float64)[:, None]
        except ValueError:
            words, index = np.unique(column, return_inverse=True)
            parts.append(np.eye(len(words))[index])
            encoded += [f"{name}={w}" for w in words]
            continue
        _require_finite(values, [name], 0, where)
        parts.append(values)
        encoded.append(name)
    return np.concatenate(parts, axis=1), encoded


def _require_finite(values: np.ndarray, names: Sequence[str], done: int, where: str) -> None:
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        what = "NaN" if np.isnan(values[row, column]) else "infinite"
        raise ManyoneError(
            f"{where}: column {names[column]!r}, row {done + int(row) + 1} is {what}; fill it in or drop the row"
        )


def _require_labels(labels: np.ndarray, name: str, where: str) -> None:
    empty = np.flatnonzero((labels == "") | (np.char.lower(labels) == "nan"))
    if empty.size:
        raise _missing(where, name, int(empty[0]) + 1)


def _label_position(names: Sequence[str], label: str | int, where: str) -> int:
    if isinstance(label, int):
        return label % len(names) if label < 0 else label - 1
    if label not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise ManyoneError(f"{where}: no column {label!r} for the label; the columns are {shown}")
    if len(names) < 2:
        raise ManyoneError(f"{where}: only the label column {label!r}; a table needs at least one feature")
    return names.index(label)


def _missing(where: str, column: str, row: int) -> ManyoneError:
    return ManyoneError(f"{where}: column {column!r}, row {row} is empty; fill it in or drop the row")


def _without(names: Sequence[str], position: int) -> list[str]:
    return [n for i, n in enumerate(names) if i != position]


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _memory() -> int:
    """Bytes of physical memory; 8 GB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30
