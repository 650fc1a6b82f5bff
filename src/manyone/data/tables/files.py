"""Tables in files: CSV, KEEL, Parquet and libsvm become a :class:`Frame`, columns of text or numbers as they are there.

Nothing is interpreted here: which columns are features, what counts as missing and what a label means is said in
``manyone.data.tables.encoder``. What is read is bounded by the machine's memory, also when it is compressed. Rows are
counted from 1, without the header, blank lines and comment lines (those that begin with ``#``).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from manyone.errors import ManyoneError

Decimal = Literal[".", ","]
CSV_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv"), (".parquet", ".pq")
LIBSVM_SUFFIXES = (".libsvm", ".svm", ".svmlight")
KEEL_SUFFIXES = (".dat",)
LIBSVM_LABEL = "label"
"""What the label in front of a libsvm file's rows is called; its other columns are called by their indices."""
_BLOCK = 1 << 20
_LONGEST_ROW = 64 << 20
_LONGEST_HEADER = 16 << 20
_COMMENT = re.compile(rb"^#.*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Frame:
    """``table``: the columns of ``where``, the label among them; ``notes``: what was left out, in words.

    ``headless``: the columns are called by their positions, from 1. ``sparse``: a column that is not there is zero.
    """

    table: pa.Table
    where: str
    notes: tuple[str, ...] = ()
    headless: bool = False
    sparse: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.table.column_names)

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray]:
        return dict(zip(self.names, self.table.columns, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> pa.ChunkedArray:
        """The cells of a column, or an error that names those there are."""
        if name not in self:
            shown = ", ".join(self.names[:12]) + (", ..." if len(self.names) > 12 else "")
            raise ManyoneError(f"{self.where}: no column {name!r}; the columns are {shown}")
        return self._columns[name]


def read_frame(
    path: str | os.PathLike[str],
    *,
    delimiter: str | None = None,
    decimal: Decimal = ".",
    header: bool | None = None,
    max_bytes: int = 0,
) -> Frame:
    """Reads ``path`` by its suffix (``.gz`` behind it is allowed); no suffix at all means libsvm, as w5a comes.

    ``delimiter`` of a CSV (one character, or "tab") is found by itself when it is not given, and whether its first row
    is a ``header``: it is unless all its cells are numbers. ``max_bytes`` (0: half of the machine's memory) bounds what
    the file may become: its text, and a sparse file that becomes dense.
    """
    path, limit = Path(path), max_bytes or memory() // 2
    if not path.is_file():
        near = [p.name for p in sorted(path.parent.glob(f"{path.name}.*"))] if path.parent.is_dir() else []
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "give a .csv, .tsv, .parquet or libsvm file"
        raise ManyoneError(f"{path}: no such file; {hint}")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in CSV_SUFFIXES:
        with open_limited(path, limit) as file:
            return read_csv(file, str(path), delimiter=delimiter or ("tab" if suffix == ".tsv" else None),
                            decimal=decimal, header=header)  # fmt: skip
    if suffix in KEEL_SUFFIXES and delimiter is None:
        with open_limited(path, limit) as file:
            return _read_keel(file, str(path))
    if delimiter is not None:
        raise ManyoneError(f"{path}: delimiter is for .csv and .tsv files (also .gz); leave it out or rename the file")
    if suffix in PARQUET_SUFFIXES:
        return _read_parquet(path, limit)
    if suffix in LIBSVM_SUFFIXES or _looks_like_libsvm(path):
        return _read_libsvm(path, limit)
    known = ", ".join(CSV_SUFFIXES + PARQUET_SUFFIXES + LIBSVM_SUFFIXES + KEEL_SUFFIXES)
    raise ManyoneError(
        f"{path}: its name does not say what it is; allowed are {known} (also with .gz, but not Parquet): rename a "
        f"text with delimiters to {path.stem}.csv"
    )


def from_columns(rows: Any, where: str = "rows") -> Frame:
    """A frame of what holds named columns in memory: a DataFrame (pandas, polars), a pyarrow table or a mapping."""
    try:
        table = pa.table(dict(rows)) if isinstance(rows, Mapping) else pa.table(rows)
    except (TypeError, ValueError) as problem:  # pyarrow's own errors derive from these
        raise ManyoneError(f"{where}: {_reason(problem)}: give a DataFrame or equally long columns by name") from None
    table = table.rename_columns([str(name) for name in table.column_names])
    _require_distinct(table.column_names, where)
    return Frame(table, where)


def read_csv(
    file: io.BufferedIOBase,
    where: str,
    *,
    delimiter: str | None = None,
    decimal: Decimal = ".",
    header: bool | None = None,
) -> Frame:
    """Delimited text; its first row is the header unless all its cells are numbers (or ``header`` says so)."""
    comments = _Comments()
    blocks = comments.strip(file)
    head = next((lines for block in blocks if (lines := block.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"))), b"")
    head += b"" if head.endswith(b"\n") else b"\n"  # whole lines: only the file's last can lack its end
    try:
        text = head.decode()
    except UnicodeDecodeError:
        raise _not_utf8(where) from None
    if not text.strip():
        raise ManyoneError(f"{where}: the file is empty; a header and rows are expected")
    mark = _delimiter(text, decimal) if delimiter is None else {"tab": "\t", r"\t": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or mark in '"\r\n':
        raise ManyoneError(f"{where}: delimiter {delimiter!r}: must be one character, or tab")
    records = _records(text, mark)
    cells = [cell.strip() for cell in records[0]]
    headless = all(is_number(c.replace(decimal, ".")) for c in cells) if header is None else not header
    numbers = [str(i + 1) for i in range(len(cells))]
    names = numbers if headless else [name or number for name, number in zip(cells, numbers, strict=True)]
    _require_distinct(names, where)
    source = io.BufferedReader(_Blocks(chain([head], blocks)), _BLOCK)
    if re.search(re.escape(mark) + ' +"', text):
        source = io.BufferedReader(_Blocks(_without_space_before_quotes(source, mark)), _BLOCK)
    blank, ragged = 0, ""

    def odd_row(row: Any) -> str:
        nonlocal blank, ragged
        if row.text.strip():
            ragged = (
                f"row {row.number - blank - (not headless)} has {row.actual_columns} cells but the first line has "
                f"{row.expected_columns}; cells are separated by {mark!r} (--delimiter), one with {mark!r} in it is "
                'quoted: "..."'
            )
            return "error"
        blank += 1
        return "skip"

    try:
        table = arrow_csv.read_csv(
            source,
            # without threads: only so rows are counted, and parsing is not what takes the time
            arrow_csv.ReadOptions(use_threads=False, block_size=_block(head), column_names=names,
                                  skip_rows_after_names=0 if headless else 1),
            arrow_csv.ParseOptions(delimiter=mark, newlines_in_values=True, invalid_row_handler=odd_row),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )  # fmt: skip
    except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as problem:
        if "UTF8" in str(problem) or isinstance(problem, UnicodeDecodeError):
            raise _not_utf8(where) from None
        if "straddling" in str(problem):
            reason = f'a row is longer than {_block(head) >> 20} MB; is a quote " left open?'
        else:
            reason = ragged or _reason(problem)
        raise ManyoneError(f"{where}: {reason}") from None
    table = _without_blank_rows(table)
    if not table.num_rows:
        raise ManyoneError(f"{where}: {'no row' if headless else 'a header but no row'}")
    notes = [f"{comments.count} comment lines (#)"] * bool(comments.count)
    for i, name in enumerate(cells if not headless else ()):
        column = table.column(numbers[i]) if not name else None
        if column is not None and (i == 0 or pc.all(pc.equal(pc.ascii_trim_whitespace(column), "")).as_py()):
            notes.append(f"column {i + 1}, which has no name" + " (a row index)" * (i == 0))
            table = table.drop_columns(numbers[i])
    return Frame(table, where, tuple(notes), headless)


def _read_keel(file: io.BufferedIOBase, where: str) -> Frame:
    """A KEEL table: ``@attribute NAME ...`` lines give the columns' names, behind ``@data`` lie cells with commas."""
    names, size = [], 0
    for line in iter(lambda: file.readline(_BLOCK), b""):
        size += len(line)
        words = line.decode("utf-8", "replace").split(maxsplit=1)
        match words[0].lower() if words else "":
            case "@data":
                break
            case "@attribute" if len(words) == 2:
                found = re.match(r"'([^']+)'|\"([^\"]+)\"|([^\s{\[]+)", words[1])
                names.append(next(filter(None, found.groups())) if found else "")
            case word if (word and not word.startswith(("@", "%"))) or size > _LONGEST_HEADER:
                raise ManyoneError(f"{where}: not a KEEL table: {word[:40]!r} stands before @data")
    else:
        raise ManyoneError(f"{where}: not a KEEL table: it has no line @data")
    _require_distinct(names, where)
    frame = read_csv(file, where, delimiter=",", header=False)
    if len(names) != len(frame.names):
        raise ManyoneError(f"{where}: {len(names)} lines @attribute for rows of {len(frame.names)} cells")
    return Frame(frame.table.rename_columns(names), where, frame.notes)


def memory() -> int:
    """Bytes of physical memory; 8 GB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30


def is_number(text: str) -> bool:
    """Whether Python reads ``text`` as a number (NaN and infinity are numbers here)."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def open_limited(path: Path, limit: int) -> Iterator[io.BufferedIOBase]:
    """``path`` for reading, decompressed if it ends in .gz, but never more than ``limit`` bytes of it."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield io.BufferedReader(_Limited(file, str(path), limit), _BLOCK)
        except (OSError, EOFError, zlib.error) as problem:
            raise ManyoneError(f"{path}: cannot be read ({_reason(problem)})") from None


class _Limited(io.RawIOBase):
    """``file``, but an error once more than ``limit`` bytes were read."""

    def __init__(self, file: io.BufferedIOBase, where: str, limit: int) -> None:
        self._file, self._where, self._limit, self._read = file, where, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._read += count
        if self._read > self._limit:
            raise ManyoneError(
                f"{self._where}: more than {self._limit / 1e9:.1f} GB of text, half of this machine's memory; "
                "keep fewer rows or columns"
            )
        return count


class _Blocks(io.RawIOBase):
    """A file of ``blocks`` of bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


class _Comments:
    """Leaves out the lines that begin with ``#`` outside quotes; ``count`` of them so far."""

    def __init__(self) -> None:
        self.count, self._in_quotes = 0, False

    def strip(self, file: io.BufferedIOBase) -> Iterator[bytes]:
        """The other lines of ``file``, in blocks of whole lines."""
        while block := file.read(_BLOCK) + file.readline():
            last = 0
            if block.startswith(b"#") or b"\n#" in block:
                for line in _COMMENT.finditer(block):
                    yield self._seen(block[last : line.start()])
                    last = line.start() if self._in_quotes else line.end()
                    self.count += not self._in_quotes
            yield self._seen(block[last:])

    def _seen(self, text: bytes) -> bytes:
        self._in_quotes ^= text.count(b'"') % 2 == 1
        return text


def _without_space_before_quotes(file: io.BufferedReader[Any], delimiter: str) -> Iterator[bytes]:
    """The same cells, written so that Arrow takes ``1, "a, b"`` for two of them, as Python does."""
    rows = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""), delimiter=delimiter, skipinitialspace=True)
    while chunk := list(islice(rows, 10_000)):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter).writerows(chunk)
        yield text.getvalue().encode()


def _block(head: bytes) -> int:
    """Bytes that the reader takes at a time: a row must fit into them."""
    return 16 * _BLOCK if len(head) < 2 * _BLOCK else _LONGEST_ROW


def _records(text: str, delimiter: str) -> list[list[str]]:
    """The first two rows."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        return [row for row, _ in zip((r for r in rows if any(c.strip() for c in r)), range(2), strict=False)]
    except csv.Error:  # a cell that is longer than this parser allows
        return [text.split("\n", 1)[0].split(delimiter)]


def _delimiter(text: str, decimal: str) -> str:
    """What cuts the first row into most cells, and the second into as many."""

    def fits(mark: str) -> tuple[int, bool]:
        rows = _records(text, mark)
        return len(rows[0]), len(rows[0]) == len(rows[-1])

    return max((mark for mark in "\t;|," if mark != decimal), key=fits)


def _without_blank_rows(table: pa.Table) -> pa.Table:
    """Rows of empty cells alone are no rows (spreadsheets leave such at the end)."""
    blank = None
    for column in table.columns:
        empty = pc.equal(pc.ascii_trim_whitespace(column), "")
        blank = empty if blank is None else pc.and_(blank, empty)
        if not pc.any(blank).as_py():
            return table
    return table.filter(pc.invert(blank))


def _read_parquet(path: Path, limit: int) -> Frame:
    """Without the columns in which pandas keeps the index of its rows."""
    try:
        with parquet.ParquetFile(path) as file:
            sizes = file.metadata
            groups = sum(sizes.row_group(i).total_byte_size for i in range(sizes.num_row_groups))
            if (need := max(groups, 8 * sizes.num_rows * sizes.num_columns)) > limit:
                raise _too_large(str(path), sizes.num_rows, sizes.num_columns, need, limit)
            table = file.read()
    except (OSError, ValueError, NotImplementedError, KeyError, TypeError) as problem:  # those of pyarrow among them
        raise ManyoneError(f"{path}: not a Parquet file ({_reason(problem)})") from None
    _require_distinct(table.column_names, str(path))
    if not table.num_rows:
        raise ManyoneError(f"{path}: the table has no row")
    pandas = (table.schema.pandas_metadata or {}).get("index_columns", ())
    index = [n for n in table.column_names if n in pandas or n.startswith("__index_level_") or n == "Unnamed: 0"]
    notes = [f"column {name!r} (a row index)" for name in index]
    return Frame(table.drop_columns(index), str(path), tuple(notes))


def _read_libsvm(path: Path, limit: int) -> Frame:
    """``label index:value ...`` lines (svmlight), made dense after a check that the matrix fits into memory."""
    from sklearn.datasets import load_svmlight_file  # here: its import takes longer than reading most tables

    try:
        with open_limited(path, limit) as file:
            matrix, target = load_svmlight_file(file)
    except (ValueError, OSError, UnicodeDecodeError) as problem:
        raise ManyoneError(
            f"{path}: not a libsvm file ({_reason(problem)}); every line is 'label index:value ...'"
        ) from None
    rows, width = matrix.shape
    if (need := rows * width * 8) > limit:
        raise _too_large(str(path), rows, width, need, limit)
    dense = matrix.toarray(order="F")  # so that a column lies together and Arrow need not copy it
    columns = {str(i + 1): pa.array(dense[:, i]) for i in range(width)}
    return Frame(pa.table({LIBSVM_LABEL: target, **columns}), str(path), sparse=True)


def _looks_like_libsvm(path: Path) -> bool:
    with open_limited(path, _BLOCK) as file:
        words = file.readline(1 << 16).split()
    return len(words) > 1 and is_number(words[0].decode("latin1")) and words[1].count(b":") == 1


def _require_distinct(names: list[str], where: str) -> None:
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise ManyoneError(f"{where}: two columns are called {name!r}; rename one of them")


def _too_large(where: str, rows: int, width: int, need: int, limit: int) -> ManyoneError:
    return ManyoneError(
        f"{where}: {rows} x {width} values need {need / 1e9:.1f} GB as a dense table, the limit is {limit / 1e9:.1f} "
        "GB; keep fewer rows or columns"
    )


def _not_utf8(where: str) -> ManyoneError:
    return ManyoneError(f"{where}: not UTF-8 text; save the file as UTF-8")


def _reason(problem: BaseException) -> str:
    return next(iter(str(problem).splitlines()), "") or type(problem).__name__
