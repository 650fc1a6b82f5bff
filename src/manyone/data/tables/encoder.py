"""What a table's columns mean as numbers, as one value: learnt from a table, kept beside a model, applied to new rows.

    encoder, frame = learn_encoder(read_frame("patients.csv"), label="died", categories="one-hot")
    encoder.features("new-patients.csv")        # [n, width], columns found by name, in the encoder's order
    TableEncoder.from_dict(encoder.to_dict())   # JSON data: how an artefact keeps it

A column is numeric if all its cells that are not missing are numbers (or true and false, read as 1 and 0); any other
column is one of words, and becomes one 0/1 column per word (numbers with decimal commas are no words). Cells are
missing if they are empty or one of :data:`MISSING`. In a column of words these markers are words of their own, unless
missing cells are to be filled in or left out. Label words that mean the same are one class: numbers by value, true and
false in any letter case.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from manyone.data.tables.files import CSV_SUFFIXES, Decimal, Frame, from_columns, memory, read_frame
from manyone.errors import ManyoneError

Categories = Literal["refuse", "one-hot"]
Missing = Literal["refuse", "mean", "median", "drop"]
Unknown = Literal["refuse", "zeros"]
MISSING = (
    *("", "?", "NA", "N/A", "n/a", "#N/A", "#N/A N/A", "#NA", "<NA>", "null", "NULL", "Null", "<null>", "None"),
    *("NaN", "nan", "NAN", "-NaN", "-nan", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
)
"""Cells that say that there is no value."""
_LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class Column:
    """A column of the table: of numbers, or of ``words``; ``fill`` stands for a missing cell (None: an error)."""

    name: str
    words: tuple[str, ...] | None = None
    fill: float | str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it becomes."""
        return (self.name,) if self.words is None else tuple(f"{self.name}={word}" for word in self.words)

    @property
    def width(self) -> int:
        """Number of features that it becomes."""
        return 1 if self.words is None else len(self.words)


