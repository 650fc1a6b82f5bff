"""The study of prompts: one frozen policy a seed, adapted to new tasks by every method with prompts of every quality.

A job is a seed's diffusers or its other methods; both train the same policy first. Stage 1 of a diffuser does not
depend on the new tasks' prompts: it is trained once and goes on from there with each pool. All methods have the same
few episodes, prompts and evaluation episodes; a diffuser draws a prompt for each of these.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from manyone.claims.figure import Figure, save_figures
from manyone.claims.rows import Row, append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import BatchedPolicy
from manyone.evaluation.scores import return_by_task, success_by_task
from manyone.policies.artefact import SavedPolicy
from manyone.policies.prompt_tuning.acting import AdaptedPolicy
from manyone.policies.prompt_tuning.trained import Acting
from manyone.policies.recipes.adaptation import AdaptationProblem, load_adaptation, pretraining
from manyone.policies.recipes.run import Evaluator
from manyone.policies.study.prompts.settings import PARTS, POOLS, Setting, setting_of
from manyone.policies.tasks import label
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together

TITLE = "Prompts for a frozen policy: the claims of Prompt Diffuser"
NOTES = [
    "One policy a seed (Prompt-DT with pooled statistics) is trained on the training tasks and frozen. Every method "
    "has the same five expert episodes of each new task; prompts, and the conditions of generated ones, are the tails "
    "of as many episodes of expert, medium or random quality: the conditions clean, medium and random.",
    "Returns are means over the new tasks and 20 episodes of each; a diffuser draws a new prompt for every episode. "
    "`normalised`: 0 is the mean return of the random episodes, 1 that of the experts'.",
    "Zero-shot: nothing of the new tasks is read; conditions, and for Prompt-DT the prompts themselves, are those of "
    "the three best episodes of all training tasks (our protocol; the paper names none).",
    "equal-time: as many steps as take about the processor time of the diffuser's second stage on two cores.",
    "On cheetah-vel-few Prompt-Tuning DT takes half of the others' steps, each of which ranks fifteen perturbed "
    "prompts: four times their processor seconds, which its rows show.",
    "The paper gives no official program; N, widths, learning rates and steps are ours. The gradient tuning of the raw "
    "prompt is a control that its tables lack.",
    "Intervals are over training seeds; all seeds share the data.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 3}
SECTION = "Prompts"
_JOBS = ("diffuser", "tuning")


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is measured on ``suite``."""
    setting = setting_of(scale, suite)
    return [setting.arm(name, pool) for name in setting.parts for pool in PARTS[name].pools]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have."""
    setting = setting_of(scale, suite)
    problems = {pool: problem_of(scale, suite, pool) for pool in POOLS}
    problem = problems["clean"]
    assert problem.training is not None
    make.prepare(problem.new.tasks)
    episodes = setting.arm(setting.parts[0]).options().eval_episodes
    tasks = []
    for one in problem.new.data:
        source = "; ".join(str(one.meta[key]) for key in ("policy", "quality") if key in one.meta)
        tasks.append(TaskInfo(label(one.name), 0, one.episodes, 0, episodes, source, str(one.meta.get("licence", ""))))
    steps = sum(len(one) for one in problem.training.data)
    notes = (f"trained on {len(problem.training.data)} other tasks, {steps:,} steps of data",)
    return SuiteInfo(suite, "trajectories", tuple(tasks), notes)


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Two jobs a seed and suite."""
    return [Job(suite, seed, part) for part in _JOBS for seed in seeds for suite in suites]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    own = [PARTS[name] for name in setting_of(scale, suite).parts if PARTS[name].job == part]
    return sum(len(one.pools) for one in own) + (part == "tuning" and "zero-shot" in setting_of(scale, suite).parts)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: the complete options of the diffuser."""
    setting = setting_of(scale, suite)
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "shots", "prompts", "workers", "video"}
    options = dataclasses.asdict(setting.arm(setting.parts[0]).options())
    shown = {k: v for k, v in options.items() if k not in hidden}
    return {"suite": setting.suite, "parts": setting.parts, "prompt-diffuser": shown}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains the policy, then every arm of ``part`` with every pool; appends the missing rows to the job's file."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    if len(keys_in(path)) >= count_rows(scale, suite, part):
        return
    setting = setting_of(scale, suite)
    policy = _policy(setting, scale, suite, seed)
    for name in setting.parts:
        if PARTS[name].job == part:
            for row, figures in _rows(setting, scale, suite, seed, name, policy, keys_in(path)):
                append_rows(path, [row])
                if seed == 0 and name == "projection" and row.condition == "random":
                    save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures)
    if part == "tuning" and "zero-shot" in setting.parts:
        row = _untuned(setting, scale, suite, seed, policy)
        if row.key not in keys_in(path):
            append_rows(path, [row])


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """Return against the quality of the prompts, one line a method; seconds to adapt side by side."""
    figures = []
    for suite in suites:
        found: dict[tuple[str, str], dict[str, list[Mapping[str, float]]]] = {}
        for job in jobs(scale, [suite], seeds):
            path = folder / f"{job.file}.jsonl"
            for row in load_rows(path) if path.exists() else ():
                found.setdefault((row.method, row.variant), {}).setdefault(row.condition, []).append(row.metrics)
        series, seconds = {}, {}
        for (method, variant), conditions in found.items():
            name = f"{method} {variant}".strip()
            pools = [pool for pool in POOLS if pool in conditions]
            if len(pools) == len(POOLS):
                means = [_mean([m["return"] for m in conditions[pool]]) for pool in reversed(pools)]
                series[name] = {"x": list(range(len(pools))), "y": means}
            if any("adapt_s" in m for m in conditions.get("clean", ())):
                seconds[name] = _mean([m["adapt_s"] for m in conditions["clean"] if "adapt_s" in m])
        if series:
            data: dict[str, Any] = {"series": series, "x_label": "prompts: random (0), medium (1), expert (2)",
                                    "y_label": "return"}  # fmt: skip
            caption = "Mean return of the new tasks against the quality of the episodes that prompts come from."
            figures.append(Figure("lines", f"{suite}: return against the quality of prompts", data, caption, SECTION))
        if seconds:
            data = {"names": list(seconds), "values": list(seconds.values())}
            caption = "Processor seconds to adapt to all new tasks, expert prompts; stage 1 is not counted."
            figures.append(Figure("bars", f"{suite}: seconds to adapt", data, caption, SECTION))
    return figures


# --- what a job is made of --------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def problem_of(scale: str, suite: str, pool: str) -> AdaptationProblem:
    """Training tasks, new tasks and their prompts; no policy yet."""
    setting = setting_of(scale, suite)
    return load_adaptation(setting.arm(setting.parts[0], pool).options())


@lru_cache(maxsize=2)
def _references(scale: str, suite: str) -> dict[str, tuple[float, float]]:
    """Task -> mean return of the random and of the expert episodes."""
    expert, random = problem_of(scale, suite, "clean").new.data, problem_of(scale, suite, "random").prompts
    return {one.name: (float(bad.returns.mean()), float(one.returns.mean())) for one, bad in zip(expert, random)}


@lru_cache(maxsize=2)
def _evaluator(tasks: tuple[str, ...], horizons: tuple[tuple[str, int], ...], episodes: int, full: bool) -> Evaluator:
    """Environments in this process."""
    return Evaluator(tasks, horizon=dict(horizons), episodes=episodes, stop_at_success=not full, workers=0)


def _policy(setting: Setting, scale: str, suite: str, seed: int) -> SavedPolicy:
    """The seed's frozen policy, by recipe prompt-dt."""
    problem = problem_of(scale, suite, "clean")
    arm = pretraining(setting.arm(setting.parts[0]).options(seed=seed))
    options = arm.options()
    learner = arm.build(options, problem.training)
    _train(learner, options.steps)
    return SavedPolicy(learner.model, learner.data.table, None, list(range(len(learner.data))), {}, {})


