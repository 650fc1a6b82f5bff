"""What the planner recipe trains: the learner that its options describe, on the data of a problem.

``evaluate`` is called with the learner and gives metrics (``manyone.policies.recipes.run_planner.SequenceScores``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from manyone.engine.artefact import made_of
from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.policies.artefact import SavedPolicy, read_policy
from manyone.policies.recipes.options_planner import PlannerOptions
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.vqcd.artefact import PlannerModel
from manyone.policies.vqcd.capacity import release, widen
from manyone.policies.vqcd.data import PlanData
from manyone.policies.vqcd.inverse import InverseDynamics
from manyone.policies.vqcd.learner import InverseKind, Learned, PlannerLearner, Training
from manyone.policies.vqcd.planner import Planner, Sampling, another, make_planner
from manyone.policies.vqcd.spaces import Spaces, own_or_aligned
from manyone.policies.vqcd.strategies.masks import MaskStrategy
from manyone.policies.vqcd.strategy import entry_of, make_strategy
from manyone.policies.vqcd.weights import MaskedWeights
from manyone.randomness import seed_for

Evaluate = Callable[[Any], Mapping[str, Any]] | None


def planner(o: PlannerOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PlannerLearner:
    """VQ-CD, or its backbone under another strategy; with ``policy`` a finished one that learns on."""
    device = device_of(o.device)
    data = PlanData(problem.data, o.plan_length, discount=o.return_discount, ends=o.window_ends,
                    target=o.target_return, bounds=problem.bounds if o.action_range == "bounds" else "unit",
                    device=device)  # fmt: skip
    if o.policy is not None:
        return _learning_on(o, read_policy(o.policy, str(device)), data, evaluate)
    spaces = _spaces(o, data)
    states, actions = spaces.widths
    entry = entry_of(o.strategy)
    told = len(data) if entry.told else 0
    apart = {"masked": 0, "per-task": len(data), "shared": 1}[o.inverse] if o.plan == "states" else 0
    inverse = {"states": states, "actions": actions, "width": o.inverse_width, "layers": 2}
    config = {
        "states": states, "actions": actions, "horizon": o.plan_length, "plan": o.plan, "told": told,
        "schedule": o.noise_schedule, "diffusion_steps": o.diffusion_steps, "prediction": o.prediction,
        "denoiser": {"kind": o.denoiser, "width": o.width, "layers": o.layers, "embedding": 64},
        "inverse": inverse if o.plan == "states" and not apart else None,
    }  # fmt: skip
    network = make_planner(config, seed=o.seed).to(device)
    inverses = [InverseDynamics(**inverse, seed=seed_for(o.seed, "inverse", k)) for k in range(apart)]
    return PlannerLearner(
        data, spaces, network, lambda learner: make_strategy(o.strategy, learner, vars(o)), _training(o),
        at_once=entry.at_once, inverse=o.inverse if o.plan == "states" else "masked", inverses=inverses,
        how=_sampling(o), plan_every=o.plan_every, requantise=o.requantise, seed=o.seed, evaluate=evaluate,
        info={"method": "vq-cd" if o.strategy == "masks" else o.strategy, "strategy": o.strategy},
    )  # fmt: skip


def _learning_on(o: PlannerOptions, saved: SavedPolicy, data: PlanData, evaluate: Evaluate) -> PlannerLearner:
    """A learner of the tasks of ``data`` that begins with all that the model ``saved`` has learned."""
    model = saved.model
    if not isinstance(model, PlannerModel) or saved.masks is None or saved.info.get("strategy") != "masks":
        has = saved.info.get("strategy") or saved.info.get("method", "another method")
        raise ManyoneError(f"--policy {o.policy}: a model of {has}: planners of vq-cd with masks alone learn on")
    earlier = len(saved.table.names)
    network = model.planners[model.network_of[-1]].requires_grad_(True).train().to(data.device)
    if network.horizon != data.horizon:
        raise ManyoneError(f"--plan-length {data.horizon}: the planner in {o.policy} plans {network.horizon} states")
    kept = model.kept(saved.masks)
    fresh = make_planner(network.config(), seed=seed_for(o.seed, "learning on", earlier)).to(data.device)
    weights = _restored(network, fresh, kept.shared, kept.own, saved)
    narrow = {i: model.planners[k] for i, k in enumerate(model.network_of) if k != model.network_of[-1]}
    lacking = earlier + len(data) - len(saved.masks)
    if lacking > 0 and o.grow == "release":
        release(weights, fresh, tasks=lacking, share=o.release_share, seed=o.seed)
    elif lacking > 0:
        wide = another(network, 1 + lacking / len(saved.masks), o.seed, "wider").to(data.device)
        narrow |= {i: copy.deepcopy(network).requires_grad_(False) for i in range(earlier) if i not in narrow}
        widen(weights, wide, tasks=lacking, seed=o.seed)
        network = wide
    own = [model.inverse(task) for task in range(earlier)]
    apart: list[InverseDynamics] = [one for one in own if one is not None]
    with made_of(o.policy or ""):
        kind: InverseKind = saved.info["inverse"]
        scores = [{str(task): float(score) for task, score in row.items()} for row in saved.info.get("scores", [])]
    if kind == "per-task":
        shape = apart[-1].config()
        apart += [InverseDynamics(**shape, seed=seed_for(o.seed, "inverse", earlier + k)) for k in range(len(data))]
    elif kind == "shared":
        apart = apart[:1]
    # the earlier tasks are asked for the same share as the new ones
    table = saved.table.with_targets(saved.table.target + (o.target_return - model.how.target) * saved.table.scale)
    return PlannerLearner(
        data, _spaces(o, data, saved), network,
        lambda learner: MaskStrategy(learner, weights=weights, earlier=narrow), _training(o), inverse=kind,
        inverses=apart, how=_sampling(o), plan_every=o.plan_every, requantise=o.requantise, seed=o.seed,
        before=Learned(table, scores),
        evaluate=evaluate, info={"method": "vq-cd", "strategy": "masks"},
    )  # fmt: skip


def _restored(
    network: Planner,
    fresh: Planner,
    shared: Mapping[str, Any],
    own: list[dict[str, Any]],
    saved: SavedPolicy,
) -> MaskedWeights:
    """The weights of all tasks of ``saved``, with biases and norms of ``fresh`` for those to come."""
    masks = saved.masks
    assert masks is not None
    assert isinstance(saved.model, PlannerModel)
    found = MaskedWeights(network, masks)
    first = {name: value.detach() for name, value in fresh.named_parameters() if name not in masks.shapes}
    found.load_state_dict({
        "full": dict(shared), "bank": {str(i): one for i, one in enumerate(own)}, "first": first,
        "bits": masks.bits, "active": None, "narrow": {str(i): one for i, one in saved.model.narrow.items()},
    })  # fmt: skip
    return found


def _spaces(o: PlannerOptions, data: PlanData, saved: SavedPolicy | None = None) -> Spaces:
    training: dict[str, Any] = {"steps": o.align_steps, "batch_size": o.align_batch_size, "lr": o.align_lr,
                                "last_lr": o.align_last_lr, "seed": o.seed}  # fmt: skip
    if saved is not None:
        model = saved.model
        assert isinstance(model, PlannerModel)
        pairs = model.pairs
        states, actions = (dict(one.config()) for one in pairs[0])
        latents = {"state_latents": states.pop("latents", 1), "action_latents": actions.pop("latents", 1)}
        shape = {name: value for name, value in states.items() if name not in ("kind", "dim", "padded_width")}
        return Spaces(data, saved.info["spaces"], given=pairs, **training, **latents, **shape)
    kind = own_or_aligned(data.widths) if o.alignment == "auto" else o.alignment
    return Spaces(data, kind, state_latents=o.state_latents, action_latents=o.action_latents,
                  latent_width=o.latent_width, codes=o.codes, hidden=o.align_hidden, commitment=o.commitment,
                  bound=o.bound, init=o.code_init, codebook=o.codebook, **training)  # fmt: skip


def _training(o: PlannerOptions) -> Training:
    return Training(steps=o.steps, batch_size=o.batch_size, lr=o.lr, schedule=o.schedule, dropout=o.condition_dropout,
                    ema_decay=o.ema_decay, ema_every=o.ema_every,
                    ema_start=o.ema_start)  # fmt: skip


def _sampling(o: PlannerOptions) -> Sampling:
    return Sampling(sampler=o.sampler, steps=o.sampling_steps, spacing=o.spacing, eta=o.eta, guidance=o.guidance,
                    target=o.target_return)  # fmt: skip
