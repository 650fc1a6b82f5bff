"""Which teacher a distillation has: one that manyone brings, one that is trained first, or one of the user's.

A teacher that is trained here is a stage of the run (``stages/teacher-NAME``) with checkpoints of its own: an
interrupted run goes on with it where it stopped.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyone.behavior.data import BehaviorData
from manyone.behavior.recipes.build import cloned_teacher, objective
from manyone.behavior.recipes.options import DistilOptions, TeacherOptions
from manyone.behavior.recipes.problem import BehaviorProblem
from manyone.behavior.teachers.artefact import load_teacher
from manyone.behavior.teachers.authors import read_checkpoint
from manyone.behavior.teachers.learner import TeacherLearner
from manyone.behavior.teachers.packaged import expert_teacher, packaged_teacher, packaged_teachers
from manyone.behavior.teachers.teacher import Teacher
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.envs.single.make import BODIES
from manyone.errors import ManyoneError
from manyone.recipes.arm import Arm
from manyone.recipes.options import with_preset

METHODS = ("calql", "iql", "td3bc", "bc")
AUTO, AUTO_DISCRETE = "td3bc", "iql"
"""What is trained where nothing is said and nothing is brought."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A teacher that is not there yet: its untrained learner, and for how long its recipe trains it."""

    options: TeacherOptions
    learner: TeacherLearner
    data: BehaviorData

    def train(self, folder: RunFolder) -> Teacher:
        """The teacher, trained in a stage of ``folder``, or the rest of the way."""
        own, method = self.options, self.learner.METHOD
        place = folder.stage(stage_name(self.data.name))
        print(f"teacher of {self.data.name}: {method}, {own.steps} updates", file=sys.stderr)
        every = max(1, own.steps // 500)
        train(self.learner, place, steps=own.steps, checkpoint_every=own.checkpoint_every, log_every=every)
        return load_teacher(place.path / "model", self.data)


def teachers_of(options: DistilOptions, problem: BehaviorProblem) -> list[Teacher | Lesson | None]:
    """A teacher a data set, or how it is trained; None where the objective and the start of the set ask for none.

    Writes nothing: a teacher that does not serve is refused before there is a run folder.
    """
    if not needs_teacher(options):
        return [None] * len(problem.data)
    return [teacher_of(options, data) for data in problem.data]


def needs_teacher(options: DistilOptions) -> bool:
    """Whether anything of the options asks a teacher."""
    return objective(options).needs_teacher or options.init in ("teacher", "top-q", "k-means-q")


def teacher_of(options: DistilOptions, data: BehaviorData) -> Teacher | Lesson:
    """The teacher that ``options`` name, for ``data``, or how it is trained."""
    name = options.teacher
    if name == "auto" and options.suite is not None:
        return packaged_teacher(_set_name(options, data), data) or expert_teacher(data)
    if name == "expert":
        return expert_teacher(data)
    if name == "offline":
        return _offline(options, data)
    if name == "auto":
        name = AUTO_DISCRETE if data.choices else AUTO
    if name in METHODS:
        return _lesson(options, name, data)
    place = Path(name)
    if place.is_file():
        return read_checkpoint(place).for_data(data, name)
    if not place.is_dir():
        allowed = ", ".join(["auto", "expert", "offline", *METHODS])
        raise ManyoneError(f"--teacher {name}: no such file or folder, and none of {allowed}")
    return load_teacher(place / "model" if (place / "model").is_dir() else place, data)


def _offline(options: DistilOptions, data: BehaviorData) -> Teacher:
    """The teacher of offline learning that comes with manyone for a data set of ours."""
    name = "own data" if options.suite is None else _set_name(options, data)
    found = packaged_teacher(name, data)
    if found is None:
        raise ManyoneError(
            f"--teacher offline: none comes with {name}; there are those of {', '.join(packaged_teachers())}: name "
            f"{' or '.join(METHODS)} to train one first"
        )
    return found


def _set_name(options: DistilOptions, data: BehaviorData) -> str:
    """What the data set of ours for the body of ``data`` is called."""
    bodies = {task: body for body, task in BODIES.items()}
    return f"mujoco-{bodies[data.name]}-{options.quality}"


def plan_of_teacher(options: DistilOptions) -> str:
    """What a dry run says of the teacher."""
    if not needs_teacher(options):
        return "no teacher is asked"
    name = options.teacher
    if name == "auto":
        trained = f"{AUTO} ({AUTO_DISCRETE} for discrete actions)"
        brought = "one that was trained on the data, else the expert behind them"
        return f"teacher: {brought if options.suite is not None else f'{trained}, trained first'}"
    return f"teacher: {name}" + (", trained first" if name in METHODS else "")


def stage_name(name: str) -> str:
    """The folder of the teacher of the data set called ``name``, which may be any text (``gym:Ant-v5?keys=a/b``)."""
    return "teacher-" + re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):02X}", name.replace(":", "-"))


def _lesson(options: DistilOptions, method: str, data: BehaviorData) -> Lesson:
    """The training of a teacher by its recipe's options and builder."""
    given: dict[str, Any] = {name: getattr(options, name) for name in ("preset", "suite", "data", "device", "seed")}
    given |= {"steps": options.teacher_steps} if options.teacher_steps else {}
    if method == "bc":  # the recipe of this name makes students
        own = with_preset(TeacherOptions, given)
        return Lesson(own, cloned_teacher(own, data), data)
    arm = Arm(method, method, given)
    own = arm.options()
    return Lesson(own, arm.build(own, data), data)
