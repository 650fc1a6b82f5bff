"""What a merging recipe works on: an encoder, its experts, their heads and the tasks' data.

A problem comes from one of the real suites (experts are trained once and cached) or from a user's own Hugging Face
folders with a data folder for each task.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyone.assets.cache import cache_folder
from manyone.data.folders import load_task
from manyone.data.images import ta8
from manyone.data.suite_names import SUITES
from manyone.data.suites import load_suite
from manyone.data.tasks import Inputs, Split, Task
from manyone.engine.inputs import digest
from manyone.errors import ManyoneError
from manyone.merging.experts import cache
from manyone.merging.experts.bundle_learner import bundle, suite_for
from manyone.merging.experts.hf import LoadedExperts, is_language_model, load_experts
from manyone.merging.experts.prompts import MOST_TOKENS, load_prompts, tokenizer_of
from manyone.merging.experts.protocol import protocol_for
from manyone.merging.experts.zero_shot import zero_shot_heads
from manyone.merging.heads import Head, OwnLogits
from manyone.merging.recipes.needs import CLIP, needs, suite_needs
from manyone.merging.recipes.options import ProblemOptions
from manyone.merging.static.methods import merge
from manyone.nets import build_encoder
from manyone.weights.open import StrPath


@dataclass(frozen=True)
class Problem:
    """``encoder`` holds the base weights; ``experts`` are state dicts with its names; ``spec`` rebuilds it."""

    name: str
    spec: dict[str, Any]
    encoder: nn.Module
    experts: Mapping[str, Mapping[str, Tensor]]
    heads: Mapping[str, Head]
    tasks: Mapping[str, Task]
    notes: tuple[str, ...] = ()
    tokenizer: Any = None  # of a language model, whose folder is to have it

    @property
    def width(self) -> int:
        """d, the size of the feature that the heads read."""
        return next(iter(self.heads.values())).weight.shape[1]

    @property
    def expert_list(self) -> list[Mapping[str, Tensor]]:
        """The experts in merging order."""
        return list(self.experts.values())

    def splits(self, split: str, limit: int | None = None) -> dict[str, Split]:
        """The labelled splits of the merged tasks, at most the first ``limit`` samples of each."""
        parts = {t: self.tasks[t].split(split) for t in self.experts}
        return {t: p.take(slice(0, limit)) if limit is not None and len(p) > limit else p for t, p in parts.items()}

    def inputs(self, split: str, limit: int | None = None) -> dict[str, Inputs]:
        """The same without labels."""
        return {t: part.inputs for t, part in self.splits(split, limit).items()}

    def expert(self, task: str) -> nn.Module:
        """A copy of the encoder with the weights of ``task``'s expert."""
        return self.with_weights(self.experts[task])

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A frozen copy of the encoder that holds ``weights``."""
        module = copy.deepcopy(self.encoder)
        module.load_state_dict(dict(weights))
        return module.eval().requires_grad_(False)

    def merged(self, method: str, **options: Any) -> nn.Module:
        """A frozen copy of the encoder with statically merged weights (see :mod:`manyone.merging.static.methods`)."""
        weights = merge(method, self.encoder.state_dict(), self.expert_list, **options)
        assert weights is not None  # only a merge into a folder returns none
        return self.with_weights(weights)

    def digests(self) -> dict[str, str]:
        """What a user's own files held, by content: tasks with their splits, base and experts."""
        found = {f"task {t}": digest(",".join(o.classes), *_arrays(o)) for t, o in self.tasks.items()}
        models = {"base model": self.encoder.state_dict(), **{f"expert {t}": w for t, w in self.experts.items()}}
        for name, weights in models.items():
            rows = ((k, weights[k].detach().cpu().reshape(-1).view(torch.uint8).numpy()) for k in sorted(weights))
            tensors = (part for row in rows for part in row)
            found[name] = digest(*tensors)
        return found

    def only(self, seen: Sequence[str]) -> Problem:
        """The same problem with only the experts of ``seen``; data and heads of all tasks stay."""
        return replace(self, experts={t: self.experts[t] for t in seen})


def _arrays(task: Task) -> Iterator[str | np.ndarray]:
    for name in ("train", "val", "test"):
        split = task.split(name)
        yield name
        yield split.labels.numpy()
        for inputs in [split.inputs] if isinstance(split.inputs, Tensor) else split.inputs.values():
            yield inputs.numpy()


