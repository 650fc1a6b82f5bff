"""What a model's answers are worth: executed in the sandbox, compared with gold's results, with intervals.

Execution accuracy (EX) runs on the database itself, test-suite accuracy (TS) on all instances of its schema. Generated
and real pairs are never thrown together: every kind of pair (its ``source``) has scores of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyone.data.sql.records import Pair
from manyone.data.sql.sandbox import Limits, Sandbox
from manyone.sql.answering import answer
from manyone.sql.generation import Decoding
from manyone.sql.language_model import LanguageModel
from manyone.sql.recipes.options import DistilOptions
from manyone.sql.recipes.problem import SQLProblem
from manyone.sql.scoring.evaluate import evaluate
from manyone.sql.tokens import padding

EX, TS = "spider-ex", "spider-ts"


class Judge:
    """Scores models on the test pairs of a problem (a context: its workers end with it)."""

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
        return self

    def __exit__(self, *problem: Any) -> None:
        self.sandbox.__exit__(*problem)

    def __call__(self, model: LanguageModel, tokenizer: Any) -> dict[str, float]:
        """``ex`` and ``ts`` with the ends of their 95 % intervals over all pairs, and ``ex/SOURCE`` where several."""
        if not self.pairs:
            return {}
        answers = self.answers(model, tokenizer)
        sources = list(dict.fromkeys(p.source for p in self.pairs))
        found = self.scores(self.pairs, answers)
        if len(sources) > 1:
            for source in sources:
                chosen = [i for i, p in enumerate(self.pairs) if p.source == source]
                own = self.scores([self.pairs[i] for i in chosen], [answers[i] for i in chosen])
                found |= {f"{name}/{source}": value for name, value in own.items()}
        return found

    def answers(self, model: LanguageModel, tokenizer: Any) -> list[str]:
        """SQL for every pair."""
        o = self.options
        how = Decoding(tokenizer.eos_token_id, padding(tokenizer), o.max_output, batch_size=max(32, o.batch_size))
        prompts = self.problem.prompts(tokenizer, self.pairs)
        return answer(model, tokenizer, prompts, how, beams=self.beams, executes=self.executes)

    def executes(self, number: int, sql: str) -> bool:
        """Whether ``sql`` runs on the database of pair ``number``."""
        return bool(self.sandbox.execute(self.files(self.pairs[number])[0], sql).ok)

    def scores(self, pairs: Sequence[Pair], answers: Sequence[str]) -> dict[str, float]:
        """``ex`` of answers and, where every database has a suite, ``ts``."""
        presets = {"ex": EX}
        if all(len(self.files(p)) > 1 for p in pairs):
            presets["ts"] = TS
        found: dict[str, float] = {"pairs": float(len(pairs))}
        for name, preset in presets.items():
            own = evaluate(pairs, answers, self.problem.data.databases, preset, self.sandbox, self_check=False).interval
            found |= {name: own.value, f"{name}_low": own.low, f"{name}_high": own.high}
        return found

    def kept(self, rule: str) -> Callable[[Sequence[int], Sequence[str]], list[bool]] | None:
        """Judges the teacher's answers to training pairs by ``--teacher-filter``; None where all are kept."""
        if rule == "none":
            return None

        def judge(numbers: Sequence[int], texts: Sequence[str]) -> list[bool]:
            pairs = [self.problem.train[i] for i in numbers]
            if rule == "matches":
                scores = evaluate(pairs, texts, self.problem.data.databases, EX, self.sandbox, self_check=False)
                return [verdict.correct for verdict in scores.verdicts]
            jobs = [(self.files(pair)[0], text) for pair, text in zip(pairs, texts, strict=True)]
            return [bool(outcome.ok) for outcome in self.sandbox.map(jobs)]

        return judge

    def files(self, pair: Pair) -> Sequence[Any]:
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
