"""How a policy recipe runs: data, the loop, evaluation in the environments, the artefact, and a GIF when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single.collect import set_tasks
from manyone.envs.single.make import goals
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Arena, BatchedPolicy, Episode, EpisodeResult, paired_episodes
from manyone.evaluation.scores import summarise
from manyone.evaluation.video import record
from manyone.policies.best import Best, best_state
from manyone.policies.held_out import action_errors, half_ranges
from manyone.policies.protocol import PolicyTrainer
from manyone.policies.recipes.needs import offline_name, state_of
from manyone.policies.recipes.options import DataOptions, PolicyOptions
from manyone.policies.recipes.problem import PolicyProblem, load_problem
from manyone.policies.recipes.references import keep_points, points_of_errors, points_of_play
from manyone.policies.tasks import label, slug
from manyone.recipes.options import Split
from manyone.recipes.references import Reference
from manyone.recipes.running import by_task, percent, print_table, restore

Build = Callable[..., PolicyTrainer]
EVAL_OPTIONS = ("episodes", "seed", "horizon", "target_return")
"""Options of ``manyone eval`` that :func:`evaluate` takes."""


def run(options: PolicyOptions, build: Build, folder: RunFolder) -> None:
    """Data, loop, scores, artefact and, if asked for, films."""
    problem = load_problem(options)
    with evaluator_of(problem, options) as evaluator:
        learner = build(options, problem, evaluator)
        _check_inputs(options, problem, folder)  # the first thing that is written: what is refused leaves no folder
        if options.suite is None:
            for one in problem.data:
                print(f"data of {one.name}: {one.summary()}", file=sys.stderr)
        keep_points(folder, partial(evaluator.points, problem))
        final = train(
            Best(learner, folder) if options.evaluate_every else learner,
            folder,
            steps=options.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, options.steps // 1000),
        )
        evaluator.save(folder)
    evaluator.print(final)
    if (best := best_state(folder)) is not None:
        print(f"exported: {best}" + "; the table is of the last" * (best.step < options.steps))
    if options.video:
        record_videos(folder, learner.policy(), problem)


def evaluate(
    options: PolicyOptions,
    build: Build,
    folder: RunFolder,
    split: Split,
    *,
    episodes: int | None = None,
    seed: int = 0,
    horizon: int | None = None,
    target_return: Sequence[float] = (),
) -> Mapping[str, float] | list[dict[str, float]]:
    """Scores of the exported weights, the best or the newest, on goals held out (test) or of the data (train).

    ``episodes`` a task, of other starts for another ``seed``, over ``horizon`` steps; with ``target_return`` a row for
    each return that is asked for.
    """
    problem = load_problem(options)
    _check_inputs(options, problem, folder)
    learner = build(options, problem)
    return scored(learner, problem, options, folder, split, episodes, seed, horizon, target_return)


def scored(
    learner: PolicyTrainer,
    problem: PolicyProblem,
    options: DataOptions,
    folder: RunFolder,
    split: Split,
    episodes: int | None,
    seed: int,
    horizon: int | None,
    target_return: Sequence[float],
) -> Mapping[str, float] | list[dict[str, float]]:
    """Scores in ``problem`` of the weights of ``folder``, the best or the newest, put into ``learner``."""
    if problem.held_out and (seed or horizon or target_return):
        raise ManyoneError("--seed, --horizon and --target-return are for environments: this run has none to act in")
    if target_return and not learner.policy().reads_returns:
        raise ManyoneError(f"--target-return: {folder.recipe} reads no return")
    best = best_state(folder)
    if best is None:
        restore(learner, folder)
    else:
        learner.load_state_dict(best.learner)
        print(f"evaluated: {best}")
    if horizon is not None:
        problem = replace(problem, horizon=horizon)
        problem.warn_of_time()
    options = replace(options, eval_episodes=episodes or options.eval_episodes)
    with evaluator_of(problem, options, split, seed) as evaluator:
        if isinstance(evaluator, Evaluator) and target_return:
            return [{"target": target} | evaluator.at_target(learner, target) for target in target_return]
        return evaluator(learner)


def evaluator_of(
    problem: PolicyProblem,
    options: DataOptions,
    split: Split = "test",
    seed: int = 0,
    *,
    plays: type[Evaluator] | None = None,
    compares: type[ActionErrors] | None = None,
) -> Evaluator | ActionErrors:
    """What ``options`` ask for: episodes in the environments of ``problem``, or without them the actions' errors.

    ``plays`` and ``compares``: classes that do this in their own way.
    """
    if problem.held_out:
        return (compares or ActionErrors)(problem, options.eval_episodes, split)
    return (plays or Evaluator)(
        problem.tasks,
        horizon=problem.horizons,
        episodes=options.eval_episodes,
        stop_at_success=not options.full_episodes,
        workers=options.workers,
        split=split,
        seed=seed,
        references=problem.references(options.reference),
    )


def _check_inputs(options: PolicyOptions, problem: PolicyProblem, folder: RunFolder) -> None:
    """Own files may have changed since the run began; made data are kept by their recipe."""
    if options.suite is None:
        check_inputs(folder, problem.digests())


class Evaluator:
    """Plays the same episodes for every policy; a context manager that keeps the environments' processes.

    ``workers`` None: one process a processor, 0: this process. ``seed``: of the episodes' starts. ``references``: the
    returns of a random and of an expert policy, task by task, between which normalised scores go from 0 to 1.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        horizon: int | Mapping[str, int] | None,
        episodes: int,
        stop_at_success: bool = True,
        workers: int | None = None,
        split: Split = "test",
        seed: int = 0,
        references: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        _check_split(split)
        self.episodes: list[Episode] = []
        for task in tasks:
            self.episodes += paired_episodes([task], episodes, goals(task, evaluation=split == "test"), seed)
        self.horizon, self.stop = horizon, stop_at_success
        self.arena = Arena(list(tasks), episodes, workers)
        self.results: list[EpisodeResult] = []
        self.references = dict(references or {})

    def play(
        self, policy: BatchedPolicy, target: float | None = None, tasks: Sequence[str] | None = None
    ) -> list[EpisodeResult]:
        """All episodes (or those of ``tasks``) with ``policy``, of which the return ``target`` is asked."""
        chosen = [one for one in self.episodes if tasks is None or one.task in tasks]
        episodes = [replace(episode, target=target) for episode in chosen]
        return self.arena.rollout(policy, episodes, horizon=self.horizon, stop_at_success=self.stop)

    def __call__(self, learner: PolicyTrainer) -> dict[str, float]:
        """Plays with what ``learner`` is now: success and return with their intervals, and of each task.

        Where tasks are grouped also ``groups``, their number, and where the group is inferred ``gate_accuracy``, the
        share of steps under the right one; and what the training took (``updates``, ``samples_per_task``). The results
        stay in ``results``.
        """
        self.results = self.play(learner.policy())
        metrics = summarise(self.results).as_metrics()
        metrics |= normalised(metrics, self.references)
        metrics |= learner.effort() | {name: v for name, v in learner.sizes().items() if name == "groups"}
        right = shares_right(self.results)
        return metrics | ({"gate_accuracy": sum(right) / len(right)} if right else {})

    def at_target(self, learner: PolicyTrainer, target: float) -> dict[str, float]:
        """Success, return and length where the return ``target`` is asked for, and each task's return."""
        metrics = summarise(self.play(learner.policy(), target)).as_metrics()
        metrics |= normalised(metrics, self.references)
        shown = ("success", "return", "return_low", "return_high", "normalised", "episode_length")
        several = len(self.arena.tasks) > 1
        return {n: v for n, v in metrics.items() if n in shown or (several and n.startswith("return/"))}

    def points(self, problem: PolicyProblem) -> list[Reference]:
        """What the scores are compared with."""

        def play(policy: BatchedPolicy, episodes: Sequence[Episode]) -> list[EpisodeResult]:
            return self.arena.rollout(policy, episodes, horizon=self.horizon, stop_at_success=self.stop)

        def score(results: Sequence[EpisodeResult]) -> dict[str, float]:
            metrics = summarise(results).as_metrics()
            return metrics | normalised(metrics, self.references)

        return points_of_play(problem, self.episodes, play, score, self.references, to_success=self.stop)

    def print(self, metrics: Mapping[str, Any]) -> None:
        """The scores of the last evaluation, for people."""
        print_scores(metrics, self.results)

    def save(self, folder: RunFolder) -> None:
        """The episodes of the last evaluation, one line each, as ``episodes.jsonl``."""
        lines = []
        for r in self.results:
            line = {"task": r.episode.task, "goal": r.episode.goal, "seed": r.episode.seed}
            line |= {"return": r.return_, "success": r.success}
            line |= {"first_success": r.first_success, "length": r.length} | r.info
            lines.append(json.dumps(line) + "\n")
        write_atomic(folder.path / "episodes.jsonl", "".join(lines).encode())

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *problem: object) -> None:
        self.arena.close()


