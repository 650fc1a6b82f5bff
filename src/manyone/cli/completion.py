"""``manyone completion SHELL``, and what a shell that has been told so asks at every press of the tab key.

A verb's parser says which words and options it takes; the names that stand for something here (recipes, suites, claims,
data) are looked up. Nothing heavy is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import argcomplete
from argcomplete.completers import ChoicesCompleter, FilesCompleter

from manyone.cli.parser import COMPLETING, Parser, one_of
from manyone.errors import ManyoneError
from manyone.fields import FIELDS
from manyone.recipes.options import CommonOptions
from manyone.recipes.table import RECIPES, options_class

SHELLS = ("bash", "zsh", "fish")


def completion(words: Sequence[str]) -> int:
    """``manyone completion bash|zsh|fish``."""
    parser = Parser(
        "completion",
        "Prints the lines that make a shell complete verbs, recipes, options and names at the tab key.\n\n"
        '  bash   add to ~/.bashrc:   eval "$(manyone completion bash)"\n'
        '  zsh    add to ~/.zshrc:    eval "$(manyone completion zsh)"\n'
        "  fish   once:               manyone completion fish > ~/.config/fish/completions/manyone.fish",
        "manyone completion bash",
    )
    parser.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    shell = one_of(parser.parse(words).shell, "shell", SHELLS)
    print(argcomplete.shellcode(["manyone"], shell=shell), end="")  # type: ignore[no-untyped-call]
    return 0


def answer(verbs: Mapping[str, tuple[str, str]]) -> NoReturn:
    """Tells the shell what may come next in the line that it has in COMP_LINE; ends the process."""
    line, point = os.environ.get("COMP_LINE", ""), int(os.environ.get("COMP_POINT", "0") or 0)
    words = argcomplete.split_line(line, point)[3][1:]  # type: ignore[no-untyped-call]
    verb = words[0] if words else ""
    if verb == "run" and len(words) > 1 and words[1] in RECIPES:
        finish(_of_recipe(words[1]), 3)
    if verb in verbs:
        module, _, function = verbs[verb][0].partition(":")
        try:
            getattr(importlib.import_module(f"manyone.cli.{module}"), function)([])
        except ManyoneError:  # of a verb that looks at its words before it parses them
            os._exit(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=list(verbs))
    parser.add_argument("--version", action="store_true")
    finish(parser, 1)


def finish(parser: argparse.ArgumentParser, first: int = 2) -> NoReturn:
    """Prints what ``parser`` takes next, for the shell; the line's word number ``first`` is the parser's own name."""
    for action in parser._actions:
        if (names := _NAMES.get(str(action.metavar))) is not None:
            action.completer = _words(names())  # type: ignore[attr-defined]
    os.environ[COMPLETING] = str(first)
    argcomplete.autocomplete(parser, always_complete_options="long")
    os._exit(1)  # it ends the process itself, unless the environment is not a shell's


def _of_recipe(recipe: str) -> argparse.ArgumentParser:
    """A parser with the options of ``recipe``: their names and choices; nothing is checked."""
    cls = options_class(recipe)
    parser = argparse.ArgumentParser(add_help=False)
    for option in ("--help", "--help-all"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--seeds", type=int).completer = _words(())  # type: ignore[attr-defined]
    parser.add_argument("--select").completer = _words(("val", "test"))  # type: ignore[attr-defined]
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        _add(parser, field.name, hints[field.name], cls, RECIPES[recipe].field)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, hint: Any, cls: type[CommonOptions], field: str) -> None:
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(one for one in get_args(hint) if one is not type(None))
    many = get_origin(hint) is tuple
    hint = get_args(hint)[0] if many else hint
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    plain = name.replace("_", "-")
    option = f"--{plain}"
    if hint is bool:
        parser.add_argument(option, action="store_true")
        parser.add_argument("--" + f"no-{plain}", action="store_true")
        return
    action = parser.add_argument(option, nargs="*" if many else None)
    choices: Sequence[str] = ()
    if get_origin(hint) is Literal:
        choices = [str(word) for word in get_args(hint)]
    elif name == "preset":
        choices = list(cls.PRESETS)
    elif name == "suite":
        choices = _suites(field)
    completer = _words(choices)
    if (not choices and hint is Path) or name in ("data", "tasks", "shots"):
        completer = FilesCompleter()  # type: ignore[no-untyped-call]
    action.completer = completer  # type: ignore[attr-defined]


def _words(choices: Sequence[str]) -> Any:
    return ChoicesCompleter(choices)  # type: ignore[arg-type]  # its stub knows mappings alone


def _suites(field: str) -> list[str]:
    """Ready-made tasks of a field, as far as a list can have them."""
    if field in ("policies", "behavior"):
        suites = _of("data.trajectories.offline", "SUITES")
        return [name for name in suites if "TASK" not in name and (field == "policies" or name.startswith("mujoco"))]
    if field == "sql":
        return list(_of("data.sql.pairs", "REGISTERED"))
    return list(_of("data.suite_names", "SUITES")) if field == "merging" else []


def _data() -> list[str]:
    offline = _of("data.trajectories.offline", "offline_names")()
    return [*_of("assets.registry", "ASSETS"), *_of("data.suite_names", "SUITES"), *offline]


def _claims() -> list[str]:
    found = _of("reproduce.reproduce", "all_claims")()
    return [claim.id for claims in found.values() for claim in claims.claims]


def _of(module: str, name: str) -> Any:
    """What a module of this package has under ``name``: imported here, where a word of its kind is asked for."""
    return getattr(importlib.import_module(f"manyone.{module}"), name)


_NAMES: Mapping[str, Callable[[], Sequence[str]]] = {
    "RECIPE": lambda: list(RECIPES),
    "WHAT": lambda: _of("cli.studies", "LISTS"),
    "VERB": lambda: ["ls", "get", "make", "info", "clear"],
    "SHELL": lambda: SHELLS,
    "NAME": _data,
    "CLAIM": _claims,
    "F": lambda: [*dict.fromkeys((*FIELDS, *_of("reproduce.reproduce", "STUDIES")))],
    "BENCHMARK": lambda: list(_of("cli.bench_command", "scripts")()),
}
"""What a parser calls a word (its metavar) -> the words that it may be."""
