"""Augmented random search on linear policies: cheap teachers for the locomotion families' offline data.

H. Mania, A. Guy, B. Recht: Simple random search of static linear policies is competitive for reinforcement learning,
NeurIPS 2018 (arXiv 1803.07055); version V2-t, algorithm 2 there. One iteration, for a policy M [A, S] that acts on
states normalised by the running mean and deviation of all states seen so far:

1. draw directions delta_1..delta_N ~ N(0, I) and roll out M + nu delta_k and M - nu delta_k, giving r+_k and r-_k;
2. keep the b directions with the largest max(r+_k, r-_k);
3. M <- M + alpha / (b sigma_R) sum_k (r+_k - r-_k) delta_k, sigma_R the deviation of the 2b kept returns.

All 2N roll-outs of an iteration run in lock-step with one batched matrix product a step, cut into pieces for worker
processes. A pair shares its start. The result depends on the seed alone, not on the number of workers.

Public names: ``Search``, ``SETTINGS``, ``Teachers``, ``search``, ``teachers``, ``choose``.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from manyone.engine.files import part_beside, writing
from manyone.envs.single import linear
from manyone.envs.single import make as build
from manyone.envs.single.pieces import Runner
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

_PIECE = 8  # roll-outs that a worker steps together


@dataclass(frozen=True)
class Search:
    """Settings of a search. The cost is iterations x 2 directions x horizon environment steps."""

    iterations: int = 200
    """Updates of the policy; at least 1."""
    directions: int = 16
    """N: directions tried an iteration, each with both signs."""
    top: int = 8
    """b: directions used, 1 to N."""
    step_size: float = 0.02
    """alpha"""
    noise: float = 0.03
    """nu: deviation of the perturbed weights."""
    horizon: int = 200
    """Steps of a roll-out."""
    survival: bool = False
    """Whether the bonus for staying alive counts: for bodies that are paid for little else."""

    def __post_init__(self) -> None:
        if not 1 <= self.top <= self.directions or min(self.iterations, self.horizon) < 1:
            raise ManyoneError(f"{self}: needs 1 <= top <= directions, iterations and horizon at least 1")
        if self.step_size <= 0 or self.noise <= 0:
            raise ManyoneError(f"{self}: step_size and noise must be above 0")

    @property
    def steps(self) -> int:
        """Environment steps that the whole search takes."""
        return self.iterations * 2 * self.directions * self.horizon


_CHEETAHS = ("cheetah-dir", "cheetah-vel", "cheetah17-dir", "cheetah17-vel")
SETTINGS = {**dict.fromkeys(_CHEETAHS, Search()), "ant-dir": Search(iterations=70)}
"""By family, about a minute of two processors a task: Ant's simulator is four times as slow as HalfCheetah's."""


@dataclass(frozen=True)
class Teachers:
    """The policies of a search, one before each update and the last: T + 1 in all."""

    weights: np.ndarray
    """float64 [T+1, A, S]"""
    means: np.ndarray
    """float64 [T+1, S]: what states are centred by."""
    deviations: np.ndarray
    """float64 [T+1, S]"""
    scores: np.ndarray
    """float64 [T+1]: mean return of the unperturbed policy's neighbours; of the last policy, that of the one before."""

    counts: np.ndarray
    """float64 [T+1]: how many states the statistics are of."""

    def best_until(self, iteration: int) -> int:
        """The policy with the highest score among the first ``iteration`` + 1."""
        return int(np.argmax(self.scores[: iteration + 1]))


_ARRAYS = tuple(field.name for field in fields(Teachers))