class ActionErrors:
    """The error of a policy's actions on episodes left out (test) or of the training (train); the same for all."""

    def __init__(self, problem: PolicyProblem, episodes: int, split: Split = "test") -> None:
        _check_split(split)
        chosen = problem.held_out if split == "test" else problem.data
        self.data = [one.select(np.arange(min(episodes, one.episodes))) for one in chosen]
        self.halves = {one.name: half_ranges(one) for one in problem.data}

    def __call__(self, learner: PolicyTrainer) -> dict[str, float]:
        """``action_error``, the mean over tasks, and that of each task."""
        return self.errors(learner.policy(), self.data)

    def errors(self, policy: BatchedPolicy, data: Sequence[Trajectories]) -> dict[str, float]:
        """The error of ``policy`` on the episodes ``data`` of some tasks, as metrics."""
        errors = action_errors(policy, data, self.halves)
        mean = sum(errors.values()) / len(errors)
        return {"action_error": mean} | {f"action_error/{task}": error for task, error in errors.items()}

    def points(self, problem: PolicyProblem) -> list[Reference]:
        """What the errors are compared with."""
        return points_of_errors(problem, lambda policy: self.errors(policy, self.data))

    def print(self, metrics: Mapping[str, Any]) -> None:
        """One line a task and the mean, for people."""
        rows = [(task, f"{error:.4f}") for task, error in by_task(metrics, "action_error").items()]
        print_table(("task", "action error"), rows, ("mean", f"{metrics['action_error']:.4f}"))

    def save(self, folder: RunFolder) -> None:
        """Nothing: no episode was played."""

    def __enter__(self) -> ActionErrors:
        return self

    def __exit__(self, *problem: object) -> None:
        pass


