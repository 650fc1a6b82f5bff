"""Offline data sets by name, such as ``metaworld-mt10-near``: what the names mean and where made ones lie.

A name is SUITE-QUALITY, optionally with a size ``@EPISODESxSTEPS``: ``metaworld-pairs10-sub@60x200``. Suites are
``metaworld-mt1:TASK``, ``metaworld-mt5|mt10|pairs10|mt30|mt50``, and ``cheetah-dir``, ``cheetah-vel``, ``ant-dir``
(their training tasks; ``cheetah-vel:test`` names the held-out ones). Qualities are ``near`` and ``sub`` (near-optimal,
sub-optimal; made in the simulator) and, for Meta-World, ``expert`` (the official demonstrations, from a folder).

Every task is kept on its own, so that suites share tasks: a memory-mapped copy in ``offline/`` of the cache, which
training reads, and a Minari data set in ``minari/`` (set ``MINARI_DATASETS_PATH`` to that folder to use it elsewhere).
:func:`load_offline` reads; ``manyone.envs.single.collect.make_offline`` makes.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manyone.assets.cache import cache_folder, workspace
from manyone.data.trajectories.files import to_minari
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError

RECIPE = 0
"""Version of the recipes that make data; part of every folder's name, so that data of another recipe are never read."""

QUALITIES = {
    "near": "near-optimal: the noise ends at zero",
    "sub": "sub-optimal, like a replay buffer: never free of noise",
    "expert": "the official expert demonstrations (10 episodes of 500 steps a task), from a folder that you give",
}
_METAWORLD = {
    "metaworld-mt1:TASK": "one Meta-World v3 task, e.g. metaworld-mt1:door-open",
    "metaworld-mt5": "the first 5 tasks of the papers' list",
    "metaworld-mt10": "Meta-World's own MT10",
    "metaworld-pairs4": "4 tasks: drawer and window, open and close",
    "metaworld-pairs10": "10 tasks with opposing pairs (open and close)",
    "metaworld-mt30": "the first 30 tasks of the papers' list",
    "metaworld-mt50": "all 50 tasks",
}
_LOCOMOTION = {
    "cheetah-dir": "HalfCheetah, 2 directions",
    "cheetah-vel": "HalfCheetah, 35 velocities (cheetah-vel:test: 5 held-out ones)",
    "ant-dir": "Ant, 45 directions (ant-dir:test: 5 held-out ones)",
}
SUITES = {**_METAWORLD, **_LOCOMOTION}
LICENCE = "made here with Meta-World's scripted policies (MIT) or a random search, and MuJoCo (Apache-2.0): yours"
EXPERT_LICENCE = "MIT (MTDiff repository)"

_EPISODES, _STEPS = 60, 200
_LIMITS = {"episodes": (1, 100_000), "steps": (1, 500)}
_NAME = re.compile(r"(?P<suite>.+)-(?P<quality>[a-z]+)(?:@(?P<episodes>\d+)x(?P<steps>\d+))?")


