"""Which communication graph acts and which one is updated, iteration by iteration.

``replay`` (default): the Gumbel noise of the graph is drawn once an iteration; the team acts on that graph, and every
update recomputes it from the same noise, so that the policy which is updated is the one that acted (ratio 1 before the
first step) while the logits keep their gradient.

``official``: what the authors' program does. The team always acts on the exact graph (top-k of the logits); updates use
the raw logits as a soft graph for ``warmup`` iterations, then a new sample at every forward pass. So the behaviour is
not the policy that is updated (mean |ratio - 1| about 0.35 before any step), and in the warm-up the type of an edge
flips when its logit falls below 1. The program's Predator-Prey and football runs never leave the warm-up: give
``warmup`` as many iterations as there are to repeat them.

With a ``search`` everybody hears everybody for that share of the training, and the gradients of all possible links
move the logits. Whatever graph is drawn at first, a policy has nothing to say on it yet, and links that are chosen
before messages are of use are chosen at random; among all links those that carry something stand out. Then the k best
links of each agent stay, and the learner starts a new network on them.

Without one, after the share ``commit`` of training the graph is the exact one and the logits are frozen.
Public name: :class:`GraphSchedule`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.randomness import generator_for
from manyone.teams.network.graph import LearnedGraph, sample_noise
from manyone.teams.ppo.training import Training


class GraphSchedule:
    """The graphs of a ``training``; ``graph`` is learned, or a fixed one [n, n] (row = receiver).

    Draws depend on ``seed`` and the iteration alone.
    """

    def __init__(self, graph: LearnedGraph | Tensor, training: Training, *, seed: int) -> None:
        self.graph, self.mode, self.warmup, self.seed = graph, training.graph_rollout, training.warmup, seed
        self.last = training.searched if training.search else (training.commit or 1) * training.iterations
        self.searches = training.search > 0
        self.frozen = not self.searches
        self._noise: Tensor | None = None

    @property
    def learned(self) -> bool:
        """Whether there are logits at all."""
        return isinstance(self.graph, LearnedGraph)

    def begin(self, iteration: int) -> None:
        """To be called before an iteration: freezes the graph when its time has come, draws the iteration's noise."""
        if isinstance(self.graph, LearnedGraph):
            self.graph.frozen = self.frozen = iteration >= self.last
            self._noise = self._draw(iteration) if self.mode == "replay" and not self.searches else None

    def learns(self) -> bool:
        """Whether this iteration has updates of the logits; a graph without links (one agent) has nothing to learn."""
        return isinstance(self.graph, LearnedGraph) and not self.frozen and self.graph.links > 0

    def exact(self) -> Tensor:
        """The graph of evaluation and of the finished team, without gradient; within the search all links."""
        if isinstance(self.graph, LearnedGraph):
            return (self.graph.dense() if self.searches and not self.frozen else self.graph.exact()).detach()
        return self.graph

    @torch.no_grad()
    def acting(self) -> Tensor:
        """The graph that the team acts on in this iteration."""
        if isinstance(self.graph, LearnedGraph) and self._noise is not None and not self.frozen:
            return self.graph.sample(self._noise)
        return self.exact()

    def updated(self, iteration: int, epoch: int, minibatch: int) -> Tensor:
        """The graph of one update, differentiable in the logits."""
        if not isinstance(self.graph, LearnedGraph):
            return self.graph
        if self.frozen:
            return self.graph.exact()
        if self.searches:
            return self.graph.dense()
        if self._noise is not None:
            return self.graph.sample(self._noise)
        if iteration <= self.warmup:
            return self.graph.logits
        return self.graph.sample(self._draw(iteration, epoch, minibatch))

    @torch.no_grad()
    def figures(self) -> dict[str, Tensor]:
        """Of the learned logits, mean over receivers: ``edge_entropy`` of the choice of a sender (in nats), and
        ``edge_margin`` between the weakest sender that is in and the strongest that is out."""
        if not isinstance(self.graph, LearnedGraph):
            return {}
        n, k = len(self.graph.logits), self.graph.links
        logits = self.graph.logits.masked_fill(torch.eye(n, dtype=torch.bool, device=self.graph.logits.device), -1e9)
        chances = logits.log_softmax(-1)
        order = logits.sort(-1, descending=True).values
        figures = {"edge_entropy": -(chances.exp() * chances).sum(-1).mean()}
        if k < n - 1:
            figures["edge_margin"] = (order[:, k - 1] - order[:, k]).mean()
        return figures

    def _draw(self, *names: int) -> Tensor:
        assert isinstance(self.graph, LearnedGraph)
        noise = sample_noise(generator_for(self.seed, "graph", *names), len(self.graph.logits))
        return noise.to(self.graph.logits)
