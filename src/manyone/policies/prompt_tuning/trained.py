"""What each way to adapt a frozen policy trains: named values of M tasks, and what the network makes of them.

    theta stays; phi_i <- phi_i - step along d L_DT(phi_i) / d phi_i    for all tasks i in one tensor program
    L_DT = mean over valid steps and dimensions of (a - pi(prompt, history))^2

Weights (all of them, LoRA, adapters; :class:`Weights`) are tuned behind prompts drawn from the pool, one a window, as
Prompt-DT trains (Xu et al., arXiv 2206.13499). Of a prompt the raw numbers (:class:`Prompts`) or the embeddings
(:class:`Tokens`, a soft prompt, Lester et al., arXiv 2104.08691) are tuned, R prompts a task each by itself; as no
token of the front sees the history, a prompt is read once for all windows of its task: exact. :class:`Generated` is the
control of the Prompt Diffuser (arXiv 2411.01168) for its size: its own network without noise, x_hat = f_phi(0, y, N).
Public names: these four, :class:`Trained`, :func:`make_trained`, :func:`start_prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.adapters import SOFT, adapter_parts, lora_parts
from manyone.nets.decision import DecisionTransformer
from manyone.policies.prompt_diffuser.model import PromptDiffuser
from manyone.policies.prompt_diffuser.prompts import FewShots, PromptPool, imitation_losses
from manyone.policies.prompt_tuning.methods import METHODS
from manyone.policies.tasks import Steps, TaskBatch
from manyone.randomness import generator_for

Values = Mapping[str, Tensor]
_RAW = ("returns_to_go", "observations", "actions")


class Acting(NamedTuple):
    """What a policy acts with: weights of the tasks' own by name, and R prompts of each, raw or as soft tokens."""

    own: dict[str, Tensor]
    """[M, ...]"""
    prompts: Steps | Tensor | None
    """[M, R, K*, ...] or [M, R, 3 K*, E]; None where the policy reads none."""


class Trained(Protocol):
    """What is trained; U units stand in one stack, the M tasks or R prompts of each."""

    initial: dict[str, Tensor]
    """[U, ...] by name."""

    @property
    def starts(self) -> Steps | None:
        """R prompts of each task from the pool, [M, R, K*, ...]; None where the policy reads none."""

    def losses(self, values: Values, batch: TaskBatch) -> Tensor:
        """L_DT of each unit, [U], on windows [M, B, ...]."""

    def acting(self, values: Values) -> Acting:
        """What the policy acts with."""


class Weights:
    """Weights of the network, or parts beside them (``initial``, [M, ...]), behind prompts from the pool."""

    def __init__(self, model: DecisionTransformer, initial: dict[str, Tensor], starts: Steps | None) -> None:
        self.model, self.initial, self.starts = model, initial, starts
        self._theta = dict(model.named_parameters())

    def losses(self, values: Values, batch: TaskBatch) -> Tensor:
        return imitation_losses(self.model, self._theta | dict(values), batch, batch.prompt)

    def acting(self, values: Values) -> Acting:
        return Acting(dict(values), self.starts)


class Prompts:
    """Returns-to-go, states and actions of R prompts a task, ``starts`` [M, R, K*, ...]; timesteps stay."""

    def __init__(self, model: DecisionTransformer, starts: Steps) -> None:
        self.model, self.starts = model, starts
        self.initial = {name: starts[name].flatten(0, 1).clone() for name in _RAW}
        self._theta = dict(model.named_parameters())

    def prompts(self, values: Values) -> Steps:
        """The prompts [U, K*, ...] that ``values`` are."""
        return {name: value.flatten(0, 1) for name, value in self.starts.items()} | dict(values)

    def losses(self, values: Values, batch: TaskBatch) -> Tensor:
        return prompt_losses(self.model, self._theta, batch, self.prompts(values))

    def acting(self, values: Values) -> Acting:
        shape = self.starts["valid"].shape[:2]
        return Acting({}, {name: value.unflatten(0, shape) for name, value in self.prompts(values).items()})


class Tokens:
    """The embeddings of R prompts a task: 3 K* vectors each."""

    def __init__(self, model: DecisionTransformer, starts: Steps) -> None:
        self.model, self.starts = model, starts
        self._theta = dict(model.named_parameters())
        with torch.no_grad():
            self.initial = {SOFT: model.prompt_tokens(self._theta, starts).flatten(0, 1)}

    def losses(self, values: Values, batch: TaskBatch) -> Tensor:
        return prompt_losses(self.model, self._theta | dict(values), batch, None, len(values[SOFT]))

    def acting(self, values: Values) -> Acting:
        return Acting({}, values[SOFT].unflatten(0, self.starts["valid"].shape[:2]))


