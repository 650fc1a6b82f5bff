"""A recipe's options from the command line (through tyro) and from a YAML file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
import typing
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from manyone.cli.help import docstrings, recipe_help
from manyone.engine.trust import check_config
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.recipes.options import (
    CommonOptions,
    check_switches,
    defaults,
    from_earlier,
    option_of,
    ranges,
    with_preset,
)
from manyone.recipes.words import flags, typed, words_of

T = TypeVar("T", bound=CommonOptions)
HELP = ("-h", "--help", "--help-all")

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"^[│|]\s?|\s*[│|]$")
_RULE = re.compile(r"^[─╰╯-]{3,}$")


def parse_options(cls: type[T], recipe: str, words: Sequence[str]) -> T:
    """The options ``cls`` of ``recipe`` from ``words``; ``--help`` prints all of them and exits.

    ``--config FILE.yaml`` gives options from a file; what the command line says wins. What nobody gave comes from the
    preset. Wrong input raises ``ManyoneError`` that names the option.
    """
    own, config = _take_config(words)
    for word, following in itertools.pairwise([*own, ""]):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            _check_unambiguous(name, value if equals else following, cls, recipe)
    own = _together([_plain_word(word, cls) for word in own], cls)
    words = own if config is None else [*_words_from_yaml(config, cls, recipe, typed(own, cls)), *own]
    asked = [word for word in words if word not in HELP]
    if len(asked) < len(words):
        given: dict[str, Any] = {}
        with contextlib.suppress(ManyoneError):  # whoever asks for help need not have typed all of it yet
            given = _given(cls, recipe, asked)
        print(recipe_help(cls, recipe, given, whole="--help-all" in words))
        raise SystemExit(0)
    given = _given(cls, recipe, words)
    if config is not None and "preset" in (named := typed(own, cls)):
        # a preset that the command line asks for replaces what the file says of the options that presets set
        chosen = {name: value for name, value in given.items() if name in named}
        preset = {name for values in cls.PRESETS.values() for name in values} | set(cls.preset_values(chosen))
        given = {name: value for name, value in given.items() if name in named or name not in preset}
    options = with_preset(cls, given)
    check_switches(options, given)
    return options


def _check_unambiguous(name: str, value: object, cls: type[CommonOptions], recipe: str) -> None:
    """Raises ``ManyoneError`` for a name that could mean either of several options; it says what each would mean."""
    options = cls.AMBIGUOUS.get(name.removeprefix("--").replace("-", "_"), ())
    if options:
        texts, known = docstrings(cls), defaults(cls, {})
        value = "" if str(value).startswith("--") else f" {value}".rstrip()
        meanings = []
        for option in options:
            text = texts[option][0].lower() + texts[option][1:].rstrip(".")
            meanings.append(f"--{option.replace('_', '-')}{value} ({text}; default {known[option]})")
        raise ManyoneError(f"{name}{value}: say {' or '.join(meanings)} (manyone run {recipe} --help)")


def _plain_word(word: str, cls: type[CommonOptions]) -> str:
    """``word`` with the option's own name where it is another word for one."""
    name, equals, value = word.partition("=")
    option = option_of(name.removeprefix("--").replace("-", "_"), cls) if name.startswith("--") else None
    return word if option is None else f"--{option.replace('_', '-')}{equals}{value}"


def _together(words: Sequence[str], cls: type[Any]) -> list[str]:
    """``words`` with all values of a list option behind its first mention: it may be given several times."""
    hints = typing.get_type_hints(cls)
    lists = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(cls) if _is_list(hints[f.name])}
    groups: list[list[str]] = [[]]
    places: dict[str, list[str]] = {}
    at = groups[0]
    for word in words:
        name, equals, value = word.partition("=")
        if (name := name.replace("_", "-")) in lists:
            if name not in places:
                places[name] = [name]
                groups.append(places[name])
            at = places[name]
            at += [value] if equals else []
            continue
        if word.startswith("--"):
            at = []
            groups.append(at)
        at.append(word)
    return [word for group in groups for word in group]


def _is_list(hint: Any) -> bool:
    """Whether a field of this type takes any number of values."""
    return any(typing.get_origin(one) is tuple and typing.get_args(one)[-1] is ... for one in
               (hint, *typing.get_args(hint)))  # fmt: skip


def _given(cls: type[Any], recipe: str, words: Sequence[str]) -> dict[str, Any]:
    """What ``words`` give, converted to the types of the fields; their values are not checked yet."""
    values = _ask_tyro(_plain(cls, {}), cls, recipe, words)
    return {name: getattr(values, name) for name in typed(words, cls)}


def _plain(cls: type[Any], given: Mapping[str, Any]) -> type[Any]:
    """A dataclass with the fields of ``cls``, without its checks: help with ranges, defaults of the preset."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts, allowed, preset = docstrings(cls), ranges(cls), defaults(cls, given)
    fields: list[Any] = []
    for field in dataclasses.fields(cls):
        text = texts.get(field.name, "")
        if field.name in allowed:
            text = f"{text.rstrip('.')}; {allowed[field.name]}."
        hint = Annotated[hints[field.name], tyro.conf.arg(help=text)] if text else hints[field.name]
        if field.name in preset:
            fields.append((field.name, hint, dataclasses.field(default=preset[field.name])))
        elif field.default_factory is not dataclasses.MISSING:
            fields.append((field.name, hint, dataclasses.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, hint))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True)


def _ask_tyro(plain: type[Any], cls: type[Any], recipe: str, words: Sequence[str]) -> Any:
    """What tyro makes of ``words``; its complaints become one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            values = tyro.cli(plain, prog=f"manyone run {recipe}", args=words)
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise ManyoneError(_one_line(complaint.getvalue(), cls, recipe, words)) from None
    sys.stderr.write(complaint.getvalue())
    return values


def _one_line(complaint: str, cls: Any, recipe: str, words: Sequence[str]) -> str:
    """tyro's framed complaint as one line; for an unknown option, its name and the nearest known one."""
    known = {"--help", "--help-all", "--config", *flags(cls)}
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


def _words_from_yaml(file: Path, cls: Any, recipe: str, said: Container[str]) -> list[str]:
    """The options in ``file`` as command-line words, so that they are checked like any others.

    Of those that the command line has not ``said`` itself, none may name a module if the file was not written here.
    """
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
        content = {k: v for k, v in from_earlier(cls, content["options"]).items() if k not in ("out", "overwrite")}
    if not isinstance(content, Mapping):
        raise ManyoneError(f"--config {file}: expected lines of `option: value`")
    for name, value in content.items():
        _check_unambiguous(str(name), value, cls, recipe)
    content = {option_of(str(k).replace("-", "_"), cls) or k: v for k, v in content.items()}
    check_config(file, {name: value for name, value in content.items() if str(name).replace("-", "_") not in said})
    return words_of(content, cls, f"--config {file}")
