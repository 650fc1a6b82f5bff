"""What an evaluation says: a verdict for every prediction, and the scores that come of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from manyone.evaluation.intervals import Interval, bootstrap_interval, wilson_interval
from manyone.sql.scoring.hardness import LEVELS
from manyone.sql.scoring.matching import CLAUSES, Match
from manyone.sql.scoring.presets import Preset

UNREAD = "unread"
"""The level of gold queries outside of Spider's part of SQL."""
DIFFICULTIES = ("simple", "moderate", "challenging")
"""BIRD's, in its order."""


@dataclass(frozen=True)
class Verdict:
    """One prediction. ``reason``: why it is wrong, or empty. ``value``: what it adds to the score, 1 or 0, or in VES
    the root of the ratio of times. ``level``: of the gold query, by Spider's rules or BIRD's own."""

    number: int
    db_id: str
    question: str
    gold: str
    predicted: str
    correct: bool
    reason: str = ""
    value: float = 0.0
    level: str = ""
    seconds: float = 0.0
    match: Match | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As one JSON object; of exact match the clauses that differ."""
        found = {k: v for k, v in asdict(self).items() if k != "match"}
        if self.match is not None:
            found["differs"] = [name for name, score in self.match.clauses.items() if not score.match]
        return found


@dataclass(frozen=True)
class GoldCheck:
    """Whether the gold queries score full marks as predictions: if not, no model can."""

    count: int
    correct: int
    failed: tuple[str, ...] = ()
    """Those that do not, in words."""


@dataclass(frozen=True)
class Scores:
    """Everything that a report prints.

    ``interval``: the score with its 95 % interval (Wilson's; for VES over bootstrap samples); ``levels``: level -> the
    same; ``clauses``: level -> clause -> (precision, recall, F1), for exact match; ``fingerprints``: database ->
    SHA-256 of its files; ``deviations``: ids of the rules that differ from the official program.
    """

    preset: Preset
    verdicts: tuple[Verdict, ...]
    interval: Interval
    levels: Mapping[str, Interval]
    clauses: Mapping[str, Mapping[str, tuple[float, float, float]]]
    gold_check: GoldCheck | None
    fingerprints: Mapping[str, tuple[str, ...]]
    deviations: tuple[str, ...]

    @property
    def score(self) -> float:
        """The score, from 0 to 1 (VES may pass 1)."""
        return self.interval.value

    def reasons(self) -> dict[str, int]:
        """Why predictions are wrong -> how many are, most frequent first."""
        found: dict[str, int] = {}
        for verdict in self.verdicts:
            if not verdict.correct:
                word = verdict.reason.partition(":")[0]
                found[word] = found.get(word, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def metrics(self) -> dict[str, float]:
        """Flat figures: ``score`` with its ends, ``n``, and ``score/LEVEL``."""
        found = {"score": self.score, "low": self.interval.low, "high": self.interval.high,
                 "n": float(self.interval.n)}  # fmt: skip
        found |= {f"score/{level}": interval.value for level, interval in self.levels.items()}
        if self.gold_check is not None:
            found["gold"] = self.gold_check.correct / self.gold_check.count
        return found

    def to_json(self) -> dict[str, Any]:
        """All but the verdicts, as JSON data."""
        return {
            "preset": self.preset.name,
            "score": self.preset.score,
            **_interval(self.interval),
            "levels": {level: _interval(interval) for level, interval in self.levels.items()},
            "clauses": {
                level: {clause: dict(zip(("precision", "recall", "f1"), three)) for clause, three in table.items()}
                for level, table in self.clauses.items()
            },
            "wrong": self.reasons(),
            "gold_check": None if self.gold_check is None else asdict(self.gold_check),
            "deviations": list(self.deviations),
            "databases": {name: list(digests) for name, digests in self.fingerprints.items()},
        }


def scores_of(
    preset: Preset,
    verdicts: Sequence[Verdict],
    gold_check: GoldCheck | None,
    fingerprints: Mapping[str, tuple[str, ...]],
    deviations: Sequence[str],
) -> Scores:
    """Scores over all verdicts and over those of each level."""
    interval = _mean if preset.name == "bird-ves" else _share
    levels = _levels(verdicts)
    clauses: dict[str, dict[str, tuple[float, float, float]]] = {}
    if any(v.match is not None for v in verdicts):
        clauses = {level: clause_table(found) for level, found in {**levels, "all": list(verdicts)}.items()}
    return Scores(preset, tuple(verdicts), interval(verdicts), {k: interval(v) for k, v in levels.items()}, clauses,
                  gold_check, dict(fingerprints), tuple(deviations))  # fmt: skip


def clause_table(verdicts: Sequence[Verdict]) -> dict[str, tuple[float, float, float]]:
    """Clause -> precision, recall and F1, as Spider's script averages them.

    Precision is over the predictions that have the clause, recall over the golds that have it. Where both are 0, F1
    is 1: the script says so, also where a clause that is there was never right.
    """
    found = {}
    for clause in CLAUSES:
        scores = [v.match.clauses[clause] for v in verdicts if v.match is not None]
        predicted = [s.match for s in scores if s.predicted]
        gold = [s.match for s in scores if s.gold]
        precision = sum(predicted) / len(predicted) if predicted else 0.0
        recall = sum(gold) / len(gold) if gold else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision or recall else 1.0
        found[clause] = precision, recall, f1
    return found


def _levels(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts of each level, easiest first."""
    known = [*LEVELS, *DIFFICULTIES]
    names = sorted({v.level for v in verdicts if v.level}, key=lambda n: (known.index(n) if n in known else 99, n))
    return {name: [v for v in verdicts if v.level == name] for name in names}


def _share(verdicts: Sequence[Verdict]) -> Interval:
    return wilson_interval(sum(v.correct for v in verdicts), len(verdicts))


def _mean(verdicts: Sequence[Verdict]) -> Interval:
    return bootstrap_interval([v.value for v in verdicts])


def _interval(interval: Interval) -> dict[str, float | int | None]:
    ends = {"low": interval.low, "high": interval.high}
    return {"value": interval.value, **{k: None if math.isnan(v) else v for k, v in ends.items()}, "n": interval.n}
