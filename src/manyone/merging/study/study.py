"""The merging study: every method on one suite and one seed, one result row each.

``manyone reproduce`` runs it for several seeds, in processes side by side, and judges the claims by its rows. A study
that was interrupted goes on with the rows that are missing.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from manyone.claims.claims import Claims
from manyone.claims.figure import Figure
from manyone.claims.file import load_claims
from manyone.claims.rows import Results, Row, append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo
from manyone.data.suites import load_suite
from manyone.engine.fabric import make_fabric
from manyone.merging.measures import accuracies, cost, mixed_accuracies
from manyone.merging.recipes.needs import suite_needs
from manyone.merging.recipes.problem import Problem, from_suite
from manyone.merging.study.figures import draw
from manyone.merging.study.models import LADDER, Made, SeedStudy
from manyone.merging.study.settings import Setting, setting_of
from manyone.recipes.needs import Needs

TITLE = "Many into one: the claims of model merging"
NOTES = [
    "Scaling coefficients are chosen on the validation split. Adaptation sees the unlabelled test inputs, as in the "
    "papers (the transductive setting).",
    "Intervals are over seeds: experts and adaptation are drawn anew for each seed, and so are base and data split on "
    "mini6. On images all seeds share one base, like a public checkpoint, and with it its data split.",
]
SEEDS = {"smoke": 3, "laptop": 5, "paper": 3}
PARTS = ("clean", "shifted")
"""A seed's work in two jobs: the clean tests, and the corrupted and unseen ones. They share only the experts."""

SLOWEST = ("ta8", "text")
"""Suites whose jobs take longest: begun last, they would leave workers idle at the end."""


class Entry(NamedTuple):
    """One row to be measured: the model of the arm (``method``, ``variant``), evaluated as ``words`` say.

    "batch": with the mean routing weights of a batch; "mixed": of batches that mix the tasks.
    """

    method: str
    variant: str = ""
    words: tuple[str, ...] = ()

    @property
    def row_variant(self) -> str:
        """The variant of the row."""
        return "+".join([*([self.variant] if self.variant else []), *self.words])


def entries(s: SeedStudy) -> Iterator[Entry]:
    """Every row, first those that claims need, and of these cheap and shared models first."""
    clean, unseen = s.condition == "clean", s.condition == "unseen"
    yield Entry("pretrained")
    if not unseen:
        yield Entry("expert")
    yield Entry("average")
    yield Entry("task-arithmetic")
    yield Entry("task-arithmetic", "tuned")
    if clean or unseen:
        yield Entry("ties")
        yield Entry("ties", "tuned")
    if clean:
        yield Entry("tsv-m")
        yield Entry("iso-c")
        yield Entry("adamerging")
    yield Entry("wemoe")
    if clean or unseen:
        yield Entry("wemoe", words=("batch",))
    if clean:
        yield Entry("e-wemoe")
        yield Entry("e-wemoe", words=("batch",))
        yield Entry("wemoe", words=("batch", "mixed"))
        for objective in s.setting.objectives:
            yield Entry("wemoe", objective)
    if not unseen:
        yield Entry("surgery", "task-arithmetic")
    if clean:
        for under in ("average", "ties", "adamerging", "wemoe"):
            yield Entry("surgery", under)
        yield Entry("surgery-v2", "task-arithmetic")
    if s.setting.extras:
        yield from _extras(s)


def _extras(s: SeedStudy) -> Iterator[Entry]:
    """Rows that no claim asks for: further baselines, and AdaMerging and E-WEMoE on unseen tasks."""
    if s.condition == "unseen":
        yield Entry("adamerging")
        yield Entry("e-wemoe")
        yield Entry("e-wemoe", words=("batch",))
    if s.condition == "clean":
        for method in ("dare", "model-stock", "iso-cts", "fisher", "regmean"):
            yield Entry(method)
        yield Entry("adamerging", "task")
        yield Entry("adamerging", "plus-plus")
        yield Entry("concrete-task-arithmetic")


def conditions(problem: Problem, seed: int, setting: Setting) -> Iterator[SeedStudy]:
    """The clean study, the one whose unseen tasks are left out of the merge, and the corrupted ones."""
    yield SeedStudy(problem, seed, setting)
    seen = [t for t in problem.experts if t not in setting.unseen]
    if len(seen) not in (0, len(problem.experts)):
        yield SeedStudy(problem.only(seen), seed, setting, "unseen")
    corrupted = problem.only([t for t in setting.corrupted_tasks if t in problem.experts] or list(problem.experts))
    for kind in setting.corruptions:
        yield SeedStudy(corrupted, seed, setting, kind)


def _make(s: SeedStudy, entry: Entry) -> Made:
    if entry.method == "pretrained":
        return s.clean.encoder, {}
    return (s.each_expert, {}) if entry.method == "expert" else s.make(entry.method, entry.variant)


