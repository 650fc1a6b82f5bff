"""The standard artefact of a policy: one folder with everything that acting needs.

``model.safetensors`` holds weights, bit-packed masks, statistics, targets and prompts, ``config.json`` how they belong
together. Nothing is pickled; :func:`manyone.policies.loading.load_policy` makes a policy of it that acts.
Public names: :func:`save_policy`, :func:`read_policy`, :class:`SavedPolicy`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from manyone.engine.artefact import CONFIG, WEIGHTS, below, load_weights, made_of, read_model, write_model
from manyone.engine.mergeable import ByTask, Mergeable
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.baselines.cloning import CloningNetwork
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.artefact import PlannerModel

_KINDS: dict[str, type[nn.Module]] = {
    "decision-transformer": DecisionTransformer,
    "cloning": CloningNetwork,
    "planner": PlannerModel,
}


class SavedPolicy(NamedTuple):
    """What an artefact holds; ``masks`` is None for a dense network."""

    model: nn.Module
    table: TaskTable
    masks: TaskMasks | None
    assignment: list[int]
    extra: dict[str, Tensor]
    info: dict[str, Any]


def __getattr__(name: str) -> Any:
    if name in ("load_policy", "Policy"):  # the READMEs of earlier artefacts import them from here
        return getattr(importlib.import_module("manyone.policies.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def save_policy(
    folder: str | os.PathLike[str],
    model: nn.Module,
    table: TaskTable,
    masks: TaskMasks | None = None,
    *,
    assignment: Sequence[int] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    info: Mapping[str, Any] | None = None,
    learned: Sequence[str] = (),
    adapted: bool = False,
) -> None:
    """Writes the artefact; ``extra`` are further tensors (a gate's, say) and ``info`` is free JSON data.

    ``info["acts_with"]`` names how the policy acts where that is not by the task's mask; ``info["task_free"]`` says
    that it needs no task. ``learned``: which of ``extra`` are weights (``gate.*``); ``adapted``: each has a row a task,
    made for the frozen network. Merging asks for these, see :func:`_mergeable`.
    """
    kind = next((k for k, c in _KINDS.items() if isinstance(model, c)), None)
    if kind is None:
        raise ManyoneError(f"cannot save a {type(model).__name__}: it must be one of {', '.join(_KINDS)}")
    tensors = {f"model.{n}": v for n, v in model.state_dict().items()}
    tensors |= {f"table.{n}": v for n, v in table.tensors().items()}
    tensors |= {f"extra.{n}": v for n, v in (extra or {}).items()}
    if masks is not None:
        tensors["masks.bits"] = masks.bits
    config = {
        "policy": {"kind": kind, "config": model.config()},  # type: ignore[operator]
        "tasks": list(table.names),
        "masks": None if masks is None else {n: list(s) for n, s in masks.shapes.items()},
        "assignment": list(range(len(table.names))) if assignment is None else list(assignment),
        "info": dict(info or {}),
    }
    merge = _mergeable(model, len(table.names), masks, info or {}, learned, adapted)
    write_model(folder, tensors, config, _card(config), merge=merge)


def _mergeable(
    model: nn.Module,
    tasks: int,
    masks: TaskMasks | None,
    info: Mapping[str, Any],
    learned: Sequence[str],
    adapted: bool,
) -> Mergeable:
    """What a merge of such policies may change.

    A dense network that is not told its task's number is merged with those of other tasks: the table has their rows,
    and from then on the policy is told its task, also where all models knew one alone and needed no telling.
    Where a number of a task is part of the network (a token, one-hot, masks, maps of its own), tasks must be the same;
    so must pooled statistics, which are to tell nothing. Spaces that planners work in, and low-rank factors (a mean of
    factors is not the factor of a mean), are no weights.
    """
    shared = isinstance(model, DecisionTransformer) and not model.reads_task and masks is None and not learned
    acting, parts = ("acts_with", "task_free", "selection"), ("gate", "diffuser", "base")
    if not shared or (info.get("task_free") and tasks > 1):
        return Mergeable(
            weights=("model.*", *(f"extra.{name}" for name in learned)),
            fixed=("model.spaces.*", "model.factors.*"),
            described=("info",),
            same=tuple(f"info.{name}" for name in (*acting, *parts)),
        )
    by_task = ByTask(
        names="tasks",
        rows=("table.*", "extra.*") if adapted else ("table.*",),
        absent={"table.bounds": [[-1.0], [1.0]]},
        numbered=("assignment",),
    )
    return Mergeable(
        weights=() if adapted else ("model.*",),
        tasks=by_task,
        described=("info",),
        same=tuple(f"info.{name}" for name in ((*acting, *parts) if adapted else parts)),
        renewed=() if adapted else tuple(f"info.{name}" for name in acting),
    )


save = save_policy
"""The artefact's writer, by the name that it has in every field."""


def read_policy(folder: str | os.PathLike[str], device: str = "cpu") -> SavedPolicy:
    """What :func:`save_policy` wrote, with the network on ``device``."""
    config, tensors = read_model(folder, "a policy", ("policy", "tasks"), device)
    path = Path(folder) / CONFIG
    with made_of(path, tensors):
        kind = config["policy"]["kind"]
        if kind not in _KINDS:
            raise ManyoneError(f"{path}: kind {kind!r}: must be one of {', '.join(_KINDS)}")
        own = below(tensors, "model.")
        model = _KINDS[kind](**config["policy"]["config"]).to(device, next(iter(own.values())).dtype)
        load_weights(model, own, Path(folder) / WEIGHTS)
        table = TaskTable.from_tensors(config["tasks"], below(tensors, "table."))
        masks = None if config["masks"] is None else TaskMasks(config["masks"], tensors["masks.bits"])
        model.eval().requires_grad_(False)
        assignment = list(config["assignment"])
        if not all(type(one) is int and one >= 0 for one in assignment) or len(assignment) != len(table.names):
            raise ValueError(f"assignment {assignment!r:.60}: one mask's number for each of {len(table.names)} tasks")
        return SavedPolicy(model, table, masks, assignment, below(tensors, "extra."), dict(config["info"]))


def _card(config: Mapping[str, Any]) -> str:
    free = config["info"].get("task_free")
    return (
        f"# A policy ({config['info'].get('method', 'unnamed')})\n\nOne policy for {len(config['tasks'])} tasks: "
        f"{', '.join(config['tasks'])}.\n\n```python\nfrom manyone.policies import load_policy\n\n"
        'policy = load_policy(".")                 # this folder\n'
        f"policy.reset({'' if free else repr(config['tasks'][0])})\n"
        "action = policy.act(observation, reward)  # reward of the step before, 0 at first\n```\n"
    )
