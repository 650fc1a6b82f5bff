"""When two results are the same: Spider's rule over bags of rows, BIRD's over sets.

Values are equal as Python has it: 1 == 1.0, but 1 != '1' and b'a' != 'a'; NULL equals NULL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from manyone.data.sql.sandbox import Value

Rows = Sequence[tuple[Value, ...]]

WORK = 20_000_000
"""Values that the search for an order of the columns may look at."""


def same_bag(first: Rows, second: Rows, *, ordered: bool, work: int = WORK) -> bool | None:
    """Spider's rule: equal as bags of rows (``ordered``: as lists) under some order of the second one's columns.

    Two results without rows are equal whatever their columns. None where the search gave up after ``work`` values.
    """
    if len(first) != len(second) or (first and len(first[0]) != len(second[0])):
        return False
    if not first or tuple(first) == tuple(second):
        return True
    ours, theirs = list(zip(*first)), list(zip(*second))
    if ordered:  # rows stay where they are, so columns can be compared whole
        return Counter(ours) == Counter(theirs)
    if Counter(first) == Counter(second):
        return True
    return _Search(ours, theirs, work).found()


def same_set(first: Rows, second: Rows) -> bool:
    """BIRD's rule: the same rows, in any order and number; the order of the columns matters."""
    return set(first) == set(second)


class _Search:
    """Looks for an order of ``theirs`` that makes the rows of both equal as bags, column by column.

    Rows that agree in the columns so far are a class; a column of theirs fits one of ours when every class splits into
    the same bag of values. After the last column the classes are the rows.
    """

    def __init__(self, ours: Sequence[tuple[Value, ...]], theirs: Sequence[tuple[Value, ...]], work: int) -> None:
        self.ours, self.theirs, self.work = list(ours), list(theirs), work

    def found(self) -> bool | None:
        bags = [frozenset(Counter(column).items()) for column in self.theirs]
        fits = []
        for column in self.ours:
            bag = frozenset(Counter(column).items())
            fits.append([k for k, other in enumerate(bags) if other == bag])
        if not all(fits):
            return False
        order = sorted(range(len(fits)), key=lambda k: len(fits[k]))
        self.ours = [self.ours[k] for k in order]
        start = [0] * len(self.ours[0])
        try:
            return self._place(0, [fits[k] for k in order], frozenset(), start, start)
        except _GivenUp:
            return None

    def _place(
        self, at: int, fits: Sequence[Sequence[int]], used: frozenset[int], ours: list[int], theirs: list[int]
    ) -> bool:
        if at == len(self.ours):
            return True
        tried: set[tuple[Value, ...]] = set()
        for k in fits[at]:
            if k in used or self.theirs[k] in tried:
                continue  # a column with the values of one that did not fit fits no better
            tried.add(self.theirs[k])
            self.work -= len(ours)
            if self.work < 0:
                raise _GivenUp
            split, other = list(zip(ours, self.ours[at])), list(zip(theirs, self.theirs[k]))
            counts = Counter(split)
            if counts == Counter(other):
                number = {key: n for n, key in enumerate(counts)}
                if self._place(at + 1, fits, used | {k}, [number[s] for s in split], [number[s] for s in other]):
                    return True
        return False


class _GivenUp(Exception):
    """The search takes too long."""
