"""A diffusion model that turns noise into the prompt of a decision transformer: K* steps of (r, s, a).

Hu et al., "Prompt Tuning with Diffusion for Few-Shot Pre-trained Policy Generalization" (arXiv 2411.01168). The prompt
tau* is x^0 in R^{K* x (1 + S + A)}, the condition y in R^{K* x 2} its steps' (g, t / horizon):

    x^0        (r, s, a), standardised over the prompt pool                 PromptDiffuser.variables
    L_DM       E || eps - eps_phi(x^n, y, n) ||^2                           PromptDiffuser.denoising_losses
               (or of x^0, or of the velocity, where the network predicts that: ours)
    x_hat(y)   the reverse chain from x^N ~ N(0, I), differentiable         PromptDiffuser.chain
    tau_hat    (g, s_hat, a_hat, t): the generated r is no input            PromptDiffuser.prompts

eps_phi is a perceptron over all K* steps at once (``flat``) or over each with shared weights (``per_step``); the
schedule is variance-preserving with few steps N. The public text leaves open where a task's identity may come from
(g and t of an expert's tail are alike in all tasks): ``context`` adds an encoding of the task's few episodes to y, the
mean of a small perceptron over their (s, a, r) (ours). Estimates of x^0 are clipped to the data's range
(:class:`Limits`). Everything runs under weights that may have a leading axis of members, whose rows lie one after the
other. Public names: :class:`PromptDiffuser`, :class:`Limits`, :func:`chain_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.engine.artefact import below
from manyone.errors import ManyoneError
from manyone.nets.diffusion.denoisers import MLPDenoiser
from manyone.nets.diffusion.embedding import sinusoids
from manyone.nets.diffusion.process import Prediction, Process
from manyone.nets.diffusion.sampling import Sampler, sample
from manyone.nets.diffusion.schedules import ScheduleName, make_schedule
from manyone.nets.members import linear
from manyone.policies.prompt_diffuser.chain import coefficients, guided_chain
from manyone.policies.prompt_diffuser.prompts import PromptPool, conditions
from manyone.policies.tasks import Steps
from manyone.randomness import generator_for

Layout = Literal["flat", "per_step"]
_STEADY = 1e-3  # what varies less than this is constant, as in the statistics of states
_OUTSIDE = 0.001  # share of the pool's values on each side that lies beyond the limits


class Limits(NamedTuple):
    """Least and largest standardised value of each entry (r, s, a), [m, C] each: a row a member."""

    low: Tensor
    high: Tensor

    def widened(self, other: Limits) -> Limits:
        """So far that ``other``'s values fit too; rows [1, C] count for all members."""
        return Limits(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


class PromptDiffuser(nn.Module):
    """Prompts of K* = ``length`` steps for a policy with ``state_dim`` S and ``action_dim`` A.

    ``steps`` N and ``schedule`` of the diffusion, ``prediction``: what its network gives, ``sampler``: how prompts are
    drawn; ``embedding`` the width of the step's, ``width`` and ``layers`` of the perceptron's hidden layers;
    ``reward``: generate rewards too; ``context``: width of the few episodes' encoding (0: none). ``clip``: "quantiles"
    of the pool, or c for [-c, c]. ``horizon``: what timesteps are divided by. Weights are drawn from ``seed``. Before
    anything else :meth:`fit` takes the pool's statistics.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    reward_moments: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        length: int,
        horizon: int,
        *,
        layout: Layout = "flat",
        steps: int = 10,
        schedule: ScheduleName = "vp",
        prediction: Prediction = "noise",
        sampler: Sampler = "ddpm",
        embedding: int = 16,
        width: int = 256,
        layers: int = 3,
        reward: bool = True,
        context: int = 0,
        clip: float | Literal["quantiles"] = "quantiles",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if layout not in ("flat", "per_step"):
            raise ManyoneError(f"layout {layout!r}: must be flat or per_step")
        for what, number, least in (("length", length, 1), ("horizon", horizon, 1), ("context", context, 0)):
            if number < least:
                raise ManyoneError(f"{what} = {number}: must be at least {least}")
        if clip != "quantiles" and not (isinstance(clip, (int, float)) and clip > 0):
            raise ManyoneError(f"clip = {clip}: must be quantiles or a number above 0")
        self._config: dict[str, Any] = {
            "state_dim": state_dim, "action_dim": action_dim, "length": length, "horizon": horizon, "layout": layout,
            "steps": steps, "schedule": schedule, "prediction": prediction, "sampler": sampler, "embedding": embedding,
            "width": width, "layers": layers, "reward": reward, "context": context, "clip": clip,
        }  # fmt: skip
        self.length, self.horizon, self.layout = length, horizon, layout
        self.prediction: Prediction = prediction
        self.sampler: Sampler = sampler
        self.state_dim, self.reward, self.context, self.clip = state_dim, reward, context, clip
        self.channels = int(reward) + state_dim + action_dim
        """C, the entries of a step."""
        self.schedule = make_schedule(schedule, steps)
        condition = 2 + context if layout == "per_step" else 2 * length + context
        self.denoiser = MLPDenoiser(self.channels, length, condition, layout=layout, embedding=embedding, width=width,
                                    layers=layers, seed=seed)  # fmt: skip
        if context:
            self.encoder = _encoder(state_dim + action_dim + 1, context, seed)
        for name, value in (("mean", 0.0), ("deviation", 1.0), ("low", -3.0), ("high", 3.0)):
            self.register_buffer(name, torch.full((self.channels,), value))
        self.register_buffer("reward_moments", torch.tensor([0.0, 1.0]))
        self._process: dict[Any, Process] = {}

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    # ---- data ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, pool: PromptPool) -> None:
        """Takes mean, deviation and range of each entry from all prompts of ``pool``."""
        values = self._entries(pool.steps).flatten(0, -2).double()
        self.mean.copy_(values.mean(0))
        deviation = values.std(0, correction=0)
        self.deviation.copy_(torch.where(deviation < _STEADY, 1.0, deviation))
        rewards = pool.steps["rewards"].double()
        self.reward_moments[0], self.reward_moments[1] = rewards.mean(), max(float(rewards.std(correction=0)), _STEADY)
        limits = self.limits([pool.steps])
        self.low.copy_(limits.low[0])
        self.high.copy_(limits.high[0])

    def limits(self, prompts: Sequence[Steps]) -> Limits:
        """The range of each of M tasks' prompts [n, K*, ...], without the outermost thousandth on either side."""
        if self.clip != "quantiles":
            edge = torch.full((len(prompts), self.channels), float(self.clip)).to(self.mean)
            return Limits(-edge, edge)
        edges = torch.tensor([_OUTSIDE, 1 - _OUTSIDE]).to(self.mean)
        found = torch.stack([self.variables(one).flatten(0, -2).quantile(edges, 0) for one in prompts])
        return Limits(found[:, 0], found[:, 1])

    @property
    def fitted(self) -> Limits:
        """The range that :meth:`fit` has found, [1, C]."""
        return Limits(self.low.unsqueeze(0), self.high.unsqueeze(0))

    def statistics(self) -> dict[str, Tensor]:
        """What :meth:`fit` has found, by name: the buffers themselves."""
        return dict(self.named_buffers(recurse=False))

    def variables(self, prompts: Mapping[str, Tensor]) -> Tensor:
        """x^0 [..., K*, C] of ``prompts`` [..., K*, ...]."""
        return (self._entries(prompts) - self.mean) / self.deviation

    def prompts(self, x: Tensor, given: Mapping[str, Tensor]) -> Steps:
        """tau_hat of x [..., K*, C]; returns-to-go and timesteps [..., K*] are ``given``. Actions lie in [-1, 1]."""
        own = x * self.deviation + self.mean
        first = int(self.reward)
        states, actions = own[..., first : first + self.state_dim], own[..., first + self.state_dim :]
        found = {"observations": states, "actions": actions.clamp(-1, 1)}
        found |= {name: given[name] for name in ("returns_to_go", "timesteps")}
        return found | {"valid": torch.ones_like(given["timesteps"], dtype=torch.bool)}

    def rewards(self, x: Tensor) -> Tensor:
        """The rewards of x [..., K*, C] in units of the environment, [..., K*]; of a model that generates them."""
        if not self.reward:
            raise ManyoneError("this diffuser generates no rewards: it was built with reward=False")
        return x[..., 0] * self.deviation[0] + self.mean[0]

    # ---- the network ---------------------------------------------------------------------------------------------

    def encode(self, weights: Mapping[str, Tensor], transitions: Tensor) -> Tensor:
        """The context [G, D] of ``transitions`` [G, L, S + A + 1] (states, actions, rewards as the environment's).

        The mean over the L steps of a perceptron's output; with members in the weights, G / m tasks each.
        """
        own = below(weights, "encoder.")
        rewards = (transitions[..., -1:] - self.reward_moments[0]) / self.reward_moments[1]
        transitions = torch.cat((transitions[..., :-1], rewards), -1)
        hidden = F.mish(linear(transitions, own["0.weight"], own["0.bias"]))
        return linear(hidden, own["2.weight"], own["2.bias"]).mean(1)

    def condition(self, given: Mapping[str, Tensor], context: Tensor | None = None) -> Tensor:
        """y of prompts [R, K*, ...] as the network reads it: [R, 2 K* (+ D)], or [R, K*, 2 (+ D)] ``per_step``.

        ``context`` [G, D] belongs to R / G rows each.
        """
        y = conditions(given, self.horizon)
        y = y.flatten(1) if self.layout == "flat" else y
        if bool(self.context) != (context is not None):
            raise ManyoneError(f"this diffuser was built with context = {self.context}: give a context iff it is > 0")
        if context is None:
            return y
        each = context.repeat_interleave(len(y) // len(context), 0)
        return torch.cat((y, each if self.layout == "flat" else each.unsqueeze(1).expand(-1, self.length, -1)), -1)

    def denoise(self, weights: Mapping[str, Tensor], x: Tensor, n: Tensor, y: Tensor) -> Tensor:
        """eps_phi(x^n, y, n) for x [R, K*, C] and n int64 [R]."""
        return self.denoiser.run(below(weights, "denoiser."), x, n, y)

    def process(self, limits: Limits, rows: int) -> Process:
        """The diffusion process of ``rows`` rows, whose members have ``limits`` [m, C]."""
        each = rows // len(limits.low)
        clip = tuple(edge.repeat_interleave(each, 0).unsqueeze(1) for edge in limits)
        return Process(
            self.schedule, self.prediction, (clip[0], clip[1]), dtype=self.mean.dtype, device=self.mean.device
        )

    def denoising_losses(
        self, weights: Mapping[str, Tensor], x0: Tensor, noise: Tensor, n: Tensor, y: Tensor, members: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L_DM of each member [m], and what the one-step guidance starts from: x^n and the network's output [R, K*, C].

        ``x0`` and ``noise`` [R, K*, C], ``n`` [R]: R / m rows a member.
        """
        process = self._plain()
        x = process.noisy(x0, noise, n)
        output = self.denoise(weights, x, n, y)
        error = output - process.target(x0, noise, n)
        return error.square().view(members, -1).mean(1), x, output

    def chain(self, weights: Mapping[str, Tensor], y: Tensor, noise: Tensor, limits: Limits) -> Tensor:
        """x_hat [R, K*, C]: the whole reverse chain with gradients. ``noise`` [N, R, K*, C]: x^N, then each step's."""
        if (
            self.sampler != "dpm-solver++"
            and torch.is_grad_enabled()
            and any(w.requires_grad for w in weights.values())
        ):
            return self._guided(weights, y, noise, limits)
        process = self.process(limits, noise.shape[1])
        network = self.denoiser.chain(below(weights, "denoiser."), y, process.steps)
        return sample(network, process, noise[0], sampler=self.sampler, draws=lambda k: noise[k + 1])

    def _guided(self, weights: Mapping[str, Tensor], y: Tensor, noise: Tensor, limits: Limits) -> Tensor:
        """The same chain with its gradient by hand."""
        own = below(weights, "denoiser.")
        stacked = own["body.0.weight"].ndim == 3
        own = own if stacked else {name: value.unsqueeze(0) for name, value in own.items()}
        members, total = len(own["body.0.weight"]), self.schedule.steps
        width = self.channels * (self.length if self.layout == "flat" else 1)
        cut = (width, y.shape[-1], own["body.0.weight"].shape[-1] - width - y.shape[-1])
        over_x, over_y, over_n = own["body.0.weight"].split(cut, -1)
        n = torch.arange(total, 0, -1, device=y.device)
        embedded = sinusoids(n, self.denoiser.frequency.to(y)).expand(members, -1, -1)  # the same steps for all rows
        for place in (0, 1):
            embedded = linear(embedded, own[f"step.{place}.weight"], own[f"step.{place}.bias"])
            embedded = F.mish(embedded) if place == 0 else embedded
        of_step = torch.bmm(embedded, over_n.mT).transpose(0, 1).unsqueeze(2)  # [N, m, 1, H]
        told = torch.baddbmm(own["body.0.bias"].unsqueeze(1), y.reshape(members, -1, y.shape[-1]), over_y.mT) + of_step
        layers = len(self.denoiser.body)
        pairs = [(over_x, own["body.0.bias"].new_zeros(0))]
        pairs += [(own[f"body.{place}.weight"], own[f"body.{place}.bias"]) for place in range(1, layers)]
        edges = [edge.repeat(1, self.length) if self.layout == "flat" else edge for edge in limits]
        if members > len(edges[0]):
            edges = [edge.expand(members, -1) for edge in edges]
        low, high = (edge.unsqueeze(1) for edge in edges)
        steps = coefficients(self.schedule, self.prediction, self.sampler)
        x = guided_chain(noise.reshape(total, members, -1, width), told, pairs, (low, high), steps)
        return x.reshape(noise.shape[1:])

    def one_step(self, x: Tensor, output: Tensor, n: Tensor, limits: Limits) -> Tensor:
        """x_hat [R, K*, C] = (x^n - sqrt(1 - abar_n) eps_phi) / sqrt(abar_n), clipped: the cheap path of guidance."""
        return self.process(limits, len(x)).estimates(x, output, n)[0]

    def _plain(self) -> Process:
        key = (self.mean.dtype, self.mean.device)
        if key not in self._process:
            self._process = {key: Process(self.schedule, self.prediction, dtype=key[0], device=key[1])}
        return self._process[key]

    def _entries(self, prompts: Mapping[str, Tensor]) -> Tensor:
        parts = [prompts["observations"], prompts["actions"]]
        return torch.cat(([prompts["rewards"].unsqueeze(-1)] if self.reward else []) + parts, -1)


def chain_noise(shape: Sequence[int], names: Sequence[tuple[str | int, ...]], like: Tensor) -> Tensor:
    """Standard normal numbers [N, G x B, ...] for ``shape`` (N, B, ...): those of each of the G ``names`` by itself."""
    parts = [torch.randn(tuple(shape), generator=generator_for(*name)) for name in names]
    return torch.cat(parts, 1).to(like)


def _encoder(inputs: int, width: int, seed: int) -> nn.Sequential:
    """inputs -> 64 -> width with Mish, drawn from ``seed``."""
    made = nn.Sequential(nn.Linear(inputs, 64), nn.Mish(), nn.Linear(64, width))
    with torch.no_grad():
        for name, value in made.named_parameters():
            bound = made.get_parameter(f"{name.partition('.')[0]}.weight").shape[1] ** -0.5
            value.uniform_(-bound, bound, generator=generator_for(seed, "context encoder", name))
    return made
