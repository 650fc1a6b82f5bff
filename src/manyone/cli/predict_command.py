"""``manyone predict``: what a model makes of the rows of a file. How is the affair of the model's field."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from manyone.cli.parser import Parser
from manyone.cli.show import show
from manyone.engine.files import check_writable, write_atomic, writing
from manyone.errors import ManyoneError
from manyone.recipes.table import predictors

_SHOWN = 20


def predict(words: Sequence[str]) -> int:
    """``manyone predict MODEL FILE [--out FILE.csv]``."""
    parser = Parser(
        "predict",
        "Scores the rows of a CSV, Parquet or libsvm file with a trained model: the predicted class and the\n"
        "probability of every class. Columns are found by name, in any order, and read as they were in training;\n"
        "others are left alone.",
        "manyone predict runs/first patients.csv --out scored.csv",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a run folder, or the model folder in it")
    parser.add_argument("file", metavar="FILE", type=Path, help="the rows")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help=f"write all rows there, as CSV (default: print the first {_SHOWN})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is there")
    parser.add_argument("--delimiter", metavar="MARK", help="what separates the cells of a CSV (default: found)")
    parser.add_argument(
        "--unknown",
        choices=("refuse", "zeros"),
        default="refuse",
        help="words that no training row had: an error, or none of the known ones (default: refuse)",
    )
    parsed = parser.parse(words)
    if parsed.out is not None:
        if parsed.out.is_dir():
            raise ManyoneError(f"--out {parsed.out} is a folder: name a file in it, {parsed.out / 'predictions.csv'}")
        if parsed.out.exists() and not parsed.overwrite:
            raise ManyoneError(f"--out {parsed.out} exists: choose another name, or add --overwrite")
        check_writable(parsed.out.parent)
    folder = _model_folder(parsed.model)
    from manyone.engine.artefact import model_config  # with PyTorch, which the help needs not

    config = model_config(folder, "a model")
    module = next((m for m in predictors() if m.recognises(config)), None)
    if module is None:
        raise ManyoneError(f"{folder}: a model of this kind scores no rows of a file; load it in Python (its README.md "
                           "shows how), or see `manyone eval`")  # fmt: skip
    found = module.predict(folder, parsed.file, delimiter=parsed.delimiter, unknown=parsed.unknown)
    rows = list(zip(*found.values(), strict=True))
    if parsed.out is None:
        show([{"row": i + 1, **dict(zip(found, row, strict=True))} for i, row in enumerate(rows[:_SHOWN])], None)
        if len(rows) > _SHOWN:
            print(f"... {len(rows)} rows in all: --out FILE.csv writes them")
        return 0
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(found)
    writer.writerows(rows)
    with writing(parsed.out):
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(parsed.out, text.getvalue().encode())
    print(f"{len(rows)} rows: {parsed.out}")
    return 0


def _model_folder(path: Path) -> Path:
    """The model folder that ``path`` is or holds."""
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "seeds.json").is_file():
        raise ManyoneError(f"{path} holds the runs of several seeds: give one of them")
    if (path / "config.yaml").is_file():
        raise ManyoneError(f"{path} has no model yet: manyone resume {path}")
    raise ManyoneError(f"{path}: no model (a config.json is missing): give a run folder, or the model folder in it")
