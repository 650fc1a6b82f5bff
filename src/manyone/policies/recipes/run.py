"""How a policy recipe runs: data, the loop, evaluation in the environments, the artefact, and a GIF when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError
from manyone.policies.recipes.problem import PolicyProblem, from_places, from_suite, label, made_size
from manyone.recipes.options import Split

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.evaluation.rollouts import Arena, Episode, EpisodeResult
    from manyone.policies.recipes.options import PolicyOptions


def load_problem(options: PolicyOptions) -> PolicyProblem:
    """The data that ``options`` name, made if need be."""
    if options.data:
        return from_places(options.data, horizon=options.horizon)
    assert options.suite is not None
    return from_suite(
        options.suite,
        options.quality,
        episodes=options.episodes,
        horizon=options.horizon,
        seed=options.data_seed,
        workers=options.workers,
    )


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
        selection: str = "gate",
    ) -> None:
        from manyone.envs.single import make as build
        from manyone.evaluation.rollouts import Arena, paired_episodes

        if split == "val":
            raise ManyoneError("policies have no val split: test plays held-out goals, train those of the data")
        self.episodes: list[Episode] = []
        for task in tasks:
            self.episodes += paired_episodes([task], episodes, build.goals(task, evaluation=split == "test"))
        self.horizon, self.stop, self.selection = horizon, stop_at_success, selection
        self.arena: Arena = Arena(list(tasks), episodes, workers)
        self.results: list[EpisodeResult] = []

    @classmethod
    def of(cls, problem: PolicyProblem, options: PolicyOptions, split: Split = "test") -> Evaluator:
        """What ``options`` ask for, on the problem's tasks."""
        return cls(
            problem.tasks,
            horizon=problem.horizon,
            episodes=options.eval_episodes,
            stop_at_success=not options.full_episodes,
            workers=options.workers,
            split=split,
            selection=getattr(options, "selection", "gate"),
        )

    def play(self, policy: Any) -> list[EpisodeResult]:
        """All episodes with ``policy`` (a ``BatchedPolicy``)."""
        return self.arena.rollout(policy, self.episodes, horizon=self.horizon, stop_at_success=self.stop)

    def __call__(self, learner: Any) -> dict[str, float]:
        """Plays with what ``learner`` is now: success and return with their intervals, and of each task.

        Where groups of tasks are inferred also ``groups``, their number, and ``gate_accuracy``, the share of steps
        under the right one. The results stay in ``results``.
        """
        from manyone.evaluation.scores import summarise

        self.results = self.play(acts(learner, self.selection))
        metrics = summarise(self.results).as_metrics()
        if getattr(learner, "grouping", None) is not None:
            metrics["groups"] = float(learner.grouping.groups)
        right = [r.info["group_right"] for r in self.results if "group_right" in r.info]
        return metrics | ({"gate_accuracy": sum(right) / len(right)} if right else {})

    def save(self, run: RunFolder) -> None:
        """The episodes of the last evaluation, one line each, as ``episodes.jsonl``."""
        import json

        from manyone.engine.files import write_atomic

        lines = []
        for r in self.results:
            line = {"task": r.episode.task, "goal": r.episode.goal, "return": r.return_, "success": r.success}
            line |= {"first_success": r.first_success, "length": r.length} | r.info
            lines.append(json.dumps(line) + "\n")
        write_atomic(run.path / "episodes.jsonl", "".join(lines).encode())

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *problem: object) -> None:
        self.arena.close()


def acts(learner: Any, selection: str = "gate") -> Any:
    """The policy that a run is judged by: without task names as soon as there is a gate, else with them."""
    return learner.policy(selection) if getattr(learner, "gate", None) is not None else learner.policy()


