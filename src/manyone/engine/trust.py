"""A run folder that somebody else made does not choose what is imported.

Options may name a module that is imported: ``pettingzoo:MODULE`` and ``gym:MODULE:ID``. Who runs such a command chooses
it. Who opens a run again has its ``config.yaml`` choose, so that has to be a file that was written here: the SHA-256 of
it is noted in the cache, in a file that only its user may touch. Everything else asks for trust first.
Public: ``named_modules``, ``remember``, ``check_trusted``, ``check_config``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manyone.assets.cache import cache_folder
from manyone.engine.files import links_out
from manyone.engine.modules import is_installed
from manyone.errors import ManyoneError

_NAMED = re.compile(r"pettingzoo:([\w.]+)|gym:([\w.]+):")
_LIBRARIES = ("pettingzoo", "mpe2")


def named_modules(options: Any) -> list[str]:
    """The modules that plain values (strings, nested in lists and mappings) name, without PettingZoo's own."""
    found = {first or second for text in _strings(options) for first, second in _NAMED.findall(text)}
    return sorted(module for module in found if module.partition(".")[0] not in _LIBRARIES)


def remember(content: bytes) -> None:
    """Notes that a file with this ``content``, which describes a run, was written here by this user."""
    os.close(os.open(_mark(content), os.O_WRONLY | os.O_CREAT, 0o600))


def check_trusted(file: Path, options: Any, *, trust: bool) -> None:
    """``ManyoneError`` where the run that ``file`` describes may not choose the modules that its ``options`` name.

    Nor may its folder hold links that lead out of it, through which the run would read and write elsewhere. ``trust``
    allows both, the modules now and later. A module that lies in the folder of ``file`` is never the one.
    """
    if not trust and (link := next(links_out(file.parent), None)):
        raise ManyoneError(f"{link}: a link out of the run folder, which would be written through: remove it, or add "
                           "--trust (in Python trust=True) where you made it")  # fmt: skip
    modules = named_modules(options)
    if not modules:
        return
    absent = [module for module in modules if not is_installed(module)]
    if absent and Path.cwd().resolve().is_relative_to(file.parent.resolve()):
        raise ManyoneError(f"{file}: names the module {absent[0]}, which is never taken from a run's own folder: start "
                           "this in the folder that holds it")  # fmt: skip
    content = file.read_bytes()
    if trust:
        remember(content)
    elif not _is_own(_mark(content)):
        raise ManyoneError(
            f"{file}: imports {', '.join(modules)}, and there is no record that you made this run here: read that "
            "code, then add --trust (in Python trust=True)"
        )


def check_config(file: Path, options: Any) -> None:
    """``ManyoneError`` where the ``options`` that a command takes from ``file`` name modules, and the file is no
    ``config.yaml`` of a run that was made here."""
    if (modules := named_modules(options)) and not _is_own(_mark(file.read_bytes())):
        raise ManyoneError(
            f"--config {file}: imports {', '.join(modules)}, and there is no record that you made this run here: read "
            "that code, then give the option that names it in the command itself"
        )


def _mark(content: bytes) -> Path:
    return cache_folder("own-runs") / hashlib.sha256(content).hexdigest()


def _is_own(mark: Path) -> bool:
    return mark.is_file() and (os.name != "posix" or mark.stat().st_uid == os.getuid())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _strings(pair)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
