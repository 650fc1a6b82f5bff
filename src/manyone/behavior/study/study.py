"""The behavior study: every way to make a small set of pairs, judged by students that are trained on it.

A job is one method with one seed on all data sets of a suite: bodies x qualities. Scores are D4RL's normalised returns,
averaged over the bodies; a row for each quality, and one for the mean over all of them. Every set is made with its
recipe's options and builder, with the teacher that the recipe takes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from manyone.behavior.artefact import Distilled, Frame
from manyone.behavior.cloning import STEPS
from manyone.behavior.evaluate import Evaluator, StudentScores
from manyone.behavior.recipes.problem import BehaviorProblem, load_problem
from manyone.behavior.recipes.run import student_seeds
from manyone.behavior.recipes.teaching import Lesson, teacher_of
from manyone.behavior.students.policies import StudentPolicies
from manyone.behavior.students.training import train as train_students
from manyone.behavior.study.settings import PARTS, TRANSFERS, Setting, setting_of
from manyone.behavior.teachers.acting import TeacherPolicy
from manyone.behavior.teachers.teacher import Labels, Teacher, label
from manyone.claims.rows import Row, append_rows, keys_in
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together

TITLE = "A mountain of recorded behaviour becomes a few hundred pairs: the claims of Offline Behavior Distillation"
NOTES = [
    "Scores are D4RL's normalised returns in percent (0: a random policy, 100: its expert), mean over the bodies. A "
    "set is judged by fresh students that are trained on it alone, each in the same episodes.",
    "Each data set's teacher was trained offline on that set alone (TD3+BC or IQL, with their critics) and comes with "
    "the package: every method has seen the same data.",
    "Data are roll-outs of our own TD3 checkpoints on Gymnasium's v5 bodies. All seeds share data and teachers; a "
    "seed is a start of the set, the students of its outer steps, and the students that judge it.",
    "All distilled sets took the same outer steps with the same students; `half` is the score after half of them.",
    "The row of behaviour cloning is the mean over as many networks as sets have students.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 5}
Cell = tuple[str, str]
"""Body and quality."""


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is measured on ``suite``, on its first data set."""
    setting = setting_of(scale, suite)
    return [setting.arm(name, setting.bodies[0], setting.qualities_of(name)[0]) for name in setting.parts]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have."""
    setting = setting_of(scale, suite)
    tasks = []
    for body, quality in cells(setting):
        problem = problem_of(scale, suite, body, quality)
        (one,) = problem.trajectories
        licence = str(one.meta.get("licence", ""))
        tasks.append(TaskInfo(f"{body}-{quality}", 0, one.episodes, 0, setting.eval_episodes,
                              str(one.meta.get("policy", "")), licence))  # fmt: skip
    return SuiteInfo(suite, "trajectories", tuple(tasks), ())


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job a method, seed and suite, the longest methods first."""
    return [
        Job(suite, seed, part)
        for part in PARTS
        for seed in seeds
        for suite in suites
        if part in setting_of(scale, suite).parts
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    setting = setting_of(scale, suite)
    rows = len(setting.qualities_of(part)) * (len(setting.qualities) > 1) + _on_all(setting, part)
    return rows * (1 + len(_transfers(setting, part)))


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: counts, and the complete options of Av-PBC."""
    setting = setting_of(scale, suite)
    shown = {k: v for k, v in dataclasses.asdict(setting).items() if k != "options"}
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "data", "workers", "suite", "quality"}
    options = dataclasses.asdict(setting.arm("av-pbc", setting.bodies[0], setting.qualities[0]).options())
    return shown | {"av-pbc": {k: v for k, v in options.items() if k not in hidden}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Makes the sets of ``part`` and appends the missing rows to ``folder/<suite>-<seed>-<part>.jsonl``."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting, method = setting_of(scale, suite), PARTS[part].method
    several = len(setting.qualities) > 1
    found: dict[str, list[dict[str, float]]] = {}
    for quality in setting.qualities_of(part):
        measured = [_measure(scale, suite, seed, part, body, quality) for body in setting.bodies]
        for variant in measured[0]:
            metrics = _mean_over(setting.bodies, [one[variant] for one in measured])
            found.setdefault(variant, []).append(metrics)
            row = Row(suite, seed, method, "+".join(filter(None, (quality, variant))), metrics=metrics)
            if several and row.key not in done:
                append_rows(path, [row])
    for variant, rows in found.items() if _on_all(setting, part) else ():
        row = Row(suite, seed, method, variant, metrics=_means(rows))
        if row.key not in done:
            append_rows(path, [row])


# --- what a job is made of --------------------------------------------------------------------------------------------


def cells(setting: Setting) -> list[Cell]:
    """The data sets of a suite."""
    return [(body, quality) for quality in setting.qualities for body in setting.bodies]


@lru_cache(maxsize=4)
def problem_of(scale: str, suite: str, body: str, quality: str) -> BehaviorProblem:
    """One data set, which all parts share."""
    setting = setting_of(scale, suite)
    return load_problem(setting.arm(setting.parts[0], body, quality).options())


@lru_cache(maxsize=4)
def _taught(scale: str, suite: str, body: str, quality: str) -> tuple[Teacher, Labels]:
    """The teacher that the recipe takes for this data set, and what it says."""
    setting = setting_of(scale, suite)
    (data,) = problem_of(scale, suite, body, quality).data
    teacher = teacher_of(setting.arm("av-pbc", body, quality).options(), data)
    if isinstance(teacher, Lesson):
        raise ManyoneError(f"the study takes teachers that come with manyone, and {teacher.learner.METHOD} is trained")
    return teacher, label(teacher, data)


@lru_cache(maxsize=4)
def _evaluator(scale: str, suite: str, body: str, quality: str) -> Evaluator:
    """Environments in this process, kept for the jobs to come."""
    setting = setting_of(scale, suite)
    (data,) = problem_of(scale, suite, body, quality).data
    return Evaluator(Frame.of(data), episodes=setting.eval_episodes, students=setting.students, workers=0)


def _on_all(setting: Setting, part: str) -> bool:
    """Whether ``part`` is measured on all qualities, so that their mean compares with other parts'."""
    return setting.qualities_of(part) == setting.qualities


def _transfers(setting: Setting, part: str) -> dict[str, dict[str, Any]]:
    """Other students of the sets of ``part``, by variant; the ensemble needs no training of its own."""
    if not PARTS[part].transfers:
        return {}
    return {"ensemble": {}} | (TRANSFERS if setting.transfers else {})


def _measure(scale: str, suite: str, seed: int, part: str, body: str, quality: str) -> dict[str, dict[str, float]]:
    """Variant -> metrics on one data set; "" is the method itself."""
    setting = setting_of(scale, suite)
    arm, (data,) = setting.arm(part, body, quality), problem_of(scale, suite, body, quality).data
    options, evaluator = arm.options(seed=seed), _evaluator(scale, suite, body, quality)
    if part == "teacher":
        teacher, _ = _taught(scale, suite, body, quality)
        return {"": _scores(evaluator.play(TeacherPolicy(teacher, Frame.of(data))))}
    started = time.process_time()
    if PARTS[part].recipe == "bc":
        learner = arm.build(options, data)
        for _ in range(STEPS if options.steps is None else options.steps):
            learner.step()
        cost = {"cpu_s": time.process_time() - started}
        return {"": _scores(evaluator(learner.policies())) | cost}
    (one,) = arm.build(
        options, problem_of(scale, suite, body, quality), [_taught(scale, suite, body, quality)[1]]
    ).learners
    half: dict[str, float] = {}
    clipped = 0.0
    for step in range(1, options.steps + 1):
        clipped += one.step()["clipped"]
        if 2 * step == options.steps:
            paused = time.process_time()
            half = {"half": _scores(evaluator(_students(options, one.distilled())))["normalised"]}
            started += time.process_time() - paused
    cost = {"cpu_s": time.process_time() - started}
    cost |= {"clipped": clipped / options.steps} if options.steps else {}
    distilled = one.distilled()
    policies = _students(options, distilled)
    found = {"": _scores(evaluator(policies)) | half | cost | {"beyond": distilled.beyond()}}
    for variant, changes in _transfers(setting, part).items():
        if variant == "ensemble":
            found[variant] = _scores(evaluator.ensemble(policies))
        else:
            found[variant] = _scores(evaluator(_students(options, distilled, changes)))
    return found


def _students(options: Any, distilled: Distilled, changes: Mapping[str, Any] | None = None) -> StudentPolicies:
    """Fresh students of a set, of another architecture or trained by another optimiser where ``changes`` say so."""
    given = dict(changes or {})
    words = {k: given.pop(k) for k in ("optimiser",) if k in given}
    renamed = {"kind" if k == "student" else k: v for k, v in given.items()}
    spec = dataclasses.replace(distilled.spec, **renamed)
    return train_students(distilled, student_seeds(options), spec=spec, **words)


def _scores(scores: StudentScores) -> dict[str, float]:
    found = scores.metrics()
    return {name: found[name] for name in ("return", "normalised", "students_spread", "episodes_spread")}


def _mean_over(bodies: Sequence[str], measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the bodies, and each one's score."""
    own = {f"normalised-{body}": one["normalised"] for body, one in zip(bodies, measured, strict=True)}
    return _means(measured) | (own if len(bodies) > 1 else {})


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}
