"""What a team recipe plays: its environment, and the fresh episodes that judge it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from manyone.engine.devices import device_of
from manyone.engine.files import write_atomic
from manyone.engine.run import RunFolder
from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamEnv, TeamSpec
from manyone.evaluation.intervals import t_interval, wilson_interval
from manyone.teams.play import Played, play
from manyone.teams.recipes.options import TeamOptions

EVALUATION_SEED = 1_000_003
"""Of the test episodes, the same for all methods and training seeds; training draws its episodes from other seeds."""


def open_env(options: TeamOptions, copies: int) -> TeamEnv:
    """``copies`` of the environment that ``options`` name."""
    device = device_of(options.device)
    return make_team(options.env, copies, device=device, workers=options.workers, frames=options.frames)


class TeamEvaluator:
    """Plays the same fresh episodes for every policy; keeps its environment, and the last episodes in ``played``.

    A gate decides for itself from the moment that its training begins; until then it is open.
    """

    def __init__(self, env: TeamEnv, episodes: int) -> None:
        self.env, self.episodes = env, episodes
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
        usual: dict[str, Any] = {"episodes": self.episodes, "gate": self.gate, "seed": EVALUATION_SEED}
        return play(self.env, policy, graph, **(usual | words))

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
        yield TeamEvaluator(env, options.eval_episodes)
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
