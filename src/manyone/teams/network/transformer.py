"""The parts of CommFormer and MAT: encoder with critic, decoder over the sequence of actions, heads of the agents.

    encoder: x = LN(GELU(Linear(LN(o))));  x = LN(x + Drop(Attn(x, x, x)));  x = LN(x + Drop(Lin(Drop(ReLU(Lin(x))))))
    critic:  V_i = Linear(LN(GELU(Linear(x_i))))
    decoder: x = LN1(x + Attn1(x, x, x));  y = LN2(rep + Attn2(rep, x, x));  y = LN3(y + Lin(GELU(Lin(y))))
Queries and residual of the decoder's cross attention come from the encoder, as in MAT (Wen et al., arXiv 2205.14953).
Public: ``Encoded``, ``Encoder``, ``Critic``, ``ActionEmbedding``, ``DecoderBlock``, ``SharedHead``, ``AgentHeads``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.teams.network.attention import RelationAttention, Scale, Visibility

ACTIVATED, LAST = math.sqrt(2.0), 0.01


class Encoded(NamedTuple):
    """The encoder's side of a forward pass. ``gate`` [B, n]: who receives; ``passing`` [B, n or 1, n or 1]: what gates,
    a dynamic graph and absences let through besides ``graph``; None where that is everything."""

    rep: Tensor
    values: Tensor
    seen: Visibility
    edges: Tensor | None
    open_probability: Tensor | None
    send_probability: Tensor | None
    gate: Tensor | None
    passing: Tensor | None
    graph: Tensor


def linear(inputs: int, outputs: int, gain: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and no bias to start with."""
    made = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(made.weight, gain)
    if bias:
        nn.init.zeros_(made.bias)
    return made


class EncoderBlock(nn.Module):
    """Attention and feed-forward with the norm after the sum; dropout after both and inside the feed-forward."""

    def __init__(self, width: int, heads: int, *, related: bool, scale: Scale, dropout: float) -> None:
        super().__init__()
        self.attention = RelationAttention(width, heads, related=related, scale=scale)
        self.attention_norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout
        for layer in (self.expand, self.contract):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, seen: Visibility, edges: Tensor | None, drop: bool, source: Tensor | None = None
    ) -> Tensor:
        """[B, n, width]; ``drop``: whether dropout acts; ``source``: what is attended to where that is not ``x``."""
        attended = self.attention(x, x if source is None else source, seen, edges)
        x = self.attention_norm(x + self._drop(attended, drop))
        hidden = self._drop(F.relu(self.expand(x)), drop)
        return self.norm(x + self._drop(self.contract(hidden), drop))

    def _drop(self, x: Tensor, drop: bool) -> Tensor:
        return F.dropout(x, self.dropout) if drop and self.dropout else x


class Encoder(nn.Module):
    """Observations to representations that hold what was received: ``embed``, then the blocks."""

    def __init__(
        self, inputs: int, width: int, layers: int, heads: int, *, related: bool, scale: Scale, dropout: float
    ) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(inputs)
        self.input = linear(inputs, width, ACTIVATED)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, related=related, scale=scale, dropout=dropout) for _ in range(layers)
        )

    def embed(self, observations: Tensor) -> Tensor:
        """Each agent's own embedding [B, n, width], before any message."""
        return self.norm(F.gelu(self.input(self.input_norm(observations))))

    def forward(self, x: Tensor, seen: Visibility, edges: Tensor | None, drop: bool) -> Tensor:
        """Representations [B, n, width] of embeddings [B, n, width]."""
        for block in self.blocks:
            x = block(x, seen, edges, drop)
        return x


