"""A graph for every step, made from what the agents see: a pairwise scorer and a budget of k in-links for every agent.

After MAGIC (Niu, Paleja, Gombolay, "Multi-Agent Graph-Attention Communication and Teaming", AAMAS 2021), whose
scheduler decides link by link at every step with hard Gumbel-softmax. Here the budget is that of CommFormer's learned
graph, so that the two compare at equal cost. With x_i the agent's embedding before any attention:
    s_ij = <Wq x_i + bq, Wk x_j + bk> / sqrt(d)
    in training A = top-k of softmax_j(s + g) in each row, g ~ Gumbel(0, 1), straight-through; when deployed top-k of s.
The noise of each step is kept with the roll-out and used again in the update. The graph says who sends messages, and is
itself made from the embeddings of all, as in MAGIC: whoever makes it sees them.
Public: ``LinkScorer``, ``link_noise``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from manyone.teams.network.graph import tie_order, top_links


class LinkScorer(nn.Module):
    """Scores of all pairs of ``agents`` from their embeddings, and the ``links`` best of each row."""

    ties: Tensor

    def __init__(self, width: int, agents: int, links: int) -> None:
        super().__init__()
        self.query, self.key, self.links = nn.Linear(width, width), nn.Linear(width, width), links
        self.register_buffer("ties", tie_order(agents))

    def forward(self, embedded: Tensor) -> Tensor:
        """s [B, n, n] (row = receiver) of embeddings [B, n, width]."""
        scores = self.query(embedded) @ self.key(embedded).transpose(-1, -2)
        return scores / math.sqrt(embedded.shape[-1])

    def choose(self, scores: Tensor, allowed: Tensor, noise: Tensor | None = None) -> Tensor:
        """The graphs [B, n, n] in {0, 1} for Gumbel ``noise`` [B, n, n] (None: the best links), straight-through.

        Only links of ``allowed`` [n, n] are of use; where a row has fewer than k of them, the rest of its k lead
        nowhere. The diagonal is never chosen while there are others.
        """
        if noise is not None:
            scores = scores + noise.to(scores)
        apart = (allowed.detach() == 0) | torch.eye(len(allowed), dtype=torch.bool, device=allowed.device)
        # finite, so that a row without any allowed link has a softmax
        scores = scores.masked_fill(apart, torch.finfo(scores.dtype).min)
        hard = top_links(scores.detach(), self.links, self.ties)
        soft = scores.softmax(-1)
        return hard + (soft - soft.detach())  # the bracket is exactly zero, so that the value stays exactly 0 or 1


def link_noise(generator: torch.Generator, batch: int, agents: int) -> Tensor:
    """Gumbel(0, 1) noise [B, n, n]; kept with the roll-out and given again to ``evaluate``."""
    draw = torch.empty(batch, agents, agents, device=generator.device).exponential_(generator=generator)
    return -draw.clamp_min(torch.finfo(draw.dtype).tiny).log()
