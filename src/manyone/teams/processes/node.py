"""One agent's share of CommFormer's forward pass: its own row of everything, the rest as messages.

With h the representations of the encoder, z the normed input of the decoder's cross attention and y a decoder block's
output, agent i needs of every agent j that it hears: x_j before each encoder block; and, of those with j < i, the
action and z_j of the first decoder block, and y_j and z_j of each later one. It computes with the policy's own modules,
on rows of the same masks, so that the mathematics stands in ``commformer`` and ``transformer`` alone.
Public: ``Node``, ``Links``, ``Choice``, ``message_sizes``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from manyone.envs.teams.types import TeamSpec
from manyone.teams.network.attention import Visibility, agent_visibility, decoder_visibility
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.distributions import as_tokens
from manyone.teams.network.transformer import DecoderBlock


class Links(Protocol):
    """What an agent's links do in one step; ``agent_process`` has the real ones."""

    @property
    def senders(self) -> list[int]:
        """Agents that it receives from."""

    @property
    def receivers(self) -> list[int]:
        """Agents that it sends to."""

    def begin(self, opened: np.ndarray, live: np.ndarray, *, gated: bool) -> None:
        """``opened`` bool [B]: in which copies of the task this agent receives; ``live`` bool [B, n]: in which it and
        the other end of a link are both there. Where the policy is ``gated``, tells its senders and hears from its
        receivers."""

    def wanted(self, receivers: list[int]) -> bool:
        """Whether any of these receives in any copy of the task."""

    def swap(
        self, message: np.ndarray | None, receivers: list[int], width: int, senders: list[int]
    ) -> dict[int, np.ndarray]:
        """Sends rows of ``message`` uint8 [B, ...] to those ``receivers`` that want them; what came from ``senders``,
        uint8 [B, width], zeros in copies in which the gate is closed or one of the two is not there."""


class Choice(NamedTuple):
    """``action`` int64 [B] or [B, k], or float32 [B, a]; ``log_prob`` and ``value`` float32 [B]."""

    action: Tensor
    log_prob: Tensor
    value: Tensor


def message_sizes(policy: CommFormer) -> tuple[int, int]:
    """Bytes of a message before an encoder block, and of the one with an action (0 where actions are not passed on)."""
    state = 4 * policy.width
    if not policy.autoregressive:
        return state, 0
    return state, _action_size(policy.spec) + state * (2 * len(policy.decoder) - 1)