class Critic(nn.Module):
    """A value for each agent from its representation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.norm = linear(width, width, ACTIVATED), nn.LayerNorm(width)
        self.out = linear(width, 1, LAST)

    def forward(self, rep: Tensor) -> Tensor:
        """[B, n]."""
        return self.out(self.norm(F.gelu(self.hidden(rep)))).squeeze(-1)


class ActionEmbedding(nn.Module):
    """x = LN(GELU(W token)): a one-hot of the start flag and the A actions; or (the start being zeros) a continuous
    action itself, or ones at the choices of an action's digits."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.input = linear(tokens, width, ACTIVATED, bias=False)
        self.norm = nn.LayerNorm(width)

    def table(self) -> Tensor:
        """Embeddings of all one-hot tokens [tokens, width]."""
        return self.norm(F.gelu(self.input.weight.T))

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] of tokens given as vectors [..., tokens]."""
        return self.norm(F.gelu(self.input(tokens)))


class DecoderBlock(nn.Module):
    """Self attention over earlier actions, then the encoder's representations look actions up, then feed-forward."""

    def __init__(self, width: int, heads: int, *, related: bool, scale: Scale) -> None:
        super().__init__()
        self.own = RelationAttention(width, heads, related=related, scale=scale)
        self.cross = RelationAttention(width, heads, related=related, scale=scale)
        self.own_norm, self.cross_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = linear(width, width, ACTIVATED), linear(width, width, LAST)

    def forward(self, x: Tensor, rep: Tensor, own: Visibility, cross: Visibility, edges: Tensor | None) -> Tensor:
        """[B, n, width]."""
        return self._after_own(x + self.own(x, x, own, edges), rep, cross, edges)

    def from_table(
        self, table: Tensor, tokens: Tensor, rep: Tensor, own: Visibility, cross: Visibility, edges: Tensor | None
    ) -> Tensor:
        """The same where x is ``table[tokens]``, [T, width] and [B, n]: projections are made for the table's rows."""
        attention, d = self.own, table.shape[-1]
        weight, bias, relations = attention.projection(edges)
        query, key, value = F.linear(table, weight, bias).split(d, -1)
        if attention.heads == 1:  # then values can pass the output projection there as well
            table, value = table + attention.out.bias, value @ attention.out.weight.T
        x, query, key, value = F.embedding(tokens, torch.cat([table, query, key, value], -1)).split(d, -1)
        mixed = attention.mix(query, key, value, own, relations)
        return self._after_own(x + (mixed if attention.heads == 1 else attention.out(mixed)), rep, cross, edges)

    def _after_own(self, x: Tensor, rep: Tensor, cross: Visibility, edges: Tensor | None) -> Tensor:
        return self.look_up(self.own_norm(x), rep, cross, edges)

    def look_up(self, x: Tensor, rep: Tensor, cross: Visibility, edges: Tensor | None) -> Tensor:
        """The block from the first norm on: what agents with ``rep`` read of the normed sequence ``x``."""
        y = self.cross_norm(rep + self.cross(rep, x, cross, edges))
        return self.norm(y + self.contract(F.gelu(self.expand(y))))


class SharedHead(nn.Module):
    """One head for all: (LN - Linear - GELU) twice, LN, Linear."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.hidden = nn.ModuleList(linear(width, width, ACTIVATED) for _ in range(2))
        self.out = linear(width, outputs, LAST)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, outputs] of [B, n, width]."""
        for norm, layer in zip(self.norms, self.hidden, strict=False):
            x = F.gelu(layer(norm(x)))
        return self.out(self.norms[-1](x))


class AgentHeads(nn.Module):
    """A head for each agent, LN - Linear - GELU - LN - Linear: stacked weights, one batched product for all."""

    def __init__(self, agents: int, width: int, outputs: int) -> None:
        super().__init__()
        self.width = width
        self.norm_weight, self.norm_bias = _norms(agents, width)
        self.hidden_weight, self.hidden_bias = _stacked(agents, width, width, ACTIVATED)
        self.out_norm_weight, self.out_norm_bias = _norms(agents, width)
        self.out_weight, self.out_bias = _stacked(agents, width, outputs, LAST)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, outputs] of [B, n, width]; weights are [n, in, out]."""
        (hidden_weight, hidden_bias), (out_weight, out_bias) = self.folded()
        x = F.layer_norm(x, (self.width,)).transpose(0, 1)
        x = F.layer_norm(F.gelu(torch.baddbmm(hidden_bias, x, hidden_weight)), (self.width,))
        return torch.baddbmm(out_bias, x, out_weight).transpose(0, 1)

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """(weight [n, in, out], bias [n, 1, out]) of both layers, the norms before them folded in."""
        layers = (
            (self.norm_weight, self.norm_bias, self.hidden_weight, self.hidden_bias),
            (self.out_norm_weight, self.out_norm_bias, self.out_weight, self.out_bias),
        )
        return [
            (scale.unsqueeze(-1) * weight, torch.baddbmm(bias.unsqueeze(1), shift.unsqueeze(1), weight))
            for scale, shift, weight, bias in layers
        ]


def _norms(agents: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.ones(agents, width)), nn.Parameter(torch.zeros(agents, width))


def _stacked(agents: int, inputs: int, outputs: int, gain: float) -> tuple[nn.Parameter, nn.Parameter]:
    weight = torch.empty(agents, inputs, outputs)
    for one in weight:
        nn.init.orthogonal_(one, gain)
    return nn.Parameter(weight), nn.Parameter(torch.zeros(agents, outputs))