def normalised(metrics: Mapping[str, float], references: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """D4RL's scores (return - random) / (expert - random) as ``normalised/TASK``, and their mean over the tasks.

    Fu et al., "D4RL" (arXiv 2004.07219), without its factor of 100. Empty unless all tasks have ``references``.
    """
    returns = by_task(metrics, "return")
    if not references or returns.keys() - references.keys():
        return {}
    scores = {
        task: (r - references[task][0]) / (references[task][1] - references[task][0]) for task, r in returns.items()
    }
    mean = sum(scores.values()) / len(scores)
    return {"normalised": mean} | {f"normalised/{task}": score for task, score in scores.items()}


def _check_split(split: Split) -> None:
    if split == "val":
        raise ManyoneError("policies have no val split: test plays held-out goals, train those of the data")


def shares_right(results: Sequence[EpisodeResult]) -> list[float]:
    """The share of steps under the right group, of the episodes in which groups were inferred."""
    return [r.info["group_right"] for r in results if "group_right" in r.info]


def print_scores(metrics: Mapping[str, Any], results: Sequence[EpisodeResult]) -> None:
    """One line a task and the mean, for people; with the group that each episode ended under where it was inferred."""
    grouped, scored = any("group" in r.info for r in results), "normalised" in metrics
    rows = []
    for task in dict.fromkeys(r.episode.task for r in results):
        own = [r for r in results if r.episode.task == task]
        cells = [task, percent(metrics.get(f"success/{task}"), 0), f"{metrics[f'return/{task}']:.1f}"]
        if scored:
            cells.append(percent(metrics[f"normalised/{task}"]))
        if grouped:
            cells += [str(own[0].info.get("true_group", "")), " ".join(str(r.info["group"]) for r in own)]
        rows.append(cells)
    columns = ("task", "success %", "return", *(["normalised %"] * scored))
    columns += ("group", "inferred, episode by episode") if grouped else ()
    mean = ["mean", percent(metrics.get("success")), f"{metrics['return']:.1f}"]
    print_table(columns, rows, [*mean, *([percent(metrics["normalised"])] if scored else [])])


def record_videos(folder: RunFolder, policy: BatchedPolicy, problem: PolicyProblem) -> None:
    """One evaluation episode a task as ``videos/TASK.gif``."""
    place = folder.folder("videos")
    for episode in paired_episodes(problem.tasks, 1):
        path = place / f"{slug(episode.task)}.gif"
        record(policy, episode, path, horizon=problem.horizons[episode.task], stop_at_success=True)
    print(f"videos: {place}")


def plan(options: PolicyOptions, build: Build, folder: RunFolder) -> list[str]:
    """The tasks and their data, and how long is trained and played; nothing is made for it."""
    wanted = offline_name(options)
    if wanted is None:
        lines = [f"{folder.recipe} on own data: {', '.join(options.data)}"]
    else:
        tasks = set_tasks(wanted)
        size = f"{wanted.episodes} episodes of {wanted.steps} steps a task, " if wanted.episodes else ""
        lines = [
            f"{folder.recipe} on {wanted}: {len(tasks)} tasks ({', '.join(label(t) for t in tasks)})",
            f"data: {size}{state_of(wanted)}",
        ]
    return [
        *lines,
        f"{options.steps} steps of {options.batch_size} samples a task; {options.eval_episodes} evaluation episodes a "
        "task at held-out goals",
    ]
