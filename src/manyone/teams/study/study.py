"""The teams study: methods of communication trained alike on one task, then judged on the same fresh episodes.

A job is one arm (``teams_settings.ARMS``) of one suite with one seed. All arms of a suite get the same environment
steps, passes over them, network width and step sizes; they differ in who hears whom, and what the arm's name says.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.claims.study import Job
from manyone.errors import ManyoneError
from manyone.teams.study.settings import ARMS, LEFT_OUT, SETTINGS, Arm, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from manyone.claims.figure import Figure
    from manyone.claims.rows import Row
    from manyone.claims.study import SuiteInfo
    from manyone.envs.teams.types import TeamSpec
    from manyone.teams.play import Played
    from manyone.teams.recipes.problem import Team

TITLE = "Who should listen to whom: the claims of learned communication"
NOTES = [
    "All methods of a suite see the same number of environment steps, with the same buffer, losses, passes and step "
    "sizes; they differ in communication. Methods that learn their links give every fifth pass to the links alone "
    "until they commit to a graph, so that their networks take fewer steps.",
    "Teams are judged on fresh episodes, the same for every method of a seed. Intervals are over training seeds, which "
    "share nothing.",
    "Density is the share of the team that an agent may hear, rounded down: two links of four with 5 agents at 0.4. "
    "Links used a step are counted over the whole team; a gate that stays shut uses none.",
    "Env steps to the threshold: until the smoothed score of the training episodes is 0.9, at most the whole training.",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 3}


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of a suite at a scale."""
    if suite not in SETTINGS.get(scale, {}):
        raise ManyoneError(f"the teams study has no suite {suite!r} at scale {scale!r}")
    return SETTINGS[scale][suite]


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Builds the task once, so that what it needs and is missing is told before anything is computed."""
    from manyone.claims.study import SuiteInfo, TaskInfo
    from manyone.envs.teams.make import make_team
    from manyone.teams.network.graph import links_for

    setting = setting_of(scale, suite)
    env = make_team(setting.env, 2, workers=0)
    env.close()
    spec = env.spec
    choices = f"{spec.actions} actions" if spec.discrete else f"{spec.action_dim} continuous actions"
    links = links_for(spec.agents, setting.density)
    note = f"{spec.agents} agents, {spec.observation_dim} numbers seen by each, {choices}, episodes of at most "
    note += (
        f"{spec.horizon} steps; {links} of {spec.agents - 1} links an agent; trained for {setting.env_steps:,} steps"
    )
    task = TaskInfo(setting.env, spec.actions, setting.env_steps, 0, setting.episodes, "simulated")
    return SuiteInfo(suite, "team of agents", (task,), (note,))


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
    """Everything that the suite's runs share, and what each arm changes."""
    found = setting_of(scale, suite)
    arms = {p: {**ARMS[p].words, **ARMS[p].network} for p in found.arms if ARMS[p].words or ARMS[p].network}
    return dataclasses.asdict(found) | {"changed by arms": arms}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Trains and judges ``part``; appends its missing rows and writes ``<suite>-<seed>-<part>.record.json``."""
    import torch

    from manyone.claims.rows import append_rows, keys_in
    from manyone.engine.files import write_atomic

    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting, arm = setting_of(scale, suite), ARMS[part]
    team = build(setting, arm, seed)
    record = train(team, setting)
    rows, frames = judge(team, setting, arm, suite, seed, record, fewer=part in LEFT_OUT)
    write_atomic(folder / f"{suite}-{seed}-{part}.record.json", (json.dumps(record) + "\n").encode())
    if frames:
        _save_film(folder / f"{suite}-{seed}-{part}", suite, frames)
    append_rows(path, [row for row in rows if row.key not in done])
    team.env.close()


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """What the records and rows of all jobs show together."""
    from manyone.teams.study import figures as teams_study_figures

    return teams_study_figures.overview(scale, suites, seeds, folder)


# --- one job ----------------------------------------------------------------------------------------------------------


def build(setting: Setting, arm: Arm, seed: int) -> Team:
    """The untrained team of an arm."""
    import torch

    from manyone.teams.recipes.problem import build_team

    device = setting.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    words = {"density": setting.density, **setting.training, **arm.words}
    if arm.words.get("gate"):
        words |= setting.gate
    return build_team(
        arm.build or arm.method, setting.env, batch=setting.batch, seed=seed, device=device, workers=0,
        network={**setting.network, **arm.network}, **words,
    )  # fmt: skip


KEPT = ("return", "success", "episode_length", "links", "receive_rate", "ratio_error", "entropy")
"""What a record keeps of every iteration, beside ``score``."""


def train(team: Team, setting: Setting) -> dict[str, Any]:
    """Runs all iterations; what was seen on the way, by name lists over iterations (None where no episode ended)."""
    curves: dict[str, list[float | None]] = {name: [] for name in ("env_steps", "score", *KEPT)}
    started = time.process_time()
    for number in range(int(setting.training["iterations"])):
        metrics = team.learner.step()
        if not math.isfinite(metrics["loss"]):
            raise ManyoneError(f"the loss is {metrics['loss']} at iteration {number + 1}: try a smaller learning rate")
        for name in ("env_steps", *KEPT):
            curves[name].append(metrics.get(name))
        curves["score"].append(score_of(setting, metrics.get("return"), metrics.get("success")))
    seconds = time.process_time() - started
    graph = team.learner.exact_graph()
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
    team: Team, setting: Setting, arm: Arm, suite: str, seed: int, record: Mapping[str, Any], *, fewer: bool
) -> tuple[list[Row], Sequence[Any]]:
    """(rows, frames of a film): fresh episodes with all agents and, where the suite says so, with one fewer."""
    from manyone.claims.rows import Row
    from manyone.envs.teams.make import make_team
    from manyone.randomness import seed_for
    from manyone.teams.play import play

    def played(env: Any, **words: Any) -> Played:
        return play(
            env, team.policy, team.learner.exact_graph(), episodes=setting.episodes, seed=seed_for(seed, "judge"),
            greedy=setting.greedy, gate="decided" if arm.words.get("gate") else "open", **words,
        )  # fmt: skip

    batch = min(setting.episodes, 256)
    env = make_team(setting.env, batch, device=team.env.device, workers=0)
    film = setting.film and seed == 0 and arm.method == "commformer" and not arm.variant
    found = played(env, film_slot=0 if film else None)
    env.close()
    metrics = _figures_of(found) | _cost(setting, record)
    metrics |= _links_found(env.spec, team.learner.exact_graph())
    if "need_column" in env.spec.details and arm.words.get("gate"):
        metrics |= _listening(setting, team, seed)
    rows = [Row(suite, seed, arm.method, arm.variant, "clean", _score(setting, suite, found), metrics)]
    if setting.fewer and fewer:
        small = make_team(setting.fewer, batch, device=team.env.device, workers=0)
        again = played(small, keep=range(env.spec.agents - 1))
        small.close()
        scores = _score(setting, suite, again)
        rows.append(Row(suite, seed, arm.method, arm.variant, "one-left-out", scores, _figures_of(again)))
    return rows, found.frames


def _score(setting: Setting, suite: str, found: Played) -> dict[str, float]:
    success = None if found.success is None else float(found.success.float().mean())
    score = score_of(setting, float(found.returns.mean()), success)
    if score is None:
        raise ManyoneError(f"suite {suite}: {setting.env} does not report success, so its setting needs bounds")
    return {suite: score}


def _figures_of(found: Played) -> dict[str, float]:
    return {k: v for k, v in found.figures().items() if k in ("return", "episode_length", "links", "receive_rate")}


def _cost(setting: Setting, record: Mapping[str, Any]) -> dict[str, float]:
    """What training took, how exact its ratios were, and when it reached the threshold (at the latest at its end)."""
    curves = record["curves"]
    errors = [e for e in curves["ratio_error"] if e is not None]
    cost = {"env_steps": float(setting.env_steps), "cpu_seconds": float(record["cpu_seconds"])}
    if errors:
        cost["ratio_error"] = math.fsum(errors) / len(errors)
    smooth, last = None, float(setting.env_steps)
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


def _listening(setting: Setting, team: Team, seed: int) -> dict[str, float]:
    """How often the gate is open where a message is needed and where it is not, on fresh first steps."""
    import torch

    from manyone.envs.teams.make import make_team
    from manyone.randomness import seed_for

    env = make_team(setting.env, 1024, device=team.env.device)
    seen = env.reset(seed_for(seed, "judge", "gate"))
    need = seen.observations[..., env.spec.details["need_column"]] > 0.5
    noise = torch.zeros(1024, env.spec.agents, env.spec.actions, device=team.env.device)
    policy: Any = team.policy
    with torch.no_grad():
        acted = policy.act(seen, team.learner.exact_graph(), noise=noise, gate="decided", greedy=True)
    hears = acted.links.any(-1).float()
    return {"receive_needed": float(hears[need].mean()), "receive_idle": float(hears[~need].mean())}


def _save_film(stem: Path, suite: str, frames: Sequence[Any]) -> None:
    """An episode as ``<stem>.gif`` and as a figure of the page."""
    from manyone.claims.figure import Figure, image_of, save_figures
    from manyone.teams.recipes.figures import save_gif

    path = stem.with_name(f"{stem.name}.gif")
    save_gif(frames, path)
    data = {"data": image_of(path), "width": 240}
    figure = Figure("image", f"{suite}: an episode of CommFormer", data, "A fresh episode, first seed.", "Episodes")
    save_figures(stem.with_name(f"{stem.name}.figures.json"), [figure])
