"""CommFormer: a team whose agents attend to each other's observations and actions along a graph with few links.

Hu et al., "Learning Multi-Agent Communication from Graph Modeling Perspective" (arXiv 2405.08550), built on MAT (Wen et
al., arXiv 2205.14953): pi(a | o) = prod_i pi(a_i | o_N(i), a_<i within N(i)). Attention in encoder and decoder sees
only what the graph lets through (``attention.py``); the graph is an argument, learnt or given (``graph.py``); a gate
decides per agent and step whether to receive (``gate.py``). Relatives by options: CommFormer(FC) with the full graph;
MAT with ``edge_types=False, decoder_heads="shared"`` and the full graph; MAT-dec with ``autoregressive=False`` besides;
no communication with the empty graph and ``autoregressive=False``.
Public: ``CommFormer``, ``Acted``, ``Evaluated``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.envs.team_types import Observation, TeamSpec
from manyone.errors import ManyoneError

from . import decode, distributions
from .attention import DecoderMask, Diagonal, Relation, Scale, Visibility, agent_visibility, decoder_visibility
from .gate import GateMode, ReceiveGate
from .transformer import ActionEmbedding, AgentHeads, Critic, DecoderBlock, Encoder, SharedHead

Decode = Literal["cached", "full", "fixed-point"]


class Acted(NamedTuple):
    """What a team did in B slots: ``actions`` int64 [B, n] or float [B, n, a]; ``log_probs`` and ``values`` [B, n];
    ``links`` bool [B, n, n], the messages used (row = receiver), dead agents' included, diagonal False."""

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    links: Tensor


class Evaluated(NamedTuple):
    """Given actions under the present weights: all [B, n]; ``open_probability`` is None where no gate acts."""

    log_probs: Tensor
    entropy: Tensor
    values: Tensor
    open_probability: Tensor | None


class Encoded(NamedTuple):
    """The encoder's side of a forward pass."""

    rep: Tensor
    values: Tensor
    seen: Visibility
    edges: Tensor | None
    open_probability: Tensor | None
    gate: Tensor | None
    graph: Tensor


