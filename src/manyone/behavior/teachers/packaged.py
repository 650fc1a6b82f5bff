"""The teachers that manyone brings for its own data sets, so that nobody has to train one first.

``scripts/train_teachers.py`` has made them, each by the method that gave the best one on the set's seed 0. A set of
another seed or size holds roll-outs of the same policies, for which the same teacher serves.
Public names: :func:`packaged_teacher`, :func:`packaged_teachers`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.artefact import read_teacher
from manyone.behavior.teachers.trained import TrainedTeacher


def packaged_teachers() -> dict[str, Path]:
    """Data set, e.g. ``mujoco-hopper-medium-replay`` -> folder of the teacher that was trained on it."""
    folder = Path(str(resources.files(__package__))) / "models"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def packaged_teacher(name: str, data: BehaviorData) -> TrainedTeacher | None:
    """The teacher for the data set called ``name`` (a size after an @ is not read); None where there is none.

    ``data`` is that set: its statistics standardise the states that the teacher sees.
    """
    folder = packaged_teachers().get(name.partition("@")[0])
    return None if folder is None else read_teacher(folder).for_data(data, str(folder))