def measure(s: SeedStudy, entry: Entry) -> Row:
    """Makes the model of ``entry`` and scores it."""
    started = time.process_time()
    model, reported = _make(s, entry)
    seconds = time.process_time() - started + reported.get("shared_cpu_s", 0.0)
    metrics = {"cpu_s": s.cost_of(model, seconds)}
    if "batch" in entry.words:
        model.routing = "batch"
    try:
        if "mixed" in entry.words:
            scores = mixed_accuracies(model, s.problem.heads, s.test, batch_size=64, seed=s.seed)
        elif "batch" not in entry.words:
            scores = s.scores(model)
        else:
            scores = accuracies(model, s.problem.heads, s.test, batch_size=64)
        first = next(iter(s.test))
        if s.condition == "clean":
            inputs = s.test[first].take(slice(0, 32)).inputs
            metrics["ms_per_sample"] = cost(model, inputs, first, batch_size=16, repeats=2)["ms_per_sample"]
    finally:
        if "batch" in entry.words:
            model.routing = "sample"
    metrics |= s.sizes(model)
    metrics |= {k: v for k, v in reported.items() if k in ("scale", "criterion", "criterion_at_start", "fell_back")}
    details: dict[str, Any] = {}
    if s.condition == "clean" and (entry.method, entry.row_variant) in LADDER:
        details["entropy"] = s.entropies(model)
    if s.condition == "clean" and (entry.method, entry.row_variant) == LADDER[1]:
        metrics |= s.regime(scores)
    if entry.method in ("wemoe", "e-wemoe") and not entry.row_variant and s.condition in ("clean", "unseen"):
        details["routing"] = s.mean_routing(model)
    if any(k.startswith("bias/") for k in reported):
        details["bias"] = {
            "before": {t: reported[f"before/bias/{t}"] for t in s.merged},
            "after": {t: reported[f"bias/{t}"] for t in s.merged},
        }
    return Row(s.problem.name, s.seed, entry.method, entry.row_variant, s.condition, scores, metrics, details)


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return suite_needs(suite)


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Fetches and decodes a suite; what it is made of."""
    return SuiteInfo.of(load_suite(suite, seed=0))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The long jobs, which also train the experts, before the short ones, and of those the longest first."""
    slowest_first = sorted(suites, key=lambda suite: suite not in SLOWEST)
    return [Job(suite, seed, part) for part in PARTS for suite in slowest_first for seed in seeds]


def settings(scale: str, suite: str) -> dict[str, Any]:
    """How much of everything ``suite`` gets."""
    return asdict(setting_of(suite))


@lru_cache(maxsize=1)
def _problem(suite: str, seed: int) -> Problem:
    """The problem that this process had last: a seed's second part finds data and experts in memory."""
    return from_suite(suite, seed)


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Measures every missing row of (suite, seed, part); appends it to ``folder/<suite>-<seed>-<part>.jsonl``."""
    torch.set_num_threads(1)
    make_fabric("cpu")  # once now, so that its import is in no model's cost
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    amounts = setting_of(suite)
    problem = _problem(suite, seed)
    studies = [s for s in conditions(problem, seed, amounts) if (s.condition == "clean") == (part == "clean")]
    for study in studies:
        for entry in entries(study):
            if (suite, seed, entry.method, entry.row_variant, study.condition) not in done:
                append_rows(path, [measure(study, entry)])
        if study.condition == "clean" and study.curves:
            kept = folder / f"{suite}-{seed}.curves.json"
            known = json.loads(kept.read_text()) if kept.exists() else {}
            kept.write_text(json.dumps(known | study.curves))


def count_rows(scale: str, suite: str, part: str) -> int:
    """How many rows one part of a seed of ``suite`` has, without making any model."""
    amounts = setting_of(suite)
    fake = Problem(suite, {}, None, {"a": {}, "b": {}}, {}, {})  # type: ignore[arg-type]
    total = 0
    shifted = [*amounts.corruptions, *(["unseen"] if amounts.unseen else [])]
    for condition in ["clean"] if part == "clean" else shifted:
        study = SeedStudy(fake, 0, amounts, condition)
        total += sum(1 for _ in entries(study))
    return total


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """The pictures of all rows and curves that the jobs wrote."""
    claims = load_claims(Path(__file__).with_name("claims.toml"))
    rows, curves = [], []
    for job in jobs(scale, suites, seeds):
        path = folder / f"{job.file}.jsonl"
        rows += load_rows(path) if path.exists() else []
    for suite, seed in itertools.product(suites, seeds):
        path = folder / f"{suite}-{seed}.curves.json"
        for name, points in (json.loads(path.read_text()) if path.exists() else {}).items():
            method, _, variant = name.partition(" ")
            curves.append({"suite": suite, "seed": seed, "method": method, "variant": variant, "points": points})
    return former_figures(Results(rows, claims.score), claims, curves)


def former_figures(results: Results, claims: Claims, curves: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The pictures of a study that was saved when the page drew them; ``curves`` as they were saved then."""
    by_method: dict[tuple[str, str, str], dict[int, Any]] = {}
    for c in curves:
        by_method.setdefault((c["suite"], c["method"], c.get("variant", "")), {})[c["seed"]] = c["points"]
    return draw(results, claims, by_method)
