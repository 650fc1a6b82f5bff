"""A recipe's options from the command line (through tyro) and from a YAML file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

T = TypeVar("T")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"^[│|]\s?|\s*[│|]$")
_RULE = re.compile(r"^[─╰╯-]{3,}$")


def parse_options(cls: type[T], recipe: str, words: Sequence[str]) -> T:
    """The options ``cls`` of ``recipe`` from ``words``; ``--help`` prints all of them and exits.

    ``--config FILE.yaml`` gives options from a file; what the command line says wins. Wrong input raises
    ``ManyoneError`` that names the option.
    """
    import tyro

    words, config = _take_config(words)
    if config is not None:
        words = [*_words_from_yaml(config, cls, recipe), *words]
    complaint = io.StringIO()
    description = (cls.__doc__ or "").strip() + (
        f"\n\nOptions can also come from a file: `manyone run {recipe} --config FILE.yaml` takes `option: value` lines "
        "or the config.yaml of an earlier run; the command line wins."
    )
    try:
        with contextlib.redirect_stderr(complaint):
            options = tyro.cli(cls, prog=f"manyone run {recipe}", description=description, args=words)
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise ManyoneError(_one_line(complaint.getvalue(), cls, recipe, words)) from None
    sys.stderr.write(complaint.getvalue())
    return options


def flags(cls: Any, prefix: str = "") -> Iterator[str]:
    """The option names of the dataclass ``cls`` as typed, e.g. ``--learning-rate``, ``--router.layers``."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from flags(hints[field.name], name + ".")
        else:
            yield f"--{name}"
            if hints[field.name] is bool:
                head, dot, last = name.rpartition(".")
                yield f"--{head}{dot}no-{last}"


def _one_line(complaint: str, cls: Any, recipe: str, words: Sequence[str]) -> str:
    """tyro's framed complaint as one line; for an unknown option, its name and the nearest known one."""
    known = {"--help", "--config", *flags(cls)}
    hint = f"(manyone run {recipe} --help)"
    for word in words:
        name = word.split("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in known:
            return f"unknown option '{name}' of recipe '{recipe}'; {suggestion(name, known)} {hint}"
    text: list[str] = []
    for line in _COLOURS.sub("", complaint).splitlines()[1:]:  # below the title
        line = _FRAME.sub("", line.strip()).strip()
        if not _RULE.match(line):
            text.append(line)
        elif text:  # the rule below the message; without a frame there is one above it too
            break
    return f"{' '.join(text).replace(' .', '.') or 'the options are wrong'} {hint}"


def _take_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """``words`` without ``--config FILE`` or ``--config=FILE``, and the file."""
    rest: list[str] = []
    file = None
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            word = f"--config={next(remaining, '')}"
        if word.startswith("--config="):
            file = word.removeprefix("--config=")
            if not file:
                raise ManyoneError("--config needs a YAML file: --config FILE.yaml")
        else:
            rest.append(word)
    return rest, Path(file) if file else None


def _words_from_yaml(file: Path, cls: Any, recipe: str) -> list[str]:
    """The options in ``file`` as command-line words, so that they are checked like any others."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManyoneError(f"--config {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManyoneError(f"--config {file}: not YAML: {' '.join(str(error).split())}") from None
    content = {} if content is None else content
    if isinstance(content, Mapping) and isinstance(content.get("options"), Mapping) and "recipe" in content:
        if content["recipe"] != recipe:
            raise ManyoneError(f"--config {file}: is a run of '{content['recipe']}', not of '{recipe}'")
        # an earlier run's folder is its own: a repetition gets another one
        content = {k: v for k, v in content["options"].items() if k not in ("out", "overwrite")}
    if not isinstance(content, Mapping):
        raise ManyoneError(f"--config {file}: expected lines of `option: value`")
    return list(_words(content, set(flags(cls)), "--", file))


def _words(content: Mapping[str, Any], known: set[str], prefix: str, file: Path) -> Iterator[str]:
    for key, value in content.items():
        name = prefix + str(key).replace("_", "-")
        if isinstance(value, Mapping) and name not in known:
            if not any(flag.startswith(name + ".") for flag in known):
                raise ManyoneError(f"--config {file}: unknown option '{key}'; {suggestion(name, known)}")
            yield from _words(value, known, name + ".", file)
        elif name not in known:
            raise ManyoneError(f"--config {file}: unknown option '{key}'; {suggestion(name, known)}")
        elif isinstance(value, bool):
            head, dot, last = name.removeprefix("--").rpartition(".")
            negative = f"--{head}{dot}no-{last}"
            if negative not in known:
                yield f"{name}={value}"
            else:
                yield name if value else negative
        elif isinstance(value, Mapping):
            yield name
            for pair in value.items():
                yield from map(str, pair)
        elif isinstance(value, list):
            yield name
            yield from map(str, _flat(value))
        else:
            yield f"{name}={value}"


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value
