"""argparse with one-line errors that name the wrong word and suggest the nearest right one."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence
from typing import NoReturn

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

COMPLETING = "_ARGCOMPLETE"
"""In the environment where a shell asks what may come next (argcomplete's protocol)."""


class Parser(argparse.ArgumentParser):
    """A verb's parser. ``example`` is shown below its help; ``latest``: of options of one name the last counts."""

    def __init__(self, verb: str, description: str, example: str, add_help: bool = True, latest: bool = False) -> None:
        super().__init__(
            prog=f"manyone {verb}",
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
            conflict_handler="resolve" if latest else "error",
        )

    def parse(self, words: Sequence[str], *, mixed: bool = False) -> argparse.Namespace:
        """The parsed ``words``; an unknown one raises ``ManyoneError``. ``mixed``: an optional word may come after
        options that follow another."""
        if COMPLETING in os.environ:
            importlib.import_module("manyone.cli.completion").finish(self)
        known, unknown = (self.parse_known_intermixed_args if mixed else self.parse_known_args)(list(words))
        if unknown:
            word = unknown[0].split("=")[0]
            if word.startswith("-"):
                hint = suggestion(word, (o for o in self._option_string_actions if o.startswith("--")))
                raise ManyoneError(f"unknown option '{word}'; {hint} ({self.prog} --help)")
            raise ManyoneError(f"'{word}' is one word too many ({self.prog} --help)")
        return known

    def error(self, message: str) -> NoReturn:
        """Raises ``ManyoneError`` where argparse would print the usage and leave."""
        raise ManyoneError(f"{message} ({self.prog} --help)")


def one_of(word: str, what: str, choices: Sequence[str]) -> str:
    """``word`` if it is among ``choices``; otherwise ``ManyoneError`` with the nearest."""
    if word not in choices:
        raise ManyoneError(f"unknown {what} '{word}'; {suggestion(word, choices)}")
    return word


def at_least_one(parsed: argparse.Namespace, *options: str) -> None:
    """``ManyoneError`` for a number below 1 among the ``options``."""
    for option in options:
        value = getattr(parsed, option)
        if value is not None and value < 1:
            raise ManyoneError(f"--{option} {value}: must be at least 1")
