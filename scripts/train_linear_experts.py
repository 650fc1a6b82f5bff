"""Trains and packs the linear experts behind ``cheetah-vel-expert`` and its neighbours by augmented random search.

    python scripts/train_linear_experts.py train cheetah-vel --out linear/    # goes on where it was stopped
    python scripts/train_linear_experts.py pack cheetah-vel --out linear/     # chooses and writes what is shipped

The searches are those of :mod:`manyone.envs.single.search`. Cheetah-dir is searched from zero. Cheetah-vel goes on from
its forward policy: the fastest task first, every other from its neighbour's best policy. Ant-dir is searched in a few
directions only: the ant is the same after a quarter turn and in a mirror, so that a policy for one direction is one for
eight, and every task takes the search whose direction comes nearest to its own. The other bodies are searched once.
Cheetahs are searched on 17 observations (the torso's place tells a policy nothing); their matrices serve those of 20.

Packing plays episodes of policies along the searches, with the noise of data, keeps those nearest to fixed shares of
the way from random actions to the best, and plays them again as they are shipped: rounded, with and without noise. A
task of Cheetah-vel chooses among the policies of all its searches, as an early policy for one speed is a medium one
for another.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from manyone.envs.single import linear, make
from manyone.envs.single.experts import matrices, play
from manyone.envs.single.experts.pack import write_matrices
from manyone.envs.single.families import FAMILIES
from manyone.envs.single.locomotion import ANT_DIRECTIONS, target
from manyone.envs.single.pieces import runner
from manyone.envs.single.search import Search, Teachers, search
from manyone.randomness import seed_for

SHARES = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
"""Of the way from random actions to the best policy: what is kept of a search."""
TRIED, EPISODES = 12, 20
"""Episodes that a candidate is played for, and a shipped policy (those of the fifty ants, each: half as many)."""
EVERY, EARLY = 5, 16
"""Of the policies on the way of a search, every so manieth is a candidate, and the first of one that starts at zero."""
PIECE = 20
"""Iterations of a search after which it is written."""
LONG = 1000
"""Steps of a whole episode of the bodies that are no family's."""


@dataclass(frozen=True)
class Plan:
    """How a family (or a body) is searched."""

    first: Search
    """The first task (or each of them)."""
    onward: Search | None = None
    """Tasks that go on from a neighbour's policy."""


PLANS = {
    "cheetah-dir": Plan(Search(iterations=150)),
    "cheetah-vel": Plan(
        Search(iterations=80), Search(iterations=40, directions=10, top=5, step_size=0.008, noise=0.015)
    ),
    "ant-dir": Plan(Search(iterations=300, noise=0.025), Search(iterations=25, step_size=0.015, noise=0.025)),
    "ant": Plan(Search()),  # Ant-dir's policies for the direction 0
    "invertedpendulum": Plan(Search(20, 8, 4, step_size=0.05, noise=0.1, horizon=LONG, survival=True)),
    "inverteddoublependulum": Plan(Search(60, 8, 4, step_size=0.03, noise=0.05, horizon=LONG, survival=True)),
    "swimmer": Plan(Search(100, 4, 2, horizon=LONG)),
    "reacher": Plan(Search(200, horizon=50)),
}


# ---- the ant's symmetries -----------------------------------------------------------------------------------------

Turn = tuple[np.ndarray, np.ndarray]
"""What a turn of the world does to observations [27, 27] and actions [8, 8] of an ant whose legs are named anew."""


def ant_turn(quarters: int, mirrored: bool) -> Turn:
    """The turn by ``quarters`` of 90 degrees, of what was first mirrored at the x axis (y -> -y)."""
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    legs = [(a, (a + 1) % 4, 1, -1 if a % 2 == 0 else 1) for a in range(4)]  # from, to, signs of hip and ankle
    rotation = _on_ant(turn, turn, legs)
    mirror = np.diag([1, -1, 1])  # axial vectors (rotations) change their sign besides
    reflection = _on_ant(mirror, -mirror, [(a, 3 - a, -1, 1) for a in range(4)])
    states, actions = np.eye(27), np.eye(8)
    for one in [reflection] * mirrored + [rotation] * (quarters % 4):
        states, actions = one[0] @ states, one[1] @ actions
    return states, actions


