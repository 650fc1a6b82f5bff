"""``manyone VERB ...``: finds the verb, runs it, and turns every outcome into an exit code.

0 done; 2 the user can mend it (one line says how); 130/143 stopped by a signal with the state saved; 1 anything else.
Only the verb that was asked for is imported, so that ``manyone --help`` answers at once.
"""

from __future__ import annotations

import codecs
import importlib
import io
import logging
import os
import sys
import unicodedata
from collections.abc import Sequence

from manyone import __version__
from manyone.cli.parser import COMPLETING
from manyone.engine.files import write_problem
from manyone.engine.signals import saying_how_to_go_on
from manyone.engine.words import suggestion
from manyone.errors import InterruptedRun, ManyoneError

VERBS = {
    "ls": ("studies:ls", "what there is: recipes, data, models, claims"),
    "run": ("runs:run", "train, merge or distil; makes one run folder"),
    "resume": ("runs:resume", "go on after an interruption, with the same numbers"),
    "eval": ("runs:evaluate", "evaluate a finished or half-finished run"),
    "predict": ("predict_command:predict", "score the rows of a file with a trained model"),
    "report": ("studies:report", "one self-contained HTML page from one or more runs"),
    "reproduce": ("studies:reproduce", "test the papers' claims and print the verdicts"),
    "data": ("studies:data", "list, fetch, make, describe or remove data"),
    "bench": ("studies:bench", "measure speed, side by side with peers"),
    "push": ("push_command:push", "upload a run's model and its card to the Hugging Face hub"),
    "completion": ("completion:completion", "make a shell complete words at the tab key"),
}
"""Verb -> where it is (module in this package : function) and what it does."""

_HELP = """usage: manyone VERB [...]

Many experts, tasks, agents, clients or sensors become one model.

verbs:
{verbs}

options:
  -h, --help   this text; `manyone VERB --help` explains a verb, `manyone run RECIPE --help` a recipe's options
  --version    the version
  --debug      show the traceback of an error

examples:
  manyone ls recipes
  manyone run RECIPE --out runs/first
  manyone resume runs/first
  manyone report runs/first
  manyone reproduce --scale smoke
"""


def main() -> None:
    """The command line's entry point: runs ``sys.argv`` and exits."""
    if COMPLETING in os.environ:
        importlib.import_module("manyone.cli.completion").answer(VERBS)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; errors are printed on stderr, one line each."""
    _write_anywhere()
    _show_warnings()
    words = [word for word in arguments if word != "--debug"]
    debug = len(words) < len(arguments)
    try:
        with saying_how_to_go_on(lambda: None):
            return _dispatch(words)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except BrokenPipeError:
        # the reader of a pipe has left; nothing more can be printed, not even by the interpreter's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail("interrupted", 130)
    except ManyoneError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code if isinstance(error, InterruptedRun) else 2)
    except Exception as error:
        if debug:
            raise
        advice = write_problem(error)
        if isinstance(error, OSError) and advice is not None:
            return _fail(f"{error.filename or 'the disk'}: {advice}", 2)
        return _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP.format(verbs="\n".join(f"  {name:<12}{text}" for name, (_, text) in VERBS.items())), end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"manyone {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "verb"
        choices = ["--help", "--version", "--debug"] if kind == "option" else list(VERBS)
        raise ManyoneError(f"unknown {kind} '{verb}'; {suggestion(verb, choices)} (manyone --help)")
    module, _, function = VERBS[verb][0].partition(":")
    return getattr(importlib.import_module(f"manyone.cli.{module}"), function)(rest)


def _fail(message: str, code: int) -> int:
    print("manyone: " + " ".join(message.split()), file=sys.stderr)
    return code


_PLAIN = str.maketrans({
    "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": "*", "±": "+-", "‖": "||", "→": "->", "≤": "<=",
    "≥": ">=", "“": '"', "”": '"', "‘": "'", "’": "'", "δ": "delta", "λ": "lambda",
})  # fmt: skip


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows of characters that it does not know: their nearest spelling in ASCII, else ``?``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    near = (unicodedata.normalize("NFKD", c.translate(_PLAIN)).encode("ascii", "ignore").decode() or "?" for c in text)
    return "".join(near), error.end


def _write_anywhere() -> None:
    """No text that a verb prints fails on a terminal or pipe of another encoding than UTF-8."""
    codecs.register_error("manyone-plainly", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="manyone-plainly")


class _WarningLines(logging.Handler):
    """The package's warnings as lines on whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"manyone: {record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def _show_warnings() -> None:
    logger = logging.getLogger("manyone")
    if not any(isinstance(handler, _WarningLines) for handler in logger.handlers):
        logger.addHandler(_WarningLines())
