"""Who listens to whom: a directed graph with k in-links for every agent, learnt by gradient or given by hand.

A graph is a float matrix A [n, n] in which A_ij = 1 means that agent i receives from agent j (row = receiver, column =
sender). CommFormer (arXiv 2405.08550, section on graph learning) learns logits theta [n, n]:
    sampled:  z = softmax_j((theta + g) / tau), g ~ Gumbel(0, 1);  A = top-k of z in each row
    exact:    z = softmax_j(theta);                                A = top-k of theta in each row
Both are straight-through: the value is hard 0/1, the gradient is that of z. An agent is no sender of its own: the
diagonal is left out before the top-k, so that each row holds exactly k other agents (``diagonal="official"`` leaves it
in, as the published code does). Public: ``links_for``, ``sample_noise``, ``sampled_graph``, ``exact_graph``,
``fixed_graph``, ``tie_order``, ``top_links``, ``LearnedGraph``. A graph that changes from step to step: ``dynamic.py``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Diagonal = Literal["excluded", "official"]
_TAU = 1.0  # of the soft map
GRAPH_KINDS = ("full", "none", "random", "ring", "star", "nearest")


def links_for(agents: int, density: float) -> int:
    """In-links per agent, k = max(floor(n S), 1), at most n - 1. ``density`` is what the paper calls sparsity."""
    if agents < 1:
        raise ManyoneError(f"agents {agents}: must be at least 1")
    if not 0 < density <= 1:
        raise ManyoneError(f"density {density}: must be above 0 and at most 1 (fraction of agents that each one hears)")
    return min(max(int(agents * density + 1e-9), 1), agents - 1)  # 1e-9: 0.29 * 100 is 28.999...


def sample_noise(generator: torch.Generator, agents: int) -> Tensor:
    """Gumbel(0, 1) noise [n, n] for one graph, on the generator's device."""
    draw = torch.empty(agents, agents, device=generator.device).exponential_(generator=generator)
    return -draw.clamp_min(torch.finfo(draw.dtype).tiny).log()


def sampled_graph(logits: Tensor, noise: Tensor, links: int, *, diagonal: Diagonal = "excluded") -> Tensor:
    """A graph drawn with Gumbel ``noise`` [n, n]: k links a row without replacement, straight-through [n, n].

    The same noise gives the same graph and the gradient of the same soft map, whatever happened in between.
    """
    scores = _without_diagonal((logits + noise.to(logits)) / _TAU, diagonal)
    return _straight_through(scores, links, seed=0)


def exact_graph(logits: Tensor, links: int, *, diagonal: Diagonal = "excluded", seed: int = 0) -> Tensor:
    """The k largest logits of each row, straight-through [n, n]. Ties, and ties alone, are broken by ``seed``."""
    return _straight_through(_without_diagonal(logits, diagonal), links, seed)


def fixed_graph(kind: str, agents: int, links: int = 1, *, seed: int = 0, positions: Tensor | None = None) -> Tensor:
    """A graph made by hand, float32 [n, n] with a zero diagonal.

    ``full``; ``none``; ``random``: ``links`` others each, drawn with ``seed``; ``ring``: the ``links`` nearest on a
    ring (i - 1, i + 1, i - 2, ...); ``star``: everyone hears agent 0, which hears everyone (``links`` plays no part);
    ``nearest``: the ``links`` closest agents by ``positions`` [n, p].
    """
    if kind not in GRAPH_KINDS:
        raise ManyoneError(f"graph {kind!r}: must be one of {', '.join(GRAPH_KINDS)}")
    eye = torch.eye(agents)
    if kind == "full":
        return 1 - eye
    if kind == "none" or agents == 1:
        return torch.zeros(agents, agents)
    if kind == "star":
        graph = torch.zeros(agents, agents)
        graph[1:, 0] = 1
        graph[0, 1:] = 1
        return graph
    if not 1 <= links < agents:
        raise ManyoneError(f"links {links}: must be 1..{agents - 1} for a {kind} graph of {agents} agents")
    if kind == "random":
        scores = torch.rand(agents, agents, generator=generator_for("team graph", seed, agents))
    elif kind == "ring":
        ahead = (torch.arange(agents) - torch.arange(agents)[:, None]) % agents
        scores = -torch.minimum(2.0 * (agents - ahead) - 1, 2.0 * ahead)  # 1 behind, 1 ahead, 2 behind, ...
    else:
        if positions is None or positions.shape[0] != agents:
            raise ManyoneError(f"graph 'nearest': needs positions of all {agents} agents [agents, coordinates]")
        found = positions.detach().float().cpu()
        scores = -torch.cdist(found, found)
    return _top(_without_diagonal(scores, "excluded"), links, seed)


