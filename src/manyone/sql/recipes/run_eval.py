"""How ``sql-eval`` runs: gold queries, predictions and databases in, scores and a page out.

The run folder gets ``scores.json`` (the scores, the check of the gold queries, the databases' fingerprints, the rules
that differ), ``verdicts.jsonl`` (a line for each prediction) and ``report.html``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyone.claims.figure import read_json, save_figures
from manyone.data.sql.sandbox import Limits, Sandbox
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs, digest
from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table
from manyone.report.html import run_report
from manyone.sql.recipes.eval_figures import figures_of
from manyone.sql.recipes.options_eval import EvalOptions
from manyone.sql.scoring.evaluate import evaluate as score
from manyone.sql.scoring.files import find_databases, find_schemas, read_gold, read_predictions
from manyone.sql.scoring.presets import PRESETS, check_official, deviations
from manyone.sql.scoring.verdicts import Scores

SCORES, VERDICTS = "scores.json", "verdicts.jsonl"


def run(options: EvalOptions, build: None, folder: RunFolder) -> None:
    """Reads, scores, prints and writes."""
    official = check_official(options.official)
    gold = read_gold(Path(options.gold))
    predictions = read_predictions(Path(options.pred), gold.pairs)
    databases = find_databases(Path(options.db)) if options.db else {}
    names = list(dict.fromkeys(pair.db_id for pair in gold.pairs))
    if missing := [name for name in names if options.db and name not in databases]:
        raise ManyoneError(f"--db {options.db}: no database {missing[0]!r}, which {options.gold} asks about"
                           f"{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}")  # fmt: skip
    spiders = options.preset.startswith("spider")
    schemas = find_schemas(names, databases, Path(options.tables) if options.tables else None) if spiders else None
    preset = PRESETS[options.preset]
    limits = Limits(seconds=options.time_limit or preset.seconds, memory=options.memory << 20, rows=options.rows)
    with Sandbox(options.workers, limits) as sandbox, Progress("scoring", len(predictions), unit="queries") as bar:
        scores = score(
            gold.pairs,
            predictions,
            databases,
            options.preset,
            sandbox,
            schemas=schemas,
            difficulties=None if spiders else gold.difficulties,
            keep_distinct=options.keep_distinct,
            official=official,
            repeats=options.repeats,
            self_check=options.self_check,
            told=lambda part, done, total: bar.update(done, total, name=part),
        )
    _write(scores, options, gold.pairs, predictions, folder)
    _print(scores, options, folder)


def evaluate(options: EvalOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """The scores that the run has found; there are no splits."""
    if split != "test":
        raise ManyoneError(f"--split {split}: {folder.recipe} has no splits: leave it out")
    path = folder.path / SCORES
    if not path.is_file():
        raise ManyoneError(f"{folder.path}: not finished, nothing to show yet: manyone resume {folder.path}")
    found = read_json(path, "the scores")
    shown = {"score": found["value"], "low": found["low"], "high": found["high"], "n": found["n"]}
    shown |= {f"score/{level}": row["value"] for level, row in found["levels"].items()}
    return {name: value for name, value in shown.items() if value is not None}


def _write(scores: Scores, options: EvalOptions, pairs: Any, predictions: list[str], folder: RunFolder) -> None:
    texts = [f"{pair.db_id}\t{pair.sql}" for pair in pairs]
    check_inputs(folder, {"--gold": digest(*texts), "--pred": digest(*predictions)})
    folder.ensure()
    about = {"limits": {"seconds": options.time_limit or scores.preset.seconds, "memory_mib": options.memory,
                        "rows": options.rows}, "keep_distinct": options.keep_distinct}  # fmt: skip
    write_atomic(folder.path / SCORES, _json({**scores.to_json(), **about}, indent=1))
    write_atomic(folder.path / VERDICTS, b"".join(_json(verdict.to_json()) for verdict in scores.verdicts))
    save_figures(folder.path / "figures.json", figures_of(scores))
    folder.log(0, "final", scores.metrics())
    folder.close()
    run_report([folder.path], folder.path / "report.html")


def _json(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(value, ensure_ascii=True, allow_nan=False, indent=indent) + "\n").encode()


def _print(scores: Scores, options: EvalOptions, folder: RunFolder) -> None:
    preset, check = scores.preset, scores.gold_check
    rows = [(level, str(i.n), percent(i.value), f"{percent(i.low)} to {percent(i.high)}")
            for level, i in scores.levels.items()]  # fmt: skip
    i = scores.interval
    ends = "–" if math.isnan(i.low) else f"{percent(i.low)} to {percent(i.high)}"
    print_table((preset.name, "queries", f"{preset.score} %", "95 % interval"), rows,
                ("all", str(i.n), percent(i.value), ends))  # fmt: skip
    for level, table in scores.clauses.items():
        if level == "all":
            print_table(("clause", "precision %", "recall %", "F1 %"),
                        [(name, *(percent(x) for x in three)) for name, three in table.items()])  # fmt: skip
    if wrong := scores.reasons():
        print("wrong: " + ", ".join(f"{count} {reason}" for reason, count in wrong.items()))
    if check is not None:
        print(f"gold as predictions: {check.correct} of {check.count} right")
        for line in check.failed[:3]:
            print(f"  gold query {line}")
    print(f"rules that differ from the official program: {', '.join(scores.deviations) or 'none'}")
    print(f"scores: {folder.path / SCORES}")


def plan(options: EvalOptions, build: None, folder: RunFolder) -> list[str]:
    """The rules and their limits; nothing is read."""
    check_official(options.official)
    preset = PRESETS[options.preset]
    seconds = options.time_limit or preset.seconds
    return [
        f"{preset.name}: {preset.score} of {options.pred} against {options.gold}",
        f"databases: {options.db or 'not needed'}; {seconds:g} s and {options.memory} MiB a statement, read only",
        f"rules that differ: {', '.join(d.id for d in deviations(preset.name, options.official))}",
    ]
