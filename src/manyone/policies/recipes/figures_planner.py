"""What the page of a planner's run draws: scores over time, forgetting, codebooks, and plans beside what came of them.

Written as ``figures.json`` into the run folder; ``manyone report RUN`` puts them on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from manyone.claims.figure import Figure
from manyone.envs.single.make import make_env
from manyone.evaluation.rollouts import paired_episodes
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.tasks import label
from manyone.policies.vqcd.acting import PlannerPolicy
from manyone.policies.vqcd.learner import PlannerLearner

SECTION = "Tasks and plans"
"""Where a report shows the figures."""
_FOLLOWED = 200  # steps of the episode whose plans are drawn


def run_figures(
    learner: PlannerLearner, policy: PlannerPolicy, problem: PolicyProblem | None, seed: int
) -> Iterator[Figure]:
    """All figures of a finished run; those of plans where ``problem`` has environments to act in."""
    yield from score_figures(learner)
    yield from alignment_figures(learner)
    if problem is not None:
        yield from plan_figures(policy, problem, seed)


def score_figures(learner: PlannerLearner) -> Iterator[Figure]:
    """The scores of all tasks after each, what was forgotten, and the planner's loss likewise."""
    names = [label(name) for name in learner.table.names]
    scores, unit = learner.scores(), {"unit": "%"} if learner.scored_by in ("success", "normalised") else {}
    columns = [f"after {name}" for name in names]
    if any(value is not None for row in scores for value in row):
        caption = f"{learner.scored_by.capitalize().replace('_', ' ')} of each task after each task was learned."
        yield Figure("matrix", "task by time", {"rows": names, "columns": columns, "values": scores, **unit}, caption,
                     SECTION)  # fmt: skip
        own = [(name, row[i], row[-1]) for i, (name, row) in enumerate(zip(names, scores))]
        known = [(name, first, last) for name, first, last in own if first is not None and last is not None]
        if known:
            data = {"names": [k[0] for k in known], "values": [k[1] - k[2] for k in known], **unit}
            caption = "Score when a task had just been learned, less that at the end; below 0 where it grew."
            yield Figure("bars", "forgetting", data, caption, SECTION)
    if learner.losses:
        rows = [[row.get(task) for row in learner.losses] for task in learner.table.names[learner.first :]]
        data = {"rows": names[learner.first :], "columns": columns[learner.first :][: len(learner.losses)],
                "values": rows}  # fmt: skip
        yield Figure("matrix", "planner's loss by time", data,
                     "Loss on fixed windows of each task after each task was learned.", SECTION)  # fmt: skip


def alignment_figures(learner: PlannerLearner) -> Iterator[Figure]:
    """How well aligned states and actions are restored, and which codes they use."""
    rows: list[list[Any]] = []
    for task in range(learner.first, learner.learned):
        for what, found in learner.spaces.report(task).items():
            counts = [round(found[k], 1) if k in found else "" for k in ("codes_used", "dead_codes", "perplexity")]
            rows.append([label(learner.table.names[task]), what, f"{found['mse']:.4f}", *counts])
    if rows and learner.spaces.kind != "none":
        columns = ["task", "of", "error (mse)", "codes used", "dead codes", "perplexity"]
        caption = ("Mean squared error of restored entries (states of unit variance, actions from -1 to 1), and how "
                   "many codes the data use.")  # fmt: skip
        yield Figure("table", "alignments", {"columns": columns, "rows": rows}, caption, SECTION)
        used = [(f"{row[0]}, {row[1]}", row[3]) for row in rows if row[3] != ""]
        if used:
            data = {"names": [u[0] for u in used], "values": [float(u[1]) for u in used]}
            caption = "Codes of each codebook that the data use."
            yield Figure("bars", "codebook use", data, caption, SECTION)


class Followed(NamedTuple):
    """An episode and the plans that were made along it, in standardised states."""

    executed: np.ndarray
    """[n + 1, S]"""
    planned: np.ndarray
    """[n, T, S]: the plan made at each step"""


def follow(policy: PlannerPolicy, task: str, horizon: int, seed: int) -> Followed:
    """Plays an episode of ``task`` for at most ``horizon`` steps with a plan at each of them."""
    episode = paired_episodes([task], 1, seed=seed)[0]
    number = policy.table.index(task)
    one, mean, deviation = policy.tasks[number], policy.table.mean[number], policy.table.deviation[number]
    env = make_env(task, episode.goal, episode.seed, horizon=horizon)
    policy.start([episode])
    slots, width = np.zeros(1, np.int64), one.states.dim
    seen, _ = env.reset(seed=episode.seed)
    executed, planned = [np.asarray(seen, np.float32)], []
    over = False
    while not over:
        wide = np.zeros((1, policy.state_dim), np.float32)
        wide[0, :width] = executed[-1]
        with torch.no_grad():
            plan, actions = policy.plans(slots, torch.from_numpy(wide))
            planned.append(one.states.restored(plan[0, :, : one.network.states]).cpu().numpy())
        seen, reward, terminated, truncated, _ = env.step(actions[0, 0].cpu().numpy())
        policy.reward(slots, np.array([reward], np.float32))
        executed.append(np.asarray(seen, np.float32))
        over = terminated or truncated
    env.close()
    states = (np.stack(executed) - mean[:width].cpu().numpy()) / deviation[:width].cpu().numpy()
    return Followed(states, np.stack(planned))


def plan_figures(policy: PlannerPolicy, problem: PolicyProblem, seed: int) -> Iterator[Figure]:
    """How far plans and what came of them lie apart, by how far they look ahead, and one entry of both over time."""
    errors: dict[str, Any] = {}
    courses = []
    for task in problem.tasks:
        found = follow(policy, task, min(_FOLLOWED, problem.horizons[task]), seed)
        steps, length = found.planned.shape[:2]
        ahead = []
        for k in range(min(length, steps)):
            count = min(steps, steps - k + 1)  # plans whose k-th state has come
            apart = found.planned[:count, k] - found.executed[k : k + count]
            ahead.append(float(np.sqrt(np.square(apart).mean())))
        errors[label(task)] = {"x": list(range(len(ahead))), "y": ahead}
        k = len(ahead) - 1
        entry = int(found.executed.var(0).argmax())
        series = {
            "executed": {"x": list(range(len(found.executed))), "y": found.executed[:, entry].tolist()},
            f"planned {k} steps before": {
                "x": list(range(k, k + count)), "y": found.planned[:count, k, entry].tolist()
            },
        }  # fmt: skip
        caption = (
            f"Entry {entry} of the standardised state, the one that varies most, in the first steps of an episode."
        )
        courses.append(Figure("lines", f"planned and executed: {label(task)}",
                              {"series": series, "x_label": "step", "y_label": f"state {entry}"}, caption,
                              SECTION))  # fmt: skip
    data = {"series": errors, "x_label": "steps ahead", "y_label": "root mean square"}
    caption = "Planned states less those that came, in standard deviations, by how far ahead they were planned."
    yield Figure("lines", "plans against what came of them", data, caption, SECTION)
    yield from courses
