"""The policies study: every method on one data set of many tasks and one seed, evaluated on the same episodes.

``manyone reproduce`` runs it for several seeds, in processes side by side, and judges the claims by its rows. Every
method is trained with its recipe's options and builder (:func:`arms`). A study that was interrupted goes on with the
rows that are missing.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from manyone.claims.figure import save_figures
from manyone.claims.rows import Row, append_rows, keys_in
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.data.trajectories.offline import parse_offline
from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import BatchedPolicy, EpisodeResult
from manyone.evaluation.scores import return_by_task, success_by_task
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.protocol import PolicyTrainer
from manyone.policies.recipes.problem import PolicyProblem, from_suite, load_problem
from manyone.policies.recipes.run import Evaluator, shares_right
from manyone.policies.study.settings import PARTS, UNSEEN, Setting, setting_of
from manyone.policies.tasks import label
from manyone.policies.unseen import unseen_policy
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together

TITLE = "Many tasks into one policy: the claims of multi-task decision transformers"
NOTES = [
    "Success is the share of episodes in which the environment's flag was up at any step, at goals that the data do "
    "not contain. All methods play the same episodes. An episode ends at its first success; returns are up to there.",
    "All methods train on the same episodes: the best tenth of each task's, which prompts are taken from, is left out "
    "for all. Updates and the steps of data trained on, a task, are equal unless their columns say otherwise.",
    "Intervals are over training seeds; all seeds share the data.",
    "Rows under no-id were told nothing about their task: pooled statistics of states, one target return, no prompt. "
    "Without pooling, statistics and targets of each task are used, as published: states then look alike in all tasks.",
]
SEEDS = {"smoke": 3, "laptop": 5, "paper": 3}


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is measured on ``suite``; variants of a method are ways in which one trained model acts."""
    setting = setting_of(scale, suite)
    return [setting.arm(name, variant) for name in setting.parts for variant in PARTS[name].variants]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have, and the goals that the environments start from."""
    setting = setting_of(scale, suite)
    problem, unseen = seen_problem(scale, suite), unseen_problem(scale, suite)
    make.prepare(problem.tasks + (unseen.tasks if unseen else []))
    tasks = []
    for one in [*problem.data, *(unseen.data if unseen else ())]:
        source = "; ".join(str(one.meta[key]) for key in ("origin", "quality") if key in one.meta)
        licence = str(one.meta.get("licence", ""))
        tasks.append(TaskInfo(label(one.name), 0, one.episodes, 0, setting.eval_episodes, source, licence))
    notes = [f"{len(problem.data)} tasks, {sum(len(one) for one in problem.data):,} steps of data"]
    if unseen:
        notes.append(f"not trained, only evaluated: {', '.join(label(t) for t in unseen.tasks)}")
    return SuiteInfo(suite, "trajectories", tuple(tasks), tuple(notes))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job a method, seed and data set, the longest methods first."""
    return [
        Job(suite, seed, part)
        for part in PARTS
        for seed in seeds
        for suite in suites
        if part in setting_of(scale, suite).parts
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return len(PARTS[part].variants) + bool(setting_of(scale, suite).unseen and part in UNSEEN)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: counts, and the complete options of HarmoDT."""
    setting = setting_of(scale, suite)
    shown = {k: v for k, v in dataclasses.asdict(setting).items() if k not in ("options", "cloning")}
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "workers", "video"}
    options = dataclasses.asdict(setting.arm("harmodt").options())
    return shown | {"harmodt": {k: v for k, v in options.items() if k not in hidden}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains ``part`` and appends its missing rows to ``folder/<suite>-<seed>-<part>.jsonl``.

    Every row says what the training took (:meth:`~manyone.policies.protocol.PolicyTrainer.effort`).
    """
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting, this, problem = setting_of(scale, suite), PARTS[part], seen_problem(scale, suite)
    arm = setting.arm(part)
    options = arm.options(seed=seed)
    learner = arm.build(options, problem)
    cost, history = _train(learner, options.steps)
    cost |= learner.sizes()

    def keep(variant: str, condition: str, results: Sequence[EpisodeResult], metrics: dict[str, float]) -> None:
        row = _row(suite, seed, this.method, variant, condition, results, metrics | learner.effort())
        if row.key not in done:
            append_rows(path, [row])

    for variant in this.variants:
        policy = learner.policy(variant)
        results = _play(policy, problem, setting)
        metrics = dict(cost) if not variant else {}
        if variant in ("", "soft") and (right := shares_right(results)):
            metrics["gate_accuracy"] = _mean(right)
        keep(variant, this.condition, results, metrics)
        if seed == 0 and variant == this.variants[0]:
            drawn = learner.figures(policy, history) if this.draws else ()
            figures = [dataclasses.replace(f, title=f"{suite}: {f.title}") for f in drawn]
            save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures)
    unseen = unseen_problem(scale, suite)
    if unseen is not None and part in UNSEEN:
        keep("", "unseen", _play(_unseen(learner, unseen, setting), unseen, setting), {})


