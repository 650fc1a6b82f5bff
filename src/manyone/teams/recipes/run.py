"""How a team recipe runs: the loop, evaluation in fresh episodes, the artefact, figures and a GIF."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.claims.figure import save_figures
from manyone.engine.devices import device_of
from manyone.engine.fabric import is_writer
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.references import Reference, has_references, keep_references
from manyone.recipes.running import print_table, restore
from manyone.teams.network.graph import LearnedGraph, exact_graph
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.recipes import figures
from manyone.teams.recipes.build import Builder, team
from manyone.teams.recipes.options import TeamOptions
from manyone.teams.recipes.problem import TeamEvaluator, open_env, open_evaluator, plan_evaluations, scores


def run(options: TeamOptions, build: Builder, folder: RunFolder) -> None:
    """Trains, scores, saves and draws what ``options`` say."""
    with open_evaluator(options) as evaluator:
        made, planned = team(options, build, evaluator), evaluator.plan
        if (planned.every, planned.episodes) != (options.evaluate_every, options.eval_episodes):
            print(f"{planned.words()} (--evaluate-share {options.evaluate_share:g})")
        if planned.random and is_writer() and not has_references(folder):
            drawn = evaluator.random(device_of(options.device))
            keep_references(folder, [Reference("random actions", _what_counts(drawn, evaluator), "from")])
        try:
            final = train(
                made.learner, folder, steps=options.iterations, evaluate_every=planned.every,
                checkpoint_every=options.checkpoint_every, loggers=options.logger,
                log_every=max(1, options.iterations // 1000),
            )  # fmt: skip
        finally:
            made.env.close()
        evaluator.save(folder)
        print_scores(final)
        draw(options, folder, made.learner, evaluator)


def evaluate(options: TeamOptions, build: Builder, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Scores of the newest checkpoint of the run in the test episodes."""
    if split != "test":
        raise ManyoneError(f"--split {split}: teams have no data to split; test plays fresh episodes")
    with open_evaluator(options) as evaluator:
        made = team(options, build, evaluator)
        try:
            restore(made.learner, folder)
            return made.learner.evaluate()
        finally:
            made.env.close()


def draw(options: TeamOptions, folder: RunFolder, learner: TeamLearner, evaluator: TeamEvaluator) -> None:
    """``figures.json`` of the finished run, and ``episode.gif`` where the environment can be drawn."""
    if not is_writer():
        return
    spec, policy, graph, played = evaluator.env.spec, learner.policy, learner.exact_graph(), evaluator.played
    assert played is not None
    lines, steps = folder.metrics(), learner.env.batch * learner.training.length
    curves = [("return", "Return", "return of an episode")]
    curves += [("episode_length", "Steps to the end", "steps")] * (spec.horizon > 1)
    curves += [("success", "Success", "share of episodes")] * spec.reports_success
    drawn = [figures.curve(lines, metric, steps, title=title, label=label) for metric, title, label in curves]
    if bool(graph.any()):
        how = f"manyone run no-comm --env {options.env} --seed {options.seed}, with this run's other options"
        keep_references(folder, [Reference("a team without messages", how=f"not trained here: {how}")])
        strength = link_strength(learner.graph)
        dynamic = policy.link_scorer is not None
        if not dynamic:
            drawn += figures.graph_figures(spec, graph.cpu().numpy(), strength)
        if policy.gated or dynamic:
            drawn.append(figures.use_figure(spec, played.link_use.tolist()))
        if strength is not None and evaluator.plan.points:
            points = budgets(learner, evaluator)
            drawn.append(figures.budget_figure(points, scores(played, spec, graph)))
            _keep_silent(points, folder, evaluator)
    if policy.gated:
        kept = [("receive_rate", "Receive rate", "share of agents"), ("links", "Messages used a step", "messages")]
        for metric, title, label in kept:
            drawn.append(figures.curve(lines, metric, steps, title=title, label=label, section="Communication"))
        drawn.append(figures.receiving_figure(spec, played.receive_over_time.tolist()))
    if options.film and (path := film(folder, evaluator, policy, graph)) is not None:
        drawn.append(figures.film_figure(path))
    save_figures(folder.path / "figures.json", [figure for figure in drawn if figure is not None])


