"""The methods that one learner trains, each as the few choices in which it differs from the others.

Public names: :data:`METHODS`, :class:`Method`, :func:`method`, :func:`build_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.harmodt.harmony import Importance
from manyone.policies.tasks import PolicyData

Update = Literal["none", "corrected", "random", "official"]


@dataclass(frozen=True)
class Method:
    """What makes a method: defaults that the learner's arguments can override."""

    summary: str
    prompt: bool = True
    id_token: bool = False
    masked: bool = False
    update: Update = "none"
    importance: Importance = "fisher"
    gamma: float = 10.0
    shared_init: bool = False
    surgery: Literal["none", "pcgrad", "cagrad", "gradnorm"] = "none"


METHODS: dict[str, Method] = {
    "mt-dt": Method("one dense Decision Transformer for all tasks, no prompt and no task id", prompt=False),
    "prompt-dt": Method("one dense Decision Transformer with a prompt of the task's best data"),
    "id-token": Method("dense, a learned first token for each task, no prompt", prompt=False, id_token=True),
    "harmodt": Method("HarmoDT-F: task masks, exchanged by agreement and squared gradients", masked=True,
                      update="corrected"),
    "harmodt-f": Method("the same as harmodt", masked=True, update="corrected"),
    "harmodt-m": Method("HarmoDT with importance |theta|", masked=True, update="corrected", importance="magnitude"),
    "harmodt-r": Method("HarmoDT with its random initial masks kept for ever", masked=True),
    "shared-init": Method("HarmoDT-F, all tasks beginning with the same mask", masked=True, update="corrected",
                          shared_init=True),
    "shared-frozen": Method("one random mask for all tasks, kept for ever", masked=True, shared_init=True),
    "random-swap": Method("HarmoDT with random exchanges of the same number", masked=True, update="random"),
    "agreement-only": Method("HarmoDT without importance", masked=True, update="corrected", importance="none"),
    "importance-only": Method("HarmoDT pruning by importance alone (gamma = 0)", masked=True, update="corrected",
                              gamma=0.0),
    "harmodt-official": Method("HarmoDT with the mask update of the authors' program", masked=True, update="official"),
    "pcgrad": Method("Prompt-DT with PCGrad over the tasks of a step", surgery="pcgrad"),
    "cagrad": Method("Prompt-DT with CAGrad over the tasks of a step", surgery="cagrad"),
    "gradnorm": Method("Prompt-DT with GradNorm's weights of the tasks of a step", surgery="gradnorm"),
}  # fmt: skip


def method(name: str) -> Method:
    """The method called ``name``."""
    if name not in METHODS:
        raise ManyoneError(f"method {name!r} is unknown: it must be one of {', '.join(METHODS)}")
    return METHODS[name]


def build_model(name: str, data: PolicyData, *, seed: int = 0, **shape: Any) -> DecisionTransformer:
    """A fresh network for method ``name`` on ``data``; ``shape``: width, layers, heads, dropout, max_timestep."""
    chosen = method(name)
    if chosen.prompt and not data.prompt_steps:
        raise ManyoneError(f"{name} needs prompts: make PolicyData(..., prompt=K*) with K* of 1 or more")
    model = DecisionTransformer(
        data.state_dim,
        data.action_dim,
        context=data.context,
        prompt=data.prompt_steps if chosen.prompt else 0,
        id_tokens=len(data) if chosen.id_token else 0,
        widths=data.widths,
        seed=seed,
        **shape,
    )
    return model.to(data.device, data.dtype)
