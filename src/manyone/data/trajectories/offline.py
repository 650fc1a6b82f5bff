"""Offline data sets by name, such as ``metaworld-mt10-near``: what the names mean and where made ones lie.

A name is SUITE-QUALITY, optionally with a size ``@EPISODESxSTEPS``: ``metaworld-pairs10-sub@60x200``. Suites are

- ``metaworld-mt1:TASK``, ``metaworld-mt5|mt10|pairs4|pairs10|cw10|mt30|mt50``, with the qualities ``near`` and ``sub``
  (near-optimal, sub-optimal; made in the simulator) and ``expert`` (the official demonstrations, from a folder);
- families of tasks that share a body, whose name alone means their training tasks (``cheetah-vel:test`` names the
  held-out ones): ``cheetah-dir``, ``cheetah-vel``, ``cheetah17-...``, ``ant-dir``, ``ant-dir-small|ood|4|6``, with
  ``near`` and ``sub`` by a search on this machine and D4RL's qualities by policies that come with the package;
  ``ml1-reach``, ``ml1-pick-place`` and ``point-robot`` with ``random``, ``medium``, ``expert``;
- ``teachers-4``, ``-12``, ``-24``, ``-50``, made-up tasks that contradict each other, with ``near``, ``expert`` and
  ``random``;
- ``mujoco-hopper``, ``mujoco-halfcheetah``, ``mujoco-walker2d`` and ``mujoco3`` (all three), and five simpler bodies,
  ``mujoco-swimmer`` etc. (``mujoco8``: all eight), with D4RL's qualities ``random``, ``medium``, ``medium-replay``,
  ``medium-expert`` and ``expert``, made with the policies that come with the package. Their size is in transitions
  (``mujoco-hopper-medium@20000``), unless it is given in episodes as above.

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

from manyone.assets.cache import cache_folder, cache_path, workspace
from manyone.data.trajectories.files import to_minari
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.files import write_atomic
from manyone.errors import ManyoneError

RECIPES = {"ant-dir": 1}
"""By family (others 0), the version of the recipe that makes data: part of every folder's name, so that data of another
recipe are never read. Version 0 of Ant-dir had evenly spaced directions."""

_SEARCHED = {
    "near": "near-optimal: the noise ends at zero",
    "sub": "sub-optimal, like a replay buffer: never free of noise",
}
_OFFICIAL = {
    "expert": "the official expert demonstrations (10 episodes of 500 steps a task), from a folder that you give"
}
_TRAINED = {
    "random": "uniformly random actions",
    "medium": "a shipped policy about two fifths of the way from random to expert, with noise",
    "medium-replay": "random actions and every shipped policy, in equal parts, with noise, like a replay buffer",
    "medium-expert": "half medium, half expert",
    "expert": "the best shipped policy, with noise",
}
_PLAYED = {
    "random": "uniformly random actions",
    "medium": "the expert with noise, about two fifths of the way from random to expert by return",
    "expert": "the scripted policy, which sees the goal that the data hide, with little noise",
}
_TAUGHT = {
    "near": "the task's teacher with noise, which ends at zero",
    "expert": "the task's teacher",
    "random": "uniformly random actions",
}
_METAWORLD = {
    "metaworld-mt1:TASK": "one Meta-World v3 task, e.g. metaworld-mt1:door-open",
    "metaworld-mt5": "the first 5 tasks of the papers' list",
    "metaworld-mt10": "Meta-World's own MT10",
    "metaworld-pairs4": "4 tasks: drawer and window, open and close",
    "metaworld-pairs10": "10 tasks with opposing pairs (open and close)",
    "metaworld-cw10": "Continual World's 10 tasks, in its order",
    "metaworld-mt30": "the first 30 tasks of the papers' list",
    "metaworld-mt50": "all 50 tasks",
}
_LOCOMOTION = {
    "cheetah-dir": "HalfCheetah, 2 directions",
    "cheetah-vel": "HalfCheetah, 35 velocities (cheetah-vel:test: 5 held-out ones)",
    "cheetah17-dir": "cheetah-dir without the torso's position in its observations",
    "cheetah17-vel": "cheetah-vel likewise",
    "ant-dir": "Ant, 45 directions (ant-dir:test: 5 held-out ones)",
    "ant-dir-small": "Prompt-DT's small set: 8 directions (ant-dir-small:test: 3 held-out ones)",
    "ant-dir-ood": "the same 8 (ant-dir-ood:test: 4 directions outside their range)",
    "ant-dir-4": "VQ-CD's sequence of 4 directions",
    "ant-dir-6": "VQ-CD's sequence of 6 directions",
}
_HIDDEN = {
    "ml1-reach": "Meta-World's reach with its goal hidden, 45 goals (ml1-reach:test: 5 held-out ones)",
    "ml1-pick-place": "Meta-World's pick-place likewise",
    "point-robot": "a point in the plane with its goal hidden, 16 goals (point-robot:test: 4 held-out ones)",
}
_TEACHERS = {
    f"teachers-{count}": f"{count} made-up tasks of one body that contradict each other, a random teacher each"
    for count in (4, 12, 24, 50)
}
_MUJOCO = {
    "mujoco-hopper": "Hopper-v5, by the checkpoints of a TD3 run",
    "mujoco-halfcheetah": "HalfCheetah-v5, likewise",
    "mujoco-walker2d": "Walker2d-v5, likewise",
    "mujoco3": "Hopper, HalfCheetah and Walker2d",
    "mujoco-invertedpendulum": "InvertedPendulum-v5, by linear policies",
    "mujoco-inverteddoublependulum": "InvertedDoublePendulum-v5, likewise",
    "mujoco-swimmer": "Swimmer-v5, likewise",
    "mujoco-reacher": "Reacher-v5, likewise",
    "mujoco-ant": "Ant-v5 without contact forces in its observations, likewise",
    "mujoco8": "all eight, from 4 states and 1 action to 27 and 8",
}
SUITES = {**_METAWORLD, **_LOCOMOTION, **_HIDDEN, **_TEACHERS, **_MUJOCO}
LICENCE = "made here with scripted policies (Meta-World's: MIT) or a random search, and MuJoCo (Apache-2.0): yours"
TRAINED_LICENCE = "made here with the package's own policies (Apache-2.0) and MuJoCo (Apache-2.0): yours"
MADE_UP_LICENCE = "synthetic, made here from random numbers: yours"
EXPERT_LICENCE = "MIT (MTDiff repository)"

_EPISODES, _STEPS = 60, 200
_SHORTER = {
    "ml1-reach": (20, 200),
    "ml1-pick-place": (20, 200),
    "point-robot": (60, 20),
    **dict.fromkeys(_TEACHERS, (30, 20)),
}
_ONE_SIDED = ("cheetah-dir", "cheetah17-dir", "ant-dir-4", "ant-dir-6")  # no task is held out
_TRANSITIONS, _TRAINED_EPISODES, _TRAINED_STEPS = 100_000, 100, 1000
_LIMITS = {"episodes": (1, 100_000), "steps": (1, 500)}
_TRAINED_LIMITS = {"episodes": (1, 100_000), "steps": (1, 1000), "transitions": (1, 10_000_000)}
_NAME = re.compile(
    r"(?P<suite>.+?)-(?P<quality>medium-replay|medium-expert|[a-z]+)"
    r"(?:@(?:(?P<episodes>\d+)x(?P<steps>\d+)|(?P<transitions>\d+)))?"
)


@dataclass(frozen=True)
class OfflineName:
    """A parsed name; sizes are per task.

    ``episodes`` of at most ``steps``; or ``transitions`` in as many episodes as they need, with ``episodes`` 0. All are
    0 for the official demonstrations, which have the size of their source.
    """

    suite: str
    quality: str
    episodes: int
    steps: int
    seed: int = 0
    transitions: int = 0

    @property
    def size(self) -> str:
        """E.g. ``60x200``, or ``100000`` transitions; empty for the official demonstrations."""
        return f"{self.episodes}x{self.steps}" if self.episodes else str(self.transitions or "")

    @property
    def family(self) -> str:
        """``metaworld``, ``mujoco`` or a family of tasks: the tasks' folder."""
        base = self.suite.partition(":")[0]
        return next((name for name in ("metaworld", "mujoco", "ant-dir", "teachers") if base.startswith(name)), base)

    @property
    def official(self) -> bool:
        """Whether the data are demonstrations from a folder, which are not made here."""
        return self.family == "metaworld" and self.quality == "expert"

    @property
    def licence(self) -> str:
        """Whose the data are."""
        if self.official:
            return EXPERT_LICENCE
        if self.family == "teachers":
            return MADE_UP_LICENCE
        shipped = self.quality in _TRAINED and self.family not in _HIDDEN
        return TRAINED_LICENCE if shipped else LICENCE

    def __str__(self) -> str:
        return f"{self.suite}-{self.quality}" + (f"@{self.size}" if self.size else "")

    @property
    def key(self) -> str:
        """What distinguishes this recipe's data of one task, as a file name, e.g. ``near-60x200-seed0-v0``."""
        return "-".join(part for part in (self.quality, self.size, f"seed{self.seed}", f"v{self.recipe}") if part)

    @property
    def recipe(self) -> int:
        """Version of what makes the data; see ``RECIPES``."""
        return RECIPES.get(self.family, 0)

    def folder(self, task: str) -> Path:
        """Where the memory-mapped data of ``task`` lie once they are made."""
        return cache_path("offline", self.family, _slug(task)) / self.key

    def minari(self, task: str) -> Path:
        """Where the Minari data set of ``task`` lies once it is made."""
        return cache_path("minari") / self.minari_id(task)

    def minari_id(self, task: str) -> str:
        """Minari's name of the data of ``task``, e.g. ``metaworld/door-open-v3/near-60x200-seed0-v0``."""
        return f"{self.family}/{_slug(task)}/{self.key}"

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
        return cache_path("offline", "sets") / f"{_slug(self.suite)}-{self.key}.json"