def _on_ant(polar: np.ndarray, axial: np.ndarray, legs: Sequence[tuple[int, int, int, int]]) -> Turn:
    """Observations are z, quaternion, 8 joints, velocity, rotation, 8 joint velocities; motors begin with leg 4."""
    joints = np.zeros((8, 8))
    for old, new, hip, ankle in legs:
        joints[2 * new, 2 * old], joints[2 * new + 1, 2 * old + 1] = hip, ankle
    states, place = np.zeros((27, 27)), 0
    for block in (np.eye(2), axial, joints, polar, axial, joints):
        states[place : place + len(block), place : place + len(block)] = block
        place += len(block)
    motors = np.roll(np.eye(8), 2, axis=0)
    return states, motors @ joints @ motors.T


def folded(angle: float) -> tuple[float, int, bool]:
    """(Angle within 0 to 45 degrees, quarters, mirrored): the turn that makes the direction ``angle`` of it."""
    quarters = round(angle / (math.pi / 2))
    rest = angle - quarters * math.pi / 2
    return abs(rest), quarters, rest < 0


def turned(found: Teachers, source: float, wanted: float) -> Teachers:
    """The policies for the direction ``source``, for the one that folds to the same angle as ``wanted``."""
    (_, *there), (_, *here) = folded(source), folded(wanted)
    (s1, a1), (s2, a2) = ant_turn(*there), ant_turn(*here)
    states, actions = s2 @ s1.T, a2 @ a1.T
    return Teachers(
        weights=actions @ found.weights @ states.T,
        means=found.means @ states.T,
        deviations=found.deviations @ np.abs(states).T,
        scores=found.scores,
        counts=found.counts,
    )


def ant_sources() -> list[int]:
    """The tasks that are searched: nearest to every 7.5 degrees of the folded angle, the middle one first."""
    angles = np.array([folded(angle)[0] for angle in ANT_DIRECTIONS])
    grid = np.radians([22.5, 15, 7.5, 0, 30, 37.5, 45])
    return [int(np.abs(angles - at).argmin()) for at in grid]


# ---- training -----------------------------------------------------------------------------------------------------


def train(name: str, out: Path, seed: int) -> None:
    """The searches of a family or body: ``out/TASK.npz``."""
    plan = PLANS[name]
    if name == "cheetah-vel":
        last = _searched(out, "cheetah17-dir:0", PLANS["cheetah-dir"].first, seed)
        for index in reversed(range(FAMILIES[name].tasks)):
            fastest = index == FAMILIES[name].tasks - 1
            found = _searched(out, f"cheetah17-vel:{index}", plan.first if fastest else plan.onward, seed, last)
            last = chosen_rows(found, [int(np.argmax(found.scores))])
    elif name == "ant-dir":
        first, *others = ant_sources()
        path = {first: _searched(out, f"ant-dir:{first}", plan.first, seed)}
        for index in others:
            wanted = target(f"ant-dir:{index}")
            near = min(path, key=lambda i: abs(folded(target(f"ant-dir:{i}"))[0] - folded(wanted)[0]))
            start = turned(path[near], target(f"ant-dir:{near}"), wanted)
            path[index] = _searched(out, f"ant-dir:{index}", plan.onward, seed, start)
    elif name == "cheetah-dir":
        for index in (0, 1):
            _searched(out, f"cheetah17-dir:{index}", plan.first, seed)
    elif name != "ant":
        _searched(out, make.LINEAR_BODIES[name], plan.first, seed)


def _file(out: Path, task: str) -> Path:
    return out / f"{task.replace(':', '-').partition('?')[0]}.npz"