class Node:
    """Agent ``agent`` of a team with ``policy``'s weights, its ``row`` bool [n] of the graph and its ``links``."""

    def __init__(self, policy: CommFormer, agent: int, row: Tensor, links: Links) -> None:
        self.policy, self.agent, self.links = policy, agent, links
        n = policy.spec.agents
        # of the graph an agent knows its row, and from its own links who hears it
        self.known = torch.zeros(n, n)
        self.known[links.receivers, agent] = 1.0
        self.known[agent] = row.float()
        self.edges = None if policy.edges is None else policy.edges.weight
        self.blocks = cast(list[DecoderBlock], list(policy.decoder))
        self.before = [j for j in links.senders if j < agent]
        self.after = [k for k in links.receivers if k > agent]
        self.state_size, self.action_size = message_sizes(policy)

    @torch.no_grad()
    def step(
        self,
        observation: Tensor,
        available: Tensor | None = None,
        noise: Tensor | None = None,
        gate_noise: Tensor | None = None,
        present: Tensor | None = None,
        *,
        gated: bool = False,
    ) -> Choice:
        """Acts on its own ``observation`` [B, d] (``available`` [B, A], ``noise`` [B, A or a], ``gate_noise`` [B]).

        ``present`` bool [B, n]: which ends of its links are there (None: all). ``gated``: the gate decides, by its sign
        or, given noise, by the draw. No noise: the most likely action.
        """
        policy, batch = self.policy, len(observation)
        x = policy.encoder.embed(observation[:, None])
        gate = torch.ones(batch, policy.spec.agents)
        if gated:
            assert policy.receive_gate is not None
            u = policy.receive_gate(x)[:, 0]
            gate[:, self.agent] = (u > 0 if gate_noise is None else u + gate_noise > 0).float()
        there = torch.ones(batch, policy.spec.agents, dtype=torch.bool) if present is None else present
        live = there & there[:, self.agent, None]
        self.links.begin(gate[:, self.agent].numpy() > 0, live.numpy(), gated=gated)
        passing = gate.unsqueeze(-1) if gated else None
        if present is not None:
            both = (there.unsqueeze(-1) & there.unsqueeze(-2)).float()
            passing = both if passing is None else passing * both
        seen = agent_visibility(self.known, passing, diagonal=policy.diagonal, relation=policy.relation)
        rep = self._encode(x, seen)
        value = policy.critic(rep)[:, 0]
        if policy.autoregressive:
            action, log_prob = self._decode(rep, seen, available, noise)
        else:
            action, log_prob = self._choose(rep, available, noise)
        return Choice(action, log_prob, value)

    def _encode(self, x: Tensor, seen: Visibility) -> Tensor:
        """Its representation [B, 1, width] from its embedding; one message a link and block."""
        mine = _row(seen, self.agent)
        for block in self.policy.encoder.blocks:
            heard = self.links.swap(_bytes(x), self.links.receivers, self.state_size, self.links.senders)
            source = x.new_zeros(len(x), self.policy.spec.agents, x.shape[-1])
            source[:, self.agent] = x[:, 0]
            for j, data in heard.items():
                source[:, j] = _floats(data)
            x = block(x, mine, self.edges, False, source)
        return x

    def _decode(
        self, rep: Tensor, seen: Visibility, available: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Hears what earlier agents did, acts, and tells later ones."""
        policy, i, n, width = self.policy, self.agent, self.policy.spec.agents, self.policy.width
        heard = self.links.swap(None, [], self.action_size, self.before)
        cut = _action_size(policy.spec)
        tokens, first = (rep.new_zeros(len(rep), n, width) for _ in range(2))
        later = rep.new_zeros(len(policy.decoder) - 1, 2, len(rep), n, width)  # [block, (y, z), B, agent, width]
        own, cross = decoder_visibility(seen, policy.decoder_mask)
        tokens[:, 0] = self._start()
        start = tokens[:, :1]
        opening = self.blocks[0]
        first[:, :1] = opening.own_norm(start + opening.own(start, tokens, _row(own, 0), self.edges))
        for j, data in heard.items():
            tokens[:, j + 1] = self._token(_action(policy.spec, data[:, :cut]))
            states = _floats(data[:, cut:]).view(len(rep), -1, width)
            first[:, j + 1] = states[:, 0]
            later[:, :, :, j] = states[:, 1:].reshape(len(rep), -1, 2, width).permute(1, 2, 0, 3)
        y = opening.look_up(first, rep, _row(cross, i), self.edges)
        told = []
        for layer, (block, (before, normed)) in enumerate(zip(self.blocks[1:], later, strict=True), 1):
            own_row = _row(decoder_visibility(seen, policy.decoder_mask, layer)[0], i)
            before[:, i] = y[:, 0]
            z = block.own_norm(y + block.own(y, before, own_row, self.edges))
            normed[:, i] = z[:, 0]
            told += [y, z]
            y = block.look_up(normed, rep, own_row, self.edges)
        action, log_prob = self._choose(y, available, noise)
        if self.links.wanted(self.after):
            token = self._token(action)[:, None]
            tokens[:, i + 1] = token[:, 0]
            z = opening.own_norm(token + opening.own(token, tokens, _row(own, i + 1), self.edges))
            message = np.concatenate([_action_bytes(policy.spec, action), *map(_bytes, [z, *told])], 1)
            self.links.swap(message, self.after, self.action_size, [])
        return action, log_prob

    def _choose(self, y: Tensor, available: Tensor | None, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        policy, i = self.policy, self.agent
        outputs = policy.heads(y.expand(-1, policy.spec.agents, -1))[:, i : i + 1]  # its own head among the stacked
        allowed, drawn = (None if part is None else part[:, None] for part in (available, noise))
        action = policy.choose(outputs, allowed, drawn)
        return action[:, 0], policy.score(outputs, action, allowed)[0][:, 0]

    def _start(self) -> Tensor:
        """Embedding of the token before the first agent's action, [width]."""
        embedding = self.policy.actions
        assert embedding is not None
        if self.policy.spec.numbered:
            return embedding.table()[0]
        return embedding(torch.zeros(embedding.input.in_features))

    def _token(self, action: Tensor) -> Tensor:
        """Embeddings [B, width] of actions."""
        embedding = self.policy.actions
        assert embedding is not None
        if self.policy.spec.numbered:
            return F.embedding(action + 1, embedding.table())
        return embedding(as_tokens(action, self.policy.spec.digits))


def _row(seen: Visibility, i: int) -> Visibility:
    """What position ``i`` sees."""
    return Visibility(seen.factor[:, i : i + 1], seen.bias[:, i : i + 1], seen.apart[i : i + 1])


def _bytes(state: Tensor) -> np.ndarray:
    """[B, 1, width] as uint8 [B, 4 width]."""
    return state[:, 0].numpy().copy().view(np.uint8)


def _floats(data: np.ndarray) -> Tensor:
    """The way back, float32 [B, width]."""
    return torch.from_numpy(data.copy().view(np.float32))  # a copy: a part of a row has the row's stride


def _action_type(spec: TeamSpec) -> type[np.generic]:
    """The smallest number that holds a discrete action, or a digit of it."""
    most = max(spec.digits, default=spec.actions)
    return np.uint8 if most <= 256 else np.uint16 if most <= 65536 else np.int64


def _action_size(spec: TeamSpec) -> int:
    return (np.dtype(_action_type(spec)).itemsize if spec.discrete else 4) * math.prod(spec.action_shape)


def _action_bytes(spec: TeamSpec, action: Tensor) -> np.ndarray:
    numbers = action.numpy()
    if spec.discrete:
        numbers = numbers.reshape(len(numbers), -1).astype(_action_type(spec))
    return numbers.copy().view(np.uint8)


def _action(spec: TeamSpec, data: np.ndarray) -> Tensor:
    if spec.discrete:
        numbers = data.copy().view(_action_type(spec)).astype(np.int64)
        return torch.from_numpy(numbers.reshape(len(data), *spec.action_shape))
    return _floats(data)
