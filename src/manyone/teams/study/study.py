"""The teams study: methods of communication trained alike on one task, then judged on the same fresh episodes.

A job is one arm (``settings.ARMS``) of one suite with one seed: what its command would train. All arms of a suite get
the same environment steps, passes over them, network width and step sizes; they differ in who hears whom, and what the
arm's name says.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.claims.figure import Figure, image_of, save_figures
from manyone.claims.rows import Row, append_rows, keys_in
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.engine.files import write_atomic
from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import seed_for
from manyone.recipes.arm import Arm
from manyone.recipes.needs import Needs, together
from manyone.teams.network.graph import links_for
from manyone.teams.play import Played, play
from manyone.teams.recipes.build import Team, team
from manyone.teams.recipes.figures import save_gif
from manyone.teams.recipes.options import TeamOptions
from manyone.teams.study import figures
from manyone.teams.study.settings import ARMS, LEFT_OUT, SETTINGS, Setting

TITLE = "Who should listen to whom: the claims of learned communication"
NOTES = [
    "All methods of a suite see the same number of environment steps, with the same buffer, losses, passes and step "
    "sizes; they differ in communication. Methods that learn their links give every fifth pass to the links alone "
    "until they commit to a graph, so that their networks take fewer steps.",
    "Teams are judged on fresh episodes, the same for every method of a seed. Intervals are over training seeds, which "
    "share nothing.",
    "Density is the share of the team that an agent may hear, rounded down: two links of four with 5 agents at 0.4. "
    "Links used a step are messages of the whole team: one a link and block of the encoder, and one more where an "
    "action is passed on; a gate that stays shut sends none.",
    "Env steps to the threshold: until the smoothed score of the training episodes is 0.9, at most the whole training.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 3}


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of a suite at a scale."""
    if suite not in SETTINGS.get(scale, {}):
        raise ManyoneError(f"the teams study has no suite {suite!r} at scale {scale!r}")
    return SETTINGS[scale][suite]