# --- what a job is made of --------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def seen_problem(scale: str, suite: str) -> PolicyProblem:
    """What all parts are trained and evaluated on."""
    setting = setting_of(scale, suite)
    return load_problem(setting.arm(setting.parts[0]).options())


@lru_cache(maxsize=2)
def unseen_problem(scale: str, suite: str) -> PolicyProblem | None:
    """The tasks that are only evaluated."""
    setting = setting_of(scale, suite)
    if not setting.unseen:
        return None
    horizon = seen_problem(scale, suite).horizon
    names = [
        parse_offline(f"{one}-{setting.quality}", episodes=setting.unseen_data_episodes, steps=horizon)
        for one in setting.unseen
    ]
    parts = [from_suite(name, horizon=horizon, workers=1) for name in names]
    return PolicyProblem(f"{suite}, unseen", tuple(one for p in parts for one in p.data), horizon)


@lru_cache(maxsize=4)
def _evaluator(tasks: tuple[str, ...], horizon: int, episodes: int, full: bool) -> Evaluator:
    """Environments in this process, kept for the jobs to come."""
    return Evaluator(tasks, horizon=horizon, episodes=episodes, stop_at_success=not full, workers=0)


def _play(policy: BatchedPolicy, problem: PolicyProblem, setting: Setting) -> list[EpisodeResult]:
    full = bool(setting.options.get("full_episodes"))
    return _evaluator(tuple(problem.tasks), problem.horizon, setting.eval_episodes, full).play(policy)


def _train(learner: PolicyTrainer, steps: int) -> tuple[dict[str, float], dict[str, list[tuple[int, float]]]]:
    """What it cost, and what the mask updates measured of each task."""
    history: dict[str, list[tuple[int, float]]] = {}
    started, swaps, last = time.process_time(), 0.0, 0.0
    for step in range(1, steps + 1):
        metrics = learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at step {step}: try a smaller learning rate")
        swaps += metrics.get("swaps", 0.0)
        last = metrics["loss"] if last == 0.0 else 0.99 * last + 0.01 * metrics["loss"]
        for name, value in metrics.items():
            if "/" in name:
                history.setdefault(name, []).append((step, value))
    seconds = time.process_time() - started
    return {"cpu_s": seconds, "steps_per_s": steps / seconds, "swaps": swaps, "loss": last}, history


def _unseen(learner: PolicyLearner, unseen: PolicyProblem, setting: Setting) -> BatchedPolicy:
    """The trained network on tasks that it was not trained on."""
    masks = learner.masks[0] if learner.masks else None
    return unseen_policy(
        learner.model, learner.data.like(unseen.data, unseen.bounds), masks, threshold=setting.vote_threshold
    )


def _row(
    suite: str, seed: int, method: str, variant: str, condition: str, results: Sequence[EpisodeResult],
    metrics: dict[str, float],
) -> Row:  # fmt: skip
    known = all(r.success is not None for r in results)
    scores = {label(t): s for t, s in success_by_task(results).items()} if known else {}
    return Row(
        suite, seed, method, variant, condition, scores, metrics | {"return": _mean(return_by_task(results).values())}
    )


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)