TA8 = dict(zip(CLIP, ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14"), strict=True))
"""The papers' setting by backbone."""


def _from_hub(suite: str, seed: int) -> Problem:
    """CLIP's vision tower, the published experts and zero-shot heads from class names and prompts."""
    model = ta8.models()[TA8[suite]]
    data = load_suite("ta8", seed=seed)
    listed = {t.name: t for t in ta8.tasks()}
    loaded = load_experts(model.base, {t.name: model.expert(listed[t.name]) for t in data.tasks})
    classes = {t.name: t.classes for t in data.tasks}
    templates = {name: listed[name].templates for name in classes}
    heads = zero_shot_heads(model.base, classes, templates, cache=cache_folder("heads"))
    tasks = {t.name: t for t in data.tasks}
    return Problem(suite, loaded.spec, loaded.encoder, loaded.experts, heads, tasks, loaded.notes)


def load_problem(options: ProblemOptions) -> Problem:
    """Loads (or, the first time, makes) what the options say is merged."""
    if options.suite is not None:
        return from_suite(options.suite, options.seed)
    assert options.base is not None  # the options see to it
    return from_folders(options.base, options.experts, options.tasks)


def problem_here(options: ProblemOptions) -> Problem | None:
    """What :func:`load_problem` gives, or None where that would fetch or train something."""
    if options.suite is not None:
        return suite_here(options.suite, options.seed)
    return load_problem(options) if needs(options).there else None


def suite_here(suite: str, seed: int) -> Problem | None:
    """The problem of a suite whose data and experts are in the cache, else None."""
    if suite not in SUITES and suite not in TA8:
        raise ManyoneError(f"unknown suite {suite!r}: use {', '.join(SUITES)}")
    if suite in TA8 or not suite_needs(suite).there:
        return None
    data = suite_for(suite, seed)
    kept = cache.bundle_folder(data, protocol_for(data), seed)
    return from_suite(suite, seed) if (kept / "bundle.json").is_file() else None


def from_suite(suite: str, seed: int) -> Problem:
    """The problem of a suite of real tasks, with experts trained (or read from the cache) for ``seed``.

    ``ta8`` takes CLIP ViT-B/32 and its published experts from the hub; ``ta8-b16`` and ``ta8-l14`` the larger towers.
    """
    if suite in TA8:
        return _from_hub(suite, seed)
    data = suite_for(suite, seed)
    experts = bundle(data, seed)
    encoder = build_encoder(experts.encoder)
    encoder.load_state_dict(dict(experts.base))
    return Problem(
        name=suite,
        spec=experts.encoder,
        encoder=encoder.eval().requires_grad_(False),
        experts=experts.experts,
        heads=experts.heads,
        tasks={t.name: t for t in data.tasks},
        notes=data.notes,
    )


def from_folders(base: StrPath, experts: Sequence[StrPath], tasks: Sequence[str]) -> Problem:
    """The problem of a user's own checkpoints; ``tasks`` are NAME=DATA, one for each expert in the same order."""
    named = dict(_split_task(t) for t in tasks)
    if len(named) != len(experts):
        raise ManyoneError(
            f"--experts names {len(experts)} checkpoints but --tasks {len(named)} tasks: give one NAME=FOLDER for each"
        )
    loaded = load_experts(base, dict(zip(named, experts)))
    if is_language_model(loaded.spec):
        return _language_problem(base, loaded, named)
    data = {}
    for name, source in named.items():
        if name not in loaded.heads:
            raise ManyoneError(f"{base}: a CLIP tower has no task heads of its own: use --suite ta8, or classifiers")
        classes = loaded.classes.get(name) or None
        data[name] = load_task(source, name=name, model=os.fspath(base), classes=classes)
        if len(data[name].classes) != len(loaded.heads[name].weight):
            raise ManyoneError(
                f"--tasks {name}={source}: has {len(data[name].classes)} classes but its expert's head has "
                f"{len(loaded.heads[name].weight)}"
            )
    return Problem("your tasks", loaded.spec, loaded.encoder, loaded.experts, loaded.heads, data, loaded.notes)


def _language_problem(base: StrPath, loaded: LoadedExperts, named: Mapping[str, str]) -> Problem:
    """A causal language model is a classifier of the next token: its tasks' classes are its vocabulary."""
    tokenizer = tokenizer_of(base)
    longest = getattr(loaded.encoder.config, "max_position_embeddings", None) or MOST_TOKENS
    data = {
        name: load_prompts(source, tokenizer, name=name, most=min(int(longest), MOST_TOKENS))  # type: ignore[arg-type]
        for name, source in named.items()
    }
    heads = dict.fromkeys(named, OwnLogits())
    return Problem(
        "your tasks", loaded.spec, loaded.encoder, loaded.experts, heads, data, loaded.notes, tokenizer=tokenizer
    )


def _split_task(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals or not name or not source:
        raise ManyoneError(f"--tasks {text!r}: write NAME=FOLDER, for example pets=data/pets")
    return name, source
