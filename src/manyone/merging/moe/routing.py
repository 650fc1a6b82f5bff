"""Routers of weight-ensembling mixtures and the state of one forward pass through them.

A router maps the tokens u_1..u_L of a block's first critical layer to one weight per expert,
r = 1/L sum_l G(u_l) in R^N with no softmax (WEMoE, arXiv 2402.00433, eq. 4-6):

    0 layers  G(u) = b                        1 layer   G(u) = W2 u + b2
    2 layers  G(u) = W2 ReLU(W1 u + b1) + b2

with W ~ N(0, 0.01^2), b1 = 0 and b = b2 = scale, so that a new model starts as task arithmetic.

The mean over tokens knows the later ones. Routing by the prompt (our extension, for causal language models) takes it
over the prompt alone, once for a sequence: what comes after the prompt depends on nothing that comes later.
Public names: :class:`Router`, :func:`position_code`, :class:`Pass`, :class:`Prompts`, :class:`PassState`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.moe.stack import magnitude_prune

POSITION_WIDTH = 8


def position_code(index: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[sin(l / 10000^(2j/8))]_j followed by [cos(...)]_j for j = 0..3 and block index l: shape [8]."""
    half = POSITION_WIDTH // 2
    angles = [index * 10000.0 ** (-2 * j / POSITION_WIDTH) for j in range(half)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=dtype)