def _searched(out: Path, task: str, plan: Search | None, seed: int, start: Teachers | None = None) -> Teachers:
    """The search kept in ``out``, brought to its end if it was stopped."""
    assert plan is not None
    file = _file(out, task)
    found = loaded(out, task) if file.is_file() else None
    while (done := 0 if found is None else len(found.scores) - 1) < plan.iterations:
        out.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        piece = replace(plan, iterations=min(PIECE, plan.iterations - done))
        with runner(1) as run:
            more = search(task, piece, seed_for(seed, file.stem, done), run, start=found or start)
        found = more if found is None else together(chosen_rows(found, range(done)), more)
        partial = file.with_suffix(".part")
        with partial.open("wb") as stream:
            np.savez(stream, **asdict(found))
        partial.replace(file)
        spent = time.process_time() - began
        print(f"{file.stem}, {done + piece.iterations}: {max(more.scores):.1f}, {spent:.0f} CPU s", flush=True)
    assert found is not None
    return found


def loaded(out: Path, task: str) -> Teachers:
    """A search that was done."""
    with np.load(_file(out, task), allow_pickle=False) as kept:
        return Teachers(**{key: kept[key] for key in kept})


# ---- packing ------------------------------------------------------------------------------------------------------


def chosen_rows(path: Teachers, rows: Sequence[int]) -> Teachers:
    """Some policies of a search."""
    return Teachers(*(getattr(path, name.name)[list(rows)] for name in fields(Teachers)))


def together(*paths: Teachers) -> Teachers:
    """The policies of several searches."""
    return Teachers(*(np.concatenate([getattr(path, name.name) for path in paths]) for name in fields(Teachers)))


def on_the_way(path: Teachers, every: int = EVERY) -> Teachers:
    """The last policy of a search, every so manieth before, and the first ones: from zero, searches rise fast."""
    last = len(path.scores) - 1
    return chosen_rows(path, sorted({*range(last, 0, -every), *range(1, min(EARLY, last) * (path.counts[0] == 0))}))


def played(task: str, found: Teachers, count: int, seed: int, noise: float = 0.0) -> list[list[dict[str, Any]]]:
    """``count`` whole episodes of each of the policies ``found``, as :func:`play.roll_out` plays them."""
    seeds = [seed_for(seed, "pack", k) >> 32 for k in range(count)]
    half = float((make.bounds(task)[1] - make.bounds(task)[0])[0]) / 2
    rows = [np.repeat(getattr(found, key), count, axis=0) for key in ("weights", "means", "deviations")]
    every = linear.episodes(
        task, *rows, seeds * len(found.scores), make.spaces(task)[2], noise=[noise * half] * len(rows[0])
    )
    return [every[i : i + count] for i in range(0, len(every), count)]


