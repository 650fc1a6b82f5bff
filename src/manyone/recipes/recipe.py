"""What a row of a field's table of recipes holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Recipe(NamedTuple):
    """A recipe by its parts, which are imported when they are asked for (:mod:`manyone.recipes.table`).

    Modules are named within the field's ``recipes`` package.
    """

    options: str
    """``"module:Class"``, the options as data."""
    build: str
    """``"module:function"``: makes what the options describe; empty where the runner needs no builder."""
    summary: str
    """One line for ``manyone ls``."""
    runner: str = "run"
    """Module with ``run(options, build, folder)``, ``plan`` of the same and ``evaluate(options, build, folder, split)``
    (:class:`manyone.recipes.table.Runner`)."""
    field: str = ""
    """Set by the joined table."""


class Predict(NamedTuple):
    """How ``manyone predict`` asks the models of a field: two modules within its ``recipes`` package."""

    arguments: str
    """Whose models these are and which words the command takes for them (:class:`manyone.recipes.table.Arguments`);
    imports nothing heavy."""
    module: str
    """Answers (:class:`manyone.recipes.table.Predictor`)."""


class Paper(NamedTuple):
    """What a recipe comes from, by the title of its newest version."""

    title: str
    place: str
    """The number at arXiv, or a DOI."""

    @property
    def link(self) -> str:
        """Where it is read."""
        return f"https://doi.org/{self.place}" if "/" in self.place else f"https://arxiv.org/abs/{self.place}"

    @property
    def cited(self) -> str:
        """As text: arXiv 2212.04089."""
        return f"{'doi' if '/' in self.place else 'arXiv'} {self.place}"


class Label(NamedTuple):
    """A metric for people."""

    text: str
    unit: str = ""
    """What stands behind its values; "%" where they are fractions, shown times 100, "count" for whole numbers."""
    better: Literal["more", "less", ""] = "more"
    """Which of two values is the better one; nothing where neither is."""


class About(NamedTuple):
    """What the tables and pages of a field's runs say beside numbers: the ``ABOUT`` of its ``recipes.about``, which
    imports nothing heavy."""

    papers: Mapping[str, Paper] = {}
    """By recipe."""
    labels: Mapping[str, Label] = {}
    """By metric; ``accuracy/*`` stands for all that begin so, and a * in its text for the rest of the name."""
    drawn: tuple[str, ...] = ()
    """Metrics (patterns as above) whose curves are among the figures that a run draws itself."""

    def label(self, metric: str) -> Label:
        """What ``metric`` is called; one that nothing is said of goes by its own name."""
        for pattern, found in self.labels.items():
            front, star, end = pattern.partition("*")
            if star and metric.startswith(front) and metric.endswith(end) and len(metric) > len(front + end):
                rest = metric[len(front) : len(metric) - len(end)]
                return found._replace(text=found.text.replace("*", rest))
            if pattern == metric:
                return found
        group, slash, name = metric.replace("_", " ").rpartition("/")
        return Label(f"{name}, {group.replace('/', ', ')}" if slash else name)

    def draws(self, metric: str) -> bool:
        """Whether the run's own figures show the curve of ``metric``."""
        return any(metric == one or (one.endswith("*") and metric.startswith(one[:-1])) for one in self.drawn)