class Router(nn.Module):
    """The gate G and its mean over tokens. ``width`` is the width of a token (plus 8 with a position code)."""

    def __init__(
        self,
        width: int,
        experts: int,
        *,
        layers: int,
        scale: float,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.bias = nn.Parameter(torch.full((experts,), float(scale), dtype=dtype))
        if layers >= 1:
            self.weight = nn.Parameter(torch.randn(experts, width, generator=generator, dtype=dtype) * 0.01)
        if layers == 2:
            self.hidden_weight = nn.Parameter(torch.randn(width, width, generator=generator, dtype=dtype) * 0.01)
            self.hidden_bias = nn.Parameter(torch.zeros(width, dtype=dtype))

    def forward(self, tokens: Tensor, mask: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """Tokens [B, L, h] (mask [B, L], 1 = a real token) -> [B, N], or [1, N] for a router without layers.

        The last map is affine, so it is applied once to the token mean; the result is the mean of the gated tokens.
        """
        if self.layers == 0:
            return self.bias.unsqueeze(0)
        tokens = tokens.to(self.weight.dtype)
        if code is not None:
            tokens = torch.cat([code.to(tokens).expand(*tokens.shape[:-1], -1), tokens], dim=-1)
        if self.layers == 2:
            tokens = F.relu(F.linear(tokens, self.hidden_weight, self.hidden_bias), inplace=True)
        if mask is None:
            mean = tokens.mean(1)
        else:
            weight = mask.to(tokens.dtype)
            mean = torch.bmm(weight.unsqueeze(1), tokens).squeeze(1) / weight.sum(1, keepdim=True).clamp_min(1)
        return F.linear(mean, self.weight, self.bias)

    @torch.no_grad()
    def prune(self, ratio: float) -> None:
        """Zeroes the entries of the weight matrices with magnitude up to their ``ratio``-quantile."""
        for name, value in self.named_parameters():
            if value.ndim == 2 and name.endswith("weight"):
                value.copy_(magnitude_prune(value, ratio))


@dataclass
class Pass:
    """What the critical layers of one model share during one forward pass."""

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    samples: int | None = None
    routing: dict[int, Tensor] = field(default_factory=dict)
    visited: dict[int, set[str]] = field(default_factory=dict)
    open: bool = False  # inside the model's own forward

    def mask_for(self, block: str, tokens: Tensor) -> Tensor | None:
        """The padding mask [B, L] that belongs to ``tokens`` [B, L, h] of ``block``, if there is one."""
        side = "decoder" if "decoder" in block.split(".") and "decoder" in self.masks else "encoder"
        mask = self.masks.get(side)
        if mask is None or ("decoder" in block.split(".") and side == "encoder" and "encoder-only" not in self.masks):
            return None
        if mask.shape[1] > tokens.shape[1]:  # cached generation feeds the newest tokens only
            mask = mask[:, -tokens.shape[1] :]
        if mask.shape != tokens.shape[:2]:
            raise ManyoneError(
                f"block {block!r}: the attention mask is {tuple(mask.shape)} but the router sees tokens of shape "
                f"{tuple(tokens.shape[:2])}; give a mask with one entry per token"
            )
        return mask


@dataclass
class Prompts:
    """A batch of sequences: the routing weights [B, N] of every block, from the prompts alone, and what they merge.

    A pass over the sequences has ``rows[block]`` rows: the prompts, each repeated in place where a search follows
    several continuations of it. They share their prompt's weights, so that reordering them changes nothing.
    ``merged`` holds merged weights by layer while no gradient is asked for.
    """

    inputs: Any
    count: int
    length: int
    encoder_decoder: bool
    routing: dict[int, Tensor] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    merged: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    samples: int | None = None  # rows of the pass that runs now

    def first_tokens(self, block: str, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tokens [B, L, h] that ``block`` sees of the prompts in its first pass, and their padding mask."""
        after = self.encoder_decoder and "decoder" in block.split(".")
        copies, left = divmod(tokens.shape[0], self.count)
        if left or (not after and tokens.shape[1] != self.length):
            raise ManyoneError(
                f"routing='prompt': the first pass must be over the whole prompts, [{self.count}, {self.length}], but "
                f"block {block!r} sees {list(tokens.shape[:2])} tokens: assisted generation and prefill in pieces are "
                "not possible, and what has run before cannot be continued"
            )
        groups = tokens.unflatten(0, (self.count, copies))
        first = groups[:, 0]
        if copies > 1 and not alike(groups, first.unsqueeze(1).expand_as(groups)):
            raise ManyoneError("routing='prompt': the copies of a prompt must be neighbours in the batch")
        masks = masks_of(self.inputs)
        if self.encoder_decoder:
            masks.pop("encoder-only", None)
        return first, Pass(masks=masks).mask_for(block, first)


def alike(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    """Whether two tensors are equal but for rounding; what is not finite is not compared.

    ``tolerance`` is on the norm of the difference, relative to that of ``b``; 50 times that in half precision.
    """
    loose = a.dtype in (torch.float16, torch.bfloat16)
    a, b = a.detach().double(), b.detach().double()
    difference, size = (a - b).norm(), b.norm()
    return not bool(torch.isfinite(size)) or bool(difference <= (50 if loose else 1) * tolerance * size)


class PassState:
    """Per-thread access to the current :class:`Pass`, the :class:`Prompts`, the routing mode and given weights.

    One object is shared by a model and its critical layers; copies of the model get copies of it.
    """

    def __init__(self, routing: str = "sample", strategy: str = "auto") -> None:
        self.routing, self.strategy = routing, strategy
        self.dressed = False  # whether a pass has ever had padding masks or given weights
        self._local = threading.local()

    @property
    def current(self) -> Pass:
        """This thread's pass; one without masks when a layer runs outside the model's own forward."""
        if not hasattr(self._local, "value"):
            self._local.value = Pass()
        return self._local.value

    @property
    def given(self) -> Tensor | None:
        """This thread's given routing weights."""
        return getattr(self._local, "given", None)

    @given.setter
    def given(self, value: Tensor | None) -> None:
        self.dressed = self.dressed or value is not None
        self._local.given = value

    @property
    def prompts(self) -> Prompts | None:
        """This thread's sequences, where routing is by the prompt."""
        return getattr(self._local, "prompts", None)

    @property
    def seen(self) -> dict[str, list[Tensor]] | None:
        """Where this thread's critical layers put down what they see, while :meth:`recording`."""
        return getattr(self._local, "seen", None)

    @contextmanager
    def new_pass(self, masks: Mapping[str, Tensor], samples: int | None = None) -> Iterator[Pass]:
        """A fresh pass for this thread."""
        self.dressed = self.dressed or bool(masks)
        self._local.value = Pass(masks=masks, samples=samples, open=True)
        try:
            yield self._local.value
        finally:
            self._local.value = Pass()

    @contextmanager
    def sequences(self, prompts: Prompts) -> Iterator[Prompts]:
        """Routing is by ``prompts`` inside."""
        before = self.prompts
        self._local.prompts = prompts
        try:
            yield prompts
        finally:
            self._local.prompts = before

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Tensor]]]:
        """The inputs of this thread's critical layers, by layer."""
        self._local.seen = {}
        try:
            yield self._local.seen
        finally:
            self._local.seen = None

    def __getstate__(self) -> dict[str, Any]:
        return {"routing": self.routing, "strategy": self.strategy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def masks_of(inputs: Any) -> dict[str, Tensor]:
    """The padding masks in keyword inputs: ``attention_mask`` (encoder) and ``decoder_attention_mask`` (decoder)."""
    if not isinstance(inputs, Mapping):
        return {}
    masks = {}
    encoder, decoder = inputs.get("attention_mask"), inputs.get("decoder_attention_mask")
    if encoder is not None and encoder.ndim == 2:
        masks["encoder"] = encoder
        if not any(key.startswith("decoder_") for key in inputs):
            masks["encoder-only"] = encoder
    if decoder is not None and decoder.ndim == 2:
        masks["decoder"] = decoder
    return masks
