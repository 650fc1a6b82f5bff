"""Pairs of a question and SQL in plain Python: what conditions and answers mean, how draws and splits are made.

Nothing of the package is imported, and no SQL is executed: rows are dictionaries.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def uniform_numbers(*names: object) -> Iterator[float]:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from the CRC-32 of the names joined by slashes, as [0, 1)."""
    state = binascii.crc32("/".join(str(n) for n in names).encode())
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = ((z ^ (z >> shift)) * factor) % 2**64
        z ^= z >> 31
        yield (z // 2**11) / 2**53


def split(sql: str) -> str:
    """One tenth for testing and one for validation, by the CRC-32 of the SQL."""
    return {0: "test", 1: "val"}.get(binascii.crc32(sql.encode()) % 10, "train")


def holds(value: Any, operator: str, bound: Any, high: Any = None) -> bool:
    """Whether a value fulfils a condition; a missing one fulfils none."""
    if value is None:
        return False
    if operator == "between":
        return bound <= value <= high
    if operator == "contains":
        return str(bound).lower() in str(value).lower()
    if operator == "starts":
        return str(value).lower().startswith(str(bound).lower())
    return {
        "=": value == bound, "!=": value != bound, ">": value > bound, ">=": value >= bound, "<": value < bound,
        "<=": value <= bound,
    }[operator]  # fmt: skip


def same_answer(one: Sequence[tuple[Any, ...]], two: Sequence[tuple[Any, ...]], ordered: bool) -> bool:
    """Every row of one is struck off the other, at the same place if the order counts."""
    left = list(two)
    for place, row in enumerate(one):
        if ordered:
            if place >= len(left) or left[place] != row:
                return False
        elif row in left:
            left.remove(row)
        else:
            return False
    return len(one) == len(two)


def top(rows: Iterable[Row], column: str, most: bool, count: int) -> list[Row] | None:
    """The rows that have the most (or least) of a column; None where the last of them has an equal among the others."""
    order = sorted((r for r in rows if r[column] is not None), key=lambda r: r[column], reverse=most)
    if len(order) > count and order[count - 1][column] == order[count][column]:
        return None
    return order[:count]
