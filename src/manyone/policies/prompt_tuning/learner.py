"""Adapts a frozen policy to all of M new tasks at once, from a few episodes of each, by one of several ways.

What is trained stands in one stack [U, P], a row a task (or a prompt): a step is one tensor program for all, each row
as it would be alone. Theta is read and never changed; dropout is off. The methods are in
:mod:`manyone.policies.prompt_tuning.methods`, what they train in ``trained.py``, the ranking in ``ranking.py``.
Public names: :class:`TuningLearner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.errors import ManyoneError
from manyone.nets.memory import keep_freed_memory
from manyone.policies.optimiser import FlatAdamW, learning_rate
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.prompt_tuning.acting import AdaptedPolicy, save_adapted
from manyone.policies.prompt_tuning.methods import METHODS
from manyone.policies.prompt_tuning.ranking import rank_direction
from manyone.policies.prompt_tuning.trained import Acting, Prompts, make_trained, prompt_losses
from manyone.policies.prompt_tuning.windows import tail_windows
from manyone.policies.protocol import History, effort_of
from manyone.policies.tasks import Steps, TaskBatch
from manyone.randomness import generator_for

Score = Callable[[Steps, int], Tensor]
"""What perturbed prompts [M, n, K*, ...] are worth at a step: what to minimise, [M, n]."""


class TuningLearner:
    """Adapts the policy of ``shots`` to its tasks by ``method``; AdamW, or steps along ranks.

    ``steps`` is the planned number of steps; ``batch_size`` windows a task and step, cut ``anywhere`` or from the
    ``tail`` of the episodes. ``prompts``: R, prompts a task: 1 is the best by return, more are drawn, each is tuned by
    itself where the method tunes prompts, and episodes take them in turn. ``rank`` of LoRA, ``bottleneck`` of adapters,
    ``candidates`` (m) and ``spread`` (mu) of the ranking; ``clip``: largest norm of a task's gradient (0: none).
    ``score`` is what the online ranking ranks by. ``evaluate`` is called with the learner and gives metrics.
    """

    def __init__(
        self,
        shots: FewShots,
        method: str,
        *,
        steps: int = 150,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        warmup: int = 0,
        schedule: str = "constant",
        clip: float = 0.0,
        windows: Literal["anywhere", "tail"] = "anywhere",
        prompts: int = 1,
        rank: int = 8,
        bottleneck: int = 16,
        candidates: int = 15,
        spread: float = 0.1,
        seed: int = 0,
        score: Score | None = None,
        evaluate: Callable[[TuningLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        if method not in METHODS:
            raise ManyoneError(f"method {method!r}: must be one of {', '.join(METHODS)}")
        if windows not in ("anywhere", "tail"):
            raise ManyoneError(f"windows {windows!r}: must be anywhere or tail")
        if candidates < 2:
            raise ManyoneError(f"candidates = {candidates}: a ranking needs at least 2")
        if shots.data.device.type == "cpu":
            keep_freed_memory()
        self.shots, self.method, self.seed = shots, method, seed
        self.steps_planned, self.batch_size, self.windows = steps, batch_size, windows
        self.lr, self.warmup, self.schedule, self.clip = lr, warmup, schedule, clip
        self.candidates, self.spread = candidates, spread
        self.iteration, self.score, self.evaluator = 0, score, evaluate
        self.trained = make_trained(shots, method, prompts=prompts, rank=rank, bottleneck=bottleneck, seed=seed)
        self._shapes = {name: value.shape[1:] for name, value in self.trained.initial.items()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        parts = [value.flatten(1) for value in self.trained.initial.values()]
        empty = torch.zeros(len(shots), 0, dtype=shots.table.mean.dtype, device=shots.table.mean.device)
        self.point = torch.cat([empty.new_zeros(len(parts[0]), 0), *parts], 1) if parts else empty
        self.optimiser = FlatAdamW(self.point, weight_decay, "shared")

    @property
    def total(self) -> int:
        """Steps that it takes in all."""
        return self.steps_planned

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One step for all tasks."""
        rate = learning_rate(self.iteration, self.lr, self.warmup, self.schedule, self.steps_planned)
        if self.method.startswith("ranking"):
            losses = self._rank(rate)
        elif not self._sizes:
            with torch.no_grad():
                losses = self.trained.losses({}, self.batch(self.iteration))
        else:
            losses = self._descend(rate)
        self.iteration += 1
        return {"loss": float(losses.mean()), "learning_rate": rate}

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        return {} if self.evaluator is None else dict(self.evaluator(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"iteration": self.iteration, "point": self.point, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if state["point"].shape != self.point.shape:
            raise ManyoneError(
                f"the saved state has {list(state['point'].shape)} trained values, this learner "
                f"{list(self.point.shape)}: the options or the shots have changed"
            )
        self.iteration = int(state["iteration"])
        self.point.copy_(state["point"])
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self, folder: Path) -> None:
        """Writes the standard artefact."""
        info = {"method": f"prompt-tuning-{self.method}", "seed": self.seed, "steps": self.iteration}
        save_adapted(folder, self.shots.model, self.shots.table, self.acting(), info=info)

    # ---- a policy's learner ---------------------------------------------------------------------------------------

    def policy(self, variant: Literal["", "before"] = "") -> AdaptedPolicy:
        """The policy as it is now, or as it was ``before`` it was adapted."""
        acting = Acting({}, self.trained.starts) if variant == "before" else self.acting()
        return AdaptedPolicy(self.shots.model, self.shots.table, acting)

    def effort(self) -> dict[str, float]:
        """Updates and samples a task."""
        found = effort_of(self.shots.data, self.iteration, len(self.shots), self.batch_size)
        if self.windows == "tail":
            found["samples_per_task"] = float(self.iteration * self.batch_size * self._tail)
        return found

    def sizes(self) -> dict[str, float]:
        """Numbers that were tuned, a task (or a prompt, where a task has several), and those of the frozen network."""
        frozen = sum(p.numel() for p in self.shots.model.parameters())
        return {"trainable_parameters": float(sum(self._sizes)), "frozen_parameters": float(frozen)}

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """None of its own."""
        return iter(())

    # ---- for those who build on it --------------------------------------------------------------------------------

    def values(self, point: Tensor | None = None) -> dict[str, Tensor]:
        """What is trained, by name [U, ...]: views of ``point`` [U, P], by default of what it is now."""
        flat = self.point if point is None else point
        parts = flat.split(self._sizes, 1) if self._sizes else ()
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def acting(self) -> Acting:
        """What the policy acts with now."""
        return self.trained.acting(self.values())

    def batch(self, step: int) -> TaskBatch:
        """The windows of ``step``, [M, B, K, ...]."""
        if self.windows == "tail":
            return tail_windows(self.shots, step, self.seed, batch_size=self.batch_size, length=self._tail)
        return self.shots.batch(step, self.seed, batch_size=self.batch_size)

    @property
    def _tail(self) -> int:
        """Steps of a window from the tail: K*, at most K."""
        model = self.shots.model
        return min(model.prompt or model.context, model.context)

    def _descend(self, rate: float) -> Tensor:
        """A step of AdamW by the gradient of each unit's own loss; the losses [U]."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.values().items()}
        losses = self.trained.losses(leaves, self.batch(self.iteration))
        found = torch.autograd.grad(losses.sum(), list(leaves.values()))
        gradient = torch.cat([part.flatten(1) for part in found], 1)
        if self.clip:
            norms = gradient.norm(dim=1, keepdim=True)
            gradient *= (self.clip / (norms + 1e-6)).clamp(max=1)
        self.optimiser.step(gradient, rate)
        return losses.detach()

    @torch.no_grad()
    def _rank(self, rate: float) -> Tensor:
        """A step against the direction that the ranks of perturbed prompts give; the candidates' mean scores [U]."""
        assert isinstance(self.trained, Prompts)
        units, m, step = len(self.point), self.candidates, self.iteration
        noise = torch.stack([
            torch.randn(m, sum(self._sizes), generator=generator_for(self.seed, "ranking", unit, step))
            for unit in range(units)
        ]).to(self.point)  # fmt: skip
        tried = (self.point.unsqueeze(1) + self.spread * noise).flatten(0, 1)
        whole = {name: v.flatten(0, 1).repeat_interleave(m, 0) for name, v in self.trained.starts.items()}
        prompts = whole | self.values(tried)
        if self.method == "ranking":
            theta = dict(self.shots.model.named_parameters())
            losses = prompt_losses(self.shots.model, theta, self.batch(step), prompts)
        else:
            if self.score is None:
                raise ManyoneError("method ranking-online ranks by episodes that prompts play: give score")
            own = {name: value.unflatten(0, (len(self.shots), -1)) for name, value in prompts.items()}
            losses = self.score(own, step).to(self.point).flatten()
        losses = losses.view(units, m)
        self.point -= rate * rank_direction(noise, losses)
        return losses.mean(1)
