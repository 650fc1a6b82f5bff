"""Processor time of evaluating ten students in ten episodes each: in lock-step against one episode at a time.

    python benchmarks/behavior_evaluation.py [--bodies hopper halfcheetah] [--width 64] [--episodes 10] [--json F]

The same students, episodes and environments in one run and one thread. The students are cloned from the body's expert,
so that episodes are long. ``published`` re-enacts the published evaluator: Gymnasium's environment, whose observations
a wrapper normalises; the student as the module that it trains, which makes a distribution of every state's action and
its log-probability; one state at a time. ``plain`` is the least that evaluating one at a time takes: the same loop with
a bare multi-layer perceptron. ``lock-step`` is :func:`manyone.behavior.evaluate.evaluate_students`. Lock-step plays all
episodes between any two parts of the other loops, so that all see the same machine; medians of its rounds.

The limit: ``MuJoCo alone`` steps the same physics with the same number of calls and does nothing else. An evaluation
that plays the same episodes cannot take less. Returns are compared too: the products' rounding differs, and a hopping
body magnifies it, so that single episodes part, but not their mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from manyone.behavior.cloning import clone
from manyone.behavior.data import behavior_data
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.students.policies import StudentPolicies
from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single.batched import batched
from manyone.envs.single.experts.ladder import ladder
from manyone.envs.single.make import BODIES
from manyone.evaluation.rollouts import Episode

PARTS = 5  # the loops one at a time are cut into so many parts


class Published(nn.Module):
    """The published student, one at a time: it returns its action and the action's log-probability."""

    def __init__(self, weights: dict[str, Tensor], member: int, actions: int) -> None:
        super().__init__()
        self.actions, parts = actions, []
        count = sum(name.endswith(".weight") for name in weights)
        for place in range(count):
            weight, bias = (weights[f"layers.{place}.{kind}"][member] for kind in ("weight", "bias"))
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
            parts += [layer, nn.ReLU()]
        self.network = nn.Sequential(*parts[:-1])
        self.scale = nn.Parameter(weights["log_std_scale"][member].clone())
        self.offset = nn.Parameter(weights["log_std_offset"][member].clone())

    def forward(self, states: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        mean, raw = torch.split(self.network(states), self.actions, -1)
        deviation = (self.scale * raw + self.offset).clamp(-20.0, 2.0).exp()
        chosen = TransformedDistribution(Normal(mean, deviation), TanhTransform(cache_size=1))
        action = torch.tanh(mean) if deterministic else chosen.rsample()
        return action, chosen.log_prob(action).sum(-1)

    @torch.no_grad()
    def act(self, state: np.ndarray) -> np.ndarray:
        states = torch.tensor(state.reshape(1, -1), dtype=torch.float32)
        action, _ = self(states, not self.training)
        return action.cpu().numpy().flatten()


class Plain(Published):
    """A bare perceptron: tanh of the means and nothing else."""

    @torch.no_grad()
    def act(self, state: np.ndarray) -> np.ndarray:
        return torch.tanh(self.network(torch.from_numpy(state.astype(np.float32)))[: self.actions]).numpy()


@dataclass
class Spent:
    """Processor seconds, steps and returns of episodes."""

    seconds: float
    steps: int
    returns: list[float]

    @property
    def each(self) -> float:
        """Microseconds a step."""
        return self.seconds / self.steps * 1e6


def one_at_a_time(
    kind: type[Published], policies: StudentPolicies, played: Sequence[tuple[int, Episode]], horizon: int
) -> Spent:
    """(member, episode) after (member, episode)."""
    mean, deviation = policies.frame.mean.numpy(), policies.frame.deviation.numpy()
    env = gymnasium.make(str(policies.frame.environment).removeprefix("gym:"))
    env = gymnasium.wrappers.TransformObservation(env, lambda seen: (seen - mean) / deviation, env.observation_space)
    actors = [kind(dict(policies.weights), k, policies.frame.action_dim).eval() for k in range(len(policies))]
    steps, returns, began = 0, [], time.process_time()
    for member, episode in played:
        state, _ = env.reset(seed=episode.seed)
        total, over, length = 0.0, False, 0
        while not over and length < horizon:
            state, reward, terminated, truncated, _ = env.step(actors[member].act(state))
            total, length, over = total + float(reward), length + 1, terminated or truncated
        steps += length
        returns.append(total)
    spent = Spent(time.process_time() - began, steps, returns)
    env.close()
    return spent


def in_lock_step(policies: StudentPolicies, episodes: int) -> Spent:
    """Everything that an evaluation does, its environments' making included."""
    began = time.process_time()
    with Evaluator(policies.frame, episodes=episodes, students=len(policies)) as evaluator:
        scores = evaluator(policies)
    return Spent(time.process_time() - began, int(scores.lengths.sum()), scores.returns.ravel().tolist())


def physics_alone(policies: StudentPolicies, episode: Episode) -> Spent:
    """MuJoCo's own time for an episode of the first student, which is played first and then again: nothing else."""
    env = gymnasium.make(str(policies.frame.environment).removeprefix("gym:"))
    body: Any = env.unwrapped
    alone, actions, over = policies.member(0), [], False
    seen, _ = env.reset(seed=episode.seed)
    while not over:
        actions.append(alone.actions(seen[None])[0, 0])
        seen, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
    env.reset(seed=episode.seed)
    controls, step, model, data, frames = body.data.ctrl, mujoco.mj_step, body.model, body.data, body.frame_skip
    began = time.process_time()
    for action in actions:
        controls[:] = action
        step(model, data, frames)
    spent = Spent(time.process_time() - began, len(actions), [])
    env.close()
    return spent


def students(body: str, width: int, count: int, steps: int) -> StudentPolicies:
    """``count`` students cloned from twenty episodes of the expert."""
    found, task = ladder(body), BODIES[body]
    expert, bodies = found.actors[found.expert], batched(task)
    assert bodies is not None
    rows, noise = np.arange(20), np.random.default_rng(0)
    seen, running = bodies.reset(rows, rows.tolist()), np.ones(20, bool)
    kept: list[dict[str, Any]] = [{"observations": [o], "actions": [], "rewards": []} for o in seen]
    while running.any():
        live = rows[running]
        wanted = expert.actions(seen[live])
        wanted = np.clip(wanted + 0.1 * noise.standard_normal(wanted.shape), -1, 1).astype(np.float32)
        step = bodies.step(live, wanted)
        seen[live] = step.observations
        for place, row in enumerate(live.tolist()):
            kept[row]["observations"].append(step.observations[place])
            kept[row]["actions"].append(wanted[place])
            kept[row]["rewards"].append(step.rewards[place])
            kept[row]["terminated"] = bool(step.terminated[place])
        running[live] = ~(step.terminated | step.truncated)
    episodes = [{k: np.array(v) if isinstance(v, list) else v for k, v in one.items()} for one in kept]
    data = behavior_data(Trajectories.from_episodes(body, episodes), environment=task, horizon=1000)
    return clone(data, steps=steps, students=count, spec=StudentSpec(width=width), progress=False)


def measure(body: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    policies = students(body, options.width, options.students, options.cloning)
    horizon = policies.frame.horizon
    with Evaluator(policies.frame, episodes=options.episodes, students=1) as evaluator:
        episodes = evaluator.episodes
    pairs = [(member, episode) for episode in episodes for member in range(options.students)]
    for kind in (Published, Plain):  # imports and first calls are nobody's
        one_at_a_time(kind, policies, pairs[:1], 20)
    in_lock_step(policies.member(0), 1)
    parts: dict[str, list[Spent]] = {"published": [], "plain": [], "lock-step": [], "MuJoCo alone": []}
    for part in range(PARTS):
        parts["lock-step"].append(in_lock_step(policies, options.episodes))
        parts["published"].append(one_at_a_time(Published, policies, pairs[part::PARTS], horizon))
        parts["plain"].append(one_at_a_time(Plain, policies, pairs[part::PARTS], horizon))
        parts["MuJoCo alone"].append(physics_alone(policies, episodes[part % len(episodes)]))
    rows = []
    steps = parts["lock-step"][0].steps
    for name, spent in parts.items():
        each = statistics.median(one.each for one in spent)
        returns = [r for one in spent for r in one.returns]
        rows.append(
            {
                "body": body, "width": options.width, "method": name, "us": each, "s": each * steps / 1e6,
                "length": steps / len(pairs), "return": statistics.fmean(returns) if returns else None,
            }
        )  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]], count: int) -> None:
    for body in dict.fromkeys(row["body"] for row in rows):
        own = {row["method"]: row for row in rows if row["body"] == body}
        least, best = own["MuJoCo alone"]["us"], own["lock-step"]["us"]
        steps = own["plain"]["length"]
        print(f"\n{body}, width {own['plain']['width']}: {count} episodes of {steps:.0f} steps on average")
        print(f"{'':14}{'CPU us a step':>14}{'CPU s':>9}{'lock-step takes':>17}{'mean return':>13}")
        for name, row in own.items():
            ratio = f"{row['us'] / best:.1f}x less" if row["us"] > best else ""
            mean = "" if row["return"] is None else f"{row['return']:.0f}"
            print(f"{name:14}{row['us']:>14.1f}{row['s']:>9.1f}{ratio:>17}{mean:>13}")
        most = {name: own[name]["us"] / least for name in ("published", "plain")}
        print(
            f"  MuJoCo's own steps are {least / best:.0%} of lock-step; no evaluation of these episodes can take more "
            f"than {most['published']:.1f}x less than the published one ({most['plain']:.1f}x less than the plain one)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bodies", nargs="+", default=["hopper", "halfcheetah"], choices=list(BODIES))
    parser.add_argument("--width", type=int, default=64, help="of the students' hidden layers")
    parser.add_argument("--students", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=10, help="of each student")
    parser.add_argument("--cloning", type=int, default=1500, help="steps of cloning the expert")
    parser.add_argument("--json", type=Path, default=None, help="append one JSON row per figure to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one processor, so that nothing starts threads
    rows = [row for body in options.bodies for row in measure(body, options)]
    show(rows, options.students * options.episodes)
    if options.json is not None:
        with options.json.open("a") as file:
            for row in rows:
                file.write(json.dumps({"bench": "behavior-evaluation", **row}) + "\n")


if __name__ == "__main__":
    main()
