"""How a team recipe runs: the loop, evaluation in fresh episodes, the artefact, figures and a GIF."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.teams.recipes import figures as team_run_figures

if TYPE_CHECKING:
    from torch import Tensor

    from manyone.engine.run import RunFolder
    from manyone.envs.teams.types import TeamEnv, TeamSpec
    from manyone.teams.play import Played
    from manyone.teams.recipes.options import TeamOptions

EVALUATION_SEED = 1_000_003
"""Of the test episodes, the same for all methods and training seeds; training draws its episodes from other seeds."""


class TeamEvaluator:
    """Plays the same fresh episodes for every policy; keeps its environment, and the last episodes in ``played``.

    A gate decides for itself from the moment that its training begins; until then it is open.
    """

    def __init__(self, env: TeamEnv, episodes: int, *, seed: int = EVALUATION_SEED) -> None:
        self.env, self.episodes, self.seed = env, episodes, seed
        self.gate = "open"
        self.played: Played | None = None

    def __call__(self, learner: Any) -> dict[str, float]:
        """The scores of what ``learner`` is now, under the graph that it would be exported with."""
        self.gate = "decided" if learner.gate_stage()[0] == "sampled" else "open"
        graph = learner.exact_graph()
        self.played = self.play(learner.policy, graph)
        if getattr(learner.policy, "link_scorer", None) is not None:
            graph = self.played.link_use  # what was chosen from step to step
        return scores(self.played, self.env.spec, graph)

    def play(self, policy: Any, graph: Tensor, **words: Any) -> Played:
        """Greedy episodes; ``words`` as :func:`manyone.teams.play.play` takes them."""
        from manyone.teams.play import play

        usual: dict[str, Any] = {"episodes": self.episodes, "gate": self.gate, "seed": self.seed}
        return play(self.env, policy, graph, **(usual | words))

    def save(self, run: RunFolder) -> None:
        """The episodes of the last evaluation, one line each, as ``episodes.jsonl``."""
        from manyone.engine.files import write_atomic

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
        write_atomic(run.path / "episodes.jsonl", "".join(lines).encode())


def scores(played: Played, spec: TeamSpec, graph: Tensor) -> dict[str, float]:
    """Means over episodes, with 95 % intervals: return, episode_length, success; links a step, receive_rate, measures.

    Where the best graph is known ``best_links`` is the share of agents that hear the sender that they need; ``graph``
    [n, n] may hold shares of steps.
    """
    from manyone.evaluation.intervals import t_interval, wilson_interval

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


def run_recipe(options: TeamOptions, run: RunFolder) -> None:
    """Trains, scores, saves and draws what ``options`` say."""
    from manyone.engine.loop import train

    find_own(options)
    if options.dry_run:
        print("\n".join(plan(options, run.recipe)))
        return
    assert options.iterations is not None
    assert options.evaluate_every is not None
    with open_evaluator(options) as evaluator:
        team = options.team(evaluate=evaluator)
        try:
            final = train(
                team.learner, run, steps=options.iterations, evaluate_every=options.evaluate_every,
                checkpoint_every=options.checkpoint_every, loggers=options.logger,
                log_every=max(1, options.iterations // 1000),
            )  # fmt: skip
        finally:
            team.env.close()
        evaluator.save(run)
        print_scores(final)
        draw(options, run, team.learner, evaluator)


def evaluate_recipe(options: TeamOptions, run: RunFolder, split: Split) -> Mapping[str, float]:
    """Scores of the newest checkpoint of ``run`` in the test episodes."""
    from manyone.engine.checkpoint import load_newest

    if split != "test":
        raise ManyoneError(f"--split {split}: teams have no data to split; test plays fresh episodes")
    find_own(options)
    found = load_newest(run.checkpoints)
    if found is None:
        raise ManyoneError(f"{run.path} has no checkpoint yet: manyone resume {run.path}")
    with open_evaluator(options) as evaluator:
        team = options.team(evaluate=evaluator)
        try:
            team.learner.load_state_dict(found[1]["learner"])
            return team.learner.evaluate()
        finally:
            team.env.close()


def find_own(options: TeamOptions) -> None:
    """Lets ``--env pettingzoo:MODULE`` find a module in the current folder, as ``python`` itself would."""
    here = str(Path.cwd())
    if (options.env or "").startswith("pettingzoo:") and here not in sys.path:
        sys.path.insert(0, here)


@contextmanager
def open_evaluator(options: TeamOptions) -> Iterator[TeamEvaluator]:
    """The evaluation that ``options`` ask for, in an environment of its own, which is closed afterwards."""
    from manyone.envs.teams.make import make_team

    assert options.env is not None
    assert options.envs is not None
    assert options.eval_episodes is not None
    copies = min(options.envs, options.eval_episodes)
    env = make_team(options.env, copies, device=options.torch_device, workers=options.workers, frames=options.frames)
    try:
        yield TeamEvaluator(env, options.eval_episodes)
    finally:
        env.close()


def draw(options: TeamOptions, run: RunFolder, learner: Any, evaluator: TeamEvaluator) -> None:
    """``figures.json`` of the finished run, and ``episode.gif`` where the environment can be drawn."""
    from manyone.claims.figure import save_figures
    from manyone.engine.fabric import is_writer

    if not is_writer():
        return
    spec, policy, graph, played = evaluator.env.spec, learner.policy, learner.exact_graph(), evaluator.played
    assert played is not None
    lines, steps = run.metrics(), learner.env.batch * learner.training.length
    curves = [("return", "Return", "return of an episode")]
    curves += [("episode_length", "Steps to the end", "steps")] * (spec.horizon > 1)
    curves += [("success", "Success", "share of episodes")] * spec.reports_success
    figures = [team_run_figures.curve(lines, m, steps, title=title, label=label) for m, title, label in curves]
    if options.sends:
        strength = link_strength(learner.graph)
        dynamic = policy.link_scorer is not None
        if not dynamic:
            figures += team_run_figures.graph_figures(spec, graph.cpu().numpy(), strength)
        if options.gated or dynamic:
            figures.append(team_run_figures.use_figure(spec, played.link_use.tolist()))
        if strength is not None:
            figures.append(team_run_figures.budget_figure(budgets(learner, evaluator), scores(played, spec, graph)))
    if options.gated:
        rate = team_run_figures.curve(
            lines, "receive_rate", steps, title="Receive rate", label="share of agents", section="Communication"
        )
        links = team_run_figures.curve(
            lines, "links", steps, title="Messages used a step", label="messages", section="Communication"
        )
        figures += [rate, links, team_run_figures.receiving_figure(spec, played.receive_over_time.tolist())]
    if options.film and (path := film(run, evaluator, policy, graph)) is not None:
        figures.append(team_run_figures.film_figure(path))
    save_figures(run.path / "figures.json", [f for f in figures if f is not None])


def link_strength(graph: Any) -> Any:
    """softmax over the other agents of a learned graph's logits, numpy [n, n]; None for a fixed graph."""
    import torch

    from manyone.teams.network.graph import LearnedGraph

    if not isinstance(graph, LearnedGraph):
        return None
    logits = graph.logits.detach().cpu()
    return logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf).softmax(-1).numpy()