def link_strength(graph: LearnedGraph | Tensor) -> np.ndarray | None:
    """softmax over the other agents of a learned graph's logits [n, n]; None for a fixed graph."""
    if not isinstance(graph, LearnedGraph):
        return None
    logits = graph.logits.detach().cpu()
    return logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf).softmax(-1).numpy()


def budgets(learner: TeamLearner, evaluator: TeamEvaluator) -> list[dict[str, float]]:
    """Scores of the policy with the gate open and k links an agent, for some values of k from 0 to n - 1."""
    learned, plan = learner.graph, evaluator.plan
    assert isinstance(learned, LearnedGraph)
    spec, logits = evaluator.env.spec, learned.logits.detach()
    found = []
    for k in plan.points:
        graph = exact_graph(logits, k, seed=learned.seed).to(logits.device)
        played = evaluator.play(learner.policy, graph, episodes=plan.point_episodes, gate="open")
        found.append(scores(played, spec, graph))
    return found


def _keep_silent(points: Sequence[Mapping[str, float]], folder: RunFolder, evaluator: TeamEvaluator) -> None:
    """The same team with all messages lost is a point to compare with."""
    silent = [point for point in points if point["links"] == 0]
    keep_references(folder, [Reference("the same team, silent", _what_counts(p, evaluator)) for p in silent[:1]])


def _what_counts(metrics: Mapping[str, float], evaluator: TeamEvaluator) -> dict[str, float]:
    """Those of ``metrics`` that say how good a team is, the one that counts first."""
    names = ("success",) * evaluator.env.spec.reports_success + ("return", "episode_length")
    return {name: metrics[name] for name in names if name in metrics}


def film(folder: RunFolder, evaluator: TeamEvaluator, policy: Any, graph: Tensor) -> Path | None:
    """The first test episode as ``episode.gif``; None, said in a line, where the environment cannot be drawn."""
    try:
        played = evaluator.play(policy, graph, episodes=evaluator.env.batch, film_slot=0)
    except ManyoneError as error:
        print(f"no film: {error}")
        return None
    path = folder.path / "episode.gif"
    figures.save_gif(played.frames, path)
    print(f"film: {path}")
    return path


def print_scores(metrics: Mapping[str, float]) -> None:
    """The final figures with their intervals, for people."""
    rows = []
    for name, value in metrics.items():
        if not name.endswith(("_low", "_high")):
            ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
            rows.append((name, f"{value:.4g}", "" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}"))
    print_table(("", "mean", "95 % interval"), rows)


def plan(options: TeamOptions, build: Builder, folder: RunFolder) -> list[str]:
    """Team, weights, length and evaluation; the environment is made once to look at it."""
    steps = options.iterations * options.envs * options.length
    schedule = [
        f"{options.iterations} iterations of {options.envs} copies x {options.length} steps: {steps:,} steps, "
        f"{options.epochs} epochs each",
    ]
    try:
        env = open_env(dataclasses.replace(options, workers=0), 1)
    except ManyoneError as error:
        schedule.append(f"{options.eval_episodes} greedy episodes an evaluation, which an episode's length may limit")
        return [f"{folder.recipe} on {options.env}, which cannot be made here: {error}", *schedule]
    spec = env.spec
    schedule.append(plan_evaluations(options, spec).words())
    env.close()
    does = f"{spec.actions} actions" if spec.discrete else f"{spec.action_dim} continuous action entries"
    if spec.digits:
        does = f"actions of {len(spec.digits)} numbers ({' x '.join(map(str, spec.digits))})"
    sees = f"observations of {spec.observation_dim}" + f" ({options.frames} frames)" * (options.frames > 1)
    lines = [f"{folder.recipe} on {spec.name}: {spec.agents} agents, {sees}, {does}"]
    parts = build(options, spec)
    policy: Any = parts.policy
    learned = isinstance(parts.graph, LearnedGraph)
    links = int(parts.graph.exact().sum() if isinstance(parts.graph, LearnedGraph) else parts.graph.sum())
    kind = "learned graph" if learned else "fixed graph"
    if policy.link_scorer is not None:
        kind, links = "graph of every step", policy.link_scorer.links * spec.agents
    if links:
        lines.append(f"{kind}: {links} of {spec.agents * (spec.agents - 1)} links" + ", gated" * policy.gated)
    return [*lines, f"{sum(p.numel() for p in policy.parameters()):,} weights", *schedule]