def run_recipe(options: Any, run: RunFolder) -> None:
    """Data, loop, scores, artefact and, if asked for, films of a recipe's ``options``."""
    from manyone.engine.loop import train

    if options.dry_run:
        print("\n".join(plan(options, run.recipe)))
        return
    problem = load_problem(options)
    with Evaluator.of(problem, options) as evaluator:
        learner = options.learner(problem, evaluate=evaluator)
        final = train(
            learner,
            run,
            steps=options.steps,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            loggers=options.logger,
            log_every=max(1, options.steps // 1000),
        )
        evaluator.save(run)
    print_scores(final, evaluator.results)
    if options.video:
        record_videos(run, acts(learner, evaluator.selection), problem)


def evaluate_recipe(options: Any, run: RunFolder, split: Split) -> Mapping[str, float]:
    """Scores of the newest checkpoint of ``run`` on goals held out (test) or of the data (train)."""
    problem = load_problem(options)
    learner = options.learner(problem)
    restore(learner, run)
    with Evaluator.of(problem, options, split) as evaluator:
        return evaluator(learner)


def restore(learner: Any, run: RunFolder) -> None:
    """Puts ``learner`` to the newest checkpoint of ``run``."""
    from manyone.engine.checkpoint import load_newest

    found = load_newest(run.checkpoints)
    if found is None:
        raise ManyoneError(f"{run.path} has no checkpoint yet: manyone resume {run.path}")
    learner.load_state_dict(found[1]["learner"])


def print_scores(metrics: Mapping[str, Any], results: Sequence[EpisodeResult]) -> None:
    """One line a task and the mean, for people; with the group that each episode ended under where it was inferred."""
    from rich.console import Console
    from rich.table import Table

    def percent(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{100 * value:.{digits}f}"

    grouped = any("group" in r.info for r in results)
    table = Table("task", "success %", "return", *(["group", "inferred, episode by episode"] * grouped), box=None)
    for task in dict.fromkeys(r.episode.task for r in results):
        own = [r for r in results if r.episode.task == task]
        cells = [percent(metrics.get(f"success/{task}"), 0), f"{metrics[f'return/{task}']:.1f}"]
        if grouped:
            cells += [str(own[0].info.get("true_group", "")), " ".join(str(r.info["group"]) for r in own)]
        table.add_row(task, *cells)
    table.add_row("mean", percent(metrics.get("success"), 1), f"{metrics['return']:.1f}", style="bold")
    Console().print(table)


def record_videos(run: RunFolder, policy: Any, problem: PolicyProblem) -> None:
    """One evaluation episode a task as ``videos/TASK.gif``."""
    from manyone.evaluation.rollouts import paired_episodes
    from manyone.evaluation.video import record

    folder = run.folder("videos")
    for episode in paired_episodes(problem.tasks, 1):
        path = folder / f"{label(episode.task).replace(':', '-')}.gif"
        record(policy, episode, path, horizon=problem.horizon, stop_at_success=True)
    print(f"videos: {folder}")


def plan(options: PolicyOptions, recipe: str) -> list[str]:
    """What a dry run prints; nothing is made for it."""
    from manyone.data.trajectories.offline import parse_offline
    from manyone.envs.single.collect import set_tasks

    lines = []
    if options.suite is not None:
        wide = (options.suite, options.quality, options.episodes, options.horizon, options.data_seed)
        name, size = made_size(*wide)
        wanted = parse_offline(name, **size)
        tasks = set_tasks(wanted)
        state = "in the cache" if wanted.made() else "would be made in the simulator"
        lines.append(f"{recipe} on {wanted}: {len(tasks)} tasks ({', '.join(label(t) for t in tasks)})")
        lines.append(f"data: {options.episodes} episodes of {options.horizon} steps a task, {state}")
    else:
        lines.append(f"{recipe} on own data: {', '.join(options.data)}")
    lines.append(f"{options.steps} steps of {options.batch_size} samples a task; {options.eval_episodes} evaluation "
                 "episodes a task at held-out goals")  # fmt: skip
    lines.append("nothing was written")
    return lines
