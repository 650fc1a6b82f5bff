"""The options of ``sql-eval``, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check


@dataclass(kw_only=True)
class EvalOptions(CommonOptions):
    """Scores of anybody's predictions by the rules of Spider or BIRD; no model is run."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--gold gold.txt --pred pred.txt --db database",
        "--gold dev.json --pred pred.txt --db database --preset spider-ts",
    )

    gold: Annotated[str, Places()] = ""
    """Gold queries: Spider's gold.txt (SQL, a tab, the database), dev.json of Spider or BIRD, BIRD's dev_gold.sql, or
    JSON lines with db_id and query."""
    pred: Annotated[str, Places()] = ""
    """Predictions in the order of the gold queries: a line each, a list in JSON, JSON lines, or BIRD's
    predict_dev.json."""
    db: Annotated[str, Places()] = ""
    """Folder of the databases: DB/DB.sqlite of each; its other .sqlite files are its test suite."""
    tables: Annotated[str, Places()] = ""
    """Spider's tables.json, whose foreign keys exact match knows; default: the schemas of the databases themselves."""
    preset: Literal["spider-ex", "spider-ts", "spider-em", "bird-ex", "bird-ves"] = "spider-ex"
    """The rules: execution accuracy of Spider, on the database (spider-ex) or a test suite (spider-ts), exact match
    (spider-em), and BIRD's execution accuracy (bird-ex) or valid efficiency (bird-ves)."""
    keep_distinct: bool = False
    """Leave DISTINCT in the queries of spider-ex and spider-ts, which take it out otherwise."""
    official: tuple[Literal["one-statement", "value-word", "alias-scope"], ...] = ()
    """Departures from the official programs that are undone (docs/sql-evaluation.md says what each is)."""
    time_limit: Annotated[float | None, Range(0, closed="neither")] = None
    """Seconds that a statement may take; default: 60 for Spider, 30 for BIRD."""
    memory: Annotated[int, Range(16)] = 512
    """MiB that a statement may take."""
    rows: Annotated[int, Range(1)] = 200_000
    """Rows that a result may have; a prediction with more is wrong."""
    repeats: Annotated[int, Range(1, 10_000), With("preset=bird-ves")] = 100
    """Runs of a statement that bird-ves times."""
    self_check: bool = True
    """Run the gold queries as predictions first: each must run, and give the same each time."""
    workers: Annotated[int | None, Range(1)] = None
    """Processes that run statements; default: one a processor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("precision", self.precision, self.precision == "32-true", "32-true: there are no floats to choose")
        check("device", self.device, self.device in ("auto", "cpu"), "auto or cpu: statements run on processors")
        for name, what in (("gold", "the gold queries"), ("pred", "the predictions")):
            if not getattr(self, name):
                raise ManyoneError(f"give --{name} FILE with {what}")
        if not self.db and (self.preset != "spider-em" or not self.tables):
            advice = ", or --tables FILE for spider-em" if self.preset == "spider-em" else ""
            raise ManyoneError(f"give --db FOLDER with the databases{advice}")
