"""The study of tasks in conflict: every method on N tasks that contradict each other, with capacity short.

A job is some of a seed's methods on one set of tasks. Whether the regime of masks is there is measured: the cosine of
tasks' gradients half-way through each training, and what a network that is told its task reaches without masks.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from manyone.claims.figure import Figure
from manyone.claims.rows import Row, append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.errors import ManyoneError
from manyone.evaluation.scores import summarise
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.recipes.problem import PolicyProblem, load_problem
from manyone.policies.recipes.run import Evaluator, normalised
from manyone.policies.study.conflict.settings import FEW, JOBS, PARTS, Setting, setting_of
from manyone.policies.tasks import label
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together

TITLE = "Tasks in conflict: the claims of task masks where capacity is short"
NOTES = [
    "Made data (ours, synthetic): all tasks share one distribution of observations and the effects of actions; each "
    "has a random teacher of its own, so that what is right in one task is wrong in the next (suites teachers-N).",
    "`normalised`: 0 is the mean return of random actions, 1 the teacher's; means over the tasks, 5 episodes of each. "
    "`worst quarter` is that of the quarter of the tasks with the lowest scores.",
    "All methods take the same updates of all tasks, on the same episodes, but for the id token with three times the "
    "steps; processor seconds are the training's alone.",
    "`cosine` is measured half-way through the training between the gradients of two tasks, mean over the pairs, and "
    "`own cosine` between two draws of one task's gradient: how much of a cosine the draws leave.",
    "The exchange of HarmoDT runs in a regime of its own, chosen on seed 100: few entries, over the first half of the "
    "steps, within each tensor, by smoothed gradients. Random swaps take the same number at the same steps.",
    "Rows under 4-tasks: the same network on the suite's first four tasks; `gain` is the masks' score minus the id "
    "token's of the same seed. Intervals are over training seeds; all seeds share the data.",
]
SEEDS = {"smoke": 3, "laptop": 5, "paper": 3}
SECTION = "Conflict and capacity"
_BATCHES = 8  # that a task's gradient is the mean of, where cosines are measured


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is measured on ``suite``."""
    setting = setting_of(scale, suite)
    return [setting.arm(name, condition) for job in JOBS for name, condition in setting.rows(job)]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have."""
    setting = setting_of(scale, suite)
    problem = problem_of(scale, suite, "clean")
    if setting.few:
        problem_of(scale, suite, FEW)
    episodes = setting.options["eval_episodes"]
    tasks = [
        TaskInfo(label(one.name), 0, one.episodes, 0, episodes, str(one.meta["policy"]), str(one.meta["licence"]))
        for one in problem.data
    ]
    steps = sum(len(one) for one in problem.data)
    return SuiteInfo(suite, "trajectories", tuple(tasks), (f"{len(tasks)} synthetic tasks, {steps:,} steps of data",))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The jobs that have rows, the longest first."""
    return [
        Job(suite, seed, part)
        for part in JOBS
        for seed in seeds
        for suite in suites
        if setting_of(scale, suite).rows(part)
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return len(setting_of(scale, suite).rows(part))


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: its arms, and the complete options of HarmoDT."""
    setting = setting_of(scale, suite)
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "workers", "video"}
    options = dataclasses.asdict(Arm("harmodt", "harmodt", {"suite": setting.suite, **setting.options}).options())
    shown = {"suite": setting.suite, "parts": setting.parts, "few": setting.few}
    return shown | {"harmodt": {k: v for k, v in options.items() if k not in hidden}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains and plays the arms of ``part``; appends the missing rows to the job's file."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    setting = setting_of(scale, suite)
    for name, condition in setting.rows(part):
        method, variant = PARTS[name].method, PARTS[name].variant
        if (suite, seed, method, variant, condition) in keys_in(path):
            continue
        metrics, scores = _measure(setting.arm(name, condition), seed, problem_of(scale, suite, condition))
        if name == "harmodt-r":
            metrics["gain"] = metrics["normalised"] - _token(path, condition)
        details = {"normalised": {"by task": scores}}
        append_rows(path, [Row(suite, seed, method, variant, condition, {}, metrics, details)])


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """Scores against the number of tasks, the width and the sparsity, a line a method; cosines by number of tasks."""
    rows: dict[str, list[Row]] = {}
    for suite in suites:
        files = [folder / f"{job.file}.jsonl" for job in jobs(scale, [suite], seeds)]
        rows[suite] = [row for path in files if path.exists() for row in load_rows(path) if row.condition == "clean"]
    places = {suite: setting_of(scale, suite) for suite in suites if rows[suite]}
    counts = {suite: len(problem_of(scale, suite, "clean").data) for suite in places}
    widths = {suite: int(one.options["width"]) for suite, one in places.items()}
    drawn = []
    for what, one, other in (("number of tasks", counts, widths), ("width", widths, counts)):
        for fixed in sorted(set(other.values())):
            chosen = {one[suite]: rows[suite] for suite in places if other[suite] == fixed}
            if len(chosen) > 1:
                rest = f"width {fixed}" if what != "width" else f"{fixed} tasks"
                drawn.append(_lines(f"score against {what}, {rest}", what, chosen, "normalised"))
                if what != "width":
                    title = f"cosine between tasks' gradients against {what}, {rest}"
                    drawn.append(_lines(title, what, chosen, "cosine"))
    for suite, setting in places.items():
        if "thin" in setting.parts and (figure := _sparsities(suite, setting, rows[suite])):
            drawn.append(figure)
    return drawn


# --- what a job is made of --------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def problem_of(scale: str, suite: str, condition: str) -> PolicyProblem:
    """The data of the tasks of ``suite``, or of its first four."""
    return load_problem(setting_of(scale, suite).arm("id-token", condition).options())


@lru_cache(maxsize=2)
def _evaluator(tasks: tuple[str, ...], horizon: int, episodes: int) -> Evaluator:
    """Environments in this process, kept for the arms to come."""
    return Evaluator(tasks, horizon=horizon, episodes=episodes, workers=0)


def _measure(arm: Arm, seed: int, problem: PolicyProblem) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of one arm, trained and played; and each task's score."""
    options = arm.options(seed=seed)
    learner = arm.build(options, problem)
    metrics = _train(learner, options.steps)
    evaluator = _evaluator(tuple(problem.tasks), options.horizon, options.eval_episodes)
    found = summarise(evaluator.play(learner.policy())).as_metrics()
    found |= normalised(found, problem.references(()))
    scores = {label(task): found[f"normalised/{task}"] for task in problem.tasks}
    worst = sorted(scores.values())[: max(1, len(scores) // 4)]
    metrics |= learner.sizes() | learner.effort()
    metrics |= {"return": found["return"], "normalised": found["normalised"], "worst_quarter": _mean(worst)}
    return metrics, scores


def _train(learner: PolicyLearner, steps: int) -> dict[str, float]:
    """What it cost, and the cosines of gradients half-way."""
    seconds, swaps, loss, found = 0.0, 0.0, math.nan, {}
    for step in range(1, steps + 1):
        started = time.process_time()
        metrics = learner.step()
        seconds += time.process_time() - started
        swaps, loss = swaps + metrics.get("swaps", 0.0), metrics["loss"]
        if not math.isfinite(loss):
            raise ManyoneError(f"the loss is {loss} at step {step}: try a smaller learning rate")
        if step == (steps + 1) // 2:
            draws = (learner.task_gradients(batches=_BATCHES, purpose=name, clip=False) for name in ("one", "other"))
            found = cosines(*draws)
    return {"cpu_s": seconds, "steps_per_s": steps / seconds, "loss": loss, "swaps": swaps, **found}


def cosines(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Of the gradients [N, d] of N tasks, drawn twice: ``cosine``, the mean over pairs of tasks of a draw of one and
    the other draw of the other; ``own_cosine``, the mean of a task's two draws; ``opposed``, the share of the pairs
    whose cosine is below 0."""
    both = torch.nn.functional.normalize(one, dim=1) @ torch.nn.functional.normalize(other, dim=1).T
    pairs = both[~torch.eye(len(both), dtype=torch.bool)]
    own = {"own_cosine": float(both.diagonal().mean())}
    return {"cosine": float(pairs.mean()), "opposed": float((pairs < 0).double().mean())} | own


def _token(path: Path, condition: str) -> float:
    """The id token's score among the rows of ``path``."""
    return next(r.metrics["normalised"] for r in load_rows(path)
                if r.method == "id-token-dt" and r.condition == condition)  # fmt: skip


def _name(row: Row) -> str:
    return f"{row.method} {row.variant}".strip()


def _lines(title: str, what: str, chosen: Mapping[int, Iterable[Row]], metric: str) -> Figure:
    """A line a method; its points are means over seeds."""
    values: dict[str, dict[int, list[float]]] = {}
    for place in sorted(chosen):
        for row in chosen[place]:
            values.setdefault(_name(row), {}).setdefault(place, []).append(row.metrics[metric])
    series = {
        name: {"x": list(found), "y": [_mean(v) for v in found.values()]}
        for name, found in values.items()
        if len(found) > 1
    }
    caption = {
        "normalised": "Mean over the tasks, 0: random actions, 1: the teachers.",
        "cosine": "Mean over pairs of tasks, half-way through the training; in masked methods at each task's own mask.",
    }[metric]
    label_y = {"normalised": "normalised return", "cosine": "cosine"}[metric]
    return Figure("lines", title, {"series": series, "x_label": what, "y_label": label_y}, caption, SECTION)


def _sparsities(suite: str, setting: Setting, rows: Sequence[Row]) -> Figure | None:
    """The score of frozen masks against their sparsity; the id token's as a level."""
    found: dict[float, list[float]] = {}
    for name in ("thick", "harmodt-r", "thin"):
        own = [r.metrics["normalised"] for r in rows if (r.method, r.variant) == ("harmodt-r", PARTS[name].variant)]
        if own:
            found[float(PARTS[name].changes.get("sparsity", setting.options["sparsity"]))] = own
    if len(found) < 2:
        return None
    series = {"harmodt-r": {"x": list(found), "y": [_mean(v) for v in found.values()]}}
    if token := [r.metrics["normalised"] for r in rows if _name(r) == "id-token-dt"]:
        series["id-token-dt"] = {"x": list(found), "y": [_mean(token)] * len(found)}
    data = {"series": series, "x_label": "sparsity", "y_label": "normalised return"}
    caption = "Share of the maskable weights that each task's frozen mask leaves out; the id token has no mask."
    return Figure("lines", f"{suite}: score against sparsity", data, caption, SECTION)


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)