def arms(scale: str, suite: str) -> list[Arm]:
    """What is trained on a suite, as the commands that do the same."""
    setting = setting_of(scale, suite)
    return [setting.arm(part) for part in setting.arms]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Builds the task once, so that what it needs and is missing is told before anything is computed."""
    setting = setting_of(scale, suite)
    options = setting.arm("commformer").options()
    env = make_team(options.env, 2, workers=0)
    env.close()
    spec, steps = env.spec, env_steps(options)
    choices = f"{spec.actions} actions" if spec.discrete else f"{spec.action_dim} continuous actions"
    links = links_for(spec.agents, options.density)
    note = f"{spec.agents} agents, {spec.observation_dim} numbers seen by each, {choices}, episodes of at most "
    note += f"{spec.horizon} steps; {links} of {spec.agents - 1} links an agent; trained for {steps:,} steps"
    task = TaskInfo(options.env, spec.actions, steps, 0, setting.episodes, "simulated")
    return SuiteInfo(suite, "team of agents", (task,), (note,))


def env_steps(options: TeamOptions) -> int:
    """Environment steps of a run."""
    return options.envs * options.iterations * options.length


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job an arm, seed and suite."""
    return [
        Job(suite, seed, part)
        for part in ARMS
        for suite in suites
        for seed in seeds
        if part in setting_of(scale, suite).arms
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    return 1 + bool(setting_of(scale, suite).fewer and part in LEFT_OUT)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """Everything that the suite's runs share, and the command of each arm."""
    found = setting_of(scale, suite)
    return dataclasses.asdict(found) | {"commands": {part: found.arm(part).command() for part in found.arms}}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains and judges ``part``; appends its missing rows and writes ``<suite>-<seed>-<part>.record.json``."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting = setting_of(scale, suite)
    arm = setting.arm(part)
    options = arm.options(seed=seed)
    made = team(options, arm.build)
    record = train(made, setting)
    rows, frames = judge(made, options, setting, part, suite, record)
    write_atomic(folder / f"{suite}-{seed}-{part}.record.json", (json.dumps(record) + "\n").encode())
    if frames:
        _save_film(folder / f"{suite}-{seed}-{part}", suite, frames)
    append_rows(path, [row for row in rows if row.key not in done])
    made.env.close()


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """What the records and rows of all jobs show together."""
    return figures.overview(scale, suites, seeds, folder)


# --- one job ----------------------------------------------------------------------------------------------------------


KEPT = ("return", "success", "episode_length", "links", "receive_rate", "ratio_error", "entropy")
"""What a record keeps of every iteration, beside ``score``."""


def train(made: Team, setting: Setting) -> dict[str, Any]:
    """Runs all iterations; what was seen on the way, by name lists over iterations (None where no episode ended)."""
    curves: dict[str, list[float | None]] = {name: [] for name in ("env_steps", "score", *KEPT)}
    started = time.process_time()
    for number in range(made.learner.training.iterations):
        metrics = made.learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at iteration {number + 1}: try a smaller learning rate")
        for name in ("env_steps", *KEPT):
            curves[name].append(metrics.get(name))
        curves["score"].append(score_of(setting, metrics.get("return"), metrics.get("success")))
    seconds = time.process_time() - started
    graph = made.learner.exact_graph()
    return {"curves": curves, "graph": graph.tolist(), "cpu_seconds": seconds}


def score_of(setting: Setting, returned: float | None, success: float | None) -> float | None:
    """Success rate, or the return on the suite's scale, within 0..1."""
    if setting.bounds is None:
        return success
    if returned is None:
        return None
    low, high = setting.bounds
    return min(1.0, max(0.0, (returned - low) / (high - low)))


def judge(
    made: Team, options: TeamOptions, setting: Setting, part: str, suite: str, record: Mapping[str, Any]
) -> tuple[list[Row], Sequence[Any]]:
    """(rows, frames of a film): fresh episodes with all agents and, where the suite says so, with one fewer."""
    arm, seed, graph = ARMS[part], options.seed, made.learner.exact_graph()
    gated = made.learner.policy.gated

    def played(env: Any, **words: Any) -> Played:
        return play(
            env, made.policy, graph, episodes=setting.episodes, seed=seed_for(seed, "judge"), greedy=setting.greedy,
            gate="decided" if gated else "open", **words,
        )  # fmt: skip

    batch = min(setting.episodes, 256)
    env = make_team(options.env, batch, device=made.env.device, workers=0)
    found = played(env, film_slot=0 if setting.film and seed == 0 and part == "commformer" else None)
    env.close()
    metrics = _figures_of(found) | _cost(options, setting, record)
    metrics |= _links_found(env.spec, graph)
    if "need_column" in env.spec.details and gated:
        metrics |= _listening(made, options)
    rows = [Row(suite, seed, arm.method, arm.variant, "clean", _score(setting, suite, found), metrics)]
    if setting.fewer and part in LEFT_OUT:
        small = make_team(setting.fewer, batch, device=made.env.device, workers=0)
        again = played(small, keep=range(env.spec.agents - 1))
        small.close()
        scores = _score(setting, suite, again)
        rows.append(Row(suite, seed, arm.method, arm.variant, "one-left-out", scores, _figures_of(again)))
    return rows, found.frames


def _score(setting: Setting, suite: str, found: Played) -> dict[str, float]:
    success = None if found.success is None else float(found.success.float().mean())
    score = score_of(setting, float(found.returns.mean()), success)
    if score is None:
        raise ManyoneError(f"suite {suite}: the task does not report success, so its setting needs bounds")
    return {suite: score}


def _figures_of(found: Played) -> dict[str, float]:
    return {k: v for k, v in found.figures().items() if k in ("return", "episode_length", "links", "receive_rate")}


def _cost(options: TeamOptions, setting: Setting, record: Mapping[str, Any]) -> dict[str, float]:
    """What training took, how exact its ratios were, and when it reached the threshold (at the latest at its end)."""
    curves = record["curves"]
    errors = [e for e in curves["ratio_error"] if e is not None]
    whole = float(env_steps(options))
    cost = {"env_steps": whole, "cpu_seconds": float(record["cpu_seconds"])}
    if errors:
        cost["ratio_error"] = math.fsum(errors) / len(errors)
    smooth, last = None, whole
    for steps, score in zip(curves["env_steps"], curves["score"]):
        if score is not None:
            smooth = score if smooth is None else 0.8 * smooth + 0.2 * score
            if smooth >= setting.threshold:
                last = float(steps)
                break
    return cost | {"steps_to_threshold": last}


def _links_found(spec: TeamSpec, graph: Tensor) -> dict[str, float]:
    """The share of the links that a chosen graph has right, where the task tells: one best sender, or senders that see.

    Graphs with no or with all links choose nothing.
    """
    n, links = spec.agents, float(graph.sum())
    if not 0 < links < n * (n - 1):
        return {}
    if "best_senders" in spec.details:
        hits = [float(graph[i, j]) for i, j in enumerate(spec.details["best_senders"])]
        return {"edges_found": math.fsum(hits) / n}
    roles = spec.details.get("roles", [])
    blind = [i for i, role in enumerate(roles) if role != "predator"]
    if not blind or len(blind) == len(roles):
        return {}
    seeing = [j for j in range(n) if j not in blind]
    return {"edges_found": float(graph[blind][:, seeing].sum()) / max(float(graph[blind].sum()), 1.0)}


def _listening(made: Team, options: TeamOptions) -> dict[str, float]:
    """How often the gate is open where a message is needed and where it is not, on fresh first steps."""
    env = make_team(options.env, 1024, device=made.env.device)
    seen = env.reset(seed_for(options.seed, "judge", "gate"))
    need = seen.observations[..., env.spec.details["need_column"]] > 0.5
    noise = torch.zeros(1024, env.spec.agents, env.spec.actions, device=made.env.device)
    policy: Any = made.policy
    with torch.no_grad():
        acted = policy.act(seen, made.learner.exact_graph(), noise=noise, gate="decided", greedy=True)
    hears = acted.links.any(-1).float()
    return {"receive_needed": float(hears[need].mean()), "receive_idle": float(hears[~need].mean())}


def _save_film(stem: Path, suite: str, frames: Sequence[Any]) -> None:
    """An episode as ``<stem>.gif`` and as a figure of the page."""
    path = stem.with_name(f"{stem.name}.gif")
    save_gif(frames, path)
    data = {"data": image_of(path), "width": 240}
    figure = Figure("image", f"{suite}: an episode of CommFormer", data, "A fresh episode, first seed.", "Episodes")
    save_figures(stem.with_name(f"{stem.name}.figures.json"), [figure])
