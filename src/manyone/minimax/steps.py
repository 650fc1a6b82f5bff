"""What one local step does: plug-ins that turn a client's gradients into its next state.

A plug-in sees ``at``, a :class:`LocalView` of the members that take part (rows of Z), and changes ``at.z`` and
``at.buffers`` in place. It knows nothing of clients, mixing or ranks, so both backends share it.

| class | step, with g = grad f at the point named |
|---|---|
| ``Simultaneous`` | z <- Proj(z + eta sgn g(z)) (the paper's) |
| ``Alternating`` | x first, then y at the new x (Gauss-Seidel) |
| ``Extragradient`` | extrapolate, then step from z with the gradient there; same sample or two |
| ``Optimistic`` | direction 2 g_s - g_{s-1} |
| ``HeavyBall`` | v <- beta v + g, direction v, beta per block |
| ``Adam`` | Adam's direction, betas per block |
| ``InnerAscent`` | GDmax (Farnia, Ozdaglar 2021): several steps of y, then one of x |
| ``SnapshotAscent`` | Local-SGDA+ (Deng, Mahdavi 2021): y's gradient at an x refreshed every S rounds |
| ``GradientTracking`` | FedGDA-GT (Sun, Wei 2022): g(z) - g_i(z^t) + mean_i g_i(z^t), the latter two full gradients |

``OuterStep`` is the step at the server (DiLoCo style) on the round's displacement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Sync = Literal["auto", "keep", "reset", "average"]
Buffers = dict[str, Tensor]
_ADAM_EPS = 1e-8


class LocalView(Protocol):
    """What a plug-in may use. ``z`` [M, P] and ``buffers`` (tensors [M, ...]) are changed in place.

    ``p``: width of x. ``gradient(z, stream)``: [M, P] on this step's batch; another ``stream`` is another batch.
    ``full_gradient(z)``: on the whole shard. ``average(values)``: the mean over the clients of each run (an
    exchange). ``moved(z, direction)``: Proj(z + eta sgn direction), a new tensor; ``move(direction)`` the same on
    ``z``.
    """

    z: Tensor
    buffers: Buffers
    p: int

    def gradient(self, z: Tensor, stream: int = 0) -> Tensor: ...
    def full_gradient(self, z: Tensor) -> Tensor: ...
    def average(self, values: Tensor) -> Tensor: ...
    def moved(self, z: Tensor, direction: Tensor) -> Tensor: ...
    def move(self, direction: Tensor) -> None: ...


class LocalStep(ABC):
    """Base of the plug-ins: no buffers, nothing at a round's start.

    ``carried`` names the buffers that follow ``sync`` when clients mix: "keep" (each keeps its own), "reset" (zero),
    "average" (the mean over the run's clients); "auto" resets under an exact average (server) and keeps under gossip.
    """

    sync: Sync = "keep"
    carried: tuple[str, ...] = ()
    needs_average: bool = False

    def buffers(self, z: Tensor, p: int) -> Buffers:
        """Fresh buffers for the members ``z`` [M, P]."""
        return {}

    def begin_round(self, at: LocalView, t: int) -> None:  # noqa: B027 (most plug-ins have nothing to begin)
        """Called for the members that begin round ``t``."""

    @abstractmethod
    def step(self, at: LocalView) -> None:
        """One local step."""


@dataclass(frozen=True)
class Simultaneous(LocalStep):
    """Gradient descent ascent, both blocks at the same point."""

    def step(self, at: LocalView) -> None:
        at.move(at.gradient(at.z))


@dataclass(frozen=True)
class Alternating(LocalStep):
    """x steps first; y sees the new x, on the same sample."""

    def step(self, at: LocalView) -> None:
        direction = at.gradient(at.z)
        direction[:, at.p :] = 0
        at.move(direction)
        direction = at.gradient(at.z)
        direction[:, : at.p] = 0
        at.move(direction)


@dataclass(frozen=True)
class Extragradient(LocalStep):
    """Korpelevich's extrapolation; ``samples`` = 1 uses the same batch twice, 2 draws another for the second half."""

    samples: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.samples not in (1, 2):
            raise ManyoneError(f"extragradient: samples = {self.samples}, choose 1 or 2")

    def step(self, at: LocalView) -> None:
        ahead = at.moved(at.z, at.gradient(at.z))
        at.move(at.gradient(ahead, self.samples - 1))


@dataclass(frozen=True)
class Optimistic(LocalStep):
    """2 g_s - g_{s-1}; the very first step is a plain one."""

    sync: Sync = "keep"
    carried: tuple[str, ...] = ("previous", "count")

    def buffers(self, z: Tensor, p: int) -> Buffers:
        return {"previous": torch.zeros_like(z), "count": z.new_zeros(len(z), 1)}

    def step(self, at: LocalView) -> None:
        g = at.gradient(at.z)
        previous, count = at.buffers["previous"], at.buffers["count"]
        direction = torch.where(count > 0, 2 * g - previous, g)
        previous.copy_(g)
        count.fill_(1)
        at.move(direction)


@dataclass(frozen=True)
class HeavyBall(LocalStep):
    """Momentum v <- beta v + g; ``beta_x`` and ``beta_y`` in [0, 1)."""

    beta_x: float = 0.9
    beta_y: float = 0.9
    sync: Sync = "auto"
    carried: tuple[str, ...] = ("velocity",)

    def __post_init__(self) -> None:
        _unit_interval("heavy-ball", beta_x=self.beta_x, beta_y=self.beta_y)

    def buffers(self, z: Tensor, p: int) -> Buffers:
        return {"velocity": torch.zeros_like(z)}

    def step(self, at: LocalView) -> None:
        g, v = at.gradient(at.z), at.buffers["velocity"]
        v[:, : at.p].mul_(self.beta_x)
        v[:, at.p :].mul_(self.beta_y)
        v.add_(g)
        at.move(v)


@dataclass(frozen=True)
class Adam(LocalStep):
    """Adam (Kingma, Ba 2015) with bias correction; the pairs of betas per block."""

    betas_x: tuple[float, float] = (0.9, 0.999)
    betas_y: tuple[float, float] = (0.9, 0.999)
    sync: Sync = "auto"
    carried: tuple[str, ...] = ("first", "second", "count")

    def __post_init__(self) -> None:
        (x1, x2), (y1, y2) = self.betas_x, self.betas_y
        _unit_interval("adam", betas_x_first=x1, betas_x_second=x2, betas_y_first=y1, betas_y_second=y2)

    def buffers(self, z: Tensor, p: int) -> Buffers:
        zeros = torch.zeros_like(z)
        return {"first": zeros, "second": zeros.clone(), "count": z.new_zeros(len(z), 1)}

    def step(self, at: LocalView) -> None:
        g = at.gradient(at.z)
        count = at.buffers["count"].add_(1)
        direction = torch.empty_like(g)
        for block, (b1, b2) in ((slice(at.p), self.betas_x), (slice(at.p, None), self.betas_y)):
            part, m, v = g[:, block], at.buffers["first"][:, block], at.buffers["second"][:, block]
            m.mul_(b1).add_(part, alpha=1 - b1)
            v.mul_(b2).addcmul_(part, part, value=1 - b2)
            denominator = (v / (1 - b2**count)).sqrt_().add_(_ADAM_EPS)
            direction[:, block] = m / (1 - b1**count) / denominator
        at.move(direction)


@dataclass(frozen=True)
class SnapshotAscent(LocalStep):
    """Local-SGDA+: the y gradient is taken at a snapshot of x, refreshed at the start of every ``every``-th round."""

    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ManyoneError(f"sgda-plus: the snapshot is refreshed every {self.every} rounds, must be at least 1")

    def buffers(self, z: Tensor, p: int) -> Buffers:
        return {"snapshot": z[:, :p].clone()}

    def begin_round(self, at: LocalView, t: int) -> None:
        if t % self.every == 0:
            at.buffers["snapshot"].copy_(at.z[:, : at.p])

    def step(self, at: LocalView) -> None:
        direction = at.gradient(at.z)
        there = torch.cat([at.buffers["snapshot"], at.z[:, at.p :]], 1)
        direction[:, at.p :] = at.gradient(there)[:, at.p :]
        at.move(direction)


@dataclass(frozen=True)
class InnerAscent(LocalStep):
    """GDmax by an inner loop: ``inner`` steps of y on this step's batch, then one step of x at the new y."""

    inner: int = 10

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise ManyoneError(f"gdmax: inner = {self.inner} steps of y, must be at least 1")

    def step(self, at: LocalView) -> None:
        for _ in range(self.inner):
            direction = at.gradient(at.z)
            direction[:, : at.p] = 0
            at.move(direction)
        direction = at.gradient(at.z)
        direction[:, at.p :] = 0
        at.move(direction)


@dataclass(frozen=True)
class GradientTracking(LocalStep):
    """FedGDA-GT: removes the bias of local steps under heterogeneous clients; one more exchange a round.

    ``full`` False takes the gradients at the round's start on a mini-batch (another than the first step's): a
    stochastic control variate, as in SAGDA and CODASCA.
    """

    full: bool = True
    needs_average: bool = True

    def buffers(self, z: Tensor, p: int) -> Buffers:
        return {"correction": torch.zeros_like(z)}

    def begin_round(self, at: LocalView, t: int) -> None:
        own = at.full_gradient(at.z) if self.full else at.gradient(at.z, 1)
        at.buffers["correction"].copy_(at.average(own) - own)

    def step(self, at: LocalView) -> None:
        at.move(at.gradient(at.z) + at.buffers["correction"])


@dataclass(frozen=True)
class OuterStep:
    """Z^{t+1} = Z^t - lr * (nesterov-)momentum of D, D = Z^t - mixed Z^{t,K} (SGD as in torch). lr 1 without
    momentum is plain averaging."""

    lr: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ManyoneError(f"outer step: lr = {self.lr}, must be positive")
        _unit_interval("outer step", momentum=self.momentum)

    def __call__(self, start: Tensor, mixed: Tensor, velocity: Tensor) -> Tensor:
        """The new state [..., P]; ``velocity`` is updated in place."""
        displacement = start - mixed
        velocity.mul_(self.momentum).add_(displacement)
        direction = displacement + self.momentum * velocity if self.nesterov else velocity
        return start - self.lr * direction


STEPS: dict[str, Callable[[], LocalStep]] = {
    "simultaneous": Simultaneous,
    "alternating": Alternating,
    "extragradient": Extragradient,
    "extragradient-two-samples": lambda: Extragradient(2),
    "optimistic": Optimistic,
    "heavy-ball": HeavyBall,
    "adam": Adam,
    "gdmax": InnerAscent,
    "sgda-plus": SnapshotAscent,
    "gradient-tracking": GradientTracking,
    "control-variates": lambda: GradientTracking(full=False),
}


def local_step(value: LocalStep | str) -> LocalStep:
    """A plug-in from its name in ``STEPS``, or the plug-in itself."""
    if isinstance(value, str):
        if value not in STEPS:
            raise ManyoneError(f"local step {value!r}: choose one of {', '.join(STEPS)}")
        return STEPS[value]()
    if not isinstance(value, LocalStep):
        raise ManyoneError(f"local step {value!r}: give a name ({', '.join(STEPS)}) or a step such as Adam()")
    return value


def _unit_interval(what: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ManyoneError(f"{what}: {name} = {value}, must be in [0, 1)")
