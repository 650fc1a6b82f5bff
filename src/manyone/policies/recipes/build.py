"""What each policy recipe trains: the untrained learner that its options describe, on the data of a problem.

``evaluate`` is called with the learner and gives metrics (:class:`manyone.policies.recipes.run.Evaluator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import read_policy
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.baselines.each_task import EachTask
from manyone.policies.baselines.mtbc import CloningLearner
from manyone.policies.g_harmodt.learner import GroupedLearner
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.variants import build_model
from manyone.policies.harmodt.variants import method as method_of
from manyone.policies.recipes.options import (
    CloningOptions,
    FrozenOptions,
    GroupedOptions,
    HarmoDTOptions,
    IdTokenOptions,
    MultiTaskOptions,
    PolicyOptions,
    PromptOptions,
    SingleTaskOptions,
    TransformerOptions,
)
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.tasks import POOLED, Bounds, PolicyData

Evaluate = Callable[[Any], Mapping[str, Any]] | None


def harmodt(o: HarmoDTOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PolicyLearner:
    """HarmoDT-F, or -M by its importance."""
    return _transformer("harmodt", o, problem, evaluate, **_masks(o), **_exchange(o))


def frozen(o: FrozenOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PolicyLearner:
    """HarmoDT-R."""
    return _transformer("harmodt-r", o, problem, evaluate, **_masks(o))


def multi_task(o: MultiTaskOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PolicyLearner:
    """MT-DT; with ``no_id`` on data that do not tell the task."""
    return _transformer("mt-dt", o, problem, evaluate, POOLED if o.no_id else {})


def prompted(o: PromptOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PolicyLearner:
    """Prompt-DT, or one of the ways to combine its tasks' gradients."""
    pooling = {"normalisation": "pooled", "scale": "pooled"} if o.statistics == "pooled" else {}
    return _transformer("prompt-dt" if o.surgery == "none" else o.surgery, o, problem, evaluate, pooling)


def id_token(o: IdTokenOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> PolicyLearner:
    """MT-DT with a token of the task."""
    return _transformer("id-token", o, problem, evaluate)


def each_task(o: SingleTaskOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> EachTask:
    """A learner a task; ``tasks_per_step`` of them take a step together."""
    count = len(problem.data)
    at_once = min(o.tasks_per_step, count)
    own = replace(o, steps=max(1, -(-o.steps * at_once // count)))
    learners = [_transformer("mt-dt", own, replace(problem, data=(one,)), None) for one in problem.data]
    return EachTask(learners, at_once=at_once, evaluate=evaluate)


def grouped(o: GroupedOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> GroupedLearner:
    """G-HarmoDT: policy, groups and gate, on data that do not tell the task."""
    data = _data(o, problem, 0, POOLED)
    return GroupedLearner(
        build_model("mt-dt", data, seed=o.seed, **_shape(o, problem)),
        data,
        groups=len(data) if o.groups == "tasks" else "auto" if o.groups == "auto" else int(o.groups),
        gate=not o.no_gate,
        gate_actions=not o.gate_states_only,
        seed=o.seed,
        evaluate=evaluate,
        **_pick(o, "group_after", "first_phase", "clustering", "recluster_every", "gate_context", "gate_width",
                "gate_lr", "gate_returns", "selection"),
        **_training(o, len(data)), **_masks(o), **_exchange(o),
    )  # fmt: skip


def cloning(o: CloningOptions, problem: PolicyProblem, evaluate: Evaluate = None) -> CloningLearner:
    """Behaviour cloning."""
    held = o.hold_out == "always"
    data = PolicyData(problem.data, 1, hold_out=held, bounds=_bounds(o, problem), device=device_of(o.device))
    network = CloningNetwork(data.state_dim, data.action_dim, len(data), widths=data.widths, seed=o.seed,
                             **_pick(o, "width", "layers"))  # fmt: skip
    at_once = None if o.tasks_per_step is None else min(o.tasks_per_step, len(data))
    arguments = {"tasks_per_step": at_once} | _optimisation(o)
    return CloningLearner(network.to(data.device), data, seed=o.seed, evaluate=evaluate, **arguments)


def _transformer(
    method: str,
    o: TransformerOptions,
    problem: PolicyProblem,
    evaluate: Evaluate,
    pooling: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> PolicyLearner:
    data = _data(o, problem, o.prompt if method_of(method).prompt else 0, pooling)
    model = build_model(method, data, seed=o.seed, **_shape(o, problem))
    if (place := getattr(o, "init", None)) is not None:
        _start_from(model, Path(place))
    arguments = _training(o, len(data)) | options
    return PolicyLearner(model, data, method=method, seed=o.seed, evaluate=evaluate, **arguments)


def _start_from(model: DecisionTransformer, place: Path) -> None:
    """Gives ``model`` the weights of the policy at ``place``."""
    found = read_policy(place / "model" if (place / "model").is_dir() else place)
    theirs = found.model.config()  # type: ignore[operator]
    for name, value in model.config().items():
        if name != "dropout" and theirs.get(name) != value:
            raise ManyoneError(f"--init {place}: its network has {name} {theirs.get(name)!r:.40}, this run's "
                               f"{value!r:.40}: give a policy of the same sizes, tasks and horizon")  # fmt: skip
    if found.masks is not None:
        raise ManyoneError(f"--init {place}: a policy with masks is a network a task: give a dense one (mt-dt, ...)")
    model.load_state_dict(found.model.state_dict())


def _data(o: TransformerOptions, problem: PolicyProblem, prompt: int, pooling: Mapping[str, Any]) -> PolicyData:
    """``pooling``: which statistics are of all tasks, as arguments of :class:`PolicyData`."""
    held = o.hold_out == "always" or (o.hold_out == "with-prompt" and prompt > 0)
    return PolicyData(problem.data, o.context, prompt, target_quantile=o.target_quantile,
                      legacy_prompt=o.legacy_prompt, hold_out=held, bounds=_bounds(o, problem),
                      device=device_of(o.device), **pooling)  # fmt: skip


def _bounds(o: PolicyOptions, problem: PolicyProblem) -> list[Bounds] | Literal["unit"]:
    return problem.bounds if o.action_range == "bounds" else "unit"


def _pick(o: PolicyOptions, *names: str) -> dict[str, Any]:
    """The options ``names``, as arguments of the same names."""
    return {name: getattr(o, name) for name in names}


def _shape(o: TransformerOptions, problem: PolicyProblem) -> dict[str, Any]:
    return _pick(o, "width", "layers", "heads", "dropout") | {"max_timestep": problem.longest}


def _optimisation(o: CloningOptions | TransformerOptions) -> dict[str, Any]:
    return _pick(o, "steps", "batch_size", "lr", "weight_decay", "warmup", "schedule")


def _training(o: TransformerOptions, tasks: int) -> dict[str, Any]:
    return _optimisation(o) | {"clip": o.clip, "tasks_per_step": min(o.tasks_per_step, tasks)}


def _masks(o: FrozenOptions) -> dict[str, Any]:
    return _pick(o, "sparsity", "mask_init", "shared_init", "mask_scope", "freeze_unmasked", "moment_policy")


def _exchange(o: HarmoDTOptions) -> dict[str, Any]:
    return _pick(o, "mask_every", "eta_min", "eta_max", "swap_schedule", "importance", "fisher_samples", "gamma",
                 "ranking", "ema_decay", "mask_until", "mask_batches", "update")  # fmt: skip
