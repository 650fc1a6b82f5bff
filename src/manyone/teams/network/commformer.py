"""CommFormer: a team whose agents attend to each other's observations and actions along a graph with few links.

Hu et al., "Learning Multi-Agent Communication from Graph Modeling Perspective" (arXiv 2405.08550), built on MAT (Wen et
al., arXiv 2205.14953): pi(a | o) = prod_i pi(a_i | o_N(i), a_<i within N(i)). Attention in encoder and decoder sees
only what the graph lets through (``attention.py``); the graph is an argument, learnt or given (``graph.py``); a gate
decides per agent and step whether to receive (``gate.py``). Relatives by options: CommFormer(FC) with the full graph;
IC3Net's gate on the sender's side with ``send_gate``; a graph made anew at every step, after MAGIC, with
``dynamic_links`` and the full graph (``dynamic.py``);
MAT with ``edge_types=False, decoder_heads="shared"`` and the full graph; MAT-dec with ``autoregressive=False`` besides;
no communication with the empty graph and ``autoregressive=False``.
Public: ``CommFormer``, ``Acted``, ``Evaluated``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.network import decode as decoding
from manyone.teams.network import distributions
from manyone.teams.network.attention import (
    DecoderMask,
    Diagonal,
    Relation,
    Scale,
    Visibility,
    agent_visibility,
    decoder_visibility,
)
from manyone.teams.network.dynamic import LinkScorer
from manyone.teams.network.gate import GateMode, ReceiveGate, SendGate
from manyone.teams.network.transformer import (
    ActionEmbedding,
    AgentHeads,
    Critic,
    DecoderBlock,
    Encoded,
    Encoder,
    SharedHead,
)

Decode = Literal["cached", "full", "fixed-point"]


class Acted(NamedTuple):
    """What a team did in B slots: ``actions`` int64 [B, n], [B, n, k] or float [B, n, a]; ``log_probs`` and ``values``
    [B, n]; ``links`` bool [B, n, n], the links used (row = receiver), diagonal False; ``messages`` int16 [B, n, n]: how
    many crossed each of them (None: one each)."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    links: Tensor
    messages: Tensor | None = None


class Evaluated(NamedTuple):
    """Given actions under the present weights: all [B, n]; ``open_probability`` (of receiving) and ``send_probability``
    are None where no such gate acts."""

    log_probs: Tensor
    entropy: Tensor
    values: Tensor
    open_probability: Tensor | None
    send_probability: Tensor | None = None