def offline_names() -> list[str]:
    """All names, without sizes; ``TASK`` stands for a Meta-World task."""
    return [f"{suite}-{quality}" for suite in SUITES for quality in qualities(suite)]


def qualities(suite: str) -> dict[str, str]:
    """The qualities that ``suite`` (or a side of it) has, and what they are."""
    suite = suite.partition(":")[0]
    if suite in _MUJOCO:
        return _TRAINED
    if suite in _HIDDEN:
        return _PLAYED
    if suite in _TEACHERS:
        return _TAUGHT
    if suite in _LOCOMOTION:
        return _SEARCHED | _TRAINED
    return _SEARCHED | _OFFICIAL


def is_offline(name: str) -> bool:
    """Whether ``name`` has the form of an offline data set's name (it may still be wrong in its parts)."""
    return name.partition("-")[0] in {suite.partition("-")[0] for suite in SUITES}


def parse_offline(name: str, *, episodes: int | None = None, steps: int | None = None, seed: int = 0) -> OfflineName:
    """The parts of ``name``; ``episodes`` and ``steps`` override its size. :class:`ManyoneError` if any is wrong.

    Of the sets that are sized in transitions each of the two makes it episodes (default: 100 of 1000 steps).
    """
    match = _NAME.fullmatch(name)
    suite = match["suite"] if match else name
    base, _, detail = suite.partition(":")
    known = {s.partition(":")[0] for s in SUITES}
    sides = base in (*_LOCOMOTION, *_HIDDEN) and base not in _ONE_SIDED
    right_detail = detail != "" if base == "metaworld-mt1" else detail in (("", "test") if sides else ("",))
    quality = match["quality"] if match else ""
    trained = base in _MUJOCO
    right_size = match is None or trained or not match["transitions"]
    if match is None or base not in known or not right_detail or quality not in qualities(base) or not right_size:
        near = difflib.get_close_matches(name.partition("@")[0], offline_names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(offline_names())}"
        raise ManyoneError(f"unknown data set {name!r}: {hint}")
    if quality == "expert" and base.startswith("metaworld"):
        if match["episodes"] or episodes is not None or steps is not None:
            raise ManyoneError(f"{name}: expert data have the size of their source; leave out @, episodes and steps")
        return OfflineName(suite, quality, 0, 0, 0)
    defaults = (_TRAINED_EPISODES, _TRAINED_STEPS) if trained else _SHORTER.get(base, (_EPISODES, _STEPS))
    sizes = {
        "episodes": episodes if episodes is not None else int(match["episodes"] or defaults[0]),
        "steps": steps if steps is not None else int(match["steps"] or defaults[1]),
    }
    if trained and episodes is None and steps is None and not match["episodes"]:
        sizes = {"transitions": int(match["transitions"] or _TRANSITIONS)}
    for what, value in sizes.items():
        low, high = (_TRAINED_LIMITS if trained else _LIMITS)[what]
        if not low <= value <= high:
            raise ManyoneError(f"{name}: {value} {what} a task; must be {low} to {high}")
    return OfflineName(suite, quality, **{"episodes": 0, "steps": _TRAINED_STEPS, "seed": seed, **sizes})


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
    cache_folder("offline", wanted.family, _slug(task))
    data.save(wanted.folder(task), overwrite=True)


def keep_list(wanted: OfflineName, tasks: Sequence[str]) -> None:
    """Records which tasks the made set has."""
    cache_folder("offline", "sets")
    write_atomic(wanted._list(), json.dumps(list(tasks)).encode())


def forget_offline(wanted: OfflineName) -> int:
    """Removes the set and its tasks' data (shared ones as well) from the cache; returns the freed bytes."""
    freed = 0
    for task in wanted.tasks() or ():
        for folder in (wanted.folder(task), wanted.minari(task)):
            freed += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            shutil.rmtree(folder, ignore_errors=True)
    wanted._list().unlink(missing_ok=True)
    return freed


def _slug(text: str) -> str:
    return text.removeprefix("gym:").partition("?")[0].replace(":", "-")