def _rows(
    setting: Setting, scale: str, suite: str, seed: int, name: str, policy: SavedPolicy, done: Collection[Any]
) -> Iterator[tuple[Row, list[Figure]]]:
    """The rows of part ``name``, a pool after the other."""
    part, stage_1 = PARTS[name], None
    for pool in part.pools:
        if (suite, seed, part.method, part.variant, pool) in done:
            continue
        arm = setting.arm(name, pool)
        options = arm.options(seed=seed)
        problem = dataclasses.replace(problem_of(scale, suite, pool), policy=policy)
        learner = arm.build(options, problem)
        history: dict[str, list[tuple[int, float]]] = {}
        first = learner.first_steps if part.recipe == "prompt-diffuser" else 0
        if first and stage_1 is None:
            _train(learner, first)
            stage_1 = learner.state_dict()
        elif stage_1 is not None:
            learner.load_state_dict(stage_1)
        started = time.process_time()
        last = _train(learner, learner.total - first, history)
        metrics = {"adapt_s": time.process_time() - started} | last
        metrics |= learner.sizes() | learner.effort()
        for metric in ("cosine", "conflict"):
            if metric in history:
                metrics[metric] = _mean([value for _, value in history[metric]])
        acting = learner.policy()
        row = _row(suite, seed, part.method, part.variant, pool, _play(acting, scale, suite, options), metrics)
        figures = [dataclasses.replace(f, title=f"{suite}: {f.title}") for f in learner.figures(acting, history)]
        yield row, figures


