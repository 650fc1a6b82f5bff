"""Trains and packs the linear experts behind ``cheetah-vel-expert`` and its neighbours by augmented random search.

    python scripts/train_linear_experts.py train cheetah-vel --out linear/    # goes on where it was stopped
    python scripts/train_linear_experts.py pack cheetah-vel --out linear/     # chooses and writes what is shipped

The searches are those of :mod:`manyone.envs.single.search`. Cheetah-dir is searched from zero. Cheetah-vel goes on from
its forward policy: the fastest task first, every other from its neighbour's last policy. Ant-dir is searched in a few
directions only: the ant is the same after a quarter turn and in a mirror, so that a policy for one direction is one for
eight, and every task takes the search whose direction comes nearest to its own. The other bodies are searched once.
Cheetahs are searched on 17 observations (the torso's place tells a policy nothing); their matrices serve those of 20.

Packing plays episodes of policies along the searches, keeps those nearest to fixed shares of the way from random
actions to the best, and plays them again as they are shipped: rounded, with and without noise. A task of Cheetah-vel
chooses among the policies of all its family's searches, as an early policy for one speed is a medium one for another.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from manyone.envs.single import linear, make

from manyone.envs.single.families import FAMILIES
from manyone.envs.single.locomotion import ANT_DIRECTIONS, target
from manyone.envs.single.pieces import runner
from manyone.envs.single.search import Search, Teachers, search
from manyone.randomness import seed_for

SHARES = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
"""Of the way from random actions to the best policy: what is kept of a search."""
EPISODES, TRIED = 40, 12
"""Episodes that a shipped policy is played for, and those of a candidate."""
LONG = 1000
"""Steps of a whole episode of the bodies that are no family's."""


@dataclass(frozen=True)
class Plan:
    """How a family (or a body) is searched."""

    first: Search
    """The first task (or each of them)."""
    onward: Search | None = None
    """Tasks that go on from a neighbour's last policy."""


PLANS = {
    "cheetah-dir": Plan(Search(iterations=150)),
    "cheetah-vel": Plan(
        Search(iterations=80), Search(iterations=40, directions=10, top=5, step_size=0.015, noise=0.02)
    ),
    "ant-dir": Plan(Search(iterations=300, noise=0.025), Search(iterations=25, step_size=0.015, noise=0.025)),
    "invertedpendulum": Plan(Search(iterations=20, directions=8, top=4, step_size=0.05, noise=0.1, horizon=LONG)),
    "inverteddoublependulum": Plan(
        Search(iterations=60, directions=8, top=4, step_size=0.03, noise=0.05, horizon=LONG)
    ),
    "swimmer": Plan(Search(iterations=100, directions=4, top=2, horizon=LONG)),
    "reacher": Plan(Search(iterations=200, horizon=50)),
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
            last = _searched(out, f"cheetah17-vel:{index}", plan.first if fastest else plan.onward, seed, last)
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
    else:
        _searched(out, make.LINEAR_BODIES[name], plan.first, seed)


def _file(out: Path, task: str) -> Path:
    return out / f"{task.replace(':', '-').partition('?')[0]}.npz"


def _searched(out: Path, task: str, plan: Search | None, seed: int, start: Teachers | None = None) -> Teachers:
    """The search kept in ``out``, or a new one."""
    assert plan is not None
    file = _file(out, task)
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        with runner(1) as run:
            found = search(task, plan, seed_for(seed, file.stem), run, start=start)
        partial = file.with_suffix(".part")
        with partial.open("wb") as stream:
            np.savez(stream, **asdict(found))
        partial.replace(file)
        print(f"{file.stem}: {found.scores[-1]:.1f}, {time.process_time() - began:.0f} CPU s", flush=True)
    with np.load(file, allow_pickle=False) as kept:
        return Teachers(**{key: kept[key] for key in kept})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("train", "pack"))
    parser.add_argument("names", nargs="+", choices=PLANS)
    parser.add_argument("--out", type=Path, default=Path("linear"), help="folder of the searches")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.names:
        if given.verb == "train":
            train(name, given.out, given.seed)


if __name__ == "__main__":
    main()
