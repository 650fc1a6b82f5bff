"""Which pairs are trained on, watched and tested on: by their SQL, so that no query is in two splits.

Public: ``SPLITS``, ``split_of``, ``hold_out``, ``spelled``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from manyone.data.sql.records import Pair, PairSet, Split
from manyone.errors import ManyoneError

SPLITS: tuple[Split, ...] = ("train", "val", "test")
_HELD_OUT = 0.1  # of the different queries, for a split that is lacking
_NAMES: Mapping[Split, str] = {"train": "training", "val": "validation", "test": "test"}


def split_of(sql: str) -> Split:
    """The split of a pair by its SQL alone: 80 % train, 10 % val, 10 % test, by CRC-32."""
    place = zlib.crc32(sql.encode()) % 10
    return "test" if place == 0 else "val" if place == 1 else "train"


def hold_out(data: PairSet) -> PairSet:
    """``data`` with test and validation pairs: where there are none, they are a tenth of the training queries.

    They are the first by the CRC-32 of their SQL: all phrasings of a query go together, so that none is asked for in
    two splits. ``ManyoneError`` where there are too few queries.
    """
    splits: dict[Split, Sequence[Pair]] = {split: tuple(data.splits.get(split, ())) for split in SPLITS}
    if not splits["train"]:
        raise ManyoneError(f"{data.name}: no pairs to train on")
    notes = list(data.notes)
    order: tuple[Split, ...] = ("test", "val")
    missing = [split for split in order if not splits[split]]
    share = math.ceil(_HELD_OUT * len({spelled(pair) for pair in splits["train"]}))
    for split in missing:
        queries = sorted({spelled(pair) for pair in splits["train"]}, key=lambda q: (zlib.crc32(q.encode()), q))
        if len(queries) < 2:
            raise ManyoneError(f"{data.name}: no {_NAMES[split]} pairs, and too few different queries to hold some "
                               f"out: give {split}.json, or rows with \"split\": \"{split}\"")  # fmt: skip
        chosen = set(queries[:share])
        splits[split] = tuple(pair for pair in splits["train"] if spelled(pair) in chosen)
        splits["train"] = tuple(pair for pair in splits["train"] if spelled(pair) not in chosen)
        notes.append(f"no {_NAMES[split]} pairs are given: {len(splits[split])} of the training pairs are held out, "
                     "by the CRC-32 of their SQL")  # fmt: skip
    return replace(data, splits=splits, notes=tuple(notes)) if missing else data


def spelled(pair: Pair) -> str:
    """Database and SQL, however it is spaced and spelled."""
    return f"{pair.db_id} {' '.join(pair.sql.lower().split())}"
