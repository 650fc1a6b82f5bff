"""Which teacher a distillation has: one that manyone brings, one that is trained first, or one of the user's.

A teacher that is trained here is a stage of the run (``stages/teacher-NAME``) with checkpoints of its own: an
interrupted run goes on with it where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyone.behavior.data import BehaviorData
from manyone.behavior.recipes.build import objective
from manyone.behavior.recipes.options import DistilOptions
from manyone.behavior.recipes.problem import BehaviorProblem, offline_name
from manyone.behavior.teachers.artefact import load_teacher
from manyone.behavior.teachers.authors import read_checkpoint
from manyone.behavior.teachers.packaged import expert_teacher, is_packaged, packaged_teacher
from manyone.behavior.teachers.teacher import Teacher
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm

METHODS = {"calql": "calql", "iql": "iql", "td3bc": "td3bc", "bc": "bc-teacher"}
AUTO = "iql"
"""What is trained where nothing is said and nothing is brought."""


def teachers_of(
    options: DistilOptions, problem: BehaviorProblem, folder: RunFolder
) -> list[Teacher | None]:
    """A teacher for each data set; None where the objective and the start of the set ask for none."""
    if not needs_teacher(options):
        return [None] * len(problem.data)
    return [teacher_of(options, data, folder) for data in problem.data]


def needs_teacher(options: DistilOptions) -> bool:
    """Whether anything of the options asks a teacher."""
    return objective(options).needs_teacher or options.init in ("teacher", "top-q", "k-means-q")


def teacher_of(options: DistilOptions, data: BehaviorData, folder: RunFolder) -> Teacher:
    """The teacher that ``options`` name, for ``data``; trained in a stage of ``folder`` where it has to be."""
    name = options.teacher
    if name == "expert":
        return expert_teacher(data)
    if name == "auto":
        wanted = offline_name(options)
        if wanted is not None and (found := packaged_teacher(wanted, data)) is not None:
            return found
        name = AUTO
    if name in METHODS:
        return _trained(options, name, data, folder)
    place = Path(name)
    if place.is_file():
        return read_checkpoint(place).for_data(data, name)
    if not place.is_dir():
        allowed = ", ".join(["auto", "expert", *METHODS])
        raise ManyoneError(f"--teacher {name}: no such file or folder, and none of {allowed}")
    return load_teacher(place / "model" if (place / "model").is_dir() else place, data)
