"""``load_suite``: the task suites by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from manyone.data.images.crisp8 import load_crisp8
from manyone.data.images.fixture import load_fixture
from manyone.data.images.mini6 import load_mini6
from manyone.data.images.suite import load_images
from manyone.data.images.ta8 import load_ta8
from manyone.data.suite_names import SUITES
from manyone.data.tasks import Split, Suite, Task
from manyone.data.texts.suite import TASKS, UNSEEN, load_text
from manyone.errors import ManyoneError

__all__ = ["SUITES", "load_suite"]


def load_suite(name: str, *, seed: int = 0, limit: int | None = None, path: Path | str | None = None) -> Suite:
    """The suite called ``name``, split by ``seed``.

    ``limit`` keeps the first ``limit`` samples of every split, which is again a stratified sample. ``path`` is the
    fixture's file and is used by ``fixture`` alone.
    """
    if name == "fixture":
        suite = load_fixture(seed, path)
    elif name == "mini6":
        suite = load_mini6(seed)
    elif name == "crisp8":
        suite = load_crisp8(seed)
    elif name == "images":
        suite = load_images(seed)
    elif name in ("text", "text-unseen"):
        suite = load_text(seed, TASKS if name == "text" else UNSEEN, name)
    elif name == "earth":
        # here, because it brings SciPy's readers, which take a second and no other suite needs
        from manyone.data.rasters.suite import load_earth

        suite = load_earth(seed)
    elif name == "ta8":
        suite = load_ta8(seed, limit)
    else:
        raise ManyoneError(f"unknown suite {name!r}: use {', '.join(SUITES)}")
    if limit is None:
        return suite
    if limit < 1:
        raise ManyoneError(f"limit {limit} leaves no sample: give a positive number")
    shorten = lambda tasks: tuple(_shorten(task, limit) for task in tasks)  # noqa: E731
    return dataclasses.replace(suite, tasks=shorten(suite.tasks), pretraining=shorten(suite.pretraining))


def _shorten(task: Task, limit: int) -> Task:
    def cut(split: Split) -> Split:
        return split.take(slice(0, limit))

    return dataclasses.replace(task, train=cut(task.train), val=cut(task.val), test=cut(task.test))
