"""Attention whose scores know the relation of two agents, under a graph that carries gradients (CommFormer, section 4).

    s_ij = <q_i + ra(t_ij), k_j + rb(t_ij)> * scale,   [ra(t); rb(t)] = Wr E(t) + br,   t_ij = 1 if j sends to i else 0
    w_ij = softmax over the visible j of s_ij, times m_ij;   out_i = Wo sum_j w_ij v_j + bo
m is the graph with self-loops. There are two relation types only, so the vectors of pairs are never built: with
q' = q + ra(1), k' = k + rb(1), da = ra(0) - ra(1) and db = rb(0) - rb(1),
    s_ij = <q'_i, k'_j> + [t_ij = 0] (<q'_i, db> + <k'_j, da> + <da, db>),
which is one matrix product, and two columns more in the projections. ra(1) and rb(1) go into the projections' biases.
Public: ``Visibility``, ``agent_visibility``, ``decoder_visibility``, ``RelationAttention``.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Scale = Literal["single", "official"]
Relation = Literal["receiver", "transposed"]
DecoderMask = Literal["aligned", "official"]
Diagonal = Literal["excluded", "official"]


class Visibility(NamedTuple):
    """What each position sees: ``factor`` [B or 1, n, n], zero where it sees nothing, with the graph's and the gate's
    gradient; ``bias``, -inf there and 0 elsewhere; ``apart`` [n, n], one where the relation type is 0."""

    factor: Tensor
    bias: Tensor
    apart: Tensor


def _visibility(factor: Tensor, apart: Tensor) -> Visibility:
    hidden = factor.detach() == 0
    bias = torch.zeros_like(factor, requires_grad=False).masked_fill_(hidden, -torch.inf)
    return Visibility(factor, bias, apart)


def agent_visibility(
    graph: Tensor, gate: Tensor | None, *, diagonal: Diagonal = "excluded", relation: Relation = "receiver"
) -> Visibility:
    """Of a graph [n, n] and an open/closed gate (None: open), with a self-loop for every agent.

    ``gate``: of receivers [B, n], or of pairs [B, n or 1, n or 1] (row = receiver).
    ``diagonal="official"`` adds the loop to whatever the graph has there. The relation type is an integer look-up in
    the graph, so it carries no gradient; ``relation="transposed"`` looks up (j, i), as the published code does.
    """
    eye = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    others = (graph * (1 - eye)).unsqueeze(0)
    loops = eye if diagonal == "excluded" else eye + graph * eye
    pairs = gate.unsqueeze(-1) if gate is not None and gate.dim() == 2 else gate
    factor = (others if pairs is None else others * pairs) + loops
    apart = (graph.detach() < 1).to(graph.dtype)
    if diagonal == "excluded":
        apart = torch.maximum(apart, eye)
    return _visibility(factor, apart.T if relation == "transposed" else apart)


def decoder_visibility(
    seen: Visibility, mask: DecoderMask = "aligned", layer: int = 0
) -> tuple[Visibility, Visibility]:
    """What the positions of the action sequence see, in self and in cross attention, from what agents see.

    In the first block position 0 is the start, position p >= 1 holds the action of agent p - 1. ``aligned``: that
    position belongs to its agent, which decides what it sees in self attention; in cross attention agent i sees the
    actions of the earlier agents that it hears. Position 0 is always seen. A block's output at position p is built on
    agent p's representation: in later blocks (``layer`` >= 1) position p is agent p's, and agents' own causal mask is
    the aligned one. ``official``: agents' own mask in every block; since everyone sees itself, agent i then reads the
    action of agent i - 1 whatever the graph says.
    """
    factor, _, apart = seen
    if mask == "official" or layer:
        both = _visibility(factor.tril(), apart)
        return both, both
    own = F.pad(factor[:, :-1, :-1], (1, 0, 1, 0), value=1.0).tril()
    cross = F.pad(factor[:, :, :-1], (1, 0), value=1.0).tril()
    return (
        _visibility(own, F.pad(apart[:-1, :-1], (1, 0, 1, 0), value=1.0)),
        _visibility(cross, F.pad(apart[:, :-1], (1, 0), value=1.0)),
    )


class Relations(NamedTuple):
    """Relation vectors of one attention, each [heads, head width]: of type 1, and how type 0 differs from it."""

    query: Tensor
    key: Tensor
    query_step: Tensor
    key_step: Tensor


class RelationAttention(nn.Module):
    """Multi-head attention between agents; ``related=False`` gives plain attention (MAT), without relation vectors."""

    def __init__(self, width: int, heads: int, *, related: bool = True, scale: Scale = "single") -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.relation = nn.Linear(width, 2 * width) if related else None
        head_width = width // heads
        # the published code scales the queries and then the scores again where there are relations
        self.scale = 1 / head_width if related and scale == "official" else 1 / math.sqrt(head_width)
        for layer in (self.project, self.out, self.relation):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.project, self.out):
            nn.init.zeros_(layer.bias)

    def relations(self, edges: Tensor | None) -> Relations | None:
        """Relation vectors from the embeddings of the two types [2, width]."""
        if self.relation is None or edges is None:
            return None
        ra, rb = self.relation(edges).view(2, 2, self.heads, -1).unbind(1)
        return Relations(ra[1], rb[1], ra[0] - ra[1], rb[0] - rb[1])

    def projection(self, edges: Tensor | None) -> tuple[Tensor, Tensor, Relations | None]:
        """(weight [3 width, width], bias [3 width], relations): queries and keys come out with type 1 added."""
        found = self.relations(edges)
        if found is None:
            return self.project.weight, self.project.bias, None
        shift = torch.cat([found.query.flatten(), found.key.flatten(), found.key.new_zeros(self.width)])
        return self.project.weight, self.project.bias + shift, found

    def forward(self, query: Tensor, source: Tensor, seen: Visibility, edges: Tensor | None) -> Tensor:
        """[B, q, width] for queries from ``query`` [B, q, width], keys and values from ``source`` [B, n, width];
        ``seen`` has the rows of the queries."""
        weight, bias, relations = self.projection(edges)
        d = self.width
        if query is source:
            q, k, v = F.linear(query, weight, bias).split(d, -1)
        else:
            q = F.linear(query, weight[:d], bias[:d])
            k, v = F.linear(source, weight[d:], bias[d:]).split(d, -1)
        return self.out(self.mix(q, k, v, seen, relations))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, seen: Visibility, relations: Relations | None) -> Tensor:
        """Weighted values [B, q, width] before the last projection."""
        batch, n, d = q.shape
        heads = self.heads
        q, k, v = (self._split(x) for x in (q, k, v))
        bias, factor = seen.bias, seen.factor
        if relations is not None:
            step_q, step_k = relations.query_step.unsqueeze(-1), relations.key_step.unsqueeze(-1)
            if heads > 1:
                step_q, step_k = step_q.repeat(batch, 1, 1), step_k.repeat(batch, 1, 1)
            constant = step_q.transpose(-1, -2) @ step_k
            extra = q @ step_k + (k @ step_q + constant).transpose(-1, -2)
            bias = self._per_head(bias, batch) + self.scale * seen.apart * extra
        else:
            bias = self._per_head(bias, batch).expand(batch * heads, -1, -1)
        scores = torch.baddbmm(bias, q, k.transpose(-1, -2), alpha=self.scale)
        weights = scores.softmax(-1) * self._per_head(factor, batch)
        mixed = torch.bmm(weights, v)
        if heads == 1:
            return mixed
        return mixed.view(batch, heads, n, d // heads).transpose(1, 2).reshape(batch, n, d)

    def _split(self, x: Tensor) -> Tensor:
        """[B, n, d] as [B heads, n, d / heads]."""
        if self.heads == 1:
            return x
        batch, n = x.shape[:2]
        return x.view(batch, n, self.heads, -1).transpose(1, 2).reshape(batch * self.heads, n, -1)

    def _per_head(self, x: Tensor, batch: int) -> Tensor:
        """[B or 1, n, n] as [B heads or 1, n, n]."""
        return x if self.heads == 1 or x.shape[0] == 1 else x.repeat_interleave(self.heads, 0)
