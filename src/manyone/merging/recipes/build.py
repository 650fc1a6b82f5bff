"""What the recipes' options describe, made for a problem: learner and model, untrained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from manyone.engine.devices import device_of
from manyone.engine.fabric import make_fabric
from manyone.errors import ManyoneError
from manyone.merging.adaptation.adamerging import AdaMerging, MergedEncoder
from manyone.merging.adaptation.concrete import ConcreteMerging
from manyone.merging.adaptation.learner import AdaptationLearner
from manyone.merging.artefact import load
from manyone.merging.experts.hf import is_language_model
from manyone.merging.measures import logits
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.merging.recipes.options import (
    AdaMergingOptions,
    ConcreteOptions,
    SurgeryOptions,
    SurgeryV2Options,
    TestTimeOptions,
    WEMoEOptions,
)
from manyone.merging.recipes.problem import Problem
from manyone.merging.recipes.static_options import FisherOptions, MergeOptions, RegMeanOptions
from manyone.merging.static.methods import rule_options
from manyone.merging.static.movement import Measure
from manyone.merging.static.statistics import fisher, grams
from manyone.merging.surgery.learner import SurgeryLearner
from manyone.merging.surgery.model import Surgery, SurgeryV2, hidden_widths

UNDER_SURGERY = ("average", "task-arithmetic", "ties", "tsv-m", "iso-c", "iso-cts", "model-stock")


@dataclass(frozen=True)
class Built:
    """A learner, the model that it trains for ``steps`` steps, and what is evaluated and saved of it afterwards."""

    learner: Any
    model: nn.Module
    steps: int
    network: Callable[[], nn.Module]


@dataclass(frozen=True)
class Known:
    """What a caller has computed before, by task, on the inputs that the options name; it is not computed again."""

    experts: Mapping[str, nn.Module] | None = None
    expert_features: Mapping[str, Tensor] | None = None
    merged_features: Mapping[str, Tensor] | None = None


def merged(options: MergeOptions, problem: Problem, measure: Measure | None = None) -> nn.Module:
    """The encoder with statically merged weights; ``measure`` sees the merge."""
    given = rule_options(options.method, options)
    if isinstance(options, FisherOptions) and not options.fishers:
        given["fishers"] = [
            fisher(problem.expert(t), problem.heads[t], split, examples=options.examples, seed=options.seed)
            for t, split in problem.splits("train").items()
        ]
    if isinstance(options, RegMeanOptions) and not options.grams:
        given["grams"] = [
            grams(problem.expert(t), inputs, examples=options.examples, seed=options.seed)
            for t, inputs in problem.inputs("train").items()
        ]
    return problem.merged(options.method, exclude=options.exclude, measure=measure, **given)


def adamerging(options: AdaMergingOptions, problem: Problem, known: Known | None = None) -> Built:
    """Coefficients."""
    model = AdaMerging(
        problem.encoder,
        problem.expert_list,
        granularity=options.granularity,
        plus_plus=options.plus_plus,
        scale=options.scale,
        clamp=options.clamp,
    )
    return _folding(options, problem, model, known)


def concrete(options: ConcreteOptions, problem: Problem, known: Known | None = None) -> Built:
    """A mask, and coefficients where the options say so."""
    model = ConcreteMerging(
        problem.encoder, problem.expert_list, scale=options.scale, adamerging=options.adaptive, seed=options.seed
    )
    return _folding(options, problem, model, known)


def _folding(options: TestTimeOptions, problem: Problem, model: MergedEncoder, known: Known | None) -> Built:
    """What is kept of a merged encoder are its merged weights."""

    return Built(_adaptation(options, problem, model, known), model, options.steps, model.fold)


def wemoe(options: WEMoEOptions, problem: Problem, known: Known | None = None) -> Built:
    """Routers of WEMoE and, with its options, of E-WEMoE."""
    language = is_language_model(problem.spec)
    if (options.routing == "prompt") != language and options.router_layers > 0:
        what = "are causal language models" if language else "are none"
        use = "prompt" if language else "sample or batch"
        raise ManyoneError(
            f"--routing {options.routing}: routing by the prompt is for causal language models, and these {what}: use "
            f"--routing {use}"
        )
    model = WeightEnsemblingMoE(
        problem.encoder,
        problem.expert_list,
        scale=options.scale,
        critical=options.critical[0] if len(options.critical) == 1 else options.critical,
        router_layers=options.router_layers,
        routing=options.routing,
        prune_ratio=options.prune_ratio,
        shared_router=options.shared_router,
        position_code=options.position_code,
        seed=options.seed,
    )

    def network() -> nn.Module:
        if not options.gate_prune_ratio:
            return model
        pruned = copy.deepcopy(model)
        pruned.prune_routers(options.gate_prune_ratio)
        return pruned

    return Built(_adaptation(options, problem, model, known), model, options.steps, network)


def _adaptation(options: TestTimeOptions, problem: Problem, model: nn.Module, known: Known | None) -> AdaptationLearner:
    heads = {t: problem.heads[t] for t in problem.experts}
    inputs = problem.inputs(options.adapt_split, options.limit)
    expert_logits = None
    if options.objective == "expert-kl":
        features = known.expert_features if known is not None else None
        expert_logits = {
            t: logits(problem.expert(t), head, inputs[t], t) if features is None else head.to("cpu")(features[t])
            for t, head in heads.items()
        }
    return AdaptationLearner(
        model,
        heads,
        inputs,
        objective=options.objective,
        lr=options.lr,
        steps=options.steps,
        batch_size=options.batch_size,
        seed=options.seed,
        schedule=options.schedule,
        expert_logits=expert_logits,
        fallback=options.fallback,
        monitor_samples=options.monitor_samples,
        fabric=make_fabric(options.device, options.precision),
    )


def surgery(
    options: SurgeryOptions, problem: Problem, on: nn.Module | None = None, known: Known | None = None
) -> Built:
    """A correction of the final feature of ``on``; by default of the merged model that the options name."""
    on = _under_surgery(options, problem, on)
    model = Surgery(on, problem.width, list(problem.experts), rank=options.rank, seed=options.seed)
    return _surgery(options, problem, model, known)


def surgery_v2(
    options: SurgeryV2Options, problem: Problem, on: nn.Module | None = None, known: Known | None = None
) -> Built:
    """Corrections after every block of ``on``; by default of the merged model that the options name."""
    on = _under_surgery(options, problem, on)
    sample = next(iter(problem.inputs(options.adapt_split, 1).values()))
    widths = hidden_widths(on, sample, options.blocks)
    model = SurgeryV2(
        on, problem.width, widths, list(problem.experts), rank=options.rank, blocks=options.blocks, seed=options.seed
    )
    return _surgery(options, problem, model, known)


def _under_surgery(options: SurgeryOptions, problem: Problem, on: nn.Module | None) -> nn.Module:
    if is_language_model(problem.spec):
        raise ManyoneError("surgery corrects the feature that heads read: a causal language model has no such heads")
    if on is not None:
        return on
    if options.on in UNDER_SURGERY:
        scale = {"scale": options.scale} if options.on in ("task-arithmetic", "ties") else {}
        return problem.merged(options.on, **scale).to(device_of(options.device))
    if not (Path(options.on) / "model" / "config.json").is_file():
        raise ManyoneError(
            f"--on {options.on}: use {', '.join(UNDER_SURGERY)}, or the folder of a finished merging run"
        )
    loaded = load(Path(options.on) / "model")
    if set(loaded.tasks) != set(problem.experts):
        raise ManyoneError(
            f"--on {options.on}: that model serves {', '.join(loaded.tasks)}, but the experts here are for "
            f"{', '.join(problem.experts)}"
        )
    return loaded.network.to(device_of(options.device))


def _surgery(options: SurgeryOptions, problem: Problem, model: Surgery | SurgeryV2, known: Known | None) -> Built:
    known = known or Known()
    device = device_of(options.device)
    learner = SurgeryLearner(
        model,
        known.experts or {t: problem.expert(t).to(device) for t in problem.experts},
        problem.inputs(options.adapt_split, options.limit),
        lr=options.lr,
        iterations=options.steps,
        batch_size=options.batch_size,
        loss=options.loss,
        shared_stale_adam=options.shared_stale_adam,
        online=options.online,
        expert_features=known.expert_features,
        merged_features=known.merged_features,
        seed=options.seed,
    )
    return Built(learner, model, options.steps, lambda: model)
