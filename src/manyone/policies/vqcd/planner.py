"""The planner of VQ-CD: a conditional diffusion of aligned states, and the actions that lead along them.

Hu et al., "Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces" (arXiv 2410.15698).
With x = (s_t, ..., s_{t+T-1}) of aligned states (or of states and actions, the paper's ablation), return C, b ~
Bernoulli(1 - dropout) and first state known:

    L = E ||eps - eps_theta(x_n, n, b C)||^2 over what is not known  +  ||a - f_inv(s, s')||^2      Planner.forward
    plan: x by DDIM under eps_u + omega (eps_c - eps_u), clipped to [-rho, rho], first state set     Planner.plan

Public names: :class:`Planner`, :class:`Sampling`, :class:`Draws`, :func:`make_planner`,
:func:`make_denoiser`, :func:`another`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.diffusion.denoisers import ResidualMLPDenoiser
from manyone.nets.diffusion.dit import DiT
from manyone.nets.diffusion.guidance import Denoiser, guided
from manyone.nets.diffusion.process import Known, Prediction, Process
from manyone.nets.diffusion.sampling import Sampler, Spacing, sample
from manyone.nets.diffusion.schedules import ScheduleName, make_schedule
from manyone.nets.diffusion.unet import TemporalUNet
from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.inverse import InverseDynamics, inverse_loss
from manyone.randomness import generator_for, seed_for

PlanKind = Literal["states", "state-actions"]
_HEADS = 4  # of a dit


class Draws(NamedTuple):
    """What is random in a training step."""

    noise: Tensor
    """As x, [B, T, C]"""
    n: Tensor
    """Diffusion steps, int64 [B]"""
    present: Tensor
    """Which rows are told their return, bool [B]"""


@dataclass(frozen=True)
class Sampling:
    """How plans are drawn; JSON-able by ``vars``."""

    sampler: Sampler = "ddim"
    steps: int = 10
    spacing: Spacing = "trailing"
    eta: float = 0.0
    guidance: float = 1.2
    """omega"""
    target: float = 0.95
    """The return that is asked for where none is given, from 0 (the least of the task's data) to 1 (the most)"""


class Planner(nn.Module):
    """``denoiser`` of windows [B, T, C], with ``inverse`` dynamics where plans are of states alone.

    C is ``states``, or ``states`` + ``actions`` where plans are of both. ``inverse`` None: plans are of both, or their
    owner keeps the inverse dynamics apart. ``told``: number of tasks that the condition names by a one-hot entry; 0:
    none, and the condition is the return alone. ``shape`` is what :func:`make_denoiser` made the denoiser of.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        inverse: InverseDynamics | None,
        *,
        states: int,
        actions: int,
        horizon: int = 8,
        plan: PlanKind = "states",
        told: int = 0,
        schedule: ScheduleName = "cosine",
        diffusion_steps: int = 200,
        prediction: Prediction = "noise",
        shape: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.shape = dict(shape or {})
        self.denoiser, self.inverse = denoiser, inverse
        self.states, self.actions, self.horizon, self.kind, self.told = states, actions, horizon, plan, told
        self._noise = make_schedule(schedule, diffusion_steps)
        self._schedule: ScheduleName = schedule
        self.prediction = prediction
        where = torch.zeros(1, horizon, self.channels, dtype=torch.bool)
        where[:, 0, :states] = True
        self.register_buffer("where", where, persistent=False)

    where: Tensor

    @property
    def channels(self) -> int:
        """C"""
        return self.states + (self.actions if self.kind == "state-actions" else 0)

    @property
    def diffusion_steps(self) -> int:
        """K"""
        return self._noise.steps

    def process(self, bound: float | tuple[Tensor, Tensor] | None = None) -> Process:
        """The diffusion process; estimates of the data are clipped to ``bound``."""
        clip = None if isinstance(bound, float) and not bound < float("inf") else bound
        return Process(self._noise, self.prediction, clip, device=self.where.device)

    def config(self) -> dict[str, Any]:
        """What :func:`make_planner` makes the same planner of, JSON-able."""
        return {"states": self.states, "actions": self.actions, "horizon": self.horizon, "plan": self.kind,
                "told": self.told, "schedule": self._schedule, "diffusion_steps": self.diffusion_steps,
                "prediction": self.prediction, "denoiser": dict(self.shape),
                "inverse": None if self.inverse is None else self.inverse.config()}  # fmt: skip

    # --- training -----------------------------------------------------------------------------------------------------

    def draws(self, rows: int, dropout: float, *who: str | int) -> Draws:
        """What a training step on ``rows`` windows draws for ``who``; a share ``dropout`` is told no return."""
        draw = generator_for(*who)
        noise = torch.randn(rows, self.horizon, self.channels, generator=draw)
        n = torch.randint(1, self.diffusion_steps + 1, (rows,), generator=draw)
        present = torch.rand(rows, generator=draw) >= dropout
        device = self.where.device
        return Draws(noise.to(device), n.to(device), present.to(device))

    def windows(self, batch: PlanBatch) -> Tensor:
        """x_0 [B, T, C]"""
        return batch.states if self.kind == "states" else torch.cat((batch.states, batch.actions), -1)

    def conditioned(self, returns: Tensor, task: int) -> tuple[Denoiser, Tensor]:
        """The denoiser as guidance calls it, and the condition of plans of ``task`` for ``returns`` [B]."""
        if not self.told:
            return self.denoiser, returns.unsqueeze(1)
        if not 0 <= task < self.told:
            raise ManyoneError(f"task {task}: this planner is told one of 0..{self.told - 1}")
        named = torch.zeros(len(returns), self.told, device=returns.device)
        named[:, task] = 1

        def told(x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
            # the task is told always, the return where it is present
            assert condition is not None
            assert present is not None
            there = present.to(condition.dtype).unsqueeze(1)
            given = torch.cat((condition[:, :1] * there, there, condition[:, 1:]), 1)
            return self.denoiser(x, n, given)  # type: ignore[no-any-return]

        return told, torch.cat((returns.unsqueeze(1), named), 1)

    def outputs(self, batch: PlanBatch, draws: Draws, task: int = 0, inverse: InverseDynamics | None = None) -> Tensor:
        """What the loss compares, a row a window [B, ...]: the denoiser's entries that are not known, then actions."""
        process, x0 = self.process(), self.windows(batch)
        denoiser, condition = self.conditioned(batch.returns, task)
        x = Known(self.where, x0).put(process.noisy(x0, draws.noise, draws.n))
        found = [denoiser(x, draws.n, condition, draws.present)[:, ~self.where[0]]]
        acting = self.inverse if inverse is None else inverse
        if acting is not None:
            found.append(acting(batch.states[:, :-1], batch.states[:, 1:]).flatten(1))
        return torch.cat(found, 1)

    def forward(self, batch: PlanBatch, draws: Draws, task: int = 0, inverse: InverseDynamics | None = None) -> Tensor:
        """The training loss; ``inverse`` in place of the planner's own inverse dynamics."""
        process, x0 = self.process(), self.windows(batch)
        denoiser, condition = self.conditioned(batch.returns, task)
        loss = process.loss(lambda x, n: denoiser(x, n, condition, draws.present), x0, draws.noise, draws.n,
                            Known(self.where, x0))  # fmt: skip
        acting = self.inverse if inverse is None else inverse
        return loss if acting is None else loss + inverse_loss(acting, batch)

    # --- acting -------------------------------------------------------------------------------------------------------

    def plan(
        self,
        first: Tensor,
        returns: Tensor,
        noise: Tensor,
        how: Sampling,
        *,
        task: int = 0,
        bound: float | tuple[Tensor, Tensor] | None = None,
        draws: Any = None,
    ) -> Tensor:
        """Plans [B, T, C] that begin with the aligned states ``first`` [B, Ds] and should earn ``returns`` [B].

        ``noise`` [B, T, C] is where they start from; ``draws(k)`` is the noise of reverse step k where ``how`` has any.
        """
        denoiser, condition = self.conditioned(returns, task)
        values = torch.nn.functional.pad(first, (0, self.channels - self.states)).unsqueeze(1)
        return sample(guided(denoiser, condition, how.guidance), self.process(bound), noise, sampler=how.sampler,
                      steps=how.steps, eta=how.eta, draws=draws, known=Known(self.where, values),
                      spacing=how.spacing)  # fmt: skip

    def planned_actions(self, plan: Tensor, inverse: InverseDynamics | None = None) -> Tensor:
        """Aligned actions [B, T-1, Da] of ``plan`` [B, T, C]: those that it holds, or those between its states."""
        if self.kind == "state-actions":
            return plan[:, :-1, self.states :]
        acting = self.inverse if inverse is None else inverse
        if acting is None:
            raise ManyoneError("this planner has no inverse dynamics of its own: give those of the task")
        return acting(plan[:, :-1], plan[:, 1:])  # type: ignore[no-any-return]


# --- making one -------------------------------------------------------------------------------------------------------


def make_planner(config: Mapping[str, Any], *, seed: int) -> Planner:
    """The planner that :meth:`Planner.config` describes, with weights drawn from ``seed``."""
    own = {name: value for name, value in config.items() if name not in ("denoiser", "inverse")}
    return Planner(*_networks(config, seed), shape=config["denoiser"], **own)


def _networks(config: Mapping[str, Any], seed: int) -> tuple[nn.Module, InverseDynamics | None]:
    """Denoiser and inverse dynamics of the planner that ``config`` describes."""
    channels = config["states"] + (config["actions"] if config["plan"] == "state-actions" else 0)
    condition = 2 + config["told"] if config["told"] else 1
    denoiser = make_denoiser(config["denoiser"], channels, config["horizon"], condition, seed)
    inverse = config["inverse"]
    return denoiser, None if inverse is None else InverseDynamics(**inverse, seed=seed)


def make_denoiser(shape: Mapping[str, Any], channels: int, horizon: int, condition: int, seed: int) -> nn.Module:
    """A denoiser of windows [B, ``horizon``, ``channels``] under a condition [B, ``condition``].

    ``shape``: its kind, ``width`` and ``layers`` (of a unet: width of the first level, and levels, each twice as wide),
    and ``embedding``, the width of what an mlp knows of step and condition.
    """
    kind, width, layers = shape["kind"], shape["width"], shape["layers"]
    if kind == "mlp":
        return ResidualMLPDenoiser(channels, horizon, condition, width=width, layers=layers,
                                   embedding=shape["embedding"], seed=seed)  # fmt: skip
    if kind == "unet":
        return TemporalUNet(channels, condition, dim=width, multipliers=[2**k for k in range(layers)], seed=seed)
    if kind == "dit":
        return DiT(channels, condition, width=width, layers=layers, heads=_HEADS, seed=seed)
    raise ManyoneError(f"denoiser {kind!r}: must be mlp, unet or dit")


def another(planner: Planner, share: float, seed: int, who: str) -> Planner:
    """A fresh planner like ``planner`` with about ``share`` of its parameters, by its widths, drawn for ``who``."""
    if not share > 0:
        raise ManyoneError(f"share = {share}: must be above 0")
    config = planner.config()
    wanted = share * sum(p.numel() for p in planner.parameters())

    def scaled(factor: float) -> dict[str, Any]:
        found = {**config, "denoiser": resized(config["denoiser"], factor)}
        if config["inverse"] is not None:
            found["inverse"] = {**config["inverse"], "width": max(1, round(config["inverse"]["width"] * factor))}
        return found

    def size(factor: float) -> int:
        with torch.device("meta"):
            parts = [one for one in _networks(scaled(factor), 0) if one is not None]
        return sum(p.numel() for one in parts for p in one.parameters())

    low, high = 0.0, 2 * max(1.0, share)
    for _ in range(12):  # finer than any width
        middle = (low + high) / 2
        low, high = (low, middle) if size(middle) > wanted else (middle, high)
    # widths are whole numbers; a wider network is wider indeed
    nearest = high if share > 1 or size(high) - wanted < wanted - size(low) else low
    return make_planner(scaled(nearest), seed=seed_for(seed, "another planner", who))


def resized(shape: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """``shape`` of a denoiser with ``factor`` times its width, or the nearest that there is."""
    step = {"mlp": 1, "unet": 8, "dit": 2 * _HEADS}[shape["kind"]]
    found = {**shape, "width": step * max(1, round(shape["width"] * factor / step))}
    if "embedding" in shape:
        found["embedding"] = max(4, 2 * round(shape["embedding"] * factor / 2))
    return found
