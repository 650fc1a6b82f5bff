"""Building blocks of a weight-ensembling mixture: which layers it replaces, their stacks, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.moe.mixed_linear import MixedLinear
from manyone.merging.moe.stack import DenseStack, SparseStack, Stack, magnitude_prune
from manyone.merging.roles import matches
from manyone.weights.arithmetic import work_dtype

Weights = Mapping[str, Tensor]


def critical_layers(encoder: nn.Module, critical: str | Sequence[str]) -> dict[str, nn.Module]:
    """Linear (and Conv1D) layers of ``encoder`` that ``critical`` names, in the order of definition."""
    found = {}
    for name, module in encoder.named_modules():
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and name and matches(name, critical):
            parent = encoder.get_submodule(name.rpartition(".")[0])
            if isinstance(parent, nn.MultiheadAttention):
                raise ManyoneError(
                    f"{name!r} belongs to torch's MultiheadAttention, which reads its weights directly: not routable"
                )
            found[name] = module
    if not found:
        raise ManyoneError(f"critical={critical!r} names no linear layer of the encoder; give a role or a pattern")
    return found


def forbid_fused_paths(encoder: nn.Module, parent: str) -> None:
    """torch's fused transformer layer would read theta_0's weights past a mixed layer; its switches are turned off."""
    layer = encoder.get_submodule(parent)
    if isinstance(layer, nn.TransformerEncoderLayer):
        layer.activation_relu_or_gelu = 0
        for module in encoder.modules():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False


def store(weight: Tensor, strategy: str) -> Stack:
    """The stack [N + 1, out, in] kept as ``strategy`` wants it."""
    return SparseStack(weight) if strategy == "sparse" else DenseStack(weight)


def stack_of(base: Weights, experts: Sequence[Weights], name: str, prune_ratio: float) -> Tensor:
    """[theta_0; tau_1; ..; tau_N] of one tensor, pruned, in the base's dtype (differences taken in float32)."""
    zero = base[name].detach().to(work_dtype(base[name]))
    rows = [zero.clone()]
    for expert in experts:
        tau = expert[name].detach().to(zero) - zero
        rows.append(magnitude_prune(tau, prune_ratio) if prune_ratio > 0 else tau)
    return torch.stack(rows).to(base[name].dtype)


def task_arithmetic_of(base: Weights, experts: Sequence[Weights], name: str, scale: float) -> Tensor:
    """theta_0 + scale * sum_i tau_i of one tensor."""
    zero = base[name].detach().to(work_dtype(base[name]))
    total = torch.zeros_like(zero)
    for expert in experts:
        total += expert[name].detach().to(zero) - zero
    return zero + scale * total


def plain_layer(layer: MixedLinear, r: Tensor) -> nn.Module:
    """An ordinary ``nn.Linear`` or Hugging Face ``Conv1D`` with the merged weights."""
    weight, bias = layer.merged(r)
    if layer.conv1d:
        from transformers.pytorch_utils import Conv1D

        plain: Any = Conv1D(layer.out_features, layer.in_features)
    else:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias, requires_grad=False)
    return plain
