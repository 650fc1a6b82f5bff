"""``manyone predict``: what a model makes of what it is given. What that is, and how, is the affair of its field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyone.cli.parser import Parser
from manyone.cli.show import show
from manyone.engine.files import check_writable, write_atomic, writing
from manyone.engine.progress import say_beginning
from manyone.errors import ManyoneError
from manyone.recipes.predictions import Predictions
from manyone.recipes.table import Predicting, predicting, predictor

_SHOWN = 20


def predict(words: Sequence[str]) -> int:
    """``manyone predict MODEL ... [--out FILE]``; the words between are those of the model's field."""
    fields = predicting()
    model = _named_model(words, fields)
    if model is None:
        _general(fields).parse(words)  # shows the help, or says that MODEL is missing
        raise ManyoneError("give a model: a run folder, or the model folder in it (manyone predict --help)")
    folder = _model_folder(model)
    say_beginning(f"predict: opens {folder}")
    field = _field_of(folder, fields)
    parsed = _parse(words, field, fields)
    if parsed.out is not None:
        if parsed.out.is_dir():
            raise ManyoneError(f"--out {parsed.out} is a folder: name a file in it, {parsed.out / 'predictions.csv'}")
        if parsed.out.exists() and not parsed.overwrite:
            raise ManyoneError(f"--out {parsed.out} exists: choose another name, or add --overwrite")
        check_writable(parsed.out.parent)
    found = predictor(field).predict(folder, parsed)
    if parsed.out is None or found.written:
        _show(found)
        if found.written:
            print(found.written)
    else:
        with writing(parsed.out):
            parsed.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(parsed.out, _text(found, parsed.out.suffix.lower()).encode())
        print(f"{len(found.rows)} rows: {parsed.out}")
    if found.failed:
        print(found.failed)
    return 1 if found.failed else 0


def _general(fields: Sequence[Predicting]) -> Parser:
    """The parser of the help without a model: the words of all fields, apart."""
    parser = Parser("predict", "What a trained model makes of new input, as its field has it.",
                    "\n  ".join(field.arguments.EXAMPLE for field in fields), latest=True)  # fmt: skip
    parser.usage = "\n       ".join(f"{parser.prog} {field.arguments.USAGE} [options]" for field in fields)
    _common(parser)
    for field in fields:
        field.arguments.declare(parser.add_argument_group(f"models of {field.field}", field.arguments.SUMMARY))
    return parser


def _common(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a run folder, or the model folder in it")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write all there (default: print them)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is there")


class _Options:
    """Of the arguments that a field declares, the options alone."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser

    def add_argument(self, *names: str, **words: Any) -> None:
        if names[0].startswith("-"):
            words.pop("required", None)
            self.parser.add_argument(*names, **words)


def _named_model(words: Sequence[str], fields: Sequence[Predicting]) -> Path | None:
    """The first word that is neither an option nor an option's value."""
    parser = Parser("predict", "", "", add_help=False, latest=True)  # fields may have the same options
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--overwrite", action="store_true")
    for field in fields:
        field.arguments.declare(_Options(parser))
    return parser.parse_known_args(list(words))[0].model


def _parse(words: Sequence[str], field: Predicting, fields: Sequence[Predicting]) -> Any:
    parser = Parser("predict", field.arguments.SUMMARY, field.arguments.EXAMPLE)
    _common(parser)
    field.arguments.declare(parser)
    known = set(parser._option_string_actions)
    for other in fields:
        foreign = Parser("predict", "", "", add_help=False)
        other.arguments.declare(_Options(foreign))
        for word in words:
            option = word.split("=")[0]
            if option in foreign._option_string_actions and option not in known:
                way = f"manyone predict {field.arguments.USAGE}"
                raise ManyoneError(f"{option} is for models of {other.field}, this is one of {field.field}: {way}")
    return parser.parse(words, mixed=True)


def _field_of(folder: Path, fields: Sequence[Predicting]) -> Predicting:
    from manyone.engine.artefact import model_config  # with PyTorch, which the help needs not

    config = model_config(folder, "a model") if (folder / "config.json").is_file() else {}
    for field in fields:
        if field.arguments.recognises(folder, config):
            return field
    raise ManyoneError(f"{folder}: a model of this kind scores no rows of a file; load it in Python (its README.md "
                       "shows how), or see `manyone eval`")  # fmt: skip


def _model_folder(path: Path) -> Path:
    """The model folder that ``path`` is or holds."""
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file() or (folder / "manyone.json").is_file():
            return folder
    if (path / "seeds.json").is_file():
        raise ManyoneError(f"{path} holds the runs of several seeds: give one of them")
    if (path / "config.yaml").is_file():
        raise ManyoneError(f"{path} has no model yet: manyone resume {path}")
    raise ManyoneError(f"{path}: no model (a config.json is missing): give a run folder, or the model folder in it")


def _show(found: Predictions) -> None:
    if found.shown is not None:
        for part in found.shown:
            show(part, None)
        return
    show([{"row": i + 1, **row} for i, row in enumerate(found.rows[:_SHOWN])], None)
    if len(found.rows) > _SHOWN:
        print(f"... {len(found.rows)} rows in all: --out FILE.csv writes them")


def _text(found: Predictions, ending: str) -> str:
    """The rows as a file with this ending holds them; other endings than .csv and .jsonl get the field's own form."""
    form = {".csv": "csv", ".jsonl": "jsonl"}.get(ending, found.form)
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    text = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in found.rows for name in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in found.rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """What a cell of a CSV file holds: of a list or an object its JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value
