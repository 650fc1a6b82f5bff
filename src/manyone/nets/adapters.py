"""Small trained parts beside the frozen weights of a decision transformer: low-rank updates, bottlenecks, soft tokens.

They are further entries of the weights that :meth:`manyone.nets.decision.DecisionTransformer.run` takes, each of its
own shape or with a leading member axis; a network without them computes what it always did, bit by bit.

    LoRA         (W + B A) x + b                     arXiv 2106.09685, eq. 3 with alpha = r     low_rank, merged
    adapter      h + U relu(D h + d) + u             arXiv 1902.00751, section 2.1              bottleneck
    soft prompt  vectors in place of a prompt's embeddings    arXiv 2104.08691                  :data:`SOFT`

LoRA is on the attention's maps qkv and proj; an adapter follows the attention and the MLP of each block, before their
sum with the residual stream. B and U begin at zero, so that the network begins as it was.
Public names: these functions, :func:`lora_parts`, :func:`adapter_parts`, :func:`block_parts`, :data:`SOFT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.nets.members import linear, product
from manyone.randomness import generator_for

SOFT = "embed_prompt.tokens"
"""Name of the soft tokens among the weights, [L, E] or [m, L, E]: a prompt's are L = 3 K* long."""
_ADAPTED = ("attn", "mlp")
_LORA = ("attn.qkv", "attn.proj")


class BlockParts(NamedTuple):
    """The parts beside one block's weights; None where there are none."""

    qkv: tuple[Tensor, Tensor] | None
    """A [r, E] and B [3 E, r], or with a leading member axis."""
    proj: tuple[Tensor, Tensor] | None
    attn: tuple[Tensor, Tensor, Tensor, Tensor] | None
    """D [H, E], d [H], U [E, H], u [E], or with a leading member axis."""
    mlp: tuple[Tensor, Tensor, Tensor, Tensor] | None


def block_parts(weights: Mapping[str, Tensor], block: int) -> BlockParts:
    """The parts among ``weights`` that belong to block number ``block``."""
    first = f"blocks.{block}."
    qkv, proj = (_pair(weights, f"{first}{name}") for name in _LORA)
    attn, mlp = (_bottleneck(weights, f"{first}{name}.adapter") for name in _ADAPTED)
    return BlockParts(qkv, proj, attn, mlp)


def low_rank(x: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    """B A x for x [M, ..., I]."""
    return product(product(x, pair[0]), pair[1])


def bottleneck(h: Tensor, parts: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """h + U relu(D h + d) + u for h [M, ..., E]."""
    down, down_bias, up, up_bias = parts
    return h + linear(linear(h, down, down_bias).relu_(), up, up_bias)


def lora_parts(width: int, layers: int, rank: int, seed: int, members: int) -> dict[str, Tensor]:
    """A ~ N(0, 1 / E) and B = 0 for all blocks of a network, the same for each of the ``members`` [m, ...]."""
    parts = {}
    for block in range(layers):
        for name, outputs in zip(_LORA, (3 * width, width)):
            key = f"blocks.{block}.{name}.lora_"
            first = torch.randn(rank, width, generator=generator_for(seed, "lora", key)) * width**-0.5
            parts[f"{key}a"] = first.expand(members, -1, -1).clone()
            parts[f"{key}b"] = torch.zeros(members, outputs, rank)
    return parts


def adapter_parts(width: int, layers: int, hidden: int, seed: int, members: int) -> dict[str, Tensor]:
    """D uniform within E^-1/2, the rest 0, for all blocks, the same for each of the ``members`` [m, ...]."""
    parts = {}
    for block in range(layers):
        for name in _ADAPTED:
            key = f"blocks.{block}.{name}.adapter."
            down = torch.empty(hidden, width)
            down.uniform_(-(width**-0.5), width**-0.5, generator=generator_for(seed, "adapter", key))
            parts[f"{key}down.weight"] = down.expand(members, -1, -1).clone()
            parts[f"{key}down.bias"] = torch.zeros(members, hidden)
            parts[f"{key}up.weight"] = torch.zeros(members, width, hidden)
            parts[f"{key}up.bias"] = torch.zeros(members, width)
    return parts


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with W + B A in place of each W that has a pair beside it: no pair is left."""
    found = dict(weights)
    for key in [name for name in weights if name.endswith(".lora_a")]:
        module = key.removesuffix(".lora_a")
        found[f"{module}.weight"] = weights[f"{module}.weight"] + weights[f"{module}.lora_b"] @ weights[key]
        del found[key], found[f"{module}.lora_b"]
    return found


def _pair(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    first = weights.get(f"{name}.lora_a")
    return None if first is None else (first, weights[f"{name}.lora_b"])


def _bottleneck(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    down = weights.get(f"{name}.down.weight")
    if down is None:
        return None
    return down, weights[f"{name}.down.bias"], weights[f"{name}.up.weight"], weights[f"{name}.up.bias"]
