"""What a model's answers are worth: executed in the sandbox, compared with gold's results, with intervals.

Execution accuracy (EX) runs on the database itself, test-suite accuracy (TS) on all instances of its schema. Generated
and real pairs are never thrown together: every kind of pair (its ``source``) has scores of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone.data.sql.records import Pair
from manyone.data.sql.sandbox import Limits, Sandbox
from manyone.engine.fabric import broadcast, is_writer
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import wilson_interval
from manyone.sql.answering import answer
from manyone.sql.generation import Decoding
from manyone.sql.language_model import LanguageModel
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.recipes.problem import SQLProblem
from manyone.sql.scoring.evaluate import Databases, evaluate, failing_golds
from manyone.sql.scoring.verdicts import Verdict
from manyone.sql.tokens import padding

EX, TS = "spider-ex", "spider-ts"
Kept = Callable[[Sequence[int], Sequence[str]], list[bool]]
"""Numbers of training pairs and SQL for them -> which are kept."""


class Judge:
    """Scores models on the test pairs of a problem. A context: its workers end with it.

    ``pairs`` are those whose database is there and, once the context is entered, whose gold query runs: no model can
    answer the others. :class:`ManyoneError` where none is left of some.
    """

    def __init__(
        self,
        problem: SQLProblem,
        options: DistilOptions,
        *,
        pairs: Sequence[Pair] | None = None,
        beams: int | None = None,
    ) -> None:
        self.problem, self.options = problem, options
        self.beams = options.beams if beams is None else beams
        known = problem.data.databases
        self.pairs = [p for p in (problem.test if pairs is None else pairs) if known.get(p.db_id)]
        self.sandbox = Sandbox(options.workers, Limits(seconds=options.timeout))

    def __enter__(self) -> Judge:
        self.sandbox.__enter__()
        try:
            # one process asks and scores for all
            failing = broadcast(
                self.failing(self.pairs, "to test on", self.problem.data.databases) if is_writer() else None
            )
        except BaseException:
            self.sandbox.close()
            raise
        self.pairs = [pair for number, pair in enumerate(self.pairs) if number not in failing]
        return self

    def __exit__(self, *problem: Any) -> None:
        self.sandbox.__exit__(*problem)

    def __call__(self, model: LanguageModel, tokenizer: Any) -> dict[str, float]:
        """``pairs``, ``ex`` and ``ts`` with the ends of their 95 % intervals; ``ex/SOURCE`` and so on where pairs have
        several sources."""
        return self.scores(self.answers(model, tokenizer)) if self.pairs else {}

    def answers(self, model: LanguageModel, tokenizer: Any) -> list[str]:
        """SQL for every pair."""
        o = self.options
        how = Decoding(tokenizer.eos_token_id, padding(tokenizer), o.max_output, batch_size=max(32, o.batch_size))
        prompts = self.problem.prompts(tokenizer, self.pairs)
        with Progress("answering", len(prompts), unit="questions") as bar:
            return answer(model, tokenizer, prompts, how, beams=self.beams, executes=self.executes, done=bar.update)

    def executes(self, number: int, sql: str) -> bool:
        """Whether ``sql`` runs on the database of pair ``number``."""
        return bool(self.sandbox.execute(self.files(self.pairs[number])[0], sql).ok)

    def scores(self, answers: Sequence[str]) -> dict[str, float]:
        """``ex`` of answers to all pairs, by source, and ``ts`` of the sources whose databases all have a suite."""
        by_source: dict[str, list[int]] = {}
        for number, pair in enumerate(self.pairs):
            by_source.setdefault(pair.source, []).append(number)
        verdicts = {"ex": self._verdicts(EX, range(len(self.pairs)), answers)}
        suites = [i for own in by_source.values() if all(len(self.files(self.pairs[i])) > 1 for i in own) for i in own]
        if suites:
            verdicts["ts"] = self._verdicts(TS, suites, answers)
        found: dict[str, float] = {}
        for source, own in by_source.items():
            end = f"/{source or 'no source'}" if len(by_source) > 1 else ""
            found[f"pairs{end}"] = float(len(own))
            for name, given in verdicts.items():
                if own[0] in given:
                    share = wilson_interval(sum(given[i].correct for i in own), len(own))
                    found |= {
                        f"{name}{end}": share.value,
                        f"{name}_low{end}": share.low,
                        f"{name}_high{end}": share.high,
                    }
        return found

    def _verdicts(self, preset: str, numbers: Sequence[int], answers: Sequence[str]) -> dict[int, Verdict]:
        scores = evaluate([self.pairs[i] for i in numbers], [answers[i] for i in numbers], self.problem.data.databases,
                          preset, self.sandbox, self_check=False)  # fmt: skip
        return dict(zip(numbers, scores.verdicts, strict=True))

    def failing(self, pairs: Sequence[Pair], what: str, databases: Databases) -> dict[int, str]:
        """Numbers of the pairs whose gold query fails, and why; told on stderr, with the first of them."""
        if not pairs:
            return {}
        with Progress("running the gold queries", len(pairs), unit="queries") as bar:
            found = failing_golds(pairs, databases, self.sandbox, lambda part, done, total: bar.update(done, total))
        if found:
            said = f"the gold queries of {len(found)} of {len(pairs)} pairs {what} fail: {next(iter(found.values()))}"
            if len(found) == len(pairs):
                raise ManyoneError(f"{said}; are these their databases?")
            print(f"{said}{' and others' if len(found) > 1 else ''}: left out", file=sys.stderr)
        return found

    def kept(self, rule: str) -> Kept | None:
        """Judges the teacher's answers to training pairs by ``--teacher-filter``; None where all are kept."""
        if rule == "none":
            return None
        databases = self.problem.data.databases
        if lacking := [pair.db_id for pair in self.problem.train if not databases.get(pair.db_id)]:
            raise ManyoneError(f"--teacher-filter {rule}: executes the answers to training pairs, and there is no "
                               f"database for {lacking[0]!r}: give the folder that has it")  # fmt: skip
        return self._matching if rule == "matches" else self._executing

    def _matching(self, numbers: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """Whether each gives what its gold query gives; nothing matches a gold query that fails."""
        pairs, first = [self.problem.train[i] for i in numbers], self._first()
        failing = self.failing(pairs, "to train on", first)
        good = [place for place in range(len(pairs)) if place not in failing]
        scores = evaluate([pairs[i] for i in good], [texts[i] for i in good], first, EX, self.sandbox, self_check=False)
        right = {place for place, verdict in zip(good, scores.verdicts, strict=True) if verdict.correct}
        return [place in right for place in range(len(pairs))]

    def _executing(self, numbers: Sequence[int], texts: Sequence[str]) -> list[bool]:
        jobs = [(self.files(self.problem.train[i])[0], text) for i, text in zip(numbers, texts, strict=True)]
        return [bool(outcome.ok) for outcome in self.sandbox.map(jobs)]

    def _first(self) -> dict[str, Sequence[Path]]:
        return {name: files[:1] for name, files in self.problem.data.databases.items()}

    def files(self, pair: Pair) -> Sequence[Path]:
        """The SQLite files of a pair's schema."""
        return self.problem.data.databases[pair.db_id]


def rows_of(name: str, metrics: Mapping[str, float]) -> list[tuple[str, ...]]:
    """A row of a table for each kind of pairs in the metrics of :class:`Judge`."""
    rows: list[tuple[str, ...]] = []
    for key in metrics:
        word, slash, source = key.partition("/")
        if word != "ex":
            continue
        own = {k: metrics.get(f"{k}{slash}{source}") for k in ("pairs", "ex", "ex_low", "ex_high", "ts")}
        low, high = own["ex_low"], own["ex_high"]
        ends = "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"
        ts = "–" if own["ts"] is None else f"{100 * own['ts']:.1f}"
        count, ex = own["pairs"] or 0, own["ex"] or 0
        rows.append((f"{name}: {source}" if source else name, f"{count:.0f}", f"{100 * ex:.1f}", ends, ts))
    return rows