class LearnedGraph(nn.Module):
    """The learnable graph: ``logits`` [n, n], all ones at the start, and ``links`` = k in-links per agent.

    ``frozen`` (saved with the state) marks a graph that is settled: then ``exact`` gives no gradient any more.
    """

    def __init__(self, agents: int, links: int, *, diagonal: Diagonal = "excluded", seed: int = 0) -> None:
        super().__init__()
        most = agents - 1 if diagonal == "excluded" else agents
        if diagonal not in ("excluded", "official"):
            raise ManyoneError(f"diagonal {diagonal!r}: must be excluded or official")
        if not 0 <= links <= most:
            raise ManyoneError(f"links {links}: must be 0..{most} for {agents} agents")
        self.logits = nn.Parameter(torch.ones(agents, agents))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))
        self.settled: Tensor
        self.agents, self.links, self.diagonal, self.seed = agents, links, diagonal, seed

    @property
    def frozen(self) -> bool:
        """Whether the graph no longer learns."""
        return bool(self.settled)

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self.settled.fill_(value)

    def sample(self, noise: Tensor) -> Tensor:
        """The graph that ``noise`` [n, n] (see ``sample_noise``) draws, straight-through."""
        return sampled_graph(self.logits, noise, self.links, diagonal=self.diagonal)

    def dense(self) -> Tensor:
        """Everybody hears everybody, straight-through: the gradient of every possible link reaches the logits."""
        full = 1 - torch.eye(self.agents, dtype=self.logits.dtype, device=self.logits.device)
        soft = _without_diagonal(self.logits / _TAU, "excluded").softmax(-1)
        return full + (soft - soft.detach())

    def exact(self) -> Tensor:
        """The graph to act with: the k largest logits of each row, straight-through unless ``frozen``."""
        logits = self.logits.detach() if self.frozen else self.logits
        return exact_graph(logits, self.links, diagonal=self.diagonal, seed=self.seed)


def tie_order(agents: int, seed: int = 0) -> Tensor:
    """The order int64 [n, n] in which equal scores of a row rank, drawn with ``seed``."""
    draw = torch.rand(agents, agents, generator=generator_for("team graph ties", seed, agents))
    return draw.argsort(dim=-1)


def top_links(scores: Tensor, links: int, order: Tensor) -> Tensor:
    """One where a score of [..., n, n] is among the ``links`` largest of its row; ties go by ``order`` [n, n]."""
    order = order.expand(scores.shape)
    ranked = scores.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
    chosen = order.gather(-1, ranked[..., :links])
    return torch.zeros_like(scores).scatter(-1, chosen, 1.0)


def _without_diagonal(scores: Tensor, diagonal: Diagonal) -> Tensor:
    if diagonal == "official":
        return scores
    return scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)


def _straight_through(scores: Tensor, links: int, seed: int) -> Tensor:
    if links == 0:
        return torch.zeros_like(scores)
    hard = _top(scores.detach(), links, seed)
    if not scores.requires_grad:
        return hard
    soft = scores.softmax(-1)
    return hard + (soft - soft.detach())  # the bracket is exactly zero, so that the value stays exactly 0 or 1


def _top(scores: Tensor, links: int, seed: int) -> Tensor:
    """One where a score is among the ``links`` largest of its row; equal scores rank in an order drawn with ``seed``.

    Logits start equal, and ``topk`` alone would then pick the same few senders for everybody.
    """
    return top_links(scores, links, tie_order(len(scores), seed).to(scores.device))
