"""Training a prompt diffuser beside a frozen policy: denoising, and guidance from the policy's own imitation loss.

Hu et al., "Prompt Tuning with Diffusion for Few-Shot Pre-trained Policy Generalization" (arXiv 2411.01168). One step:

    d = grad L_DM,  v = grad L_DT                 gradients of one flat vector phi      DiffuserTraining.gradients
    phi <- Adam(phi, d + lambda Proj_d(v))        (Proj: projection.py)                 DiffuserTraining.step
    phi_ema <- c phi_ema + (1 - c) phi            what prompts are sampled with (ours)

    L_DT = mean || a_t - pi_theta(x_hat_phi(y), history) ||^2     theta frozen, x_hat_phi(y) a sample: imitation_losses

m members train side by side, each with parameters, optimiser and tasks of its own: one member over all training tasks
(stage 1), or one for each new task (stage 2, all in one batched program). A member does as it would alone. What is
drawn depends on (seed, purpose, task, step). Public names: :class:`DiffuserTraining`, :class:`Recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.diffusion.ema import Ema
from manyone.policies.harmodt.layout import Layout
from manyone.policies.optimiser import FlatAdamW
from manyone.policies.prompt_diffuser.model import Limits, PromptDiffuser, chain_noise
from manyone.policies.prompt_diffuser.projection import Projection, cosine
from manyone.policies.prompt_diffuser.prompts import FewShots, imitation_losses
from manyone.policies.tasks import Steps
from manyone.randomness import generator_for

Losses = Literal["both", "denoising", "imitation"]
Guidance = Literal["chain", "one-step"]
CONTEXT_STEPS = 64
"""Steps of the few episodes that a context is made of while training; afterwards it is made of all."""


@dataclass(frozen=True)
class Recipe:
    """How phi is trained; the same for both stages but for ``ema_decay``."""

    losses: Losses = "both"
    """L_DM and L_DT, or one of them."""
    weight: float = 1.0
    """lambda, of the projected imitation gradient."""
    projection: Mapping[str, Any] | None = None
    """Arguments of :class:`~manyone.policies.prompt_diffuser.projection.Projection`; None: its vector form."""
    guidance: Guidance = "chain"
    """x_hat by the whole reverse chain, or in one step from a noisy prompt."""
    guidance_every: int = 1
    """Steps from one with guidance to the next; those between denoise only."""
    guidance_batch: int = 16
    """Windows a task of L_DT."""
    batch_size: int = 48
    """Prompts a task of L_DM."""
    lr: float = 3e-4
    ema_decay: float = 0.995

    def __post_init__(self) -> None:
        for name, value, holds, allowed in (
            ("losses", self.losses, self.losses in ("both", "denoising", "imitation"), "both, denoising or imitation"),
            ("guidance", self.guidance, self.guidance in ("chain", "one-step"), "chain or one-step"),
            ("weight", self.weight, self.weight >= 0, "0 or more"),
            ("guidance_every", self.guidance_every, self.guidance_every >= 1, "1 or more"),
            ("guidance_batch", self.guidance_batch, 1 <= self.guidance_batch <= self.batch_size,
             f"1 to batch_size = {self.batch_size}"),
            ("lr", self.lr, self.lr > 0, "above 0"),
            ("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "in [0, 1)"),
        ):  # fmt: skip
            if not holds:
                raise ManyoneError(f"{name} = {value}: must be {allowed}")

    @property
    def denoises(self) -> bool:
        """Whether L_DM counts."""
        return self.losses != "imitation"

    @property
    def guides(self) -> bool:
        """Whether L_DT counts."""
        return self.losses == "imitation" or (self.losses == "both" and self.weight > 0)


class DiffuserTraining:
    """phi of m members on the tasks of ``shots``: ``point`` [m, P] to begin with, estimates clipped to ``limits``.

    With m = 1 any tasks are the one member's; else task i is member i's. ``purpose`` names the stage's draws.
    """

    def __init__(
        self,
        diffuser: PromptDiffuser,
        shots: FewShots,
        recipe: Recipe,
        point: Tensor,
        limits: Limits,
        *,
        seed: int = 0,
        purpose: str = "stage 2",
    ) -> None:
        if shots.pool is None:
            raise ManyoneError("the policy reads no prompts: there is nothing to generate")
        if len(point) not in (1, len(shots)):
            raise ManyoneError(f"{len(point)} members for {len(shots)} tasks: give one, or one each")
        self.diffuser, self.shots, self.recipe, self.limits = diffuser, shots, recipe, limits
        self.seed, self.purpose, self.pool = seed, purpose, shots.pool
        self.layout = Layout(diffuser, ())
        self.point = point.detach().clone().requires_grad_()
        """phi, [m, P]"""
        self.average = Ema([self.point], recipe.ema_decay)
        """phi_ema, its only value [m, P]"""
        self.optimiser = FlatAdamW(self.point, 0.0, "shared")
        self.projection = Projection(**{"kind": "vector", "shapes": self.layout.shapes, **(recipe.projection or {})})
        self.theta = dict(shots.model.named_parameters())
        self.iteration = 0

    @property
    def members(self) -> int:
        """m"""
        return len(self.point)

    def weights(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name as views of ``flat`` [m, P]; without the leading axis where m is 1."""
        return self.layout.views(flat)

    def step(self, tasks: Sequence[int] | None = None) -> dict[str, float]:
        """One update of every member, on ``tasks`` (default: all)."""
        recipe, guided = self.recipe, self.recipe.guides and self.iteration % self.recipe.guidance_every == 0
        if not recipe.denoises and not guided:
            guided = True  # without denoising there is nothing else to do
        numbers = list(range(len(self.shots)) if tasks is None else tasks)
        d, v, metrics = self.gradients(numbers, self.iteration, recipe.denoises, guided)
        if d is not None:
            self.projection.remember(d)
        if d is None:
            assert v is not None
            direction = v
        elif v is None:
            direction = d
        else:
            angles = cosine(v, d)
            metrics |= {"cosine": float(angles.mean()), "conflict": float((angles < 0).float().mean())}
            direction = d + recipe.weight * self.projection(v, d)
        self.optimiser.step(direction, recipe.lr)
        self.iteration += 1
        self.average.update(self.iteration)
        return metrics

    def gradients(
        self, tasks: Sequence[int], step: int, denoising: bool = True, guidance: bool = True
    ) -> tuple[Tensor | None, Tensor | None, dict[str, float]]:
        """(d, v, losses): gradients [m, P] of L_DM and L_DT of each member, None where it is not asked for."""
        recipe, seed, diffuser = self.recipe, self.seed, self.diffuser
        names = [(seed, f"{self.purpose} noise", task, step) for task in tasks]
        prompts = self.pool.draw(tasks, step, seed, batch_size=recipe.batch_size, purpose=f"{self.purpose} prompts")
        weights, context = self.weights(self.point), None
        if diffuser.context:
            context = diffuser.encode(weights, self.shots.transitions(
                step, seed, count=CONTEXT_STEPS, tasks=tasks, purpose=f"{self.purpose} context"))  # fmt: skip
        d = v = None
        metrics: dict[str, float] = {}
        one_step = guidance and recipe.guidance == "one-step"
        reached: tuple[Tensor, Tensor, Tensor] | None = None
        if denoising or one_step:
            flat = {key: value.flatten(0, 1) for key, value in prompts.items()}
            x0 = diffuser.variables(flat)
            noise = chain_noise((1, recipe.batch_size, *x0.shape[1:]), names, x0)[0]
            n = self._steps(names, recipe.batch_size, x0.device)
            y = diffuser.condition(flat, context)
            losses, x, output = diffuser.denoising_losses(weights, x0, noise, n, y, self.members)
            reached = x, output, n
            if denoising:
                (d,) = torch.autograd.grad(losses.sum(), self.point, retain_graph=guidance and (
                    one_step or context is not None))  # fmt: skip
                metrics["denoising"] = float(losses.detach().mean())
        if guidance:
            values = self._imitation(weights, tasks, step, prompts, context, reached if one_step else None)
            (v,) = torch.autograd.grad(values.sum(), self.point)
            metrics["imitation"] = float(values.detach().mean())
        metrics["loss"] = metrics.get("denoising", 0.0) + (
            recipe.weight if recipe.losses == "both" else 1.0) * metrics.get("imitation", 0.0)  # fmt: skip
        return d, v, metrics

    def _imitation(
        self,
        weights: Mapping[str, Tensor],
        tasks: Sequence[int],
        step: int,
        prompts: Steps,
        context: Tensor | None,
        reached: tuple[Tensor, Tensor, Tensor] | None,
    ) -> Tensor:
        """L_DT of each member [m], with prompts sampled for the first of ``prompts`` [G, B, ...]."""
        diffuser, count = self.diffuser, self.recipe.guidance_batch
        part = {key: value[:, :count] for key, value in prompts.items()}
        flat = {key: value.flatten(0, 1) for key, value in part.items()}
        if reached is None:
            names = [(self.seed, f"{self.purpose} chain", task, step) for task in tasks]
            shape = (diffuser.schedule.steps, count, diffuser.length, diffuser.channels)
            noise = chain_noise(shape, names, diffuser.mean)
            x = diffuser.chain(weights, diffuser.condition(flat, context), noise, self.limits)
        else:
            x, output, n = (one.unflatten(0, (len(tasks), -1))[:, :count].flatten(0, 1) for one in reached)
            x = diffuser.one_step(x, output, n, self.limits)
        made = diffuser.prompts(x, flat)
        made = {key: value.unflatten(0, (len(tasks), count)) for key, value in made.items()}
        windows = self.shots.data.batch(tasks, step, self.seed, batch_size=count, purpose=f"{self.purpose} windows")
        losses = imitation_losses(self.shots.model, self.theta, windows, made)
        return losses.view(self.members, -1).mean(1)

    def _steps(self, names: Sequence[tuple[str | int, ...]], count: int, device: torch.device) -> Tensor:
        """n, uniform in 1..N: int64 [G x count]."""
        total = self.diffuser.schedule.steps
        parts = [torch.randint(1, total + 1, (count,), generator=generator_for(*name, "n")) for name in names]
        return torch.cat(parts).to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "point": self.point.detach(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "projection": self.projection.state_dict(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if state["point"].shape != self.point.shape:
            raise ManyoneError(
                f"the saved diffuser has {list(state['point'].shape)} parameters, this one {list(self.point.shape)}"
            )
        with torch.no_grad():
            self.point.copy_(state["point"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.projection.load_state_dict(state["projection"], self.point.device)
        self.iteration = int(state["iteration"])
