"""Task vectors and the check that a set of models can be combined.

A task vector is tau = theta - theta_0 over the floating-point tensors (Ilharco et al., 2023, "Editing models with task
arithmetic"). Differences are taken in float32 whatever the storage: in bfloat16 most of their bits would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.weights.checkpoint import Checkpoint, Weights, as_checkpoint
from manyone.weights.tensor_info import difference, is_float

_SLICE = 1 << 20  # elements looked at together when values are checked


def check_finite(weights: Weights, names: Iterable[str] | None = None, label: str = "weights") -> None:
    """Raises ``ManyoneError`` naming the model and the first tensor that holds NaN or Inf."""
    checkpoint = as_checkpoint(weights, label)
    for name in checkpoint if names is None else names:
        info = checkpoint.info(name)
        if not is_float(info):
            continue
        for start in range(0, info.numel, _SLICE):
            piece = checkpoint.read_flat(name, start, min(start + _SLICE, info.numel)).float()
            if not torch.isfinite(piece).all():
                raise ManyoneError(f"{checkpoint.label}: NaN or Inf in tensor {name!r}")


def check_compatible(
    base: Weights, experts: Sequence[Weights], names: Iterable[str] | None = None, *, finite: bool = True
) -> None:
    """Raises ``ManyoneError`` naming key and problem unless all experts have the base's tensors.

    ``names`` restricts the check to these tensors. ``finite`` also looks for NaN and Inf in base and experts.
    """
    base = as_checkpoint(base, "base")
    wanted = list(base if names is None else names)
    models = [as_checkpoint(expert, f"expert {i + 1}") for i, expert in enumerate(experts)]
    for model in models:
        for name in wanted:
            if name not in model:
                raise ManyoneError(f"{model.label}: tensor {name!r} of the base {base.label} is missing")
            problem = difference(base.info(name), model.info(name))
            if problem:
                raise ManyoneError(f"{model.label}: tensor {name!r} {problem}")
        unexpected = [] if names is not None else [name for name in model if name not in base]
        if unexpected:
            raise ManyoneError(f"{model.label}: tensor {unexpected[0]!r} is unexpected, the base does not have it")
    if finite:
        for model in [base, *models]:
            check_finite(model, wanted)


def state_dicts(models: Any) -> list[Mapping[str, Tensor]]:
    """The weights of models that come as modules or as state dicts, in a sequence or by name."""
    if isinstance(models, nn.Module) or (
        isinstance(models, Mapping) and any(isinstance(value, Tensor) for value in models.values())
    ):
        raise ManyoneError("experts are a list of modules or state dicts; a single one is written [expert]")
    found = []
    for number, model in enumerate(models.values() if isinstance(models, Mapping) else models, 1):
        weights = model.state_dict() if isinstance(model, nn.Module) else model
        if not isinstance(weights, Mapping):
            raise ManyoneError(f"expert {number} is a {type(model).__name__}, not a module or a state dict")
        found.append(weights)
    return found


def work_dtype(value: Tensor) -> torch.dtype:
    """Half-precision differences would lose most of their bits, so float32 at least."""
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def task_vector(base: Weights, expert: Weights) -> dict[str, Tensor]:
    """tau = expert - base, float32, floating-point tensors only."""
    return {
        name: expert[name].detach().to(torch.float32) - value.detach().to(torch.float32)
        for name, value in _items(base)
        if value.dtype.is_floating_point
    }


def task_vectors(base: Weights, experts: Sequence[Weights]) -> list[dict[str, Tensor]]:
    """The task vectors of all experts after :func:`check_compatible`."""
    check_compatible(base, experts)
    return [task_vector(base, expert) for expert in experts]


def apply_task_vector(base: Weights, tau: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """theta_0 + scale * tau in the base's dtype; tensors without an entry in ``tau`` are copied from the base."""
    result = {}
    for name, value in _items(base):
        value = value.detach()
        if name in tau:
            result[name] = (value.float() + scale * tau[name].to(value.device)).to(value.dtype)
        else:
            result[name] = value.clone()
    unknown = [name for name in tau if name not in result]
    if unknown:
        raise ManyoneError(f"task vector has tensor {unknown[0]!r}, which the base does not have")
    return result


def _items(weights: Weights) -> Iterable[tuple[str, Tensor]]:
    if isinstance(weights, Checkpoint):
        return ((name, weights.read(name)) for name in weights)
    return weights.items()
