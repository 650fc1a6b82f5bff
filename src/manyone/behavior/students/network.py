"""Students: small networks from a state to an action, many of them with their own weights at once.

The published student (Lei et al., arXiv 2410.22728, code) is a 4-layer perceptron of width 256 with ReLU; its last map
gives a mean mu and a raw log-deviation l for each entry of the action::

    log sigma = clamp(m l + o, -20, 2)          m, o learnable scalars, 1 and -1 at first
    action    = tanh(mu + sigma noise)          or tanh(mu), without noise

All maps start as orthogonal matrices times sqrt 2 with zero biases. A residual student (4 maps) adds its first hidden
activation to the third before the last map. Discrete actions: the last map gives logits, the output probabilities.

Weights are stacks, ``layers.0.weight`` [K, width, S], ``layers.0.bias`` [K, width], ...: K members side by side.

Public names: :class:`Student`, :class:`StudentSpec`, :class:`NetworkStudent`, :class:`ModuleStudent`,
:func:`make_student`, :func:`orthogonal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for

Stack = Mapping[str, Tensor]
LOG_DEVIATION = (-20.0, 2.0)
"""Bounds of log sigma."""


class Student(Protocol):
    """What the inner training and the evaluation ask of a student; it holds no weights."""

    @property
    def state_dim(self) -> int:
        """Width S of a state."""
        ...

    @property
    def action_dim(self) -> int:
        """Width A of an action, or the number of choices."""
        ...

    def init(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Fresh weights [K, ...]; member k depends on ``seeds[k]`` alone."""
        ...

    def forward(self, weights: Stack, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """Unit actions, or probabilities, [K, N, A] for states [N, S] (the same for all members) or [K, N, S].

        ``noise``: standard normal numbers [N, A] or [K, N, A] that the actions are drawn with.
        """
        ...


@dataclass(frozen=True)
class StudentSpec:
    """An architecture as data.

    Attributes:
        kind: mlp, or residual (4 maps).
        layers: linear maps, 2 to 6; width: of the hidden layers.
        output: tanh (actions in -1..1), or softmax (probabilities of discrete actions).
        gaussian: a tanh student has a head for log-deviations too, as published.
    """

    kind: Literal["mlp", "residual"] = "mlp"
    layers: int = 4
    width: int = 64
    output: Literal["tanh", "softmax"] = "tanh"
    gaussian: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("mlp", "residual"):
            raise ManyoneError(f"student kind {self.kind!r}: must be mlp or residual")
        if self.output not in ("tanh", "softmax"):
            raise ManyoneError(f"student output {self.output!r}: must be tanh or softmax")
        if not isinstance(self.layers, int) or not 2 <= self.layers <= 6:
            raise ManyoneError(f"layers {self.layers}: a student has 2 to 6 linear maps")
        if self.kind == "residual" and self.layers != 4:
            raise ManyoneError(f"layers {self.layers}: a residual student has 4")
        if not isinstance(self.width, int) or self.width < 1:
            raise ManyoneError(f"width {self.width}: must be a whole number from 1")


def make_student(spec: StudentSpec, state_dim: int, action_dim: int) -> NetworkStudent:
    """The student that ``spec`` describes, for states of ``state_dim`` and actions of ``action_dim`` numbers."""
    return NetworkStudent(spec, state_dim, action_dim)


@dataclass(frozen=True, eq=False)
class NetworkStudent:
    """A perceptron or residual network as ``spec`` says."""

    spec: StudentSpec
    state_dim: int
    action_dim: int

    def __post_init__(self) -> None:
        for name in ("state_dim", "action_dim"):
            if getattr(self, name) < 1:
                raise ManyoneError(f"{name} {getattr(self, name)}: must be at least 1")

    @property
    def gaussian(self) -> bool:
        """Whether there is a head for log-deviations."""
        return self.spec.gaussian and self.spec.output == "tanh"

    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of every linear map."""
        widths = [self.spec.width] * (self.spec.layers - 1)
        last = self.action_dim * (2 if self.gaussian else 1)
        return list(zip([*widths, last], [self.state_dim, *widths], strict=True))

    def parameter_count(self) -> int:
        """Numbers that one member learns."""
        return sum(o * i + o for o, i in self.shapes()) + 2 * self.gaussian

    def init(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Orthogonal weights times sqrt 2, zero biases (float32, on the CPU)."""
        if not len(seeds):
            raise ManyoneError("no seeds: give one for each member")
        shapes, members = self.shapes(), len(seeds)
        sizes = [o * i for o, i in shapes]
        drawn = torch.empty(members, sum(sizes))
        for row, seed in zip(drawn, seeds, strict=True):
            row.normal_(generator=generator_for(int(seed), "student"))
        alike: dict[tuple[int, int], list[Tensor]] = {}  # maps of one shape go through one batched product
        for shape, numbers in zip(shapes, drawn.split(sizes, 1), strict=True):
            alike.setdefault(shape, []).append(numbers)
        ready = {}
        for (outputs, inputs), numbers in alike.items():
            tall = (max(outputs, inputs), min(outputs, inputs))
            found = orthogonal(torch.stack(numbers).view(len(numbers), members, *tall)).mul_(math.sqrt(2))
            ready[outputs, inputs] = iter(found if outputs >= inputs else found.mT)
        weights = {}
        for place, shape in enumerate(shapes):
            weights[f"layers.{place}.weight"] = next(ready[shape]).contiguous()
            weights[f"layers.{place}.bias"] = torch.zeros(members, shape[0])
        if self.gaussian:
            weights |= {"log_std_scale": torch.ones(members), "log_std_offset": -torch.ones(members)}
        return weights

    def check(self, weights: Stack) -> int:
        """The number of members of ``weights``, which must be this student's."""
        members = next(iter(weights.values())).shape[0] if weights else 0
        wanted: dict[str, tuple[int, ...]] = {}
        for place, (outputs, inputs) in enumerate(self.shapes()):
            wanted |= {f"layers.{place}.weight": (members, outputs, inputs), f"layers.{place}.bias": (members, outputs)}
        if self.gaussian:
            wanted |= {"log_std_scale": (members,), "log_std_offset": (members,)}
        given = {name: tuple(value.shape) for name, value in weights.items()}
        if given != wanted or not members:
            name = next((n for n in (*wanted, *given) if given.get(n) != wanted.get(n)), "")
            raise ManyoneError(
                f"weights are not this student's: {name or 'members'} has shape {given.get(name, 'none')}, "
                f"expected {wanted.get(name, 'none')}"
            )
        return members

    def maps(self, weights: Stack, noisy: bool = False) -> list[Tensor]:
        """Weight, bias, weight, bias, ...; without noise, the last map's rows for log-deviations are left out."""
        found = [weights[f"layers.{place}.{kind}"] for place in range(self.spec.layers) for kind in ("weight", "bias")]
        if self.gaussian and not noisy:
            found[-2:] = [value[:, : self.action_dim] for value in found[-2:]]
        return found

    def forward(self, weights: Stack, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """[K, N, A]; see :class:`Student`. Differentiable as often as one likes; made for being differentiated once."""
        last = _Maps.apply(self.spec.kind == "residual", states, *self.maps(weights, noise is not None))
        return self.output(last, weights, noise)

    def plain(self, weights: Stack, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """The same as :meth:`forward`, made of PyTorch's own differentiable operations only."""
        last = apply_maps(self.spec.kind == "residual", states, self.maps(weights, noise is not None))
        return self.output(last, weights, noise)

    def output(self, last: Tensor, weights: Stack, noise: Tensor | None) -> Tensor:
        """Actions [K, N, A] of the last map's outputs [K, O, N]."""
        if noise is None:
            return (last.softmax(1) if self.spec.output == "softmax" else last.tanh()).mT
        if not self.gaussian:
            raise ManyoneError("noise is for students with a Gaussian head: leave it out, or set gaussian=True")
        mean, raw = last.split(self.action_dim, 1)
        scale, offset = (weights[f"log_std_{name}"].view(-1, 1, 1) for name in ("scale", "offset"))
        deviation = (scale * raw + offset).clamp(*LOG_DEVIATION).exp()
        return (mean + deviation * noise.mT).tanh().mT


def apply_maps(residual: bool, states: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """The last map's outputs [K, O, N] of weights [K, O, I] and biases [K, O] in turn, with ReLU between them.

    Units stand before rows: so the first map of all members is one product where they share their states.
    """
    first = bias = None
    weight, bias = maps[0], maps[1].unsqueeze(2)
    if states.ndim == 2:
        hidden = torch.addmm(bias.flatten(0, 1), weight.flatten(0, 1), states.T).unflatten(0, weight.shape[:2])
    else:
        hidden = torch.baddbmm(bias, weight, states.mT)
    for place in range(2, len(maps), 2):
        hidden = hidden.relu()
        if residual:
            first = hidden if place == 2 else first
            hidden = hidden + first if place == len(maps) - 2 else hidden
        hidden = torch.baddbmm(maps[place + 1].unsqueeze(2), maps[place], hidden)
    return hidden


class _Maps(torch.autograd.Function):
    """:func:`apply_maps` with biases, ReLU and its gradient in place: half of the passes over memory."""

    @staticmethod
    def forward(ctx: Any, residual: bool, states: Tensor, *maps: Tensor) -> Tensor:
        weight, bias = maps[0], maps[1].unsqueeze(2)
        if states.ndim == 2:
            last = torch.mm(weight.flatten(0, 1), states.T).unflatten(0, weight.shape[:2])
        else:
            last = torch.bmm(weight, states.mT)
        last.add_(bias)
        hidden: list[Tensor] = []
        for place in range(2, len(maps), 2):
            hidden.append(last.relu_())
            into = last + hidden[0] if residual and place == len(maps) - 2 else last
            last = torch.bmm(maps[place], into).add_(maps[place + 1].unsqueeze(2))
        ctx.save_for_backward(states, *maps, *hidden)
        ctx.residual = residual
        return last

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        states, *rest = ctx.saved_tensors
        count = 2 * (len(rest) + 1) // 3  # L weights, L biases, L - 1 hidden activations
        maps, hidden = rest[:count], rest[count:]
        if torch.is_grad_enabled():  # asked for derivatives of the derivatives
            last = apply_maps(ctx.residual, states, maps)
            inputs = (states, *maps)
            needed = [x for x, need in zip(inputs, ctx.needs_input_grad[1:]) if need]
            found = iter(torch.autograd.grad(last, needed, gradient, create_graph=True))
            return (None, *(next(found) if need else None for need in ctx.needs_input_grad[1:]))
        gradients: list[Tensor | None] = [None] * count
        shortcut = None
        for place in range(count - 2, 0, -2):
            below = hidden[place // 2 - 1]
            into = below + hidden[0] if ctx.residual and place == count - 2 else below
            gradients[place], gradients[place + 1] = torch.bmm(gradient, into.mT), gradient.sum(2)
            if shortcut is not None and place == 2:
                gradient = shortcut.baddbmm_(maps[place].mT, gradient)
            else:
                gradient = torch.bmm(maps[place].mT, gradient)
            if ctx.residual and place == count - 2:
                shortcut = gradient.clone()
            torch.ops.aten.threshold_backward.grad_input(gradient, below, 0, grad_input=gradient)
        flat, weight = gradient.flatten(0, 1), maps[0]
        shared = states.ndim == 2
        gradients[0] = torch.mm(flat, states).view_as(weight) if shared else torch.bmm(gradient, states)
        gradients[1] = gradient.sum(2)
        by_states = None
        if ctx.needs_input_grad[1]:
            by_states = torch.mm(flat.T, weight.flatten(0, 1)) if shared else torch.bmm(gradient.mT, weight)
        return (None, by_states, *gradients)


def orthogonal(drawn: Tensor) -> Tensor:
    """Matrices [..., n, m <= n] with orthonormal columns, uniformly distributed, of normal numbers [..., n, m].

    Column j's last n - j numbers give the j-th of m Householder reflections, whose product has the distribution of the
    Q of a Gaussian matrix with the signs that make R's diagonal positive (Stewart, SIAM J. Numer. Anal. 17, 1980): half
    the work of a QR decomposition.
    """
    reflectors = drawn.tril()
    length = torch.linalg.vector_norm(reflectors, dim=-2)
    diagonal = reflectors.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal >= 0, 1.0, -1.0).to(drawn)
    head = diagonal + sign * length
    found = torch.linalg.householder_product(reflectors / head.unsqueeze(-2), head / (sign * length))
    return found * -sign.unsqueeze(-2)


class ModuleStudent:
    """Any ``nn.Module`` as a student.

    ``build()`` makes a fresh module, whose parameters come from torch's global generator; the module maps states
    [N, S] to unit actions, or probabilities, [N, A], and takes noise [N, A] as its second argument where students draw
    their actions. Buffers stay as they are in a module built under seed 0; dropout is off.
    """

    def __init__(self, build: Callable[[], nn.Module], state_dim: int, action_dim: int) -> None:
        self.state_dim, self.action_dim, self._build = state_dim, action_dim, build
        self.module = self._seeded(0).eval()
        with torch.no_grad():
            found = self.module(torch.zeros(2, state_dim))
        if tuple(found.shape) != (2, action_dim):
            raise ManyoneError(
                f"the student's module gives {list(found.shape)} for 2 states: expected [2, {action_dim}]"
            )
        if not dict(self.module.named_parameters()):
            raise ManyoneError("the student's module has no parameters: there is nothing to train")

    def _seeded(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(int(seed), "student"))
            return self._build()

    def init(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """The parameters of modules built one after the other, each under its seed."""
        if not len(seeds):
            raise ManyoneError("no seeds: give one for each member")
        built = [dict(self._seeded(seed).named_parameters()) for seed in seeds]
        return {name: torch.stack([one[name].detach() for one in built]) for name in built[0]}

    def forward(self, weights: Stack, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """[K, N, A]; see :class:`Student`."""

        def one(own: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
            return functional_call(self.module, dict(own), inputs)

        inputs = [states] if noise is None else [states, noise]
        axes = (0, *(None if value.ndim == 2 else 0 for value in inputs))
        return vmap(one, in_dims=axes)(dict(weights), *inputs)