@dataclass(frozen=True)
class TableEncoder:
    """``columns`` in the order of the features; ``label``: the label's column; ``labels``: its words -> class number.

    How files of such rows are read: ``decimal`` is their decimal mark, ``delimiter`` what separates the cells (None: it
    is found), and if they are ``headless`` columns have no names but their positions.
    """

    columns: tuple[Column, ...]
    label: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    decimal: Decimal = "."
    delimiter: str | None = None
    headless: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(chain.from_iterable(column.names for column in self.columns))

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(column.width for column in self.columns)

    def frame(self, rows: Any, *, delimiter: str | None = None) -> Frame:
        """``rows`` as :meth:`features` reads them: the path of a file, a DataFrame, a pyarrow table or a mapping."""
        if isinstance(rows, Frame):
            return rows
        if not isinstance(rows, str | os.PathLike):
            return from_columns(rows)
        text = Path(os.fspath(rows).removesuffix(".gz")).suffix.lower() in CSV_SUFFIXES
        frame = read_frame(
            rows, delimiter=delimiter or (self.delimiter if text else None), decimal=self.decimal,
            header=False if self.headless else None,
        )  # fmt: skip
        if frame.headless and len(frame.names) == len(self.columns):  # no header and no label: the features in order
            return replace(frame, table=frame.table.rename_columns([column.name for column in self.columns]))
        return frame

    def features(self, rows: Any, *, unknown: Unknown = "refuse") -> Tensor:
        """float64 [n, width] of new rows, each column found by its name; columns that the encoder does not know, the
        label among them, are left alone.

        A word that the training data did not hold is an error, or (``unknown="zeros"``) none of the known words. A
        missing cell takes the column's fill. Raises ``ManyoneError`` that names column and row.
        """
        frame = self.frame(rows)
        values = self.matrix(frame, unknown)
        require_complete(values, self, frame, trained=True)
        return torch.from_numpy(values)

    def codes(self, rows: Any) -> Tensor | None:
        """int64 [n], the class numbers of rows that have the label's column; None for rows without it."""
        frame = self.frame(rows)
        if self.label is None or self.label not in frame:
            return None
        words, index = label_words(frame, self.label)
        if (bad := next((w for w in words if w not in self.labels), None)) is not None:
            row = int(np.flatnonzero(index == words.index(bad))[0])
            raise ManyoneError(
                f"{frame.where}: column {self.label!r}, row {row + 1}: {_short(bad)} is none of the classes "
                f"{_shown(self.labels)}"
            )
        return torch.tensor([self.labels[w] for w in words])[torch.from_numpy(index)]

    def matrix(self, frame: Frame, unknown: Unknown = "refuse") -> np.ndarray:
        """float64 [n, width], with NaN where a cell is missing and its column has no fill."""
        values, at = np.empty((len(frame), self.width)), 0
        for column in self.columns:
            part = values[:, at : at + column.width]
            at += column.width
            if frame.sparse and column.name not in frame:
                part[:] = 0
            elif column.words is None:
                part[:, 0] = self._numbers(frame, column)
            else:
                part[:] = _indicators(frame, column, unknown)
        return values

    def relabelled(self, codes: Mapping[int, int]) -> TableEncoder:
        """With other class numbers; words whose class is not in ``codes`` go."""
        return replace(self, labels={w: codes[c] for w, c in self.labels.items() if c in codes})

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        columns = [{k: v for k, v in vars(c).items() if v is not None} for c in self.columns]
        return {**vars(self), "columns": columns, "labels": dict(self.labels)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableEncoder:
        """From what :meth:`to_dict` gave."""
        columns = []
        for column in data["columns"]:
            words = column.get("words")
            columns.append(Column(column["name"], None if words is None else tuple(words), column.get("fill")))
        return cls(**{**data, "columns": tuple(columns)})

    def _numbers(self, frame: Frame, column: Column) -> np.ndarray:
        cells = frame.column(column.name)
        values, bad = numbers(cells, self.decimal, f"{frame.where}: column {column.name!r}")
        if values is None:
            raise _not_a_number(frame, column.name, bad, self.decimal)
        found = values.to_numpy().astype(np.float64, copy=False)
        if np.isinf(found).any():
            row = int(np.flatnonzero(np.isinf(found))[0])
            raise ManyoneError(f"{frame.where}: column {column.name!r}, row {row + 1} is infinite; drop the row")
        return found if column.fill is None else np.where(np.isnan(found), column.fill, found)


def learn_encoder(
    frame: Frame,
    *,
    label: str | None,
    features: Sequence[str] | None = None,
    categories: Categories = "refuse",
    missing: Missing = "refuse",
    decimal: Decimal = ".",
) -> tuple[TableEncoder, Frame]:
    """(encoder, frame with its numbers read): what the columns ``features`` (default: all but the label) mean.

    The encoder's fills are learnt apart, from training rows: see ``manyone.data.tables.tables.fill_missing``.
    """
    names = [n for n in frame.names if n != label] if features is None else list(features)
    read, columns = dict(zip(frame.names, frame.table.columns, strict=True)), []
    for name in names:
        cells, where = frame.column(name), f"{frame.where}: column {name!r}"
        values, bad = numbers(cells, decimal, where)
        if values is not None:
            read[name] = values
            columns.append(Column(name))
        elif categories == "refuse" or (decimal == "." and numbers(cells, ",", where)[0] is not None):
            raise _not_a_number(frame, name, bad, decimal)
        else:
            found = text(cells, MISSING if missing != "refuse" else ("",), where)
            columns.append(Column(name, tuple(sorted(found.unique().drop_null().to_pylist()))))
    encoder = TableEncoder(tuple(columns), label, decimal=decimal, headless=frame.headless)
    if (need := 8 * len(frame) * encoder.width) > (limit := memory() // 2):
        widest = max(columns, key=lambda column: len(column.names))
        raise ManyoneError(
            f"{frame.where}: {len(frame)} rows of {encoder.width} features need {need / 1e9:.1f} GB, the limit is "
            f"{limit / 1e9:.1f} GB; column {widest.name!r} has {len(widest.names)} words: leave it out (--drop)"
        )
    return encoder, replace(frame, table=pa.table(read))


def numbers(cells: pa.ChunkedArray, decimal: Decimal = ".", what: str = "column") -> tuple[pa.ChunkedArray | None, int]:
    """(cells as float64, null where missing, 0), or (None, row from 0 of the first cell that is no number)."""
    kind = cells.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        values = cells.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(values), None, values), 0
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return cells.cast(pa.int8()).cast(pa.float64()), 0
    words = text(cells, MISSING, what)
    plain = pc.replace_substring(words, ",", ".") if decimal == "," else words
    try:
        values = plain.cast(pa.float64())
    except pa.ArrowInvalid:  # rare spellings: Python knows more of them, and which cell it is
        coded = plain.combine_chunks().dictionary_encode()
        known = [_number(word) for word in coded.dictionary.to_pylist()]
        if None in known:
            return None, pc.index(coded.indices, known.index(None)).as_py()
        return pa.chunked_array([pa.array(known, pa.float64()).take(coded.indices)]), 0
    return values, 0


def text(cells: pa.ChunkedArray, missing: Sequence[str], what: str = "column") -> pa.ChunkedArray:
    """Cells as text without space around it, null where ``missing``."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if not pa.types.is_string(cells.type):
        try:
            cells = cells.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise ManyoneError(f"{what} holds {cells.type}, neither numbers nor words: leave it out (--drop)") from None
    words = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(words, pa.array(missing, pa.string())), None, words)


def label_words(frame: Frame, name: str) -> tuple[list[str], np.ndarray]:
    """(canonical words of a column, index of each row's word); a row without one is an error."""
    words, index = optional_words(frame, name)
    if (empty := np.flatnonzero(index < 0)).size:
        raise missing_cell(frame, name, int(empty[0]), "drop")
    return words, index


def optional_words(frame: Frame, name: str) -> tuple[list[str], np.ndarray]:
    """As :func:`label_words`, with the index -1 where a row has none."""
    cells = text(frame.column(name), MISSING, f"{frame.where}: column {name!r}")
    coded = cells.combine_chunks().dictionary_encode()
    spelt = [canonical_word(word) for word in coded.dictionary.to_pylist()]
    words = sorted(set(spelt), key=_natural)
    position = {word: i for i, word in enumerate(words)}
    of_code = np.array([position[word] for word in spelt] + [-1])
    return words, of_code[coded.indices.fill_null(len(spelt)).to_numpy(zero_copy_only=False)]


def canonical_word(word: str) -> str:
    """One spelling for one value: "+1", "1.0" and "1" are "1"; "TRUE" and "true" are "True"."""
    word = word.strip()
    if word.lower() in ("true", "false"):
        return word.capitalize()
    if re.fullmatch(r"[+-]?[0-9]+", word):
        return str(int(word)) if len(word) < 4300 else word
    value = _number(word)
    if value is None or not math.isfinite(value):
        return word
    return str(int(value)) if value.is_integer() and abs(value) < _LARGEST_EXACT else repr(value)


def require_complete(values: np.ndarray, encoder: TableEncoder, frame: Frame, *, trained: bool = False) -> None:
    """Raises an error that names the first missing cell of ``values`` [n, width], if there is one; ``trained``: the
    encoder's fills are learnt, and can no longer be chosen."""
    holes = np.isnan(values)
    if holes.any():
        row, at = np.argwhere(holes)[0]
        owners = [column.name for column in encoder.columns for _ in range(column.width)]
        raise missing_cell(frame, owners[at], int(row), "median", trained=trained)


def missing_cell(frame: Frame, name: str, row: int, way: Missing, *, trained: bool = False) -> ManyoneError:
    """What to say of a missing cell; ``row`` from 0. ``trained``: ``way`` was for training to know."""
    cell = frame.column(name)[row].as_py()
    what = "NaN" if "nan" in str(cell).lower() else "empty" + f" ({cell!r})" * bool(cell)
    ways = "drop the row" if way == "drop" else "fill it in or drop the row"
    if trained:
        ways += f"; a model that was trained with missing={way!r} (--missing {way}) fills it in by itself"
    else:
        ways += f", yourself or with missing={way!r} (--missing {way})"
    return ManyoneError(f"{frame.where}: column {name!r}, row {row + 1} is {what}; {ways}")


def _indicators(frame: Frame, column: Column, unknown: Unknown) -> np.ndarray:
    """[n, words]: 1 where the cell is the word."""
    assert column.words is not None
    where = f"{frame.where}: column {column.name!r}"
    cells = text(frame.column(column.name), (), where).combine_chunks()
    index = pc.index_in(cells, pa.array(column.words, pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
    absent = pc.is_in(cells, pa.array([*MISSING, None], pa.string())).to_numpy(zero_copy_only=False) & (index < 0)
    if unknown == "refuse" and (strange := np.flatnonzero((index < 0) & ~absent)).size:
        row = int(strange[0])
        raise ManyoneError(
            f"{where}, row {row + 1}: {_short(cells[row].as_py())} is none of the words of the training data "
            f"({_shown(column.words)}); unknown='zeros' (--unknown zeros) reads it as none of them"
        )
    if column.fill is not None:
        index = np.where(absent, column.words.index(str(column.fill)), index)
    values = np.zeros((len(cells), len(column.words)))
    rows = np.flatnonzero(index >= 0)
    values[rows, index[rows]] = 1
    if column.fill is None:
        values[absent] = np.nan
    return values


def _not_a_number(frame: Frame, name: str, row: int, decimal: str) -> ManyoneError:
    cell = str(frame.column(name)[row].as_py()).strip()
    if decimal == "." and "," in cell and _number(cell.replace(",", ".")) is not None:
        way = "decimal commas are read with decimal=',' (--decimal ,)"
    else:
        way = (
            f"leave the column out (--drop {name}), or encode its words as 0/1 columns with categories='one-hot' "
            "(--categories one-hot)"
        )
    return ManyoneError(f"{frame.where}: column {name!r}, row {row + 1}: {_short(cell)} is not a number; {way}")


def _number(word: str | None) -> float | None:
    """The value of a cell, also of true and false; None where it is no number. A missing cell is NaN."""
    if word is None:
        return math.nan
    try:
        return float(word)
    except ValueError:
        return {"true": 1.0, "false": 0.0}.get(word.lower())


def _natural(word: str) -> tuple[int, float, str]:
    value = _number(word)
    return (1, 0.0, word) if value is None or math.isnan(value) else (0, value, word)


def _shown(words: Sequence[str] | Mapping[str, Any]) -> str:
    names = [word[:40] for word in words]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _short(cell: str) -> str:
    """In quotes, and cut where it would fill the screen."""
    return repr(cell) if len(cell) <= 60 else repr(cell[:60]) + "..."
