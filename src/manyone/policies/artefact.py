"""The standard artefact of a policy: one folder that a fresh process loads and acts with.

    from manyone.policies.artefact import load_policy
    policy = load_policy("runs/first/model")
    policy.reset("door-open-v3")
    action = policy.act(observation, reward)          # reward of the step before; 0 at first

``model.safetensors`` holds weights, bit-packed masks, statistics, targets and prompts, ``config.json`` how they belong
together. Nothing is pickled. Public names: :func:`save_policy`, :func:`load_policy`, :class:`Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from manyone.engine.artefact import CONFIG, WEIGHTS, below, load_weights, made_of, read_model, write_model
from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.baselines.mtbc import CloningNetwork, CloningPolicy
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import TaskTable

_KINDS: dict[str, type[nn.Module]] = {"decision-transformer": DecisionTransformer, "cloning": CloningNetwork}


class _Episode(NamedTuple):
    task: str


class Policy:
    """A saved policy. :meth:`reset` and :meth:`act` for one episode, :attr:`batched` for roll-outs of many.

    ``model``, ``table``, ``masks`` (or None) and ``assignment`` are its parts, ``extra`` and ``info`` what else was
    saved.
    """

    def __init__(
        self,
        model: nn.Module,
        table: TaskTable,
        masks: TaskMasks | None,
        assignment: list[int],
        extra: dict[str, Tensor],
        info: dict[str, Any],
    ) -> None:
        self.model, self.table, self.masks, self.assignment = model, table, masks, assignment
        self.extra, self.info = extra, info
        self.batched: Any = self._batched()
        self._running = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the policy knows."""
        return self.table.names

    def reset(self, task: str | None = None) -> None:
        """Begins an episode of ``task``; a policy that infers the task itself needs none."""
        if task is None and not self.info.get("task_free"):
            raise ManyoneError(f"this policy must know its task: reset(task) with one of {', '.join(self.tasks)}")
        self.batched.start([_Episode(task or "")])
        self._running, self._first = True, True

    def act(self, observation: Any, reward: float = 0.0) -> np.ndarray:
        """Action float32 [A] for ``observation`` [S]; ``reward`` is what the last action earned (ignored at first)."""
        if not self._running:
            raise ManyoneError("act before reset: call policy.reset(task) at the start of an episode")
        if not self._first:
            self.batched.reward(np.zeros(1, np.int64), np.array([reward], np.float32))
        self._first = False
        return self.batched.act(np.zeros(1, np.int64), np.asarray(observation, np.float32).reshape(1, -1))[0]

    def _batched(self) -> Any:
        if isinstance(self.model, CloningNetwork):
            return CloningPolicy(self.model, self.table)
        assert isinstance(self.model, DecisionTransformer)
        if "acts_with" in self.info:
            return _acting(self.info["acts_with"])(self)
        return SequencePolicy(self.model, self.table, self.masks, assignment=self.assignment)


def _acting(name: str) -> Callable[[Policy], Any]:
    """How a policy acts that is more than masks by task: ``agnostic`` infers the group of tasks itself."""
    if name == "agnostic":
        from manyone.policies.agnostic import from_artefact

        return from_artefact
    raise ManyoneError(f"this policy acts with {name!r}, which this version does not know")


def save_policy(
    folder: str | PathLike[str],
    model: nn.Module,
    table: TaskTable,
    masks: TaskMasks | None = None,
    *,
    assignment: Sequence[int] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes the artefact; ``extra`` are further tensors (a gate's, say) and ``info`` is free JSON data.

    ``info["acts_with"]`` names how the policy acts where that is not by the task's mask; ``info["task_free"]`` says
    that it needs no task.
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
    write_model(folder, tensors, config, _card(config))


def load_policy(folder: str | PathLike[str], device: str = "cpu") -> Policy:
    """The policy that :func:`save_policy` wrote."""
    config, tensors = read_model(folder, "a policy", ("policy", "tasks"), device)
    path = Path(folder) / CONFIG
    with made_of(path):
        kind = config["policy"]["kind"]
        if kind not in _KINDS:
            raise ManyoneError(f"{path}: kind {kind!r}: must be one of {', '.join(_KINDS)}")
        own = below(tensors, "model.")
        model = _KINDS[kind](**config["policy"]["config"]).to(device, next(iter(own.values())).dtype)
        load_weights(model, own, Path(folder) / WEIGHTS)
        table = TaskTable.from_tensors(config["tasks"], below(tensors, "table."))
        masks = None if config["masks"] is None else TaskMasks(config["masks"], tensors["masks.bits"])
        model.eval().requires_grad_(False)
        return Policy(model, table, masks, config["assignment"], below(tensors, "extra."), config["info"])


def _card(config: Mapping[str, Any]) -> str:
    free = config["info"].get("task_free")
    return (
        f"# A policy ({config['info'].get('method', 'unnamed')})\n\nOne policy for {len(config['tasks'])} tasks: "
        f"{', '.join(config['tasks'])}.\n\n```python\nfrom manyone.policies.artefact import load_policy\n\n"
        'policy = load_policy(".")                 # this folder\n'
        f"policy.reset({'' if free else repr(config['tasks'][0])})\n"
        "action = policy.act(observation, reward)  # reward of the step before, 0 at first\n```\n"
    )