def mean_returns(episodes: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """Mean return of each policy's episodes."""
    return np.array([np.mean([one["rewards"].sum() for one in of]) for of in episodes])


def velocity_returns(found: Teachers, seed: int) -> np.ndarray:
    """What each of the policies earns at each speed of Cheetah-vel, [C, 40]: one play tells it for all."""
    speeds = [target(f"cheetah-vel:{i}") for i in range(FAMILIES["cheetah-vel"].tasks)]
    earned = []
    for of in played("cheetah17-dir:0", found, TRIED, seed, matrices.NOISE):
        control = np.array([0.05 * np.square(one["actions"]).sum(1) for one in of])  # [n, 200]
        velocity = np.array([one["rewards"] for one in of]) + control
        earned.append([float((-np.abs(velocity - speed) - control).sum(1).mean()) for speed in speeds])
    return np.array(earned)


def choose(returns: np.ndarray, random: float) -> list[int]:
    """The candidates nearest to ``SHARES`` of the way from ``random`` to the best, in the order of their returns."""
    left, found = list(range(len(returns))), []
    for share in reversed(SHARES):
        wanted = random + share * (returns.max() - random)
        found.append(min(left, key=lambda i: abs(returns[i] - wanted)))
        left.remove(found[-1])
    return sorted(found, key=lambda i: returns[i])


def pools(name: str, out: Path, seed: int) -> Iterator[tuple[str, Teachers, np.ndarray]]:
    """For each task of a family or body its name, the candidates, and what these earn there."""
    if name == "cheetah-vel":
        tasks = [f"cheetah17-vel:{i}" for i in range(FAMILIES[name].tasks)]
        paths = [loaded(out, task) for task in tasks]
        found = together(
            on_the_way(loaded(out, "cheetah17-dir:0")),
            *(chosen_rows(path, np.argsort(-path.scores)[:4].tolist()) for path in paths),
        )
        earned = velocity_returns(found, seed)
        yield from ((task, found, earned[:, i]) for i, task in enumerate(tasks))
    elif name in ("ant-dir", "ant"):
        angles = {i: target(f"ant-dir:{i}") for i in ant_sources()}
        first = next(iter(angles))
        early = on_the_way(loaded(out, f"ant-dir:{first}"), 4 * EVERY)
        own = {i: loaded(out, f"ant-dir:{i}") for i in angles}
        sets = {
            i: together(
                turned(early, angles[first], angles[i]), on_the_way(own[i], max(EVERY, len(own[i].scores) // 3))
            )
            for i in angles
        }
        if name == "ant":
            straight = min(angles, key=lambda i: folded(angles[i])[0])
            found, task = turned(sets[straight], angles[straight], 0.0), make.LINEAR_BODIES["ant"]
            yield task, found, mean_returns(played(task, found, TRIED // 2, seed, matrices.NOISE))
            return
        earned = {i: mean_returns(played(f"ant-dir:{i}", of, TRIED, seed, matrices.NOISE)) for i, of in sets.items()}
        for task in (f"ant-dir:{i}" for i in range(FAMILIES[name].tasks)):
            near = min(angles, key=lambda i: abs(folded(angles[i])[0] - folded(target(task))[0]))
            yield task, turned(sets[near], angles[near], target(task)), earned[near]
    else:
        tasks = ["cheetah17-dir:0", "cheetah17-dir:1"] if name == "cheetah-dir" else [make.LINEAR_BODIES[name]]
        for task in tasks:
            found = on_the_way(loaded(out, task))
            yield task, found, mean_returns(played(task, found, TRIED, seed, matrices.NOISE))


def pack(name: str, out: Path, seed: int) -> None:
    """Writes what is shipped of a family or a body beside the code that reads it."""
    kept, told = [], []
    count = EPISODES // 2 if name == "ant-dir" else EPISODES
    for task, found, earned in pools(name, out, seed):
        seeds = [seed_for(seed, "pack", k) >> 32 for k in range(count)]
        random = play.roll_out(task, None, seeds, make.spaces(task)[2], 0)
        floor = float(np.mean([one["rewards"].sum() for one in random]))
        rows = chosen_rows(found, choose(earned, floor))
        rows = replace(rows, weights=rows.weights.astype(np.float16).astype(np.float64))
        greedy, noisy = (mean_returns(played(task, rows, count, seed, noise)) for noise in (0.0, matrices.NOISE))
        kept.append(rows)
        told.append(
            {
                "steps": [int(n) for n in rows.counts],
                "returns": [round(float(r), 1) for r in greedy],
                "noisy_returns": [round(float(r), 1) for r in noisy],
                "random_return": round(floor, 1),
            }
        )
        print(task, told[-1], flush=True)
    info = {
        "settings": asdict(PLANS[name]),
        "seed": seed,
        "episodes": count,
        "script": f"scripts/{Path(__file__).name}",
        "made_with": {package: version(package) for package in ("gymnasium", "mujoco", "numpy")},
    }
    path = Path(matrices.__file__).with_name("linear") / f"{name}.safetensors"
    stacks = (np.stack([getattr(rows, key) for rows in kept]) for key in ("weights", "means", "deviations"))
    write_matrices(path, *stacks, told, info)
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "pack"))
    parser.add_argument("names", nargs="+", choices=PLANS)
    parser.add_argument("--out", type=Path, default=Path("linear"), help="folder of the searches")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.names:
        (train if given.verb == "train" else pack)(name, given.out, given.seed)


if __name__ == "__main__":
    main()
