"""Acting agent after agent, each seeing the actions of those before it: three ways to draw the same actions.

``cached``: causality makes keys and values of earlier actions final, so each block keeps them and agent i costs one
query. Such a step is small, so that what counts is the number of operations: norms' scales, output projections, the
relation vectors and the scale of the scores are folded into neighbouring weights once per call, the first block's
projections of all possible actions are a table, and masks, noise and the queries of the cross attention are prepared
for all agents at once. ``full``: the whole decoder once per agent, for tests. ``fixed-point``: with each agent's noise
drawn beforehand, one parallel pass from a guess of all actions, again until nothing changes; agent i is right after i
passes at the latest, and the fixed point is the sequential draw. It suits small batches of many agents.
Public: ``Decoder``, ``Cached``, ``full``, ``fixed_point``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.envs.teams.types import TeamSpec
from manyone.teams.network.attention import RelationAttention, Visibility
from manyone.teams.network.distributions import as_tokens, choose
from manyone.teams.network.transformer import ActionEmbedding, AgentHeads, DecoderBlock, SharedHead

Map = Callable[[Tensor], Tensor]


def full(actions: Tensor, outputs_of: Map, choose: Map) -> tuple[Tensor, Tensor]:
    """(actions, outputs): one pass of the whole decoder for each agent; ``actions`` [B, n, ...] begins as zeros."""
    for i in range(actions.shape[1]):
        outputs = outputs_of(actions)
        actions[:, i] = choose(outputs)[:, i]
    return actions, outputs


def fixed_point(actions: Tensor, outputs_of: Map, choose: Map) -> tuple[Tensor, Tensor]:
    """The same by parallel passes until the actions repeat themselves, at most one per agent and one to see it."""
    for _ in range(actions.shape[1] + 1):
        outputs = outputs_of(actions)
        found = choose(outputs)
        settled = torch.equal(found, actions)
        actions = found
        if settled:
            break
    return actions, outputs


class Decoder(NamedTuple):
    """What acts once observations are encoded; ``edges``: embeddings of the relation types; ``std``: of continuous
    actions."""

    spec: TeamSpec
    embed: ActionEmbedding
    blocks: Sequence[DecoderBlock]
    heads: SharedHead | AgentHeads
    edges: Tensor | None
    std: Tensor | None


class _Fold(NamedTuple):
    """Weights of one attention with what surrounds them folded in: rows [query | key | value] of x @ weight + bias.

    Queries carry the scale; queries and keys the vectors of relation type 1. A score of type 0 gets the query's and the
    key's ``term`` besides, each a linear map to [heads]. With one head values have passed the output projection.
    """

    weight: Tensor
    bias: Tensor
    query_term: tuple[Tensor, Tensor]
    key_term: tuple[Tensor, Tensor]
    query_step: Tensor
    key_step: Tensor


def _fold(attention: RelationAttention, edges: Tensor | None) -> _Fold:
    weight, bias, relations = attention.projection(edges)
    d, heads, scale = attention.width, attention.heads, attention.scale
    query, key, value = weight.split(d)
    query_bias, key_bias, value_bias = bias.split(d)
    query, query_bias = query * scale, query_bias * scale
    if heads == 1:
        value, value_bias = attention.out.weight @ value, attention.out.weight @ value_bias
    weight, bias = torch.cat([query, key, value]), torch.cat([query_bias, key_bias, value_bias])
    if relations is None:
        none = weight.new_zeros(0, d), weight.new_zeros(0)
        return _Fold(weight, bias, none, none, weight.new_zeros(heads, 0), weight.new_zeros(0))
    query_step, key_step = relations.query_step * scale, relations.key_step

    def term(step: Tensor, matrix: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.bmm(step.unsqueeze(1), matrix.reshape(heads, -1, d)).squeeze(1)
        return rows, (step * vector.view(heads, -1)).sum(-1)

    rows, constant = term(query_step, key, key_bias)
    key_term = rows, constant + (query_step * key_step).sum(-1)
    return _Fold(weight, bias, term(key_step, query, query_bias), key_term, query_step, key_step.flatten())


class _Memory:
    """Keys and values of the positions so far, and how a position looks at them.

    ``general``: any relation type and weight between any two positions, at the cost of some operations a step.
    Otherwise the graph is 0/1 and only position 0 and, where ``own``, the position itself are of relation type 0: the
    first is folded into position 0's key and the mask, the second is one term.
    """

    def __init__(self, attention: RelationAttention, rows: Tensor, seen: Visibility, general: bool) -> None:
        """``rows`` [n, B, ...]: the columns [key | value | key terms] of all positions, filled as they come."""
        d, self.heads, self.general = attention.width, attention.heads, general
        self.out, self.seen, self.bias = attention.out.weight.T, seen, seen.bias
        by_slot = rows.transpose(0, 1)
        self.values = by_slot[..., d : 2 * d]
        self.keys = by_slot[..., :d].transpose(1, 2) if self.heads == 1 else by_slot[..., :d]
        self.key_terms = by_slot[..., 2 * d :]
        self.weighted = general

    def look(self, p: int, query: Tensor, base: Tensor, query_term: Tensor | None, self_term: Tensor | None) -> Tensor:
        """``base`` [B, d] plus what position ``p`` takes in with ``query`` [B, d]."""
        bias = self.bias[:, p : p + 1, : p + 1]
        if self.heads > 1:
            return self._look_with_heads(p, query, base, query_term, bias)
        if query_term is not None:
            terms = self.key_terms[:, : p + 1, 0].unsqueeze(1) + query_term.unsqueeze(1)
            bias = torch.addcmul(bias, self.seen.apart[p, : p + 1], terms)
        scores = torch.baddbmm(bias, query.unsqueeze(1), self.keys[:, :, : p + 1])
        if self_term is not None:
            scores[:, 0, p].add_(self_term)
        weights = torch.softmax(scores, -1)
        if self.weighted:
            weights = weights * self.seen.factor[:, p : p + 1, : p + 1]
        return torch.baddbmm(base.unsqueeze(1), weights, self.values[:, : p + 1]).squeeze(1)

    def _look_with_heads(self, p: int, query: Tensor, base: Tensor, query_term: Tensor | None, bias: Tensor) -> Tensor:
        batch, d = query.shape
        split = (batch, p + 1, self.heads, d // self.heads)
        scores = (self.keys[:, : p + 1] * query.unsqueeze(1)).view(split).sum(-1)
        scores = scores + bias.transpose(1, 2)
        if query_term is not None:
            terms = self.key_terms[:, : p + 1] + query_term.unsqueeze(1)
            scores = torch.addcmul(scores, self.seen.apart[p, : p + 1].unsqueeze(-1), terms)
        weights = torch.softmax(scores, 1) * self.seen.factor[:, p, : p + 1].unsqueeze(-1)
        mixed = (self.values[:, : p + 1].reshape(split) * weights.unsqueeze(-1)).sum(1)
        return torch.addmm(base, mixed.view(batch, d), self.out)


class _BlockWeights:
    """All of a decoder block that depends on weights alone, ready for single positions."""

    def __init__(self, decoder: Decoder, number: int, general: bool) -> None:
        block, edges = decoder.blocks[number], decoder.edges
        self.block, self.heads, d = block, block.own.heads, block.own.width
        self.general, self.related = general, edges is not None
        own, cross = _fold(block.own, edges), _fold(block.cross, edges)
        self.own, self.cross = own, cross

        # self attention: rows [residual | query | key | value | terms]; residuals carry the output's bias
        weights, biases = [own.weight], [own.bias]
        if general:
            weights += [own.key_term[0], own.query_term[0]]
            biases += [own.key_term[1], own.query_term[1]]
        else:
            weights.append(own.key_term[0] + own.query_term[0])
            biases.append(own.key_term[1] + own.query_term[1])
        weight, bias, self.residual_bias = torch.cat(weights), torch.cat(biases), block.own.out.bias
        self.row_width = d + len(bias)
        self.table = None
        if number == 0 and decoder.spec.numbered:
            table = decoder.embed.table()
            self.table = torch.cat([table + self.residual_bias, F.linear(table, weight, bias)], -1)
        self.own_weight, self.own_bias = weight.T, bias - weight @ self.residual_bias

        # cross attention: its sources are a norm's output, whose scale and shift go into the projection
        norm, weight, bias = block.own_norm, cross.weight[d:], cross.bias[d:]
        if general:
            weight, bias = torch.cat([weight, cross.key_term[0]]), torch.cat([bias, cross.key_term[1]])
        self.cross_weight, self.cross_bias = (weight * norm.weight).T, bias + weight @ norm.bias
        self.query_weight, self.query_bias = cross.weight[:d], cross.bias[:d]

        # feed-forward: the norm before it carries its last bias, so that the sum is one operation
        self.expand_bias = block.expand.bias - block.expand.weight @ block.contract.bias
        self.cross_norm_bias = block.cross_norm.bias + block.contract.bias
        self.expand, self.contract = block.expand.weight.T, block.contract.weight.T


class _Block:
    """One decoder block while agents act one after another."""

    def __init__(self, weights: _BlockWeights, rep: Tensor, views: tuple[Visibility, Visibility]) -> None:
        batch, n, d = rep.shape
        self.weights, self.width = weights, d
        terms = weights.heads if weights.related else 0
        self.rows = rep.new_empty(n, batch, weights.row_width)
        self.own = _Memory(weights.block.own, self.rows[..., 2 * d : 4 * d + terms], views[0], weights.general)
        self.sources = rep.new_empty(n, batch, len(weights.cross_bias))
        self.cross = _Memory(weights.block.cross, self.sources, views[1], weights.general)
        self.queries = F.linear(rep, weights.query_weight, weights.query_bias).unbind(1)
        self.query_terms = None
        if weights.general and weights.related:
            self.query_terms = F.linear(rep, *weights.cross.query_term).unbind(1)
        self.reps = (rep + weights.block.cross.out.bias).unbind(1)

    def step(self, p: int, actions: Tensor | None, x: Tensor | None, norm_bias: Tensor) -> Tensor:
        """Output [B, d] at position ``p``, with ``norm_bias`` as the shift of its last norm.

        The input is the table's row of ``actions`` [B] (None: the start), or ``x`` [B, d] with ``residual_bias``.
        """
        d, w, row = self.width, self.weights, self.rows[p]
        block, alone = w.block, p == 0 and not w.general  # position 0 sees itself alone
        if x is None:
            assert w.table is not None
            if actions is None:
                row.copy_(w.table[0])
            else:
                torch.index_select(w.table[1:], 0, actions, out=row)
            base = row[:, :d]
        else:
            torch.addmm(w.own_bias, x, w.own_weight, out=row[:, d:])
            base = x
        if alone:
            mixed = base + row[:, 3 * d : 4 * d]
            self._start(self.own, w.own, row[:, 2 * d : 3 * d])
        else:
            query_term = row[:, 4 * d + w.heads :] if w.general and w.related else None
            self_term = row[:, 4 * d] if w.related and not w.general else None
            mixed = self.own.look(p, row[:, d : 2 * d], base, query_term, self_term)
        normed = torch.layer_norm(mixed, (d,), None, None, block.own_norm.eps)
        torch.addmm(w.cross_bias, normed, w.cross_weight, out=self.sources[p])
        if alone:
            mixed = self.reps[0] + self.sources[0, :, d:]
            self._start(self.cross, w.cross, self.sources[0, :, :d])
        else:
            query_term = None if self.query_terms is None else self.query_terms[p]
            mixed = self.cross.look(p, self.queries[p], self.reps[p], query_term, None)
        y = torch.layer_norm(mixed, (d,), block.cross_norm.weight, w.cross_norm_bias, block.cross_norm.eps)
        hidden = F.gelu(torch.addmm(w.expand_bias, y, w.expand))
        y = torch.addmm(y, hidden, w.contract)
        return torch.layer_norm(y, (d,), block.norm.weight, norm_bias, block.norm.eps)

    def _start(self, memory: _Memory, fold: _Fold, keys: Tensor) -> None:
        """Makes the keys of position 0 [B, d] those of relation type 0 for all later positions."""
        if not self.weights.related:
            return
        keys.add_(fold.key_step)
        shared = keys[:1] if self.weights.table is not None else keys  # the first block's start is the same everywhere
        first = F.pad((shared @ fold.query_step.T).unsqueeze(-1), (0, memory.bias.shape[-1] - 1))
        memory.bias = memory.bias + first


class _Head:
    """The heads with their norms' scales and shifts folded into the layers after them."""

    def __init__(self, heads: SharedHead | AgentHeads, agents: int) -> None:
        self.shared = isinstance(heads, SharedHead)
        if isinstance(heads, SharedHead):
            norms = cast(list[nn.LayerNorm], list(heads.norms))
            layers = cast(list[nn.Linear], [*heads.hidden, heads.out])
            weights = [(layer.weight * norm.weight).T for layer, norm in zip(layers, norms, strict=True)]
            biases = [layer.bias + layer.weight @ norm.bias for layer, norm in zip(layers, norms, strict=True)]
        else:
            folded = heads.folded()
            weights, biases = [weight for weight, _ in folded], [bias for _, bias in folded]
        self.weights, self.biases = weights, biases
        self.outputs = weights[-1].shape[-1]
        if self.shared:
            self.per_agent = [list(zip(weights, biases, strict=True))] * agents
        else:
            parts = [list(zip(w.unbind(0), b.unbind(0), strict=True)) for w, b in zip(weights, biases, strict=True)]
            self.per_agent = [list(layers) for layers in zip(*parts, strict=True)]

    def features(self, agent: int, x: Tensor) -> Tensor:
        """What the last layer takes, [B, width] of [B, width]."""
        width = x.shape[-1:]
        for weight, bias in self.per_agent[agent][:-1]:
            x = F.gelu(torch.addmm(bias, torch.layer_norm(x, width), weight))
        return torch.layer_norm(x, width)

    def last(self, agent: int) -> Tensor:
        """The last layer's weight [width, outputs]."""
        return self.per_agent[agent][-1][0]

    def noise(self, decoder: Decoder, batch: int, available: Tensor | None, noise: Tensor | None) -> Tensor:
        """What the last layer's product is added to, [n, B or 1, outputs]: bias and noise, -inf if not available."""
        n = len(self.per_agent)
        bias = self.biases[-1].expand(n, 1, -1) if self.shared else self.biases[-1]
        if noise is not None:
            bias = bias + (noise if decoder.std is None else noise * decoder.std).to(bias).transpose(0, 1)
        if available is not None and decoder.spec.discrete:
            bias = bias.expand(n, batch, -1).masked_fill(~available.transpose(0, 1), -torch.inf)
        return bias.contiguous()

    def finish(self, features: Tensor) -> Tensor:
        """Outputs [B, n, outputs] of features [n, B, width]."""
        if self.shared:
            return F.linear(features, self.weights[-1].T, self.biases[-1]).transpose(0, 1)
        return torch.baddbmm(self.biases[-1], features, self.weights[-1]).transpose(0, 1)


