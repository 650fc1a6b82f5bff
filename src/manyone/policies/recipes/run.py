"""How a policy recipe runs: data, the loop, evaluation in the environments, the artefact, and a GIF when asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyone.engine.files import write_atomic
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single.collect import set_tasks
from manyone.envs.single.make import goals
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Arena, BatchedPolicy, Episode, EpisodeResult, paired_episodes
from manyone.evaluation.scores import summarise
from manyone.evaluation.video import record
from manyone.policies.protocol import PolicyTrainer
from manyone.policies.recipes.options import PolicyOptions
from manyone.policies.recipes.problem import PolicyProblem, load_problem, offline_name
from manyone.policies.tasks import label
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table, restore

Build = Callable[..., PolicyTrainer]


def run(options: PolicyOptions, build: Build, folder: RunFolder) -> None:
    """Data, loop, scores, artefact and, if asked for, films."""
    if options.dry_run:
        print("\n".join(plan(options, folder.recipe)))
        return
    problem = load_problem(options)
    with Evaluator.from_options(problem, options) as evaluator:
        learner = build(options, problem, evaluator)
        final = train(
            learner,
            folder,
            steps=options.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, options.steps // 1000),
        )
        evaluator.save(folder)
    print_scores(final, evaluator.results)
    if options.video:
        record_videos(folder, learner.policy(), problem)


def evaluate(options: PolicyOptions, build: Build, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Scores of the newest checkpoint on goals held out (test) or of the data (train)."""
    problem = load_problem(options)
    learner = build(options, problem)
    restore(learner, folder)
    with Evaluator.from_options(problem, options, split) as evaluator:
        return evaluator(learner)


class Evaluator:
    """Plays the same episodes for every policy; a context manager that keeps the environments' processes.

    ``workers`` None: one process a processor, 0: this process.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        horizon: int,
        episodes: int,
        stop_at_success: bool = True,
        workers: int | None = None,
        split: Split = "test",
    ) -> None:
        if split == "val":
            raise ManyoneError("policies have no val split: test plays held-out goals, train those of the data")
        self.episodes: list[Episode] = []
        for task in tasks:
            self.episodes += paired_episodes([task], episodes, goals(task, evaluation=split == "test"))
        self.horizon, self.stop = horizon, stop_at_success
        self.arena = Arena(list(tasks), episodes, workers)
        self.results: list[EpisodeResult] = []

    @classmethod
    def from_options(cls, problem: PolicyProblem, options: PolicyOptions, split: Split = "test") -> Evaluator:
        """What ``options`` ask for, on the problem's tasks."""
        return cls(
            problem.tasks,
            horizon=problem.horizon,
            episodes=options.eval_episodes,
            stop_at_success=not options.full_episodes,
            workers=options.workers,
            split=split,
        )

    def play(self, policy: BatchedPolicy) -> list[EpisodeResult]:
        """All episodes with ``policy``."""
        return self.arena.rollout(policy, self.episodes, horizon=self.horizon, stop_at_success=self.stop)

    def __call__(self, learner: PolicyTrainer) -> dict[str, float]:
        """Plays with what ``learner`` is now: success and return with their intervals, and of each task.

        Where tasks are grouped also ``groups``, their number, and where the group is inferred ``gate_accuracy``, the
        share of steps under the right one; and what the training took (``updates``, ``samples_per_task``). The results
        stay in ``results``.
        """
        self.results = self.play(learner.policy())
        metrics = summarise(self.results).as_metrics()
        metrics |= learner.effort() | {name: v for name, v in learner.sizes().items() if name == "groups"}
        right = shares_right(self.results)
        return metrics | ({"gate_accuracy": sum(right) / len(right)} if right else {})

    def save(self, folder: RunFolder) -> None:
        """The episodes of the last evaluation, one line each, as ``episodes.jsonl``."""
        lines = []
        for r in self.results:
            line = {"task": r.episode.task, "goal": r.episode.goal, "return": r.return_, "success": r.success}
            line |= {"first_success": r.first_success, "length": r.length} | r.info
            lines.append(json.dumps(line) + "\n")
        write_atomic(folder.path / "episodes.jsonl", "".join(lines).encode())

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *problem: object) -> None:
        self.arena.close()


def shares_right(results: Sequence[EpisodeResult]) -> list[float]:
    """The share of steps under the right group, of the episodes in which groups were inferred."""
    return [r.info["group_right"] for r in results if "group_right" in r.info]


def print_scores(metrics: Mapping[str, Any], results: Sequence[EpisodeResult]) -> None:
    """One line a task and the mean, for people; with the group that each episode ended under where it was inferred."""
    grouped = any("group" in r.info for r in results)
    rows = []
    for task in dict.fromkeys(r.episode.task for r in results):
        own = [r for r in results if r.episode.task == task]
        cells = [task, percent(metrics.get(f"success/{task}"), 0), f"{metrics[f'return/{task}']:.1f}"]
        if grouped:
            cells += [str(own[0].info.get("true_group", "")), " ".join(str(r.info["group"]) for r in own)]
        rows.append(cells)
    columns = ("task", "success %", "return", *(["group", "inferred, episode by episode"] * grouped))
    print_table(columns, rows, ("mean", percent(metrics.get("success")), f"{metrics['return']:.1f}"))


def record_videos(folder: RunFolder, policy: BatchedPolicy, problem: PolicyProblem) -> None:
    """One evaluation episode a task as ``videos/TASK.gif``."""
    place = folder.folder("videos")
    for episode in paired_episodes(problem.tasks, 1):
        path = place / f"{label(episode.task).replace(':', '-')}.gif"
        record(policy, episode, path, horizon=problem.horizon, stop_at_success=True)
    print(f"videos: {place}")


def plan(options: PolicyOptions, recipe: str) -> list[str]:
    """What a dry run prints; nothing is made for it."""
    wanted = offline_name(options)
    if wanted is None:
        lines = [f"{recipe} on own data: {', '.join(options.data)}"]
    else:
        tasks = set_tasks(wanted)
        state = "in the cache" if wanted.made() else "would be made in the simulator"
        lines = [
            f"{recipe} on {wanted}: {len(tasks)} tasks ({', '.join(label(t) for t in tasks)})",
            f"data: {options.episodes} episodes of {options.horizon} steps a task, {state}",
        ]
    return [
        *lines,
        f"{options.steps} steps of {options.batch_size} samples a task; {options.eval_episodes} evaluation episodes a "
        "task at held-out goals",
        "nothing was written",
    ]
