"""The text-to-SQL study: one teacher, one start a seed, and every distillation of it, judged by executed answers.

A job is one arm with one seed. Two more jobs a seed measure what the arms learn from and start from ("bounds") and,
with the methods' steps taken in turn, what a step of each costs ("costs"). Teacher, start and data are made by the
recipes' own stages and are shared through the cache. Arms are runs like any other: their folders lie beside the rows,
and an interrupted job goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from manyone.assets.cache import locked
from manyone.claims.figure import Figure, save_figures
from manyone.claims.rows import Row, append_rows, keys_in
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.engine.devices import device_of
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together
from manyone.sql.exposure import excess_error
from manyone.sql.generation import Decoding
from manyone.sql.language_model import LanguageModel
from manyone.sql.recipes.build import Models
from manyone.sql.recipes.problem import SQLProblem, load_problem
from manyone.sql.recipes.scores import Judge
from manyone.sql.recipes.stages import Stages
from manyone.sql.study import figures
from manyone.sql.study.answers import Answers, answers_of
from manyone.sql.study.settings import BOUNDS, COSTS, JOBS, PARTS, Setting, setting_of
from manyone.sql.tokens import padding

TITLE = "A large model's text-to-SQL in a small one: the claims of KID"
NOTES = [
    "EX: share of answers with gold's result on one database; TS: on all instances of its schema, whose rows are drawn "
    "anew. Generated questions and Spider's real ones are scored apart: figures without a word are of generated ones, "
    "those of real questions are reported and test no claim.",
    "All methods of a seed start from the same fine-tuned student and have the same teacher; at equal steps all take "
    "the same batches. At equal time they take as many steps as cost what those of the other method cost, by a pilot; "
    "what every training really took is in its rows (cpu_s, processor seconds).",
    "Costs are processor seconds of one step, medians of steps that the methods take in turn in one process, as shares "
    "of a step of fine-tuning too.",
    "ExAccErr is measured on test questions at the full length of answers, with sampled prefixes of both models.",
    "Models are decoders from scratch; the paper's are pretrained. Orderings are compared, not levels.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 3}
_WARM_UP = 3  # steps of a method before its cost is measured
_LAST = 50  # steps at the end that figures of training are the mean of


def arms(scale: str, suite: str) -> list[Arm]:
    """Everything that is trained on ``suite``."""
    setting = setting_of(scale, suite)
    return [setting.arm(name) for name in setting.parts]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Makes the data that the cache does not have."""
    problem = problem_of(scale, suite)
    data = problem.data
    count: dict[tuple[str, str], dict[str, int]] = {}
    for split in ("train", "val", "test"):
        for pair in problem.of(split):
            key = (pair.db_id, pair.source)
            count.setdefault(key, {"train": 0, "val": 0, "test": 0})[split] += 1
    tasks = [TaskInfo(f"{db_id}: {source}" if source else db_id, 0, n["train"], n["val"], n["test"],
                      licence=data.licence)
             for (db_id, source), n in sorted(count.items())]  # fmt: skip
    return SuiteInfo(suite, "questions", tuple(tasks), data.notes)


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job an arm, seed and suite, the longest arms first, then the costs and the bounds.

    But the first job makes the teacher, and beside it run those that ask none: all others would wait for it.
    """
    alone = [part for part, what in PARTS.items() if what.recipe == "sft"]
    listed = [
        Job(suite, seed, part)
        for part in (*alone, *(part for part in PARTS if part not in alone), *JOBS)
        for seed in seeds
        for suite in suites
        if part in JOBS or part in setting_of(scale, suite).parts
    ]
    first = [job for job in listed if job.part == "bounds" and job.seed == seeds[0]]
    return [*first, *(job for job in listed if job not in first)]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return len(_costed(setting_of(scale, suite))) if part == "costs" else len(BOUNDS) if part == "bounds" else 1


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``: counts, and the complete options of KID."""
    setting = setting_of(scale, suite)
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "workers"}
    options = dataclasses.asdict(setting.arm("kid").options())
    shown = {k: v for k, v in dataclasses.asdict(setting).items() if k != "options"}
    return shown | {"kid": {k: v for k, v in options.items() if k not in hidden}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Appends the missing rows of ``part`` to ``folder/<suite>-<seed>-<part>.jsonl``."""
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    if device_of(setting_of(scale, suite).arm("kid").options().device).type == "cpu":
        torch.set_num_threads(1)  # jobs run side by side, one a processor
    if part == "costs":
        rows = _costs(scale, suite, seed, folder)
    elif part == "bounds":
        rows = _bounds(scale, suite, seed, folder)
    else:
        rows = [_trained(scale, suite, seed, part, folder)]
    append_rows(path, [row for row in rows if row.key not in done])


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """What all arms of a suite show together, and what the paper published."""
    drawn = []
    for suite in suites:
        rows = figures.rows_of([folder / f"{job.file}.jsonl" for job in jobs(scale, [suite], seeds)])
        drawn += figures.of_suite(suite, rows)
    return [*drawn, *figures.published()]


# --- what a job is made of --------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def problem_of(scale: str, suite: str) -> SQLProblem:
    """The data, which all parts and seeds share."""
    return load_problem(setting_of(scale, suite).arm("kid").options())


def _trained(scale: str, suite: str, seed: int, part: str, folder: Path) -> Row:
    """One arm: trained, answering, scored."""
    setting, problem = setting_of(scale, suite), problem_of(scale, suite)
    arm = setting.arm(part)
    options = arm.options(seed=seed)
    run = _run_folder(folder, f"{suite}-{seed}-{part}", arm.recipe, options)
    with Judge(problem, options) as judge:
        models = _models(options, problem, run, judge)
        learner = arm.build(options, problem, models, None, {"recipe": arm.recipe, "seed": seed})
        steps = learner.optimisation.steps
        whole, began = not run.checkpoints.is_dir(), _clock(models.student)
        final = train(learner, run, steps=steps, checkpoint_every=options.checkpoint_every, log_every=1)
        seconds = _clock(models.student) - began
        answers = answers_of(problem, judge, models.student, models.tokenizer)
        if part == "kid" and seed == 0:
            save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures.wrong_answers(suite, answers))
    metrics = answers.metrics() | {"steps": float(steps)}
    metrics |= {"val_loss": final["val_loss"]} if "val_loss" in final else {}
    metrics |= {"cpu_s": seconds} if whole else {}  # of a run that was interrupted the earlier part is not known
    details: dict[str, dict[str, Any]] = answers.details()
    history = _history(run, steps)
    for name in ("rewrite_error", "generated"):
        if name in history:
            metrics[name] = math.fsum(history[name][-_LAST:]) / len(history[name][-_LAST:])
    if "rewrite_error" in history:
        details["training"] = {"rewrite_error": _thinned(history["rewrite_error"])}
    if PARTS[part].exposure:
        found = _exposure(setting, options, problem, models)
        metrics |= {"exposure": found["percent"][-1] / 100, "exposure_expected": found["expected"][-1]}
        details["exposure"] = {"percent": found["percent"]}
    return Row(suite, seed, PARTS[part].method, PARTS[part].variant, metrics=metrics, details=details)


def _bounds(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """What the teacher answers, and the student before any method."""
    arm, problem = setting_of(scale, suite).arm("kid"), problem_of(scale, suite)
    options = arm.options(seed=seed)
    run = _run_folder(folder, f"{suite}-{seed}-bounds", arm.recipe, options)
    with Judge(problem, options) as judge:
        models = _models(options, problem, run, judge)
        rows = []
        for name, model in zip(BOUNDS, (models.teacher, models.student), strict=True):
            assert model is not None
            answers: Answers = answers_of(problem, judge, model, models.tokenizer)
            parameters = float(sum(p.numel() for p in model.model.parameters()))
            rows.append(Row(suite, seed, name, metrics=answers.metrics() | {"parameters": parameters},
                            details=answers.details()))  # fmt: skip
    return rows


def _costs(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """Processor seconds of a step, the methods' steps in turn."""
    setting, problem = setting_of(scale, suite), problem_of(scale, suite)
    learners = {}
    first = setting.arm("kid")
    run = _run_folder(folder, f"{suite}-{seed}-costs", first.recipe, first.options(seed=seed))  # of what all share
    for name in _costed(setting):
        arm = setting.arm(name)
        options = arm.options(seed=seed)
        with Judge(problem, options) as judge:
            learners[name] = arm.build(options, problem, _models(options, problem, run, judge), None, {})
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(_WARM_UP + setting.rounds):
        for name, learner in learners.items():
            began = _clock(learner.student)
            learner.step()
            if number >= _WARM_UP:
                seconds[name].append(_clock(learner.student) - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    rows = []
    for name, median in medians.items():
        part = COSTS[name]
        metrics = {"step_s": median, "step_sft": median / medians["sft"], "rounds": float(setting.rounds)}
        rows.append(Row(suite, seed, part.method, part.variant, "cost", metrics=metrics))
    return rows


def _costed(setting: Setting) -> list[str]:
    """Methods whose cost is measured: those that are trained, and those that costs are compared with."""
    return [name for name in COSTS if name in setting.parts or name in ("sft", "rkd", "separate")]


def _clock(model: LanguageModel) -> float:
    """Processor seconds; on an accelerator, which works on its own, seconds of the clock."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
        return time.perf_counter()
    return time.process_time()


def _models(options: Any, problem: SQLProblem, run: RunFolder, judge: Judge) -> Models:
    """The recipe's own stages. Jobs of one start wait for each other, so that it is trained once."""
    with locked(f"sql-study-{options.suite or 'data'}-{options.seed}"):
        stages = Stages(options, problem, run, device_of(options.device))
        return stages.models(judge.kept(options.teacher_filter))


def _run_folder(folder: Path, name: str, recipe: str, options: Any) -> RunFolder:
    """The job's run: a new one, or the one that was interrupted."""
    path = folder / "runs" / name
    if (path / "config.yaml").is_file():
        found = RunFolder.open(path)
        if found.recipe == recipe:
            return found
        raise ManyoneError(f"{path}: holds a run of {found.recipe}, not of {recipe}: remove it")
    return RunFolder.create(path, recipe, options)


def _exposure(setting: Setting, options: Any, problem: SQLProblem, models: Models) -> dict[str, list[float]]:
    """ExAccErr in percent and l e(l) at every length."""
    assert models.teacher is not None
    prompts = problem.prompts(models.tokenizer, problem.test[: setting.exposure])
    how = Decoding(models.tokenizer.eos_token_id, padding(models.tokenizer), options.max_output, batch_size=64)
    found = excess_error(models.student, models.teacher, prompts, how, seed=options.seed, samples=setting.samples)
    whole = len([value for value in found.percent if math.isfinite(value)])
    if not whole:
        raise ManyoneError(f"ExAccErr of {problem.data.name}: student and teacher are the same model")
    return {"percent": list(found.percent[:whole]), "expected": list(found.expected[:whole])}


def _history(run: RunFolder, steps: int) -> dict[str, list[float]]:
    """Metrics of the run's steps."""
    found: dict[str, list[float]] = {}
    with (run.path / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row.get("kind") == "train":
                for name, value in row.items():
                    if isinstance(value, int | float) and name != "step":
                        found.setdefault(name, []).append(float(value))
    return {name: values for name, values in found.items() if len(values) == steps}


def _thinned(values: Sequence[float], points: int = 30) -> dict[str, float]:
    """Step -> mean over the steps up to it, at so many steps."""
    width = max(1, math.ceil(len(values) / points))
    parts = [values[i : i + width] for i in range(0, len(values), width)]
    return {str(min((k + 1) * width, len(values))): math.fsum(p) / len(p) for k, p in enumerate(parts)}