class Cached:
    """A decoder's folded weights, good while its weights do not change.

    ``general``: whether relation types or weights can differ between links, or there are several heads.
    """

    def __init__(self, decoder: Decoder, general: bool) -> None:
        self.decoder = decoder
        # after the first block position 0 is an agent's and the cross attention sees its own position: no special case
        self.weights = [_BlockWeights(decoder, i, general or i > 0) for i in range(len(decoder.blocks))]
        self.head = _Head(decoder.heads, decoder.spec.agents)

    def __call__(
        self,
        rep: Tensor,
        views: Sequence[tuple[Visibility, Visibility]],
        available: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """(actions, outputs) with one query per agent and block, over kept keys and values; ``views``: what positions
        see in each block."""
        weights, head, embed, spec = self.weights, self.head, self.decoder.embed, self.decoder.spec
        batch, n, d = rep.shape
        blocks = [_Block(one, rep, seen) for one, seen in zip(weights, views, strict=True)]
        shifts: list[Tensor] = [one.block.norm.bias for one in weights]
        for number, one in enumerate(weights[1:]):
            shifts[number] = shifts[number] + one.residual_bias
        inputs = head.noise(self.decoder, batch, available, noise)
        actions = rep.new_empty(n, batch, *spec.action_shape, dtype=torch.long if spec.discrete else rep.dtype)
        features = []
        for p in range(n):
            before, x = None, None
            if spec.numbered:
                before = actions[p - 1] if p else None
            else:
                token = as_tokens(actions[p - 1], spec.digits) if p else rep.new_zeros(batch, head.outputs)
                hidden, norm = F.gelu(embed.input(token)), embed.norm
                x = torch.layer_norm(hidden, (d,), norm.weight, norm.bias + weights[0].residual_bias, norm.eps)
            for block, shift in zip(blocks, shifts, strict=True):
                x = block.step(p, before, x, shift)
            assert x is not None
            feature = head.features(p, x)
            features.append(feature)
            if spec.numbered:  # noise is in already, and what is not available
                torch.argmax(torch.addmm(inputs[p], feature, head.last(p)), -1, out=actions[p])
            elif spec.digits:
                actions[p] = choose(torch.addmm(inputs[p], feature, head.last(p)), None, None, None, spec.digits)
            else:
                torch.addmm(inputs[p], feature, head.last(p), out=actions[p])
        return actions.transpose(0, 1).contiguous(), head.finish(torch.stack(features))
