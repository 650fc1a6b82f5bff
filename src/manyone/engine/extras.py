"""Packages that only some features need: imported when they are used, named with the command that installs them."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

from manyone.errors import ManyoneError


def need(module: str, what: str, install: str) -> Any:
    """The optional ``module``, without what it prints when it is imported.

    Where it, or what it needs itself, is missing, ``ManyoneError`` says that ``what`` needs it and how to ``install``
    it: the name of an extra of this project ("policies") or a command.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as problem:
        command = install if " " in install else f"pip install 'manyone[{install}]'"
        raise ManyoneError(f"{what} needs {problem.name or module}: {command}") from None
