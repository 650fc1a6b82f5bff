"""Families of tasks that share a body and differ in what they ask for: names, numbers of tasks and published splits.

A task is ``FAMILY:INDEX`` (``cheetah-vel:7``). A *split* of a family says which tasks are trained on and which are held
out: ``cheetah-vel:train``, ``cheetah-vel:test``; a split's name alone means all its tasks.

- ``cheetah-dir``, ``cheetah-vel``, ``ant-dir``: the splits of Prompt-DT (Xu et al. 2022; configuration files
  ``cheetah_dir_2.json``, ``cheetah_vel_40.json``, ``ant_dir_50.json`` of its public repository). ``cheetah17-dir`` and
  ``cheetah17-vel`` are the same tasks, observed without the torso's position.
- ``ant-dir-small``: the same repository's ``ant_dir_10.json``. ``ant-dir-4`` and ``ant-dir-6``: the sequences of VQ-CD
  (arXiv 2410.15698), which have no test side. ``ant-dir-ood``: training directions within 2.4-6.0 rad, test directions
  outside; published work tests beyond the training range too, but its tasks are not known: these are ours.
- ``ml1-pick-place``: ``ML1_pick_place.json`` of the same repository. ``ml1-reach`` has 45 and 5 goals in the papers on
  prompt tuning; which five is not published, so they are those of ``ml1-pick-place`` (ours).
- ``point-robot``: 20 goals, every fifth of them held out (ours; the environment is that of PEARL and MACAW).
- ``teachers-4``, ``-12``, ``-24``, ``-50``: as many of 50 tasks that contradict each other (ours, synthetic); none is
  held out, for no task tells anything of another.

Public names: ``Family``, ``Split``, ``FAMILIES``, ``SPLITS``, ``parse``, ``is_split``, ``split_tasks``.
"""

from __future__ import annotations

from dataclasses import dataclass

from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Family:
    """Tasks 0..tasks-1 of one body."""

    name: str
    kind: str
    """Which module makes the environments: ``locomotion``, ``ml1``, ``point-robot`` or ``teachers``."""
    body: str
    """What is simulated: a Gymnasium model, a Meta-World task, a point, a linear system."""
    tasks: int
    state_dim: int
    action_dim: int
    horizon: int
    """Steps of a whole episode."""


@dataclass(frozen=True)
class Split:
    """Which tasks of a family are for training and which are held out; ``test`` is empty where none is."""

    family: str
    train: tuple[int, ...]
    test: tuple[int, ...] = ()

    @property
    def every(self) -> tuple[int, ...]:
        """Both sides together; in the family's order where they are the whole family."""
        found = tuple(dict.fromkeys(self.train + self.test))
        return tuple(sorted(found)) if len(found) == FAMILIES[self.family].tasks else found


_ML1 = (39, 4, 500)
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("cheetah-dir", "locomotion", "HalfCheetah-v5", 2, 20, 6, 200),
        Family("cheetah-vel", "locomotion", "HalfCheetah-v5", 40, 20, 6, 200),
        Family("cheetah17-dir", "locomotion", "HalfCheetah-v5", 2, 17, 6, 200),
        Family("cheetah17-vel", "locomotion", "HalfCheetah-v5", 40, 17, 6, 200),
        Family("ant-dir", "locomotion", "Ant-v5", 50, 27, 8, 200),
        Family("ml1-reach", "ml1", "reach-v3", 50, *_ML1),
        Family("ml1-pick-place", "ml1", "pick-place-v3", 50, *_ML1),
        Family("point-robot", "point-robot", "point", 20, 2, 2, 20),
        Family("teachers", "teachers", "linear", 50, 6, 3, 20),
    )
}


def _held_out(family: str, *test: int) -> Split:
    return Split(family, tuple(i for i in range(FAMILIES[family].tasks) if i not in test), test)


_VELOCITIES, _GOALS = (2, 7, 15, 23, 26), (11, 17, 25, 36, 41)
_SMALL = (8, 13, 16, 20, 22, 26, 32, 37)
SPLITS: dict[str, Split] = {
    "cheetah-dir": Split("cheetah-dir", (0, 1), (0, 1)),
    "cheetah-vel": _held_out("cheetah-vel", *_VELOCITIES),
    "cheetah17-dir": Split("cheetah17-dir", (0, 1), (0, 1)),
    "cheetah17-vel": _held_out("cheetah17-vel", *_VELOCITIES),
    "ant-dir": _held_out("ant-dir", 6, 17, 23, 30, 41),
    "ant-dir-small": Split("ant-dir", _SMALL, (1, 4, 41)),
    "ant-dir-ood": Split("ant-dir", _SMALL, (1, 18, 25, 49)),
    "ant-dir-4": Split("ant-dir", (10, 15, 19, 25)),
    "ant-dir-6": Split("ant-dir", (4, 18, 26, 34, 42, 49)),
    "ml1-reach": _held_out("ml1-reach", *_GOALS),
    "ml1-pick-place": _held_out("ml1-pick-place", *_GOALS),
    "point-robot": _held_out("point-robot", 2, 7, 12, 17),
    **{f"teachers-{count}": Split("teachers", tuple(range(count))) for count in (4, 12, 24, 50)},
}
"""By name. Cheetah-dir has no unseen task: both sides are both directions."""


def parse(task: str) -> tuple[Family, int]:
    """``"cheetah-vel:7"`` -> (family, 7)."""
    name, _, index = task.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise ManyoneError(f"unknown family in {task!r}; allowed: {', '.join(FAMILIES)} (e.g. cheetah-vel:7)")
    if not (index.isascii() and index.isdecimal()) or int(index) >= family.tasks:
        raise ManyoneError(f"task {task!r}: the index after the colon must be 0 to {family.tasks - 1}")
    return family, int(index)


def is_split(suite: str) -> bool:
    """Whether ``suite`` is a split's name or one of its sides."""
    name, colon, side = suite.partition(":")
    return name in SPLITS and (side in ("train", "test") if colon else True)


def split_tasks(suite: str) -> list[str]:
    """Task names of a split (``cheetah-vel``) or of one of its sides (``cheetah-vel:train``, ``cheetah-vel:test``)."""
    name, _, side = suite.partition(":")
    if not is_split(suite):
        allowed = ", ".join(f"{one}[:train|:test]" for one in SPLITS)
        raise ManyoneError(f"unknown suite {suite!r}; allowed: {allowed}")
    split = SPLITS[name]
    if side == "test" and not split.test:
        raise ManyoneError(f"{suite}: {name} holds no task out; leave out :test")
    indices = {"": split.every, "train": split.train, "test": split.test}[side]
    return [f"{split.family}:{i}" for i in indices]
