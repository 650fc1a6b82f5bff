"""The policies study: every method on one data set of many tasks and one seed, evaluated on the same episodes.

``manyone reproduce`` runs it for several seeds, in processes side by side, and judges the claims by its rows. A study
that was interrupted goes on with the rows that are missing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.claims.study import Job
from manyone.errors import ManyoneError
from manyone.policies.recipes.problem import PolicyProblem, from_suite, label
from manyone.policies.study.settings import ENTRIES, SETTINGS, UNSEEN, Settings

if TYPE_CHECKING:
    from manyone.claims.rows import Row
    from manyone.claims.study import SuiteInfo
    from manyone.policies.recipes.run import Evaluator

TITLE = "Many tasks into one policy: the claims of multi-task decision transformers"
NOTES = [
    "Success is the share of episodes in which the environment's flag was up at any step, at goals that the data do "
    "not contain. All methods play the same episodes. An episode ends at its first success; returns are up to there.",
    "Intervals are over training seeds; all seeds share the data.",
    "Rows under no-id were told nothing about their task: pooled statistics of states, one target return, no prompt. "
    "Without pooling, statistics and targets of each task are used, as published: states then look alike in all tasks.",
]
SEEDS = {"smoke": 3, "laptop": 5, "paper": 3}


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have, and the goals that the environments start from."""
    from manyone.claims.study import SuiteInfo, TaskInfo
    from manyone.envs.single import make as build

    settings = _settings(scale, suite)
    problem = _problem(scale, suite)
    unseen = _unseen_problem(scale, suite)
    build.prepare(problem.tasks + (unseen.tasks if unseen else []))
    tasks = []
    for one in [*problem.data, *(unseen.data if unseen else ())]:
        source = "; ".join(str(one.meta[key]) for key in ("origin", "quality") if key in one.meta)
        licence = str(one.meta.get("licence", ""))
        tasks.append(TaskInfo(label(one.name), 0, one.episodes, 0, settings.eval_episodes, source, licence))
    notes = [f"{len(problem.data)} tasks, {sum(len(one) for one in problem.data):,} steps of data"]
    if unseen:
        notes.append(f"not trained, only evaluated: {', '.join(label(t) for t in unseen.tasks)}")
    return SuiteInfo(suite, "trajectories", tuple(tasks), tuple(notes))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job a method, seed and data set, the longest methods first."""
    return [
        Job(suite, seed, part)
        for part in ENTRIES
        for seed in seeds
        for suite in suites
        if part in _settings(scale, suite).parts
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return len(ENTRIES[part].variants) + bool(_settings(scale, suite).unseen and part in UNSEEN)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: counts, and the complete options of HarmoDT."""
    found = _settings(scale, suite)
    shown = {k: v for k, v in dataclasses.asdict(found).items() if k not in ("options", "cloning")}
    return shown | {"harmodt": _plain(_options(found, "harmodt", 0))}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains ``part`` and appends its missing rows to ``folder/<suite>-<seed>-<part>.jsonl``."""
    import torch

    from manyone.claims.figure import save_figures
    from manyone.claims.rows import append_rows, keys_in

    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    found, entry = _settings(scale, suite), ENTRIES[part]
    options = _options(found, part, seed)
    learner, cost, history = _train(options, _problem(scale, suite))
    cost |= learner.sizes()
    for variant in entry.variants:
        row, policy = _measure(scale, suite, seed, part, variant, learner, cost)
        if row.key not in done:
            append_rows(path, [row])
        if seed == 0 and variant == entry.variants[0]:
            drawn = learner.figures(policy, history) if entry.draws else ()
            figures = [dataclasses.replace(f, title=f"{suite}: {f.title}") for f in drawn]
            save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures)
    if found.unseen and part in UNSEEN:
        row = _measure_unseen(scale, suite, seed, part, learner, options)
        if row.key not in done:
            append_rows(path, [row])


# --- what a job is made of --------------------------------------------------------------------------------------------


def _settings(scale: str, suite: str) -> Settings:
    try:
        return SETTINGS[scale][suite]
    except KeyError:
        raise ManyoneError(f"the policies study has no suite {suite!r} at scale {scale!r}") from None


def _options(settings: Settings, part: str, seed: int) -> Any:
    """The recipe's options: preset, the suite's changes where the recipe has the option, the method's changes."""
    from manyone.recipes.table import options_class

    entry = ENTRIES[part]
    cls: Any = options_class(entry.recipe)
    names = {f.name for f in dataclasses.fields(cls)}
    given = {k: v for k, v in settings.options.items() if k in names}
    given |= settings.cloning if entry.recipe == "mtbc" else {}
    given |= entry.changes | {"suite": settings.suite, "quality": settings.quality, "seed": seed}
    return cls(**given, eval_episodes=settings.eval_episodes, device="cpu" if "preset" not in given else "auto")


