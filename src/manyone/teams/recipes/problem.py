"""What a team recipe plays: its environment, and the fresh episodes that judge it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manyone.engine.devices import device_of
from manyone.engine.files import write_atomic
from manyone.engine.run import RunFolder
from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamEnv, TeamSpec
from manyone.evaluation.intervals import t_interval, wilson_interval
from manyone.teams.network.graph import links_for
from manyone.teams.play import Played, RandomTeam, play
from manyone.teams.recipes.options import CommFormerOptions, TeamOptions

_POINTS = 7  # of the curve of messages against return
_ALWAYS = 10_000  # steps that evaluation may take however short the training is
_ROOM = 8  # episodes of all copies within which one is left for random actions
EVALUATION_SEED = 1_000_003
"""Of the test episodes, the same for all methods and training seeds; training draws its episodes from other seeds."""


def open_env(options: TeamOptions, copies: int) -> TeamEnv:
    """``copies`` of the environment that ``options`` name."""
    device = device_of(options.device)
    return make_team(options.env, copies, device=device, workers=options.workers, frames=options.frames)


class EvaluationPlan(NamedTuple):
    """How a run is evaluated: every so many iterations (0: at the end alone), ``times`` in all, in ``episodes`` each;
    ``points``, budgets of links at which the finished team is played in ``point_episodes`` each; ``steps``: the most
    environment steps that all of it takes, ``share``: as a share of training's; ``random``: whether random actions are
    played too, once in every copy, to compare with."""

    every: int
    episodes: int
    points: tuple[int, ...]
    point_episodes: int
    times: int
    steps: int
    share: float
    random: bool = False

    def words(self) -> str:
        """The same for people."""
        curve = f", {len(self.points)} budgets of links of {self.point_episodes}" if self.points else ""
        return (
            f"evaluation: {self.times} times {self.episodes} greedy episodes"
            + (f", one every {self.every} iterations" if self.every else "")
            + f"{curve}: at most {self.steps:,} steps, {self.share:.0%} of training's"
        )


def plan_evaluations(options: TeamOptions, spec: TeamSpec) -> EvaluationPlan:
    """What ``options`` ask for, within ``evaluate_share``; episodes count as if all lasted to the horizon."""
    copies, iterations = min(options.envs, options.eval_episodes), options.iterations
    training, whole = iterations * options.envs * options.length, copies * spec.horizon
    left = max(int(options.evaluate_share * training), _ALWAYS) // whole  # in episodes of all copies
    fixed = int(options.film) + (random := left >= _ROOM)
    rounds = max(1, min(-(-options.eval_episodes // copies), left - fixed))
    episodes = min(options.eval_episodes, rounds * copies)
    left -= fixed + rounds
    points: tuple[int, ...] = ()
    point_episodes = min(episodes, max(32, episodes // 4))
    if isinstance(options, CommFormerOptions) and options.learns_graph and spec.agents > 1:
        last, links = spec.agents - 1, links_for(spec.agents, options.density)
        points = tuple(sorted({round(i * last / (_POINTS - 1)) for i in range(_POINTS)} | {links}))
        each = min(-(-point_episodes // copies), left // len(points))
        points, point_episodes = (points, min(point_episodes, each * copies)) if each > 0 else ((), 0)
        left -= max(each, 0) * len(points)
    allowed, every = max(left // rounds, 0), options.evaluate_every
    # one before the first iteration, then every so many
    if every and 1 + (iterations - 1) // every > allowed:
        every = (iterations - 1) // allowed + 1 if allowed else 0
    count = 1 + (1 + (iterations - 1) // every if every else 0)
    used = fixed + rounds * count + len(points) * -(-point_episodes // copies)
    share = used * whole / training
    return EvaluationPlan(every, episodes, points, point_episodes, count, used * whole, share, random)


class TeamEvaluator:
    """Plays the same fresh episodes for every policy; keeps its environment, and the last episodes in ``played``.

    A gate decides for itself from the moment that its training begins; until then it is open.
    """

    def __init__(self, env: TeamEnv, plan: EvaluationPlan) -> None:
        self.env, self.plan = env, plan
        self.gate = "open"
        self.played: Played | None = None

    def __call__(self, learner: Any) -> dict[str, float]:
        """The scores of what ``learner`` is now, under the graph that it would be exported with."""
        self.gate = "decided" if learner.gate_stage()[0] == "sampled" else "open"
        graph = learner.exact_graph()
        self.played = self.play(learner.policy, graph)
        if learner.policy.link_scorer is not None:
            graph = self.played.link_use  # what was chosen from step to step
        return scores(self.played, self.env.spec, graph)

    def play(self, policy: Any, graph: Tensor, **words: Any) -> Played:
        """Greedy episodes; ``words`` as :func:`manyone.teams.play.play` takes them."""
        usual: dict[str, Any] = {"episodes": self.plan.episodes, "gate": self.gate, "seed": EVALUATION_SEED}
        return play(self.env, policy, graph, **(usual | words))

    def random(self, device: torch.device) -> dict[str, float]:
        """The scores of random actions, in one episode of every copy that evaluations play."""
        spec = self.env.spec
        silent = torch.zeros(spec.agents, spec.agents, device=device)
        episodes = min(self.env.batch, self.plan.episodes)
        return scores(self.play(RandomTeam(spec), silent, episodes=episodes, greedy=False), spec, silent)

    def save(self, folder: RunFolder) -> None:
        """The episodes of the last evaluation, one line each, as ``episodes.jsonl``."""
        played = self.played
        assert played is not None
        lines = []
        for e in range(len(played.returns)):
            line: dict[str, Any] = {"return": float(played.returns[e]), "length": int(played.lengths[e])}
            if played.success is not None:
                line["success"] = bool(played.success[e])
            line |= {"links": float(played.links_per_step[e]), "receive_rate": float(played.receive_rate[e])}
            line |= {name: float(values[e]) for name, values in played.measures.items()}
            lines.append(json.dumps(line) + "\n")
        write_atomic(folder.path / "episodes.jsonl", "".join(lines).encode())


@contextmanager
def open_evaluator(options: TeamOptions) -> Iterator[TeamEvaluator]:
    """The evaluation that ``options`` ask for, in an environment of its own, which is closed afterwards."""
    env = open_env(options, min(options.envs, options.eval_episodes))
    try:
        yield TeamEvaluator(env, plan_evaluations(options, env.spec))
    finally:
        env.close()


def scores(played: Played, spec: TeamSpec, graph: Tensor) -> dict[str, float]:
    """Means over episodes, with 95 % intervals: return, episode_length, success; links a step, receive_rate, measures.

    Where the best graph is known ``best_links`` is the share of agents that hear the sender that they need; ``graph``
    [n, n] may hold shares of steps.
    """
    metrics: dict[str, float] = {}

    def add(name: str, found: Any) -> None:
        metrics.update({name: found.value, f"{name}_low": found.low, f"{name}_high": found.high})

    add("return", t_interval(played.returns.tolist()))
    add("episode_length", t_interval(played.lengths.double().tolist()))
    if played.success is not None:
        add("success", wilson_interval(int(played.success.sum()), len(played.success)))
    metrics["links"] = float(played.links_per_step.double().mean())
    metrics["receive_rate"] = float(played.receive_rate.double().mean())
    metrics |= {name: float(values.double().mean()) for name, values in played.measures.items()}
    best = spec.details.get("best_senders")
    if best is not None:
        metrics["best_links"] = sum(float(graph[i, int(s)]) for i, s in enumerate(best)) / len(best)
    return metrics
