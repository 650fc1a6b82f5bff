"""The gate of G-HarmoDT: which group of tasks an agent is in, from its own last steps.

q_phi(g | last K_g steps of (s, a_prev)): a per-step MLP, its masked mean over the steps beside the feature of the
current step, and one linear map to the groups' logits. Trained by cross-entropy on the batches that the policy trains
on, with random context lengths so that it answers from the first step of an episode; the policy's weights get no
gradient from it. Returns-to-go are no input by default, because their scale gives the task away.

Paper: Task-Aware Harmony Multi-Task Decision Transformer (G-HarmoDT), arXiv 2411.01146. The paper's abstract promises a
gate; its architecture and training here are our reading.
Public names: ``Gate``, ``GateTrainer``, ``Belief``, ``previous_actions``, ``confusion_by_phase``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

_WEIGHT_DECAY, _LABEL_SMOOTHING = 0.01, 0.05


def previous_actions(actions: Tensor, valid: Tensor) -> Tensor:
    """a_prev of every step of left-padded windows: [..., K, A] -> [..., K, A]; zero where no step is known before."""
    earlier = torch.zeros_like(actions)
    earlier[..., 1:, :] = torch.where(valid[..., :-1, None], actions[..., :-1, :], 0.0)
    return earlier


class Gate(nn.Module):
    """Logits over ``groups`` from windows of at most ``context`` steps of z-scored states and previous actions.

    ``use_actions`` = False leaves the previous actions out; ``use_returns`` = True adds the returns-to-go (a leak of
    the task through their scale, for ablation). Weights are drawn from ``seed`` alone.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        groups: int,
        *,
        context: int = 10,
        width: int = 256,
        use_actions: bool = True,
        use_returns: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if groups < 1 or context < 1 or width < 1:
            raise ManyoneError(f"gate: groups {groups}, context {context} and width {width} must be 1 or more")
        self.state_dim, self.action_dim, self.groups = state_dim, action_dim, groups
        self.context, self.width = context, width
        self.use_actions, self.use_returns = use_actions, use_returns
        inputs = state_dim + action_dim * use_actions + use_returns
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, width)
        self.head = nn.Linear(2 * width, groups)
        draws = generator_for(seed, "gate weights")
        for layer in (self.fc1, self.fc2, self.head):
            bound = 1.0 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=draws)
            nn.init.zeros_(layer.bias)

    def config(self) -> dict[str, Any]:
        """The arguments that build this gate again (less its seed)."""
        names = ("state_dim", "action_dim", "groups", "context", "width", "use_actions", "use_returns")
        return {name: getattr(self, name) for name in names}

    def features(self, observations: Tensor, previous: Tensor, returns_to_go: Tensor | None = None) -> Tensor:
        """Per-step features: [..., K, S], [..., K, A] (and [..., K] if ``use_returns``) -> [..., K, width]."""
        parts = [observations]
        if self.use_actions:
            parts.append(previous)
        if self.use_returns:
            if returns_to_go is None:
                raise ValueError("this gate uses returns-to-go: give returns_to_go")
            parts.append(returns_to_go.reshape(*observations.shape[:-1], 1))
        return F.relu(self.fc2(F.relu(self.fc1(torch.cat(parts, dim=-1)))))

    def forward(
        self, observations: Tensor, previous: Tensor, valid: Tensor, returns_to_go: Tensor | None = None
    ) -> Tensor:
        """Logits [..., groups] for the last step of left-padded windows; only the last ``context`` steps are read.

        ``observations`` [..., K, S], ``previous`` actions [..., K, A], ``valid`` bool [..., K] with the last one True.
        What padded steps hold does not matter.
        """
        k = self.context
        observations, previous, valid = observations[..., -k:, :], previous[..., -k:, :], valid[..., -k:]
        if returns_to_go is not None:
            returns_to_go = returns_to_go.reshape(*returns_to_go.shape[: valid.dim() - 1], -1)[..., -k:]
        features = self.features(observations, previous, returns_to_go)
        total = torch.where(valid[..., None], features, 0.0).sum(dim=-2)
        mean = total / valid.sum(dim=-1, keepdim=True).clamp(min=1)
        return self.head(torch.cat([mean, features[..., -1, :]], dim=-1))

    def at_every_step(
        self,
        observations: Tensor,
        previous: Tensor,
        valid: Tensor,
        lengths: Tensor,
        returns_to_go: Tensor | None = None,
    ) -> Tensor:
        """Logits [..., K, groups] of every step of the windows, each from the ``lengths`` [..., K] steps up to it.

        ``lengths`` is cut to the valid steps that there are. Equal to ``forward`` on each of the shorter windows, at
        the cost of one; logits at padded steps mean nothing.
        """
        features = torch.where(valid[..., None], self.features(observations, previous, returns_to_go), 0.0)
        known = valid.cumsum(dim=-1)
        lengths = torch.minimum(lengths, known).clamp(min=1)
        sums = F.pad(features.cumsum(dim=-2), (0, 0, 1, 0))
        ends = torch.arange(1, valid.shape[-1] + 1, device=valid.device).expand_as(lengths)
        starts = (ends - lengths)[..., None].expand_as(features)
        mean = (sums[..., 1:, :] - sums.gather(-2, starts)) / lengths[..., None]
        return self.head(torch.cat([mean, features], dim=-1))