class CommFormer(nn.Module):
    """The policy and its critic.

    ``scale``, ``decoder_mask``, ``relation`` and ``diagonal`` have settings that follow the published code; see
    ``attention.py``. The attribute ``decode`` ("cached", "full", "fixed-point") chooses how ``act`` runs through the
    agents; all three give the same actions. ``gate``, ``send_gate``: whether agents decide to receive, and to send.
    ``dynamic_links`` (None: the graph is as given): k, and at every step each agent hears the k best of those that the
    graph lets it hear. Of a task with ``absences`` nobody hears an agent that is not there.
    """

    def __init__(
        self,
        spec: TeamSpec,
        *,
        width: int = 64,
        layers: int = 1,
        heads: int = 1,
        edge_types: bool = True,
        autoregressive: bool = True,
        decoder_heads: Literal["per-agent", "shared"] = "per-agent",
        scale: Scale = "single",
        decoder_mask: DecoderMask = "aligned",
        relation: Relation = "receiver",
        diagonal: Diagonal = "excluded",
        dropout: float = 0.0,
        gate: bool = False,
        send_gate: bool = False,
        dynamic_links: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "spec", "__class__")}
        super().__init__()
        self.options = given  # all that an equal network needs besides the specification
        _check_choice("decoder_heads", decoder_heads, ("per-agent", "shared"))
        _check_choice("scale", scale, ("single", "official"))
        _check_choice("decoder_mask", decoder_mask, ("aligned", "official"))
        _check_choice("relation", relation, ("receiver", "transposed"))
        _check_choice("diagonal", diagonal, ("excluded", "official"))
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise ManyoneError(f"width {width}, layers {layers}, heads {heads}: positive, and heads must divide width")
        if not 0 <= dropout < 1:
            raise ManyoneError(f"dropout {dropout}: must be at least 0 and below 1")
        if dynamic_links is not None:
            if not 0 <= dynamic_links < spec.agents:
                raise ManyoneError(
                    f"dynamic_links {dynamic_links}: must be 0..{spec.agents - 1} for {spec.agents} agents"
                )
            if relation != "receiver" or diagonal != "excluded":
                raise ManyoneError("a dynamic graph takes relation 'receiver' and diagonal 'excluded' only")
        self.spec, self.width = spec, width
        self.decode: Decode = "cached"
        self.decoder_mask: DecoderMask = decoder_mask
        self.relation: Relation = relation
        self.diagonal: Diagonal = diagonal
        outputs = spec.actions if spec.discrete else spec.action_dim
        self.edges = nn.Embedding(2, width) if edge_types else None
        self.encoder = Encoder(
            spec.observation_dim, width, layers, heads, related=edge_types, scale=scale, dropout=dropout
        )
        self.critic = Critic(width)
        self.receive_gate = ReceiveGate(width) if gate else None
        self.actions = ActionEmbedding(outputs + spec.numbered, width) if autoregressive else None
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, related=edge_types, scale=scale) for _ in range(layers if autoregressive else 0)
        )
        self.heads: SharedHead | AgentHeads = (
            SharedHead(width, outputs) if decoder_heads == "shared" else AgentHeads(spec.agents, width, outputs)
        )
        self.log_std = None if spec.discrete else nn.Parameter(torch.ones(outputs))
        self.send_gate = SendGate(width) if send_gate else None
        self.link_scorer = None if dynamic_links is None else LinkScorer(width, spec.agents, dynamic_links)
        self.kept: dict[bool, decoding.Cached] | None = None

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Within, weights must not change: what ``act`` prepares from them is then kept from call to call."""
        before, self.kept = self.kept, {}
        try:
            yield
        finally:
            self.kept = before

    @property
    def autoregressive(self) -> bool:
        """Whether an agent's action depends on those of agents before it."""
        return self.actions is not None

    @property
    def gated(self) -> bool:
        """Whether agents decide when to receive or to send."""
        return self.receive_gate is not None or self.send_gate is not None

    def act(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        noise: Tensor,
        gate: GateMode = "open",
        greedy: bool = False,
        **drawn: Tensor | None,
    ) -> Acted:
        """Acts in every slot along ``graph`` [n, n].

        ``noise``: Gumbel [B, n, A] or normal [B, n, a], looked at unless ``greedy``; ``drawn``: the noises that
        :meth:`encode` takes. Without gradients and without dropout.
        """
        with torch.no_grad():
            encoded = self.encode(obs, graph, gate=gate, drop=False, **drawn)
            actions, log_probs = self.draw(encoded, obs.available, None if greedy else noise)
            used = graph.detach() != 0
            used = used & ~torch.eye(len(graph), dtype=torch.bool, device=graph.device)
            passing = encoded.passing
            links = used.expand(actions.shape[0], -1, -1) if passing is None else used & (passing != 0)
            return Acted(actions, log_probs, encoded.values, links, self._messages(encoded, links))

    def _messages(self, encoded: Encoded, links: Tensor) -> Tensor:
        """How many messages cross each link in a step: one before every encoder block, and one with an action where an
        agent reads that of an earlier one. Position p >= 1 of the decoder's sequence holds the action of p - 1."""
        found = len(self.encoder.blocks) * links.to(torch.int16)
        if not self.autoregressive:
            return found
        (_, cross), *_ = self.decoder_views(encoded)
        read = F.pad(cross.factor.detach()[..., 1:] != 0, (0, 1))
        return found + read if self.decoder_mask == "official" else found + (read & links)

    def evaluate(
        self,
        obs: Observation,
        actions: Tensor,
        graph: Tensor,
        *,
        gate: GateMode = "open",
        **drawn: Tensor | None,
    ) -> Evaluated:
        """Log-probabilities of ``actions``, entropies and values in one parallel pass, differentiable in the weights,
        and in ``graph`` where it carries a gradient."""
        encoded = self.encode(obs, graph, gate=gate, drop=self.training, **drawn)
        outputs = self.outputs(encoded, actions)
        log_probs, entropy = self.score(outputs, actions, obs.available)
        return Evaluated(log_probs, entropy, encoded.values, encoded.open_probability, encoded.send_probability)

    def values(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        gate: GateMode = "open",
        **drawn: Tensor | None,
    ) -> Tensor:
        """The critic alone, [B, n]."""
        return self.encode(obs, graph, gate=gate, drop=False, **drawn).values

    def encode(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        gate_noise: Tensor | None = None,
        send_noise: Tensor | None = None,
        link_noise: Tensor | None = None,
        gate: GateMode = "open",
        drop: bool = False,
    ) -> Encoded:
        """Gates, the step's graph, messages and values.

        ``gate_noise``, ``send_noise`` [B, n]: logistic, needed by such gates where ``gate`` is "sampled";
        ``link_noise`` [B, n, n]: Gumbel, draws a dynamic graph (None: the best links).
        """
        _check_choice("gate", gate, ("open", "sampled", "decided"))
        if gate != "open" and not self.gated:
            raise ManyoneError(
                f"gate {gate!r}: this policy has no gate; build it with gate=True or act with gate 'open'"
            )
        x = self.encoder.embed(obs.observations)
        opened, receiving = _gated(self.receive_gate, x, gate, gate_noise, "gate_noise")
        spoken, sending = _gated(self.send_gate, x, gate, send_noise, "send_noise")
        passing = None if opened is None else opened.unsqueeze(-1)
        if spoken is not None:
            passing = spoken.unsqueeze(-2) if passing is None else passing * spoken.unsqueeze(-2)
        absent = ~obs.present() if self.spec.absences else None
        if self.link_scorer is not None:
            scores = self.link_scorer(x)
            if absent is not None:  # a link to nobody is the last choice
                scores = scores.masked_fill(absent.unsqueeze(-2), torch.finfo(scores.dtype).min)
            chosen = self.link_scorer.choose(scores, graph, link_noise)
            passing = chosen if passing is None else passing * chosen
        if absent is not None:
            both = (~(absent.unsqueeze(-1) | absent.unsqueeze(-2))).to(x.dtype)
            passing = both if passing is None else passing * both
        edges = None if self.edges is None else self.edges.weight
        seen = agent_visibility(graph.to(x), passing, diagonal=self.diagonal, relation=self.relation)
        rep = self.encoder(x, seen, edges, drop)
        return Encoded(rep, self.critic(rep), seen, edges, receiving, sending, opened, passing, graph)

    def draw(self, encoded: Encoded, available: Tensor | None, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """(actions, log-probabilities [B, n]), agent after agent; ``noise`` None takes the likeliest actions."""

        def choose(outputs: Tensor) -> Tensor:
            return self.choose(outputs, available, noise)

        rep, views = encoded.rep, self.decoder_views(encoded)
        if not self.autoregressive:
            outputs = self.heads(rep)
            actions = choose(outputs)
        elif self.decode == "cached":
            actions, outputs = self._cached(self._general(encoded.graph))(rep, views, available, noise)
        else:
            draw = decoding.full if self.decode == "full" else decoding.fixed_point
            kind = torch.long if self.spec.discrete else rep.dtype
            start = rep.new_zeros(*rep.shape[:2], *self.spec.action_shape, dtype=kind)
            actions, outputs = draw(start, lambda so_far: self.outputs(encoded, so_far, views), choose)
        return actions, self.score(outputs, actions, available)[0]

    def _general(self, graph: Tensor) -> bool:
        """Whether relation types or weights can differ between links, or there are several heads."""
        if cast(DecoderBlock, self.decoder[0]).own.heads > 1 or self.decoder_mask == "official":
            return True
        if self.relation == "transposed" and self.edges is not None:
            return True
        if self.diagonal == "official" and bool(graph.diagonal().any()):
            return True
        return not bool(((graph == 0) | (graph == 1)).all())

    def _cached(self, general: bool) -> decoding.Cached:
        """Folded weights, kept while :meth:`steady` says that weights do not change."""
        if self.kept is not None and general in self.kept:
            return self.kept[general]
        assert self.actions is not None
        edges = None if self.edges is None else self.edges.weight
        blocks = cast(list[DecoderBlock], list(self.decoder))
        made = decoding.Cached(
            decoding.Decoder(self.spec, self.actions, blocks, self.heads, edges, self.std()), general
        )
        if self.kept is not None:
            self.kept[general] = made
        return made

    def decoder_views(self, encoded: Encoded) -> list[tuple[Visibility, Visibility]]:
        """What positions see in each decoder block, in self and in cross attention."""
        return [decoder_visibility(encoded.seen, self.decoder_mask, layer) for layer in range(len(self.decoder))]

    def outputs(
        self, encoded: Encoded, actions: Tensor, views: list[tuple[Visibility, Visibility]] | None = None
    ) -> Tensor:
        """Logits [B, n, A] or means [B, n, a], each agent's given the ``actions`` of those before it; ``views``: those
        of ``decoder_views``, where they are at hand."""
        if self.actions is None:
            return self.heads(encoded.rep)
        views = self.decoder_views(encoded) if views is None else views
        blocks = list(zip(cast(list[DecoderBlock], list(self.decoder)), views, strict=True))
        if self.spec.numbered:
            tokens = F.pad(actions[:, :-1] + 1, (1, 0))
            first, (own, cross) = blocks[0]
            x = first.from_table(self.actions.table(), tokens, encoded.rep, own, cross, encoded.edges)
            blocks = blocks[1:]
        else:
            x = self.actions(F.pad(distributions.as_tokens(actions[:, :-1], self.spec.digits), (0, 0, 1, 0)))
        for block, (own, cross) in blocks:
            x = block(x, encoded.rep, own, cross, encoded.edges)
        return self.heads(x)

    def score(self, outputs: Tensor, actions: Tensor, available: Tensor | None) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) [B, n] of ``actions`` under ``outputs``; summed over continuous entries."""
        return distributions.score(outputs, actions, available, self.std(), self.spec.digits)

    def choose(self, outputs: Tensor, available: Tensor | None, noise: Tensor | None) -> Tensor:
        """Actions under ``outputs`` with the ``noise`` given; None: the likeliest."""
        return distributions.choose(outputs, available, noise, self.std(), self.spec.digits)

    def std(self) -> Tensor | None:
        """Standard deviations of continuous actions [a], 0.5 sigmoid(log_std); None where actions are discrete."""
        return None if self.log_std is None else 0.5 * torch.sigmoid(self.log_std)


def _gated(
    gate: ReceiveGate | None, x: Tensor, mode: GateMode, noise: Tensor | None, name: str
) -> tuple[Tensor | None, Tensor | None]:
    """(g [B, n] or None when everyone is open, probability of open [B, n]) of one of the gates."""
    if gate is None or mode == "open":
        return None, None
    u = gate(x)
    if mode == "decided":
        return (u > 0).to(u.dtype), torch.sigmoid(u)
    if noise is None:
        raise ManyoneError(f"gate 'sampled': needs {name} [batch, agents], see teams.gate.gate_noise")
    return gate.sampled(u, noise.to(u)), torch.sigmoid(u)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ManyoneError(f"{name} {value!r}: must be one of {', '.join(allowed)}")
