"""The study of continual planning: every strategy on one sequence of tasks and one seed, played after each task.

A job is one arm with one seed: the recipe's own learner goes through its tasks; when one has been learned all tasks so
far are played, which fills the matrix p[i, j]. A row has the sequence's figures and says for how many earlier tasks
anything at all has changed: what the policy does on states of theirs is compared bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from manyone.claims.figure import Figure, save_figures
from manyone.claims.rows import Row, append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.envs.single import make
from manyone.errors import ManyoneError
from manyone.policies.recipes.problem import PolicyProblem, load_problem
from manyone.policies.recipes.run_planner import SequenceScores, ordered
from manyone.policies.study.alignments import errors
from manyone.policies.study.continual.settings import PARTS, Setting, setting_of
from manyone.policies.tasks import label
from manyone.policies.vqcd.capacity import release
from manyone.policies.vqcd.learner import PlannerLearner
from manyone.policies.vqcd.planner import another
from manyone.policies.vqcd.strategies.masks import MaskStrategy
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together

TITLE = "One planner for many bodies that forgets none: the claims of VQ-CD"
NOTES = [
    "Scores are returns over the first steps of an episode, scaled so that 0 is a random policy and 100 an expert "
    "(D4RL's own references at the scale paper); all arms play the same episodes after each task of the sequence.",
    "All arms have the same data, backbone and steps a task (joint training: as many as all tasks together). One set "
    "of weights for all tasks is told the task, except CoD-RCR's, which is told the return alone; masks, pruned parts, "
    "adapters and networks of a task's own tell it too.",
    "average: mean score of all tasks at the end; plasticity: when each had just been learned; forgetting: the second "
    "less the first. `changed` counts the tasks for which the policy does anything else at the end than when they had "
    "just been learned, bit for bit, on states of their data.",
    "bytes_per_task: what one more task adds to what is kept (masks and biases, adapters, memories), alignments aside.",
    "Alignments: error of states (of unit variance) and actions (-1 to 1) that come back, codes that the data use, and "
    "the mean distance of two tasks' aligned vectors; with alignments of one kind all strategies have the same.",
    "Separate networks have together as many parameters as the one network of the others.",
    "Intervals are over training seeds; all seeds share the data.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 5}
SECTION = "Tasks over time"
_ALIGNED = ("state_mse", "action_mse", "state_codes_used", "action_codes_used", "state_difference", "action_difference")
_SEEN = 4  # states of each task on which what the policy does is compared


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is trained on ``suite``."""
    setting = setting_of(scale, suite)
    return [setting.arm(name) for name in setting.parts]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have."""
    setting, problem = setting_of(scale, suite), problem_of(scale, suite)
    make.prepare(problem.tasks)
    tasks = []
    for one in problem.data:
        source = "; ".join(str(one.meta[key]) for key in ("policy", "origin", "quality") if key in one.meta)
        licence = str(one.meta.get("licence", ""))
        tasks.append(TaskInfo(label(one.name), 0, one.episodes, 0, setting.eval_episodes, source, licence))
    notes = (f"{len(problem.data)} tasks, {sum(len(one) for one in problem.data):,} steps of data",)
    return SuiteInfo(suite, "trajectories", tuple(tasks), notes)


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job an arm, seed and sequence."""
    return [
        Job(suite, seed, part)
        for part in PARTS
        for seed in seeds
        for suite in suites
        if part in setting_of(scale, suite).parts
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return 1 + (len(setting_of(scale, suite).released) if part == "masks" else 0)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: counts, and the complete options of VQ-CD."""
    setting = setting_of(scale, suite)
    shown = {k: v for k, v in dataclasses.asdict(setting).items() if k not in ("options", "cloning")}
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "tasks", "workers", "video", "policy"}
    options = dataclasses.asdict(setting.arm("masks").options())
    return shown | {"vq-cd": {k: v for k, v in options.items() if k not in hidden}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains ``part`` and appends its missing rows to ``folder/<suite>-<seed>-<part>.jsonl``."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting, this = setting_of(scale, suite), PARTS[part]
    arm = setting.arm(part)
    learner, found = measure(scale, suite, arm, seed)
    rows = [_row(suite, seed, this.method, this.variant, found)]
    if part == "masks":
        rows += [
            _row(suite, seed, this.method, f"released-{share:.0%}".rstrip("%"), measured)
            for share, measured in _released(learner, setting, seed)
        ]
    append_rows(path, [row for row in rows if row.key not in done])
    if seed == 0:
        figures = [dataclasses.replace(f, title=f"{arm.method} {arm.variant}".strip()) for f in _matrix(learner)]
        save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures)


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """Forgetting beside plasticity of all arms, the means over seeds."""
    figures = []
    for suite in suites:
        found: dict[str, list[Mapping[str, float]]] = {}
        for job in jobs(scale, [suite], seeds):
            path = folder / f"{job.file}.jsonl"
            for row in load_rows(path) if path.exists() else ():
                if not row.variant:
                    found.setdefault(row.method, []).append(row.metrics)
        means = {n: {k: _mean([m[k] for m in each]) for k in ("forgetting", "plasticity", "average")}
                 for n, each in found.items()}  # fmt: skip
        for name, before, caption in (
            ("forgetting", None, "Score when a task had just been learned less its score at the end, mean over tasks."),
            ("average", "plasticity", "Mean score of all tasks at the end; hollow: when each had just been learned."),
        ):
            data: dict[str, Any] = {"names": list(means), "values": [m[name] for m in means.values()], "unit": "%"}
            data |= {"before": [m[before] for m in means.values()]} if before else {}
            if means:
                figures.append(Figure("bars", f"{suite}: {name}", data, caption, SECTION))
    return figures


# --- what a job is made of --------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What a row says: metrics of the sequence, and each task's score after it was learned and at the end."""

    metrics: dict[str, float]
    learned: dict[str, float]
    end: dict[str, float]


def measure(scale: str, suite: str, arm: Arm, seed: int) -> tuple[Any, Measured]:
    """``arm`` trained on the sequence of ``suite``: the finished learner, and what its row says."""
    options = arm.options(seed=seed)
    problem = ordered(problem_of(scale, suite), options.order)
    learner = arm.build(options, problem, _scores(scale, suite, options.order, options.reference))
    return learner, _train(learner, problem)


@lru_cache(maxsize=2)
def problem_of(scale: str, suite: str) -> PolicyProblem:
    """The tasks that all arms are trained on, in the usual order."""
    setting = setting_of(scale, suite)
    options = setting.arm(setting.parts[0]).options()
    return ordered(load_problem(options), setting.orders[0])


@lru_cache(maxsize=4)
def _scores(scale: str, suite: str, order: tuple[str, ...], reference: tuple[str, ...]) -> SequenceScores:
    """Environments in this process; episodes are in the order of the tasks: a later task moves no earlier one."""
    problem = ordered(problem_of(scale, suite), order)
    return SequenceScores(problem.tasks, horizon=problem.horizons, episodes=setting_of(scale, suite).eval_episodes,
                          workers=0, references=problem.references(reference))  # fmt: skip


def _train(learner: Any, problem: PolicyProblem) -> Measured:
    """The whole sequence; what each task's policy does is noted when it has been learned, and compared at the end."""
    noted: dict[str, bytes] = {}
    started, seconds, found = time.process_time(), 0.0, {}
    for step in range(1, learner.total + 1):
        metrics = learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at step {step}: try a smaller learning rate")
        if step % learner.every == 0:
            seconds += time.process_time() - started
            found = dict(learner.evaluate())
            for task in learner.table.names[: learner.learned]:
                noted.setdefault(task, _done(learner.policy(), problem, task))
            started = time.process_time()
    policy = learner.policy()
    changed = sum(noted[task] != _done(policy, problem, task) for task in problem.tasks)
    scores = learner.scores()
    names = [label(task) for task in problem.tasks]
    learned = {name: float(scores[i][i]) for i, name in enumerate(names)}
    end = {name: float(scores[i][-1]) for i, name in enumerate(names)}
    kept = ("average", "forgetting", "plasticity", "backward_transfer")
    row = {name: float(found[name]) for name in kept} | {"changed": float(changed), "cpu_s": seconds}
    row |= {f"average-{name}": value for name, value in end.items()}
    row |= {n: v for n, v in learner.sizes().items() if n in ("parameters", "trainable_parameters", "bytes_per_task")}
    if isinstance(learner, PlannerLearner) and learner.spaces.steps:
        row |= {name: value for name, value in errors(learner).items() if name in _ALIGNED}
    return Measured(row | learner.effort(), learned, end)


def _done(policy: Any, problem: PolicyProblem, task: str) -> bytes:
    """What ``policy`` does on the first states of the data of ``task``."""
    data = next(one for one in problem.data if one.name == task)
    seen = np.zeros((min(_SEEN, len(data)), policy.state_dim), np.float32)
    seen[:, : data.state_dim] = data.observations[: len(seen)]
    policy.start([_Noted(task)] * len(seen))
    return np.asarray(policy.act(np.arange(len(seen)), seen))[:, : data.action_dim].tobytes()


class _Noted(NamedTuple):
    task: str
    target: float | None = None


def _released(learner: Any, setting: Setting, seed: int) -> Iterator[tuple[float, Measured]]:
    """The finished model with a share of each task's weights taken away."""
    strategy = learner.strategy
    assert isinstance(strategy, MaskStrategy)
    before = copy.deepcopy(strategy.state_dict())
    for share in setting.released:
        release(strategy.masked, another(learner.network, 1.0, seed, "released"), share=share, seed=seed)
        metrics = learner.evaluator(learner)
        end = {label(t): float(metrics[f"{learner.scored_by}/{t}"]) for t in learner.table.names}
        yield share, Measured({"average": _mean(list(end.values()))}, {}, end)
        strategy.load_state_dict(before)


def _matrix(learner: Any) -> Iterator[Figure]:
    """Scores of all tasks after each."""
    names = [label(name) for name in learner.table.names]
    data = {"rows": names, "columns": [f"after {name}" for name in names], "values": learner.scores()}
    data |= {"unit": "%"} if learner.scored_by in ("success", "normalised") else {}
    yield Figure("matrix", "", data, "Score of each task after each task was learned, first seed.", SECTION)


def _row(suite: str, seed: int, method: str, variant: str, found: Measured) -> Row:
    details = {"score": {"learned": found.learned, "end": found.end}} if found.learned else {}
    return Row(suite, seed, method, variant, metrics=found.metrics, details=details)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
