"""What merging recipes ask for: a suite's packages and readers, or what opens a user's own checkpoints."""

from __future__ import annotations

from pathlib import Path

from manyone.data.suite_names import ASSETS, EXTRAS
from manyone.engine.extras import Extra
from manyone.merging.recipes.options import ProblemOptions
from manyone.recipes.needs import Needs, hub_ids
from manyone.recipes.options import CommonOptions

TEACHERS = {"images": ("efficientnet-lite0",)}
"""Suite -> the packages that its base is trained with, besides its data."""
CLIP = ("ta8", "ta8-b16", "ta8-l14")
"""The papers' setting by backbone: data, base and experts come from the hub."""
_HUGGING_FACE = Extra("transformers", "a Hugging Face checkpoint", "text")


def needs(options: CommonOptions) -> Needs:
    """Of a suite its data and what its experts are made with; of own checkpoints their library and hub ids."""
    if suite := getattr(options, "suite", None):
        return suite_needs(suite)
    if not isinstance(options, ProblemOptions) or len(options.tasks) != len(options.experts):
        return Needs()  # files, which are there or not; or what the recipe refuses
    places = [task.partition("=")[2] for task in options.tasks]
    sets = hub_ids(place for place in places if not _is_file(place))
    extras = (_HUGGING_FACE, *(Extra("datasets", place, "hub") for place in sets))
    return Needs(hub=(*hub_ids([options.base, *options.experts]), *sets), extras=extras)


def suite_needs(suite: str) -> Needs:
    """What the experts of a suite are made of; nothing for a name that is none."""
    if suite in CLIP:
        return Needs(hub=(f"suite {suite}: eight data sets, CLIP and eight experts",), extras=EXTRAS["ta8"])
    return Needs((*ASSETS.get(suite, ()), *TEACHERS.get(suite, ())), extras=EXTRAS.get(suite, ()))


def _is_file(place: str) -> bool:
    return bool(Path(place).suffix)