class GateTrainer:
    """Trains a gate by smoothed cross-entropy with AdamW, one call a batch; its state resumes exactly."""

    def __init__(self, gate: Gate, *, lr: float = 3e-4, seed: int = 0) -> None:
        self.gate, self.seed, self.steps = gate, seed, 0
        self.optimiser = torch.optim.AdamW(gate.parameters(), lr=lr, weight_decay=_WEIGHT_DECAY)

    def step(self, batch: Mapping[str, Tensor], groups: Tensor) -> dict[str, float]:
        """One step on windows ``batch`` (observations [..., K, S], actions [..., K, A], valid [..., K]); ``groups`` is
        the group of each window [...]. Every valid step of a window is an example, with a context length drawn from
        1..``gate.context``. Returns ``gate_loss`` and ``gate_accuracy`` (share of steps, in [0, 1]).
        """
        self.steps += 1
        with torch.enable_grad():  # the batch is data: no gradient can reach the policy
            logits, targets = self._examples(batch, groups)
            loss = F.cross_entropy(logits, targets, label_smoothing=_LABEL_SMOOTHING)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        right = (logits.detach().argmax(dim=-1) == targets).float().mean()
        return {"gate_loss": float(loss.detach()), "gate_accuracy": float(right)}

    def _examples(self, batch: Mapping[str, Tensor], groups: Tensor) -> tuple[Tensor, Tensor]:
        valid = batch["valid"]
        draws = generator_for(self.seed, "gate context", self.steps)
        lengths = torch.randint(1, self.gate.context + 1, valid.shape, generator=draws).to(valid.device)
        observations, actions = batch["observations"].detach(), batch["actions"].detach()
        returns = batch["returns_to_go"].detach() if self.gate.use_returns else None
        logits = self.gate.at_every_step(observations, previous_actions(actions, valid), valid, lengths, returns)
        return logits[valid], groups[..., None].expand(valid.shape)[valid]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and number of steps taken."""
        return {"gate": self.gate.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.gate.load_state_dict(state["gate"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


class Belief:
    """What each running episode believes about its group: an exponential average of log q, and a choice with inertia.

    ``average`` <- decay * average + (1 - decay) * log q (the first log q as it is). The chosen group changes only
    when another one's averaged probability (the softmax of the average) exceeds its own by more than ``hysteresis``.
    """

    def __init__(self, episodes: int, groups: int, *, decay: float = 0.9, hysteresis: float = 0.1) -> None:
        if not 0 <= decay < 1 or not 0 <= hysteresis < 1:
            raise ManyoneError(f"gate: decay {decay} and hysteresis {hysteresis} must be at least 0 and below 1")
        self.decay, self.hysteresis = decay, hysteresis
        self.average = torch.zeros(episodes, groups)
        self.chosen = torch.full((episodes,), -1, dtype=torch.int64)

    def update(self, slots: Tensor, log_q: Tensor) -> Tensor:
        """Takes log q [b, groups] of the episodes ``slots`` [b] in; returns their chosen groups, int64 [b]."""
        log_q = log_q.detach().to(self.average)
        started = (self.chosen[slots] >= 0)[:, None]
        average = torch.where(started, self.decay * self.average[slots] + (1 - self.decay) * log_q, log_q)
        q = average.softmax(dim=-1)
        top, best = q.max(dim=-1)
        before = self.chosen[slots]
        held = q.gather(-1, before.clamp(min=0)[:, None])[:, 0]
        chosen = torch.where((before < 0) | (top > held + self.hysteresis), best, before)
        self.average[slots], self.chosen[slots] = average, chosen
        return chosen

    def forget(self, slot: int) -> None:
        """Another episode begins in ``slot``."""
        self.chosen[slot] = -1

    def probabilities(self, slots: Tensor) -> Tensor:
        """The averaged probabilities [b, groups] of the episodes ``slots`` [b]."""
        return self.average[slots].softmax(dim=-1)


def confusion_by_phase(
    predicted: Tensor, actual: Tensor, timesteps: Tensor, groups: int, starts: Sequence[int] = (0, 1, 10, 50)
) -> Tensor:
    """Counts [phases, groups (actual), groups (predicted)] of steps, by the phase of the episode that they are in.

    ``predicted``, ``actual`` and ``timesteps`` have one entry a step; phase p holds the time steps
    ``starts[p]`` .. ``starts[p + 1]`` - 1, the last one everything after ``starts[-1]``.
    """
    if not starts or starts[0] != 0 or sorted(set(starts)) != list(starts):
        raise ValueError(f"confusion_by_phase needs increasing starts from 0, got {list(starts)}")
    phase = torch.bucketize(timesteps, torch.tensor(starts), right=True) - 1
    flat = (phase * groups + actual) * groups + predicted
    return torch.bincount(flat, minlength=len(starts) * groups * groups).reshape(len(starts), groups, groups)