class CommFormer(nn.Module):
    """The policy and its critic.

    ``scale``, ``decoder_mask``, ``relation`` and ``diagonal`` have settings that follow the published code; see
    ``attention.py``. ``decode`` ("cached", "full", "fixed-point") chooses how ``act`` runs through the agents; all
    three give the same actions.
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
        gate_tau: float = 1.0,
        value_width: int | None = None,
        decode: Decode = "cached",
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "spec", "__class__")}
        super().__init__()
        self.options = given  # all that an equal network needs besides the specification
        _check_choice("decoder_heads", decoder_heads, ("per-agent", "shared"))
        _check_choice("scale", scale, ("single", "official"))
        _check_choice("decoder_mask", decoder_mask, ("aligned", "official"))
        _check_choice("relation", relation, ("receiver", "transposed"))
        _check_choice("diagonal", diagonal, ("excluded", "official"))
        _check_choice("decode", decode, ("cached", "full", "fixed-point"))
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise ManyoneError(f"width {width}, layers {layers}, heads {heads}: positive, and heads must divide width")
        if not 0 <= dropout < 1:
            raise ManyoneError(f"dropout {dropout}: must be at least 0 and below 1")
        self.spec, self.width, self.decode = spec, width, decode
        self.decoder_mask: DecoderMask = decoder_mask
        self.relation: Relation = relation
        self.diagonal: Diagonal = diagonal
        outputs = spec.actions if spec.discrete else spec.action_dim
        self.edges = nn.Embedding(2, width) if edge_types else None
        self.encoder = Encoder(
            spec.observation_dim, width, layers, heads, related=edge_types, scale=scale, dropout=dropout
        )
        self.critic = Critic(width, value_width or width)
        self.receive_gate = ReceiveGate(width, gate_tau) if gate else None
        self.actions = ActionEmbedding(outputs + spec.discrete, width) if autoregressive else None
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, related=edge_types, scale=scale) for _ in range(layers if autoregressive else 0)
        )
        self.heads: SharedHead | AgentHeads = (
            SharedHead(width, outputs) if decoder_heads == "shared" else AgentHeads(spec.agents, width, outputs)
        )
        self.log_std = None if spec.discrete else nn.Parameter(torch.ones(outputs))
        self.kept: dict[bool, Any] | None = None

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

    def act(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        noise: Tensor,
        gate_noise: Tensor | None = None,
        gate: GateMode = "open",
        greedy: bool = False,
    ) -> Acted:
        """Acts in every slot along ``graph`` [n, n].

        ``noise``: Gumbel [B, n, A] or normal [B, n, a], looked at unless ``greedy``; ``gate_noise`` [B, n]: logistic,
        needed where ``gate`` is "sampled". Without gradients and without dropout.
        """
        with torch.no_grad():
            encoded = self.encode(obs, graph, gate_noise=gate_noise, gate=gate, drop=False)
            actions, log_probs = decode.decode(self, encoded, obs.available, None if greedy else noise)
            used = graph.detach() != 0
            used = used & ~torch.eye(len(graph), dtype=torch.bool, device=graph.device)
            if encoded.gate is None:
                links = used.expand(actions.shape[0], -1, -1)
            else:
                links = used & (encoded.gate != 0).unsqueeze(-1)
            return Acted(actions, log_probs, encoded.values, links)

    def evaluate(
        self,
        obs: Observation,
        actions: Tensor,
        graph: Tensor,
        *,
        gate_noise: Tensor | None = None,
        gate: GateMode = "open",
    ) -> Evaluated:
        """Log-probabilities of ``actions``, entropies and values in one parallel pass, differentiable in the weights,
        and in ``graph`` where it carries a gradient."""
        encoded = self.encode(obs, graph, gate_noise=gate_noise, gate=gate, drop=self.training)
        outputs = self.outputs(encoded, actions)
        log_probs, entropy = self.score(outputs, actions, obs.available)
        return Evaluated(log_probs, entropy, encoded.values, encoded.open_probability)

    def values(
        self, obs: Observation, graph: Tensor, *, gate_noise: Tensor | None = None, gate: GateMode = "open"
    ) -> Tensor:
        """The critic alone, [B, n]."""
        return self.encode(obs, graph, gate_noise=gate_noise, gate=gate, drop=False).values

    def encode(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        gate_noise: Tensor | None = None,
        gate: GateMode = "open",
        drop: bool = False,
    ) -> Encoded:
        """Gate, messages and values."""
        x = self.encoder.embed(obs.observations)
        opened, probability = self._gate(x, gate, gate_noise)
        edges = None if self.edges is None else self.edges.weight
        seen = agent_visibility(graph.to(x), opened, diagonal=self.diagonal, relation=self.relation)
        rep = self.encoder(x, seen, edges, drop)
        return Encoded(rep, self.critic(rep), seen, edges, probability, opened, graph)

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
        if self.spec.discrete:
            tokens = F.pad(actions[:, :-1] + 1, (1, 0))
            first, (own, cross) = blocks[0]
            x = first.from_table(self.actions.table(), tokens, encoded.rep, own, cross, encoded.edges)
            blocks = blocks[1:]
        else:
            x = self.actions(F.pad(actions[:, :-1], (0, 0, 1, 0)))
        for block, (own, cross) in blocks:
            x = block(x, encoded.rep, own, cross, encoded.edges)
        return self.heads(x)

    def score(self, outputs: Tensor, actions: Tensor, available: Tensor | None) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) [B, n] of ``actions`` under ``outputs``; summed over continuous entries."""
        return distributions.score(outputs, actions, available, self.std())

    def choose(self, outputs: Tensor, available: Tensor | None, noise: Tensor | None) -> Tensor:
        """Actions under ``outputs`` with the ``noise`` given; None: the likeliest."""
        return distributions.choose(outputs, available, noise, self.std())

    def std(self) -> Tensor | None:
        """Standard deviations of continuous actions [a], 0.5 sigmoid(log_std); None where actions are discrete."""
        return None if self.log_std is None else 0.5 * torch.sigmoid(self.log_std)

    def _gate(self, x: Tensor, mode: GateMode, noise: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """(g [B, n] or None when everyone is open, probability of open [B, n])."""
        _check_choice("gate", mode, ("open", "sampled", "decided"))
        if mode == "open":
            return None, None
        if self.receive_gate is None:
            raise ManyoneError(
                f"gate {mode!r}: this policy has no gate; build it with gate=True or act with gate 'open'"
            )
        u = self.receive_gate(x)
        if mode == "decided":
            return (u > 0).to(u.dtype), torch.sigmoid(u)
        if noise is None:
            raise ManyoneError("gate 'sampled': needs gate_noise [batch, agents], see teams.gate.gate_noise")
        return self.receive_gate.sampled(u, noise.to(u)), torch.sigmoid(u)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ManyoneError(f"{name} {value!r}: must be one of {', '.join(allowed)}")