def _untuned(setting: Setting, scale: str, suite: str, seed: int, policy: SavedPolicy) -> Row:
    """Prompt-DT behind the prompts of the best training episodes: zero-shot without a diffuser."""
    arm = setting.arm("zero-shot")
    options = arm.options(seed=seed)
    learner = arm.build(options, dataclasses.replace(problem_of(scale, suite, "clean"), policy=policy))
    acting = learner.prompted("zero-shot")
    count = len(acting.table.names)
    prompts = {k: v.expand(count, *v.shape) for k, v in acting.generator.conditions.steps.items()}
    played = _play(AdaptedPolicy(learner.shots.model, acting.table, Acting({}, prompts)), scale, suite, options)
    return _row(suite, seed, "prompt-dt", "zero-shot", "clean", played, {})


def _play(policy: BatchedPolicy, scale: str, suite: str, options: Any) -> dict[str, Any]:
    """Return, normalised return and, where it is told, success of each new task."""
    new = problem_of(scale, suite, "clean").new
    evaluator = _evaluator(tuple(new.tasks), tuple(new.horizons.items()), options.eval_episodes, options.full_episodes)
    results = evaluator.play(policy)
    returns = return_by_task(results)
    scores = {t: (r - low) / (high - low) for t, r in returns.items() for low, high in [_references(scale, suite)[t]]}
    known = all(result.success is not None for result in results)
    return {"returns": returns, "scores": scores, "success": success_by_task(results) if known else {}}


def _row(
    suite: str, seed: int, method: str, variant: str, condition: str, played: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Row:  # fmt: skip
    own = {"return": _mean(played["returns"].values()), "normalised": _mean(played["scores"].values())}
    details = {"returns": {"new": {label(task): value for task, value in played["returns"].items()}}}
    success = {label(task): value for task, value in played["success"].items()}
    return Row(suite, seed, method, variant, condition, success, {**metrics, **own}, details)


def _train(learner: Any, steps: int, history: dict[str, list[tuple[int, float]]] | None = None) -> dict[str, float]:
    """``steps`` steps; the last of them."""
    metrics: dict[str, float] = {}
    for step in range(1, steps + 1):
        metrics = learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at step {step}: try a smaller learning rate")
        if history is not None:
            for name, value in metrics.items():
                history.setdefault(name, []).append((step, value))
    return {"loss": metrics["loss"]} if metrics else {}


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)