@dataclass(frozen=True)
class OfflineName:
    """A parsed name. ``episodes`` and ``steps`` are per task; 0 for ``expert``, which has the size of its source."""

    suite: str
    quality: str
    episodes: int
    steps: int
    seed: int = 0

    @property
    def size(self) -> str:
        """E.g. ``60x200``; empty for ``expert``."""
        return f"{self.episodes}x{self.steps}" if self.episodes else ""

    def __str__(self) -> str:
        return f"{self.suite}-{self.quality}" + (f"@{self.size}" if self.size else "")

    @property
    def key(self) -> str:
        """What distinguishes this recipe's data of one task, as a file name, e.g. ``near-60x200-seed0-v0``."""
        return "-".join(part for part in (self.quality, self.size, f"seed{self.seed}", f"v{RECIPE}") if part)

    def folder(self, task: str) -> Path:
        """Where the memory-mapped data of ``task`` lie once they are made."""
        return cache_folder("offline", _family(self.suite), _slug(task)) / self.key

    def minari(self, task: str) -> Path:
        """Where the Minari data set of ``task`` lies once it is made."""
        return cache_folder("minari") / self.minari_id(task)

    def minari_id(self, task: str) -> str:
        """Minari's name of the data of ``task``, e.g. ``metaworld/door-open-v3/near-60x200-seed0-v0``."""
        return f"{_family(self.suite)}/{_slug(task)}/{self.key}"

    def tasks(self) -> list[str] | None:
        """The tasks, once the set was made; None before."""
        try:
            found = json.loads(self._list().read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return None  # cut short: making the set anew finds its tasks made
        return [str(task) for task in found]

    def made(self) -> bool:
        """Whether all tasks are there."""
        tasks = self.tasks()
        return tasks is not None and all(self.folder(task).is_dir() for task in tasks)

    def _list(self) -> Path:
        return cache_folder("offline", "sets") / f"{_slug(self.suite)}-{self.key}.json"


def offline_names() -> list[str]:
    """All names, without sizes; ``TASK`` stands for a Meta-World task."""
    return [f"{s}-{q}" for s in SUITES for q in QUALITIES if s in _METAWORLD or q != "expert"]


def is_offline(name: str) -> bool:
    """Whether ``name`` has the form of an offline data set's name (it may still be wrong in its parts)."""
    return name.partition("-")[0] in ("metaworld", "cheetah", "ant")


def parse_offline(name: str, *, episodes: int | None = None, steps: int | None = None, seed: int = 0) -> OfflineName:
    """The parts of ``name``; ``episodes`` and ``steps`` override its size. :class:`ManyoneError` if any is wrong."""
    match = _NAME.fullmatch(name)
    suite = match["suite"] if match else name
    base, _, detail = suite.partition(":")
    known = {s.partition(":")[0] for s in SUITES}
    takes_detail = {
        "metaworld-mt1": detail != "",
        "cheetah-vel": detail in ("", "test"),
        "ant-dir": detail in ("", "test"),
    }
    right_detail = takes_detail.get(base, not detail)
    quality = match["quality"] if match else ""
    right_quality = quality in QUALITIES and (quality != "expert" or base.startswith("metaworld"))
    if match is None or base not in known or not right_detail or not right_quality:
        near = difflib.get_close_matches(name.partition("@")[0], offline_names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(offline_names())}"
        raise ManyoneError(f"unknown data set {name!r}: {hint}")
    if quality == "expert":
        if match["episodes"] or episodes is not None or steps is not None:
            raise ManyoneError(f"{name}: expert data have the size of their source; leave out @, episodes and steps")
        return OfflineName(suite, quality, 0, 0, 0)
    sizes = {
        "episodes": episodes if episodes is not None else int(match["episodes"] or _EPISODES),
        "steps": steps if steps is not None else int(match["steps"] or _STEPS),
    }
    for what, value in sizes.items():
        low, high = _LIMITS[what]
        if not low <= value <= high:
            raise ManyoneError(f"{name}: {value} {what} a task; must be {low} to {high}")
    return OfflineName(suite, quality, seed=seed, **sizes)


def load_offline(
    name: str, *, episodes: int | None = None, steps: int | None = None, seed: int = 0
) -> list[Trajectories]:
    """The data of every task of ``name``, memory-mapped, in the suite's order; they must have been made."""
    wanted = parse_offline(name, episodes=episodes, steps=steps, seed=seed)
    tasks = wanted.tasks()
    if tasks is None or not all(wanted.folder(task).is_dir() for task in tasks):
        extra = f" --seed {seed}" if wanted.seed else ""
        raise ManyoneError(f"{wanted} (seed {wanted.seed}) is not made yet: manyone data make {wanted}{extra}")
    return [Trajectories.open(wanted.folder(task)) for task in tasks]


def keep_task(wanted: OfflineName, task: str, data: Trajectories) -> None:
    """Puts the finished data of ``task`` into the cache: the Minari data set first, then what readers look for."""
    place = wanted.minari(task)
    with workspace() as work:
        made = to_minari(data, wanted.minari_id(task), root=work)
        if place.exists():
            shutil.rmtree(place)  # left by a run that was stopped before its memory-mapped copy was whole
        place.parent.mkdir(parents=True, exist_ok=True)
        made.replace(place)
    data.save(wanted.folder(task), overwrite=True)


def keep_list(wanted: OfflineName, tasks: Sequence[str]) -> None:
    """Records which tasks the made set has."""
    path = wanted._list()
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(list(tasks)))
    partial.replace(path)


def forget_offline(wanted: OfflineName) -> int:
    """Removes the set and its tasks' data (shared ones as well) from the cache; returns the freed bytes."""
    freed = 0
    for task in wanted.tasks() or ():
        for folder in (wanted.folder(task), wanted.minari(task)):
            freed += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            shutil.rmtree(folder, ignore_errors=True)
    wanted._list().unlink(missing_ok=True)
    return freed


def _family(suite: str) -> str:
    return "metaworld" if suite.startswith("metaworld") else suite.partition(":")[0]


def _slug(text: str) -> str:
    return text.replace(":", "-")
