"""When to listen and when to speak: every agent decides at every step, from its own observation.

The temporal gate of the CommFormer extension (arXiv 2411.00382). With x_i the agent's embedding before any attention:
    u_i = MLP(x_i);   in training g_i = 1[u_i + xi_i > 0] with xi_i ~ Logistic(0, 1), its gradient that of
    sigmoid(u_i + xi_i);   when deployed g_i = 1[u_i > 0].
The gate multiplies row i of the graph, never the agent's view of itself. A budget loss holds the mean of sigmoid(u) at
a target receive rate; it must not act before the policy uses messages, hence the schedule. The abstract fixes that the
gate receives, per agent and step, from the current observation; network, relaxation, losses and schedule are this
library's.

The send gate is that of IC3Net (Singh et al., "Learning when to Communicate at Scale in Multiagent Cooperative and
Competitive Tasks", ICLR 2019): the agent decides whether its message goes out at all, m_ij = alpha_ij s_j, j != i: it
multiplies column j. IC3Net trains it by REINFORCE, as an action; here it is reparametrised like the receive gate, with
the same network, noise, budget losses and schedule, so that the two differ in the side alone.
Public: ``ReceiveGate``, ``SendGate``, ``gate_noise``, ``gate_loss``, ``gate_schedule``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyone.errors import ManyoneError

GateMode = Literal["open", "sampled", "decided"]
Budget = Literal["ratio", "hinge", "cost"]


class ReceiveGate(nn.Module):
    """u = MLP(x), width -> width -> 1; the last bias is +2, so that it starts open with probability .88."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.constant_(self.out.bias, 2.0)

    def forward(self, embedded: Tensor) -> Tensor:
        """u [B, n] of embeddings [B, n, width]."""
        return self.out(F.relu(self.hidden(embedded))).squeeze(-1)

    def sampled(self, u: Tensor, noise: Tensor) -> Tensor:
        """g [B, n] in {0, 1} for logistic ``noise`` [B, n], straight-through."""
        shifted = u + noise
        soft = torch.sigmoid(shifted)
        return (shifted > 0).to(u.dtype) + (soft - soft.detach())


class SendGate(ReceiveGate):
    """The same network, asked whether the agent's messages go out: s [B, n] in {0, 1}."""


def gate_noise(generator: torch.Generator, batch: int, agents: int) -> Tensor:
    """Logistic(0, 1) noise [B, n]; kept with the roll-out and given again to ``evaluate``."""
    draw = torch.rand(batch, agents, generator=generator, device=generator.device)
    return torch.logit(draw, eps=torch.finfo(draw.dtype).eps)


def gate_loss(
    open_probability: Tensor, *, budget: Budget = "ratio", target: float = 0.5, alive: Tensor | None = None
) -> Tensor:
    """The budget loss without its weight, a scalar; m is the mean open probability over the agents that are alive.

    ``ratio``: (m - target)^2; ``hinge``: max(0, m - target)^2; ``cost``: m.
    """
    if alive is None:
        mean = open_probability.mean()
    else:
        count = alive.sum().clamp_min(1)
        mean = torch.where(alive, open_probability, 0.0).sum() / count
    if budget == "ratio":
        return (mean - target).square()
    if budget == "hinge":
        return (mean - target).clamp_min(0).square()
    if budget == "cost":
        return mean
    raise ManyoneError(f"gate budget {budget!r}: must be ratio, hinge or cost")


def gate_schedule(
    fraction_done: float, *, open_until: float = 0.6, ramp: float = 0.15, weight: float = 0.2
) -> tuple[bool, float]:
    """(forced open?, weight of the budget loss) after ``fraction_done`` of training.

    Forced open, without a gradient, until ``open_until``; then the weight rises from 0 to ``weight`` over ``ramp``.
    A penalty from the start teaches the exact inverse, closed when a message is needed.
    """
    if fraction_done < open_until:
        return True, 0.0
    return False, weight * min(1.0, (fraction_done - open_until) / ramp) if ramp > 0 else weight
