"""Packages that only some features need: looked for before work begins, imported when they are used, and named with the
command that installs them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from manyone.errors import ManyoneError


class Extra(NamedTuple):
    """``what`` needs the optional ``module``; ``install`` brings it: an extra of this project ("policies") or a
    command."""

    module: str
    what: str
    install: str
    instead: str = ""
    """What does without, for the end of the message."""

    @property
    def missing(self) -> bool:
        """Whether the module is not there. It is looked for, not imported."""
        try:
            return importlib.util.find_spec(self.module) is None
        except (ImportError, ValueError):  # a parent is missing, or the module hides itself
            return True

    @property
    def command(self) -> str:
        """What to type to get it."""
        return self.install if " " in self.install else f"pip install 'manyone[{self.install}]'"

    def __str__(self) -> str:
        """In words: "this data needs h5py: pip install 'manyone[policies]'"."""
        return f"{self.what} needs {self.module}: {self.command}" + (f"; {self.instead}" if self.instead else "")


def need(module: str, what: str, install: str) -> Any:
    """The optional ``module``, without what it prints when it is imported.

    Where it, or what it needs itself, is missing, ``ManyoneError`` says that ``what`` needs it and how to ``install``
    it: the name of an extra of this project ("policies") or a command.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as problem:
        raise ManyoneError(str(Extra(problem.name or module, what, install))) from None


def check_extras(extras: Iterable[Extra]) -> None:
    """Raises ``ManyoneError`` for the first of ``extras`` that is not there, with all that its command brings."""
    lacking = [one for one in extras if one.missing]
    if lacking:
        together = dict.fromkeys(one.module for one in lacking if one.command == lacking[0].command)
        raise ManyoneError(str(lacking[0]._replace(module=", ".join(together))))
