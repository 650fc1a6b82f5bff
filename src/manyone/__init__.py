"""manyone: many experts, tasks, agents, clients or sensors become one model that a person can deploy.

The fields are attributes, ``manyone.merging`` and so on; they are imported when they are used.
"""

import os as _os
import sys as _sys

# `python -m manyone` puts the current folder in front of all others; before anything else is imported it has to go, or
# a file there runs in place of a library's. Where the package itself lies in it, it comes last.
if _sys.argv[:1] == ["-m"] and not _sys.flags.safe_path:
    _module = _sys.orig_argv[len(_sys.orig_argv) - len(_sys.argv)].removeprefix("-m")
    if _module.partition(".")[0] == __name__:
        _here = _sys.path.pop(0)
        if __path__[0] == f"{_here}{_os.sep}{__name__}":
            _sys.path.append(_here)

import lazy_loader as _lazy

from manyone.fields import FIELDS

__version__ = "0.1.0"
__getattr__, _, __all__ = _lazy.attach(__name__, FIELDS)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