def budgets(learner: Any, evaluator: TeamEvaluator, most: int = 7) -> list[dict[str, float]]:
    """Scores of the policy with the gate open and k links an agent for up to ``most`` values of k from 0 to n - 1."""
    from manyone.teams.network.graph import exact_graph

    spec, logits = evaluator.env.spec, learner.graph.logits.detach()
    last = spec.agents - 1
    found = []
    for k in sorted({round(i * last / (most - 1)) for i in range(most)} | {learner.graph.links}):
        graph = exact_graph(logits, k, seed=learner.graph.seed).to(logits.device)
        found.append(scores(evaluator.play(learner.policy, graph, gate="open"), spec, graph))
    return found


def film(run: RunFolder, evaluator: TeamEvaluator, policy: Any, graph: Tensor) -> Path | None:
    """The first test episode as ``episode.gif``; None, said in a line, where the environment cannot be drawn."""
    try:
        played = evaluator.play(policy, graph, episodes=evaluator.env.batch, film_slot=0)
    except ManyoneError as error:
        print(f"no film: {error}")
        return None
    path = run.path / "episode.gif"
    team_run_figures.save_gif(played.frames, path)
    print(f"film: {path}")
    return path


def print_scores(metrics: Mapping[str, float]) -> None:
    """The final figures with their intervals, for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "mean", "95 % interval", box=None)
    for name, value in metrics.items():
        if name.endswith(("_low", "_high")):
            continue
        ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
        table.add_row(name, f"{value:.4g}", "" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}")
    Console().print(table)


def plan(options: TeamOptions, recipe: str) -> list[str]:
    """What a dry run prints; the environment is made once to look at it."""
    from manyone.envs.teams.make import make_team
    from manyone.teams.recipes.problem import build_graph, build_policy

    assert options.env is not None
    assert options.iterations is not None
    assert options.envs is not None
    assert options.length is not None
    steps = options.iterations * options.envs * options.length
    schedule = [
        f"{options.iterations} iterations of {options.envs} copies x {options.length} steps: {steps:,} steps, "
        f"{options.epochs} epochs each",
        f"{options.eval_episodes} greedy test episodes every {options.evaluate_every or options.iterations} iterations",
        "nothing was written",
    ]
    try:
        env = make_team(options.env, 1, workers=0, frames=options.frames)
    except ManyoneError as error:
        return [f"{recipe} on {options.env}, which cannot be made here: {error}", *schedule]
    spec = env.spec
    env.close()
    does = f"{spec.actions} actions" if spec.discrete else f"{spec.action_dim} continuous action entries"
    sees = f"observations of {spec.observation_dim}" + f" ({options.frames} frames)" * (options.frames > 1)
    lines = [f"{recipe} on {spec.name}: {spec.agents} agents, {sees}, {does}"]
    if options.sends:
        words = options.graph_words()
        policy = build_policy(options.METHOD, spec, seed=options.seed, **words, **options.network_words())
        chosen = {k: v for k, v in words.items() if k in ("graph", "density")}
        graph: Any = build_graph(options.METHOD, spec, seed=options.seed, **chosen)
        scorer: Any = policy.link_scorer
        if scorer is not None:
            kind, links = "graph of every step", scorer.links * spec.agents
        elif hasattr(graph, "links"):
            kind, links = "learned graph", graph.links * spec.agents
        else:
            kind, links = "fixed graph", int(graph.sum())
        lines.append(f"{kind}: {links} of {spec.agents * (spec.agents - 1)} links" + ", gated" * options.gated)
    else:
        policy = build_policy(options.METHOD, spec, seed=options.seed, **options.network_words())
    return [*lines, f"{sum(p.numel() for p in policy.parameters()):,} weights", *schedule]
