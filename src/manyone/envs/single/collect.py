"""Makes the offline data sets: scripted Meta-World episodes, official experts, locomotion by random search, and the
shipped experts' roll-outs.

The work of a task is cut into pieces that depend on (seed, task, episode) alone, so any number of worker processes
makes the same bytes. A finished task is kept at once and never made again: an interrupted ``make`` goes on where it
stopped.

Public names: ``make_offline``, ``made``, ``set_tasks``, ``EXPERT_VARIABLE``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from manyone.assets.cache import locked
from manyone.data.trajectories.files import from_npz_file, from_npz_folder
from manyone.data.trajectories.offline import (
    OfflineName,
    keep_list,
    keep_task,
    load_offline,
    parse_offline,
)
from manyone.data.trajectories.references import reference
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.progress import Progress
from manyone.envs.single import families, linear, scripted, search
from manyone.envs.single import make as build
from manyone.envs.single.experts import play
from manyone.envs.single.experts.matrices import Matrices
from manyone.envs.single.pieces import Runner, runner
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

EXPERT_VARIABLE = "MANYONE_METAWORLD_EXPERT"
"""Environment variable with the folder of the official expert episodes."""

_PIECE = 15  # episodes that a worker plays before it answers: about two seconds
Report = Callable[[int, int], None]


def make_offline(
    name: str,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    source: Path | str | None = None,
    progress: Report | None = None,
) -> list[Trajectories]:
    """Makes what is missing of the data set ``name`` and returns all of it, one :class:`Trajectories` a task.

    ``workers`` processes share the work (default and upper limit: the processors that this process may use).
    ``source`` is the folder of the official expert episodes, for ``...-expert`` alone (default: the environment
    variable ``MANYONE_METAWORLD_EXPERT``). ``progress(done, total)`` is told environment steps. Processes are spawned:
    a script that calls this needs the usual ``if __name__ == "__main__":``.
    """
    wanted = parse_offline(name, episodes=episodes, steps=steps, seed=seed)
    tasks = set_tasks(wanted)
    if source is not None and not wanted.official:
        raise ManyoneError(f"--source {source}: only expert data are read from a folder; {wanted} is made")
    with locked(f"offline-{wanted.suite.replace(':', '-')}-{wanted.key}"):
        missing = [task for task in tasks if not wanted.folder(task).is_dir()]
        if missing and wanted.official:
            _copy_experts(wanted, missing, source)
        elif missing:
            with runner(workers) as run:
                locomotion = _play_searched if wanted.quality in ("near", "sub") else _play_shipped
                maker = _MAKERS.get(wanted.family, locomotion)
                maker(wanted, missing, run, progress or (lambda done, total: None))
        keep_list(wanted, tasks)
    return load_offline(name, episodes=episodes, steps=steps, seed=wanted.seed)


def made(wanted: OfflineName, *, workers: int | None = None) -> list[Trajectories]:
    """The data ``wanted`` from the cache; what is missing is made first, with progress on stderr."""
    if wanted.made():
        return make_offline(str(wanted), seed=wanted.seed)
    with Progress(f"making {wanted}") as bar:
        return make_offline(str(wanted), seed=wanted.seed, workers=workers, progress=bar.update)


def set_tasks(wanted: OfflineName) -> list[str]:
    """The tasks of a parsed name; a family alone means its training tasks."""
    return build.suite_tasks(f"{wanted.suite}:train" if wanted.suite in families.SPLITS else wanted.suite)


def _play_scripted(wanted: OfflineName, tasks: list[str], run: Runner, progress: Report) -> None:
    play = functools.partial(scripted.play, episodes=wanted.episodes, steps=wanted.steps)
    policy = f"scripted policy of metaworld {version('metaworld')}, with noise"
    _in_pieces(wanted, tasks, run, progress, play, policy)


def _play_points(wanted: OfflineName, tasks: list[str], run: Runner, progress: Report) -> None:
    from manyone.envs.single import point_robot  # imports gymnasium

    play = functools.partial(point_robot.play, steps=min(wanted.steps, build.spaces(tasks[0])[2]))
    _in_pieces(wanted, tasks, run, progress, play, f"{wanted.quality} policy that sees the goal")


def _play_teachers(wanted: OfflineName, tasks: list[str], run: Runner, progress: Report) -> None:
    from manyone.envs.single import teachers  # imports gymnasium

    steps = min(wanted.steps, build.spaces(tasks[0])[2])
    play = functools.partial(teachers.play, episodes=wanted.episodes, steps=steps)
    policy = {"near": "the task's teacher, with noise", "expert": "the task's teacher"}.get(wanted.quality, "random")
    _in_pieces(wanted, tasks, run, progress, play, policy, lambda task: teachers.references(task, steps))


def _in_pieces(
    wanted: OfflineName,
    tasks: list[str],
    run: Runner,
    progress: Report,
    play: Callable[..., list[dict[str, Any]]],
    policy: str,
    references: Callable[[str], tuple[float, float]] | None = None,
) -> None:
    """Keeps the episodes of ``play(task, quality, numbers, seeds)``, cut into pieces; ``policy``: who plays.

    ``references``: task -> returns that normalised scores count from and to, where they are known.
    """
    starts, total = range(0, wanted.episodes, _PIECE), len(tasks) * wanted.episodes * wanted.steps
    calls = {}
    for task, start in itertools.product(tasks, starts):
        numbers = range(start, min(start + _PIECE, wanted.episodes))
        seeds = [seed_for(wanted.seed, "collect", task, wanted.quality, number) for number in numbers]
        calls[task, start] = functools.partial(play, task, wanted.quality, numbers, seeds)
    played: dict[str, dict[int, list[dict[str, Any]]]] = {task: {} for task in tasks}
    done = 0
    for (task, start), piece in run(calls):
        played[task][start] = piece
        done += len(piece) * wanted.steps
        progress(done, total)
        if len(played[task]) == len(starts):
            pieces = played.pop(task)
            whole = [episode for start in starts for episode in pieces[start]]
            meta = _meta(wanted, policy) | ({} if references is None else {"reference": list(references(task))})
            keep_task(wanted, task, Trajectories.from_episodes(task, whole, meta=meta))


def _play_searched(wanted: OfflineName, tasks: list[str], run: Runner, progress: Report) -> None:
    settings = search.SETTINGS[wanted.family]
    total = len(tasks) * (settings.steps + wanted.episodes * wanted.steps)
    done = 0

    def tell(steps: int) -> None:
        nonlocal done
        done += steps
        progress(done, total)

    for task in tasks:
        recipe = f"-v{wanted.recipe}" if wanted.recipe else ""
        file = wanted.folder(task).parent / f"search-seed{wanted.seed}{recipe}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        found = search.teachers(file, task, settings, wanted.seed, run, tell)
        qualities = [number / max(1, wanted.episodes - 1) for number in range(wanted.episodes)]
        chosen, noise = zip(*(search.choose(found, wanted.quality, q) for q in qualities), strict=True)
        seeds = [seed_for(wanted.seed, "collect", task, wanted.quality, number) for number in range(wanted.episodes)]
        calls = {}
        for start in range(0, wanted.episodes, _PIECE):
            part = slice(start, start + _PIECE)
            picked = list(chosen[part])
            policy = (found.weights[picked], found.means[picked], found.deviations[picked])
            calls[start] = functools.partial(
                linear.episodes, task, *policy, seeds[part], wanted.steps, noise=noise[part]
            )
        pieces = {}
        for start, piece in run(calls):
            pieces[start] = piece
            tell(len(piece) * wanted.steps)
        whole = [episode for start in sorted(pieces) for episode in pieces[start]]
        policy_text = f"linear policies of an augmented random search ({settings.steps} steps), with noise"
        keep_task(wanted, task, Trajectories.from_episodes(task, whole, meta=_meta(wanted, policy_text)))


def _play_shipped(wanted: OfflineName, tasks: list[str], run: Runner, progress: Report) -> None:
    amount = wanted.transitions or wanted.episodes
    each = 1 if wanted.transitions else wanted.steps  # progress counts steps
    for number, task in enumerate(tasks):
        name = next((name for name, its in build.BODIES.items() if its == task), task)
        policies, steps = play.shipped(name), min(wanted.steps, build.limit(task) or wanted.steps)
        shares = play.shares(wanted.quality, policies, amount, in_steps=wanted.transitions > 0)

        episodes = functools.partial(play.episodes, name, horizon=steps, noise=policies.noise)

        def call(
            share: play.Share, first: int, count: int, task: str = task, roll: Any = episodes
        ) -> Callable[[], Any]:
            numbers = range(first, first + count)
            seeds = [seed_for(wanted.seed, "collect", task, share.step, n) for n in numbers]
            return functools.partial(roll, share.policy, seeds)

        while calls := {
            (place, first): call(share, first, count)
            for place, share in enumerate(shares)
            for first, count in share.needed(steps)
        }:
            for (place, first), piece in run(calls):
                shares[place].add(first, piece)
                done = number * amount + sum(share.filled for share in shares)
                progress(done * each, len(tasks) * amount * each)
        parts = [share.kept() for share in shares]
        kind = "a TD3 run" if name in build.BODIES else "augmented random searches (linear)"
        policy = f"policies of {kind}, normal noise of {policies.noise} on their actions"
        meta = _meta(wanted, "uniformly random actions" if wanted.quality == "random" else policy)
        if pair := _reference(policies, steps):
            meta["reference"] = pair
        meta |= {
            "noise": policies.noise,
            "expert_return": policies.returns[policies.expert],
            "checkpoints": [
                {
                    "step": share.step,
                    "return": None if share.policy is None else policies.noisy_returns[share.policy],
                    "episodes": len(own),
                    "transitions": sum(len(one["rewards"]) for one in own),
                }
                for share, own in zip(shares, parts, strict=True)
            ],
        }
        keep_task(wanted, task, Trajectories.from_episodes(task, [one for own in parts for one in own], meta=meta))


def _reference(policies: play.Policies, steps: int) -> list[float] | None:
    """Returns that scores of the data count from and to: D4RL's, else the shipped policies' of whole episodes."""
    if isinstance(policies, Matrices):
        whole = steps >= build.spaces(policies.task)[2]
        return [policies.random_return, policies.returns[policies.expert]] if whole else None
    return list(reference(policies.task))


_MAKERS = {
    "metaworld": _play_scripted,
    "mujoco": _play_shipped,
    "ml1-reach": _play_scripted,
    "ml1-pick-place": _play_scripted,
    "point-robot": _play_points,
    "teachers": _play_teachers,
}
"""What makes the data of a family; those of locomotion are searched or played by what is shipped, by their quality."""


def _copy_experts(wanted: OfflineName, tasks: list[str], source: Path | str | None) -> None:
    place = source if source is not None else os.environ.get(EXPERT_VARIABLE)
    if not place:
        raise ManyoneError(
            f"{wanted}: the official episodes are not fetched by manyone; give their folder (TASK.npz files, or "
            f"folders TASK-v2 of 0.npz, 1.npz, ...) by --source or {EXPERT_VARIABLE}"
        )
    folder = Path(place).expanduser()
    for task in tasks:
        short = task.removesuffix("-v3")
        found = [p for p in (folder / f"{short}.npz", folder / f"{short}-v2", folder / short) if p.exists()]
        if not found:
            raise ManyoneError(f"{folder}: has no episodes of {task}: expected {short}.npz, {short}-v2/ or {short}/")
        data = (from_npz_folder if found[0].is_dir() else from_npz_file)(found[0], task)
        meta = _meta(wanted, "SAC experts of MTDiff on Meta-World v2, actions clipped")
        keep_task(wanted, task, dataclasses.replace(data, meta={**data.meta, **meta}))


def _meta(wanted: OfflineName, policy: str) -> dict[str, Any]:
    scripted_family = wanted.family.startswith(("metaworld", "ml1"))
    simulators = () if wanted.family in ("point-robot", "teachers") else ("mujoco",)
    packages = (*(("metaworld",) if scripted_family else ()), *simulators, "gymnasium", "numpy")
    return {
        "description": f"{wanted}: {policy}",
        "policy": policy,
        "quality": wanted.quality,
        "seed": wanted.seed,
        "licence": wanted.licence,
        "made_with": {package: version(package) for package in packages},
    }