def search(
    task: str,
    settings: Search,
    seed: int,
    run: Runner,
    progress: Callable[[int], None] = lambda steps: None,
    start: Teachers | None = None,
) -> Teachers:
    """Searches a policy for ``task``; ``run`` does the roll-outs; ``progress`` is told the steps of each piece.

    ``start``: a search whose last policy and statistics this one goes on from, of a task with the same spaces.
    """
    state_dim, action_dim, _ = build.spaces(task)
    policy = np.zeros((action_dim, state_dim))
    count, total, squares = 0.0, np.zeros(state_dim), np.zeros(state_dim)
    mean, deviation = np.zeros(state_dim), np.ones(state_dim)
    if start is not None:
        policy, mean, deviation, count = (of[-1] for of in (start.weights, start.means, start.deviations, start.counts))
        total, squares = count * mean, count * (deviation**2 + mean**2)
    path: dict[str, list[Any]] = {"weights": [], "means": [], "deviations": [], "scores": [], "counts": []}
    for iteration in range(settings.iterations):
        rng = np.random.Generator(np.random.Philox(seed_for(seed, "search", task, iteration)))
        delta = rng.standard_normal((settings.directions, action_dim, state_dim))
        tried = np.concatenate([policy + settings.noise * delta, policy - settings.noise * delta])
        starts = [seed_for(seed, "search start", task, iteration, k) for k in range(settings.directions)] * 2
        found = _roll_out(task, tried, mean, deviation, starts, settings, run, progress)
        plus, minus = found["returns"].reshape(2, -1)
        for key, value in zip(path, (policy, mean, deviation, found["returns"].mean(), count), strict=True):
            path[key].append(value)
        policy = policy + update(delta, plus, minus, settings)
        count += found["counts"].sum()
        total, squares = total + found["sums"].sum(axis=0), squares + found["squares"].sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation = np.where(deviation < 1e-7, 1.0, deviation)
    for key, value in zip(path, (policy, mean, deviation, path["scores"][-1], count), strict=True):
        path[key].append(value)
    return Teachers(**{key: np.array(value) for key, value in path.items()})


def update(delta: np.ndarray, plus: np.ndarray, minus: np.ndarray, settings: Search) -> np.ndarray:
    """Step 3: what is added to the policy, from directions [N, A, S] and the returns [N] of both signs."""
    kept = np.argsort(-np.maximum(plus, minus), kind="stable")[: settings.top]
    spread = np.concatenate([plus[kept], minus[kept]]).std()
    if spread < 1e-9:  # all returns equal: no direction is better
        return np.zeros(delta.shape[1:])
    weighted = np.tensordot(plus[kept] - minus[kept], delta[kept], axes=1)
    return settings.step_size / (settings.top * spread) * weighted


def _roll_out(
    task: str,
    tried: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    starts: list[int],
    settings: Search,
    run: Runner,
    progress: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Returns and sums of states of all ``tried`` policies, in their order."""
    pieces = range(0, len(tried), _PIECE)
    calls = {
        i: functools.partial(
            linear.returns,
            task,
            tried[i : i + _PIECE],
            mean,
            deviation,
            starts[i : i + _PIECE],
            settings.horizon,
            survival=settings.survival,
        )
        for i in pieces
    }
    done = {}
    for i, result in run(calls):
        done[i] = result
        progress(len(result["returns"]) * settings.horizon)
    return {key: np.concatenate([done[i][key] for i in pieces]) for key in done[0]}


def teachers(
    file: Path, task: str, settings: Search, seed: int, run: Runner, progress: Callable[[int], None]
) -> Teachers:
    """The teachers kept in ``file``, or, if there are none, those of a new search, which are then kept there."""
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as kept:
                if str(kept["settings"]) == repr(asdict(settings)):
                    progress(settings.steps)
                    return Teachers(**{key: kept[key] for key in _ARRAYS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # damaged: searched anew
    found = search(task, settings, seed, run, progress)
    with writing(file), part_beside(file) as part:
        with (part / file.name).open("wb") as stream:
            np.savez(stream, settings=np.array(repr(asdict(settings))), **asdict(found))
        (part / file.name).replace(file)
    return found


def choose(found: Teachers, quality: str, q: float) -> tuple[int, float]:
    """(policy, deviation of the action noise) of an episode of quality ``q`` in [0, 1].

    ``near``: the best policy until 70 % to 100 % of the search, noise 0.1 (1 - q). ``sub``: the best until 0 to 60 %,
    noise 0.3 (1 - q / 2), so that no episode is clean.
    """
    last = len(found.scores) - 1
    if quality == "near":
        return found.best_until(round((0.7 + 0.3 * q) * last)), 0.1 * (1 - q)
    return found.best_until(round(0.6 * q * last)), 0.3 * (1 - q / 2)
