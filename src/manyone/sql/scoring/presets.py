"""The official scores by name, and where the score here deliberately is not the official program's.

spider-ex   execution accuracy on the database itself (Zhong et al., EMNLP 2020, as the official script has it)
spider-ts   the same on every database of a test suite: right only where all agree
spider-em   exact match of the clauses (Yu et al., EMNLP 2018)
bird-ex     execution accuracy of BIRD (Li et al., NeurIPS 2023)
bird-ves    its valid efficiency score
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from manyone.errors import ManyoneError

PresetName = Literal["spider-ex", "spider-ts", "spider-em", "bird-ex", "bird-ves"]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True)
class Preset:
    """How a prediction is judged. ``seconds``: what a statement may take; ``score``: its name for people."""

    name: PresetName
    score: str
    seconds: float

    @property
    def family(self) -> str:
        """ "spider" or "bird"."""
        return self.name.partition("-")[0]

    @property
    def executes(self) -> bool:
        """Whether statements are run."""
        return self.name != "spider-em"


PRESETS: dict[str, Preset] = {
    "spider-ex": Preset("spider-ex", "execution accuracy", 60.0),
    "spider-ts": Preset("spider-ts", "test-suite accuracy", 60.0),
    "spider-em": Preset("spider-em", "exact match", 60.0),
    "bird-ex": Preset("bird-ex", "execution accuracy", 30.0),
    "bird-ves": Preset("bird-ves", "valid efficiency score", 30.0),
}

_SPIDER_RUNS = ("spider-ex", "spider-ts")
_BIRD = ("bird-ex", "bird-ves")
_RUNS = (*_SPIDER_RUNS, *_BIRD)


@dataclass(frozen=True)
class Deviation:
    """One rule that differs: what the official program does, what is done here, and why.

    ``optional``: the official way can be asked for by the ``id``, since it harms nobody.
    """

    id: str
    presets: tuple[str, ...]
    official: str
    here: str
    why: str
    optional: bool = False


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "read-only", _RUNS,
        "databases are opened for writing, so a predicted DROP TABLE destroys them",
        "statements only read; any other is wrong",
        "safety: all later verdicts on that database would be wrong",
    ),
    Deviation(
        "time-limit", _SPIDER_RUNS,
        "the limit of 60 s is set, but never interrupts a running statement",
        "a statement is stopped after 60 s and is wrong",
        "safety: one prediction can hold up the evaluation for ever",
    ),
    Deviation(
        "functions", _RUNS,
        "every function of SQLite may be called",
        "printf, format, zeroblob, randomblob, load_extension and others that reach files or make huge values are "
        "refused; limits on depth and length hold",
        "safety",
    ),
    Deviation(
        "result-size", _RUNS,
        "results of any size are fetched",
        "a prediction with more rows or bytes than the sandbox's limits is wrong",
        "safety: a cross join fills the memory",
    ),
    Deviation(
        "one-statement", _SPIDER_RUNS,
        "taking DISTINCT out keeps the first statement alone, so GOLD; ANYTHING is right",
        "a prediction of several statements is wrong",
        "an error of the script",
        optional=True,
    ),
    Deviation(
        "value-word", ("spider-ex", "spider-ts", "spider-em"),
        "every 'value' in a prediction becomes '1', so columns called *value* are never right",
        "predictions stay as they are",
        "made for models that leave out values; an error for all others",
        optional=True,
    ),
    Deviation(
        "empty-prediction", _SPIDER_RUNS,
        "an empty prediction stops the evaluation",
        "it is wrong",
        "an error of the script",
    ),
    Deviation(
        "mixed-numbers", _SPIDER_RUNS,
        "before columns are matched, rows are compared with their values sorted as texts, so that (2, 2.5) and "
        "(2.0, 2.5) differ though 2 == 2.0",
        "values are compared as numbers throughout",
        "an error of the script",
    ),
    Deviation(
        "column-search", _SPIDER_RUNS,
        "all orders of the columns are tried, n to the power n for n columns",
        "columns are matched by their values, with a limit; a pair that stays undecided is wrong and is counted",
        "safety: a dozen equal columns never end",
    ),
    Deviation(
        "failing-gold", _SPIDER_RUNS,
        "a gold query that fails stops the evaluation where it stands",
        "gold queries run first, and those that fail are named before anything is scored",
        "the same, earlier",
    ),
    Deviation(
        "plug-value", _SPIDER_RUNS,
        "with its option plug_value all ways to put the gold query's values into a prediction are tried",
        "not there",
        "it takes values to the power of places, and hangs",
    ),
    Deviation(
        "sessions", ("spider-ex", "spider-ts", "spider-em"),
        "an empty line in a file of predictions begins another dialogue",
        "it is an empty prediction",
        "dialogues are not scored here",
    ),
    Deviation(
        "tabs", ("spider-ex", "spider-ts", "spider-em"),
        "a line of predictions is cut at its first tab",
        "a tab is white space, unless the name of a database stands behind the last one of a line",
        "a WHERE behind a tab would be lost without a word",
    ),
    Deviation(
        "white-space", ("spider-em",),
        "words are split as English is: a=5, back-ticks and quotes inside of texts cannot be read",
        "words are split as SQL is, so white space carries no meaning",
        "an error of the script",
    ),
    Deviation(
        "alias-scope", ("spider-em",),
        "an alias means the same all over a query: the last table that is called so",
        "it means what it does in the query that it stands in",
        "an error of the script",
        optional=True,
    ),
    Deviation(
        "derived-tables", ("spider-em",),
        "two queries behind one FROM stop the evaluation",
        "they are compared as a bag",
        "an error of the script",
    ),
    Deviation(
        "unread-gold", ("spider-ex", "spider-ts", "spider-em"),
        "a gold query outside of Spider's part of SQL stops the evaluation",
        "its level is 'unread'; in exact match it is wrong for every prediction",
        "other people's data have such queries",
    ),
    Deviation(
        "gold-error", _BIRD,
        "the first script takes an error or a timeout of both for the same result; the later one counts it as wrong",
        "wrong, and named",
        "a gold query without a result says nothing",
    ),
    Deviation(
        "time-each", _BIRD,
        "the first script gives each statement 30 s, the later one both together",
        "30 s each",
        "then a verdict depends on the prediction alone",
    ),
    Deviation(
        "bytes", _BIRD,
        "text that is no UTF-8 is an error of the query",
        "the bad bytes are left out, as in Spider's script",
        "one sandbox for all; it concerns gold and prediction alike",
    ),
    Deviation(
        "guarded-times", ("bird-ves",),
        "times are taken on fresh connections of the evaluating process",
        "on fresh connections of the sandbox, which is guarded; equal times of all runs are kept",
        "safety; ratios of two guarded times",
    ),
)  # fmt: skip


def deviations(preset: str, official: Collection[str] = ()) -> list[Deviation]:
    """The deviations that hold for ``preset``, without those that are undone (``official``)."""
    return [d for d in DEVIATIONS if preset in d.presets and d.id not in official]


def check_official(official: Collection[str]) -> frozenset[str]:
    """``official`` as a set. Raises ``ManyoneError`` where an id is unknown or cannot be undone."""
    known = [d.id for d in DEVIATIONS if d.optional]
    for name in official:
        if name not in known:
            raise ManyoneError(f"official={name}: must be among {', '.join(known)}: only these are harmless")
    return frozenset(official)
