"""Where the Python processes that we start look for modules: not in the current folder, where anybody's file may lie.

``python -m`` and ``python -c`` (with which multiprocessing starts its processes) look there first of all, so that a
file ``selectors.py`` beside the user would run in place of the library's. A module that the user names, as in
``--env pettingzoo:MODULE``, may lie in the current folder; it is searched last, so that its files stand in for nothing.
Public: ``python``, ``isolated``, ``import_named``, ``is_installed``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_VARIABLE, _OURS = "PYTHONSAFEPATH", "manyone"  # Python looks only whether the variable is empty
_STARTING = threading.RLock()

if os.environ.get(_VARIABLE) == _OURS:  # a process that was started below: it needs it no longer, nor do its children
    del os.environ[_VARIABLE]


def python(*words: str) -> list[str]:
    """The command that runs this Python with ``words``, without the current folder on its path."""
    return [sys.executable, "-P", *words]


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """The processes of multiprocessing, its servers included, that start inside look in no current folder."""
    with _STARTING:
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = before or _OURS
        try:
            yield
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before


def import_named(module: str) -> ModuleType:
    """The ``module`` that the user named: an installed one, else one in the current folder. Raises ``ImportError``."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ModuleNotFoundError(f"{module!r} is no module's name", name=module)
    here = str(Path.cwd())
    if here not in sys.path and not is_installed(module):
        sys.path.append(here)  # it stays: the module may import its neighbours later on
        importlib.invalidate_caches()
    return importlib.import_module(module)


def is_installed(module: str) -> bool:
    """Whether ``module``, or the package that holds it, is found without the current folder, without importing it."""
    top = module.partition(".")[0]
    return top in sys.modules or importlib.util.find_spec(top) is not None