class Generated:
    """A network of each task that gives prompts for the returns-to-go and timesteps of those in ``pool``."""

    def __init__(self, model: DecisionTransformer, pool: PromptPool, starts: Steps, seed: int) -> None:
        self.model, self.starts = model, starts
        self._theta = dict(model.named_parameters())
        made = PromptDiffuser(model.state_dim, model.action_dim, pool.length, pool.horizon, seed=seed)
        self.network = made.to(pool.steps["actions"]).requires_grad_(False)
        self.network.fit(pool)
        self.initial = {n: p.expand(len(pool), *p.shape).clone() for n, p in self.network.named_parameters()}

    def prompts(self, values: Values, given: Steps) -> Steps:
        """Prompts [M, n, K*, ...] with the returns-to-go and timesteps of ``given``."""
        flat = {name: value.flatten(0, 1) for name, value in given.items()}
        rows, network = len(flat["valid"]), self.network
        x = network.mean.new_zeros(rows, network.length, network.channels)
        last = torch.full((rows,), network.schedule.steps, device=x.device)
        made = network.prompts(network.denoise(values, x, last, network.condition(flat)), flat)
        return {name: value.unflatten(0, given["valid"].shape[:2]) for name, value in made.items()}

    def losses(self, values: Values, batch: TaskBatch) -> Tensor:
        assert batch.prompt is not None
        return imitation_losses(self.model, self._theta, batch, self.prompts(values, batch.prompt))

    def acting(self, values: Values) -> Acting:
        return Acting({}, self.prompts(values, self.starts))


def prompt_losses(
    model: DecisionTransformer, weights: Values, batch: TaskBatch, prompts: Steps | None, units: int | None = None
) -> Tensor:
    """L_DT of each of U ``prompts`` [U, K*, ...], [U], on windows [M, B, ...]: U / M prompts in turn have a task's.

    Without ``prompts``, ``weights`` hold the soft tokens of U = ``units`` of them.
    """
    own = None if prompts is None else {name: value.unsqueeze(1) for name, value in prompts.items()}
    count = len(prompts["valid"]) if prompts is not None else units
    assert count is not None
    prefix = model.encode_prefix(weights, own, None, (count, 1))
    each = count // len(batch.tasks)
    steps = {name: value.repeat_interleave(each, 0) if each > 1 else value for name, value in batch.steps.items()}
    error = model.run(weights, steps, prefix=prefix) - steps["actions"]
    valid = steps["valid"]
    return (error.square().sum(-1) * valid).sum((1, 2)) / (valid.sum((1, 2)) * model.action_dim)


def start_prompts(pool: PromptPool, count: int, seed: int) -> Steps:
    """``count`` (R) prompts of each task, [M, R, K*, ...]: of 1 its best by return, else drawn, again if too few."""
    if count == 1:
        return {name: value.unsqueeze(1) for name, value in pool.best().items() if name != "rewards"}
    rows = []
    for task in range(len(pool)):
        order = torch.randperm(pool.count(task), generator=generator_for(seed, "start prompts", task))
        rows.append(int(pool.first[task]) + order[torch.arange(count) % len(order)])
    where = torch.stack(rows).to(pool.steps["valid"].device)
    return {name: value[where] for name, value in pool.steps.items() if name != "rewards"}


def make_trained(
    shots: FewShots, method: str, *, prompts: int = 1, rank: int = 8, bottleneck: int = 16, seed: int = 0
) -> Trained:
    """What ``method`` trains of the tasks of ``shots``, with ``prompts`` (R) prompts a task."""
    model, count = shots.model, len(shots)
    if METHODS[method].needs_prompt and shots.pool is None:
        raise ManyoneError(f"method {method} tunes a prompt, but the policy reads none: it was trained without")
    starts = None if shots.pool is None else start_prompts(shots.pool, prompts, seed)
    parameter = next(model.parameters())

    def cast(parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(parameter) for name, value in parts.items()}

    shape: dict[str, Any] = {"seed": seed, "members": count}
    if method == "none":
        return Weights(model, {}, starts)
    if method == "full":
        own = {name: value.detach().expand(count, *value.shape).clone() for name, value in model.named_parameters()}
        return Weights(model, own, starts)
    if method == "lora":
        return Weights(model, cast(lora_parts(model.width, model.layers, rank, **shape)), starts)
    if method == "adaptor":
        return Weights(model, cast(adapter_parts(model.width, model.layers, bottleneck, **shape)), starts)
    assert starts is not None
    if method == "soft":
        return Tokens(model, starts)
    if method == "mlp":
        assert shots.pool is not None
        return Generated(model, shots.pool, starts, seed)
    return Prompts(model, starts)
