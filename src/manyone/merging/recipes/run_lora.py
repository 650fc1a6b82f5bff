"""Runs what makes LoRA adapters; ``RUN/model/`` is a folder that PEFT opens."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping

from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes.lora_options import ExtractLoraOptions, LoraArithmeticOptions
from manyone.merging.static.lora import Extraction, check_combination, combine, extract, plan_extraction
from manyone.recipes.options import Split

_SHOWN = 5  # layers whose error is printed


def run(options: ExtractLoraOptions | LoraArithmeticOptions, build: None, folder: RunFolder) -> None:
    """Writes the adapter into ``folder.path / "model"``."""
    if isinstance(options, ExtractLoraOptions):
        _extract(options, folder)
    else:
        _combine(options, folder)


def evaluate(options: object, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Adapters are made without data."""
    raise ManyoneError(f"{folder.path} made an adapter without data: merge it with a suite's models to score it")


def plan(options: ExtractLoraOptions | LoraArithmeticOptions, build: None, folder: RunFolder) -> list[str]:
    """What the adapter would hold."""
    place = folder.path / "model"
    if isinstance(options, ExtractLoraOptions):
        found = _planned(options)
        return [f"{found.model.label}: {_said(found, options)}, to {place}"]
    weights = _weights(options)
    check_combination(options.adapters, weights)
    return [f"{len(weights)} adapters with weights {', '.join(f'{w:g}' for w in weights)}, to {place}"]


def _planned(options: ExtractLoraOptions) -> Extraction:
    if options.base is None or options.model is None:
        lacking = "--base" if options.base is None else "--model"
        raise ManyoneError(f"extract-lora: {lacking} missing: name the base and the model fine-tuned from it")
    return plan_extraction(
        options.base, options.model, rank=options.rank, others=options.others, exclude=options.exclude
    )


def _said(plan: Extraction, options: ExtractLoraOptions) -> str:
    return (
        f"{len(plan.layers)} linear layers of rank {options.rank}, {len(plan.biases)} biases and {len(plan.saved)} "
        f"modules whole, {len(plan.left)} changed tensors left out; {_size(plan) / 1e6:.3g} MB"
    )


def _size(plan: Extraction) -> int:
    return sum(info.nbytes for info in plan.tensors().values())


def _extract(options: ExtractLoraOptions, folder: RunFolder) -> None:
    plan = _planned(options)
    began = time.perf_counter()
    with Progress("extract-lora", unit="parameters") as bar:
        found = extract(
            plan,
            folder.path / "model",
            device=options.device,
            progress=bar.update,
            before=lambda: make_room(folder),
        )
    worst = dict(sorted(found.errors.items(), key=lambda item: -item[1])[:_SHOWN])
    metrics = {
        "layers": len(plan.layers),
        "rank": options.rank,
        "error": found.error,
        "errors": found.errors,
        "left_out": plan.left,
        "bytes": _size(plan),
        "time": {"seconds": round(time.perf_counter() - began, 3)},
    }
    folder.log(0, "final", metrics)
    print(_said(plan, options))
    print(f"relative error {found.error:.4f} of the change; the largest: ", end="")
    print(", ".join(f"{name} {error:.4f}" for name, error in worst.items()))
    if plan.left:
        print(f"left out: {', '.join(plan.left[:_SHOWN])}{', ...' * (len(plan.left) > _SHOWN)}")


def _weights(options: LoraArithmeticOptions) -> list[float]:
    if len(options.adapters) < 2:
        raise ManyoneError("lora-arithmetic: --adapters missing: name two or more adapter folders")
    return [options.scale * weight for weight in options.weights or [1.0] * len(options.adapters)]


def _combine(options: LoraArithmeticOptions, folder: RunFolder) -> None:
    weights = _weights(options)
    ranks = combine(options.adapters, folder.path / "model", weights=weights, before=lambda: make_room(folder))
    folder.log(0, "final", {"adapters": len(weights), "modules": len(ranks), "rank": max(ranks.values())})
    print(f"{len(ranks)} modules, rank {max(ranks.values())}")


def make_room(folder: RunFolder) -> None:
    """Removes what an earlier attempt of this same run left, which stopped before it was finished."""
    folder.ensure()
    if (folder.path / "model").exists():
        shutil.rmtree(folder.path / "model")