def _plain(options: Any) -> dict[str, Any]:
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "workers", "video"}
    return {k: v for k, v in dataclasses.asdict(options).items() if k not in hidden}


@lru_cache(maxsize=2)
def _problem(scale: str, suite: str) -> PolicyProblem:
    found = _settings(scale, suite)
    options = _options(found, found.parts[0], 0)
    return from_suite(found.suite, found.quality, episodes=options.episodes, horizon=options.horizon)


@lru_cache(maxsize=2)
def _unseen_problem(scale: str, suite: str) -> PolicyProblem | None:
    found = _settings(scale, suite)
    if not found.unseen:
        return None
    horizon = _problem(scale, suite).horizon
    parts = [
        from_suite(s, found.quality, episodes=found.unseen_data_episodes, horizon=horizon, workers=1)
        for s in found.unseen
    ]
    return PolicyProblem(f"{suite}, unseen", tuple(one for p in parts for one in p.data), horizon)


@lru_cache(maxsize=4)
def _evaluator(tasks: tuple[str, ...], horizon: int, episodes: int, full: bool) -> Evaluator:
    """Environments in this process, kept for the jobs to come."""
    from manyone.policies.recipes.run import Evaluator

    return Evaluator(tasks, horizon=horizon, episodes=episodes, stop_at_success=not full, workers=0)


def _train(options: Any, problem: PolicyProblem) -> tuple[Any, dict[str, float], dict[str, list[tuple[int, float]]]]:
    """(learner, what it cost, what the mask updates measured of each task)."""
    learner = options.learner(problem)
    started, history, swaps, last = time.process_time(), {}, 0.0, 0.0  # type: ignore[var-annotated]
    for step in range(1, options.steps + 1):
        metrics = learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at step {step}: try a smaller learning rate")
        swaps += metrics.get("swaps", 0.0)
        last = metrics["loss"] if last == 0.0 else 0.99 * last + 0.01 * metrics["loss"]
        for name, value in metrics.items():
            if "/" in name:
                history.setdefault(name, []).append((step, value))
    seconds = time.process_time() - started
    return learner, {"cpu_s": seconds, "steps_per_s": options.steps / seconds, "swaps": swaps, "loss": last}, history


def _measure(
    scale: str, suite: str, seed: int, part: str, variant: str, learner: Any, cost: dict[str, float]
) -> tuple[Row, Any]:
    from manyone.claims.rows import Row
    from manyone.evaluation.scores import return_by_task, success_by_task

    found, problem, entry = _settings(scale, suite), _problem(scale, suite), ENTRIES[part]
    policy = learner.policy(variant)
    full = bool(found.options.get("full_episodes"))
    results = _evaluator(tuple(problem.tasks), problem.horizon, found.eval_episodes, full).play(policy)
    metrics = dict(cost) if not variant else {}
    metrics["return"] = _mean(return_by_task(results).values())
    known = all(r.success is not None for r in results)
    scores = {label(t): s for t, s in success_by_task(results).items()} if known else {}
    right = [r.info["group_right"] for r in results if "group_right" in r.info]
    if right and variant in ("", "soft"):
        metrics["gate_accuracy"] = _mean(right)
    return Row(suite, seed, entry.method, variant, entry.condition, scores, metrics), policy


def _measure_unseen(scale: str, suite: str, seed: int, part: str, learner: Any, options: Any) -> Row:
    from manyone.claims.rows import Row
    from manyone.evaluation.scores import return_by_task, success_by_task
    from manyone.policies.unseen import unseen_policy

    found, problem = _settings(scale, suite), _unseen_problem(scale, suite)
    assert problem is not None
    masks = learner.masks[0] if learner.masks else None
    policy = unseen_policy(learner.model, options.policy_data(problem), masks, threshold=found.vote_threshold)
    full = bool(found.options.get("full_episodes"))
    results = _evaluator(tuple(problem.tasks), problem.horizon, found.eval_episodes, full).play(policy)
    known = all(r.success is not None for r in results)
    scores = {label(t): s for t, s in success_by_task(results).items()} if known else {}
    metrics = {"return": _mean(return_by_task(results).values())}
    return Row(suite, seed, ENTRIES[part].method, "", "unseen", scores, metrics)


def _mean(values: Any) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
