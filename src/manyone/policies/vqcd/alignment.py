"""States and actions of any width brought to one width, task by task, so that one network can be trained on all.

"Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces" (arXiv 2410.15698), section 4.1:
an auto-encoder for the states of a task and one for its actions, trained on this task's data alone and then fixed.
With x of width d, encoder f, decoder g (both MLPs) and z of n latents of l entries:

    vq       z = nearest codes of f(x);  |x - g(z)|^2 + |sg(f(x)) - z|^2 + c |sg(z) - f(x)|^2     (the paper's)
    fsq      z = f(x) squashed and rounded to a grid;  |x - g(z)|^2
    ae       z = f(x);  |x - g(z)|^2
    vae      z ~ N(mean, variance) of f(x), the mean when used;  |x - g(z)|^2 + beta KL(z || N(0, 1))
    padding  z = x and zeros; nothing is trained

The squared norms are sums over entries; losses are means over the batch (:meth:`AutoEncoder.loss`). The learning rate
falls from ``lr`` to ``last_lr`` along a cosine (:class:`AlignmentTraining`; the paper gives its ends).

Public names: :class:`Alignment`, :data:`Kind`, :func:`make_alignment`, :class:`AutoEncoder`, :class:`Padding`,
:class:`AlignmentTraining`, :func:`feature_difference`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.vqcd.bottlenecks import Bottleneck, Gaussian, Grid, Plain, grid_levels
from manyone.policies.vqcd.quantiser import Codebook, Init, VectorQuantiser
from manyone.randomness import generator_for

Kind = Literal["vq", "fsq", "ae", "vae", "padding"]
STATE_LATENTS, ACTION_LATENTS, LATENT_WIDTH = 10, 5, 2
"""Of the paper: aligned states have 20 entries, aligned actions 10."""
_STEADY = 1e-6
_BLOCK = 1 << 16  # rows that are aligned or restored at once
_Module = nn.Module


class Alignment(Protocol):
    """One task's states, or its actions, in the width that all tasks share. An ``nn.Module`` as well."""

    dim: int
    """Width d of the task's own vectors."""
    width: int
    """Aligned width."""

    @property
    def bound(self) -> float:
        """rho: no entry of an aligned vector of the data is beyond it; a planner keeps its plans within."""

    def aligned(self, x: Tensor) -> Tensor:
        """Normalised vectors [..., d] -> [..., width], without a gradient."""

    def restored(self, z: Tensor) -> Tensor:
        """Aligned vectors [..., width], quantised or not -> [..., d]; the gradient goes through."""

    def quantised(self, z: Tensor) -> Tensor:
        """Any vectors [..., width] moved to the nearest that :meth:`aligned` gives; as they are where no codes are."""

    def loss(self, x: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """What training descends on, and the mean squared error of restored entries alone: scalars, for x [B, d]."""

    def begin(self, x: Tensor) -> None:
        """Before training, with its first batch [B, d]: a codebook may start from it."""

    def after_step(self) -> None:
        """After each step of the optimiser: the codebook is moved, if an average moves it, and clipped."""

    def settle(self, x: Tensor) -> None:
        """After training, with all its data [n, d]: what has no bound of its own takes the data's."""

    def report(self, x: Tensor) -> dict[str, float]:
        """``mse`` of x [n, d] restored, a mean over entries; where codes are, ``codes_used``, ``dead_codes``,
        ``perplexity``."""

    def config(self) -> dict[str, Any]:
        """JSON values with which :func:`make_alignment` makes the same shapes again."""


class AutoEncoder(nn.Module):
    """encoder -> bottleneck -> decoder; an :class:`Alignment` of every kind but padding."""

    def __init__(
        self,
        dim: int,
        width: int,
        bottleneck: Bottleneck,
        *,
        hidden: int,
        layers: int,
        seed: int,
        made_of: dict[str, Any],
    ) -> None:
        super().__init__()
        self.dim, self.width, self.bottleneck = dim, width, bottleneck
        self.encoder = _mlp((dim, *[hidden] * layers, width * bottleneck.entries))
        self.decoder = _mlp((width, *[hidden] * layers, dim))
        self._made_of = made_of
        with torch.no_grad():
            for half in ("encoder", "decoder"):
                for name, value in self.get_submodule(half).named_parameters():
                    fan_in = self.get_parameter(f"{half}.{name.rpartition('.')[0]}.weight").shape[1]
                    value.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator_for(seed, half, name))

    @property
    def bound(self) -> float:
        return self.bottleneck.bound

    @torch.no_grad()
    def aligned(self, x: Tensor) -> Tensor:
        return self._in_blocks(lambda rows: self.bottleneck.code(self.encoder(rows)), x, self.dim)

    def restored(self, z: Tensor) -> Tensor:
        return self._in_blocks(self.decoder, z, self.width)

    @torch.no_grad()
    def quantised(self, z: Tensor) -> Tensor:
        return self.bottleneck.quantised(z)

    def loss(self, x: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        z, penalty = self.bottleneck(self.encoder(x), draw)
        mse = (x - self.decoder(z)).square().mean()
        return mse * self.dim + penalty, mse.detach()

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        if self.bottleneck.spread:  # encodings of a fresh encoder are a tenth as wide as what the decoder will need
            encoded, last = self.encoder(x), self.encoder[-1]
            assert isinstance(last, nn.Linear)
            deviation = encoded.std(0).clamp(min=_STEADY)
            last.weight.div_(deviation.unsqueeze(1))
            last.bias.sub_(encoded.mean(0)).div_(deviation)
        self.bottleneck.begin(self.encoder(x))

    def after_step(self) -> None:
        self.bottleneck.after_step()

    def settle(self, x: Tensor) -> None:
        self.bottleneck.settle(self.aligned(x))

    @torch.no_grad()
    def report(self, x: Tensor) -> dict[str, float]:
        encoded = self._in_blocks(self.encoder, x, self.dim)
        mse = (self.restored(self.bottleneck.code(encoded)) - x).square().mean()
        return {"mse": float(mse)} | self.bottleneck.use(encoded)

    def config(self) -> dict[str, Any]:
        return dict(self._made_of)

    def _in_blocks(self, function: Any, x: Tensor, width: int) -> Tensor:
        """``function`` of the rows of x [..., width], which must have this width."""
        if x.shape[-1] != width:
            raise ManyoneError(f"an alignment of {self.dim} entries to {self.width} got vectors of {x.shape[-1]}")
        rows = x.reshape(-1, width)
        parts = [function(part) for part in rows.split(_BLOCK)] if len(rows) > _BLOCK else [function(rows)]
        return torch.cat(parts).view(*x.shape[:-1], -1) if len(parts) > 1 else parts[0].view(*x.shape[:-1], -1)


class Padding(nn.Module):
    """z = x and zeros up to ``width``; an :class:`Alignment` that needs no training."""

    largest: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.register_buffer("largest", torch.tensor(float("inf")))

    @property
    def bound(self) -> float:
        return float(self.largest)

    def aligned(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.dim:
            raise ManyoneError(f"padding of {self.dim} entries to {self.width} got vectors of {x.shape[-1]}")
        return nn.functional.pad(x.detach(), (0, self.width - self.dim))

    def restored(self, z: Tensor) -> Tensor:
        return z[..., : self.dim]

    def quantised(self, z: Tensor) -> Tensor:
        return z

    def loss(self, x: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return x.new_zeros(()), x.new_zeros(())

    def begin(self, x: Tensor) -> None:
        pass

    def after_step(self) -> None:
        pass

    def settle(self, x: Tensor) -> None:
        self.largest.fill_(x.abs().max())

    def report(self, x: Tensor) -> dict[str, float]:
        return {"mse": float((self.restored(self.aligned(x)) - x).square().mean())}

    def config(self) -> dict[str, Any]:
        return {"kind": "padding", "dim": self.dim, "padded_width": self.width}


def make_alignment(
    kind: Kind,
    dim: int,
    *,
    latents: int = STATE_LATENTS,
    latent_width: int = LATENT_WIDTH,
    padded_width: int | None = None,
    codes: int = 512,
    hidden: int = 256,
    layers: int = 2,
    commitment: float = 0.25,
    bound: float = 3.0,
    beta: float = 0.01,
    init: Init = "normal",
    codebook: Codebook = "gradient",
    seed: int = 0,
) -> AutoEncoder | Padding:
    """An untrained alignment of vectors of ``dim`` entries to ``latents`` x ``latent_width``.

    ``padding`` goes to ``padded_width`` instead, the widest task's. ``codes``, ``init``, ``codebook`` and
    ``commitment`` are of vq; fsq has at most ``codes`` codes; ``bound`` (rho) is of both; ``beta`` of vae. ``hidden``
    and ``layers`` shape encoder and decoder. Weights depend on ``seed`` alone.
    """
    if kind not in get_args(Kind):
        raise ManyoneError(f"alignment {kind!r}: must be {', '.join(get_args(Kind))}")
    positive = {"dim": dim, "latents": latents, "latent_width": latent_width, "codes": codes, "hidden": hidden}
    for name, value in positive.items():
        if value < 1:
            raise ManyoneError(f"{name} = {value}: must be at least 1")
    if layers < 0:
        raise ManyoneError(f"layers = {layers}: must be 0 or more")
    if not bound > 0:
        raise ManyoneError(f"bound = {bound}: must be positive")
    if kind == "padding":
        to = padded_width or dim
        if to < dim:
            raise ManyoneError(f"padded_width = {to}: must be at least the {dim} entries of a vector")
        return Padding(dim, to)
    shape = {"latents": latents, "latent_width": latent_width, "hidden": hidden, "layers": layers}
    bottleneck: Bottleneck
    if kind == "vq":
        own: dict[str, Any] = {"codes": codes, "commitment": commitment, "bound": bound, "init": init,
                               "codebook": codebook}  # fmt: skip
        bottleneck = VectorQuantiser(dim=latent_width, seed=seed, **own)
    elif kind == "fsq":
        own = {"codes": codes, "bound": bound}
        bottleneck = Grid(grid_levels(codes, latent_width), latent_width, bound)
    else:
        own = {"beta": beta} if kind == "vae" else {}
        bottleneck = Gaussian(beta) if kind == "vae" else Plain()
    made_of = {"kind": kind, "dim": dim, **shape, **own}
    width = latents * latent_width
    return AutoEncoder(dim, width, bottleneck, hidden=hidden, layers=layers, seed=seed, made_of=made_of)


class AlignmentTraining:
    """Adam on one alignment, on the rows of ``data`` [n, d], ``batch_size`` of them a step, drawn with replacement.

    What a step draws depends on (seed, who, step) alone: a resumed training goes on as the uninterrupted one. The
    alignment is fixed once :attr:`done`. Padding is done at once.
    """

    def __init__(
        self,
        module: AutoEncoder | Padding,
        data: Tensor,
        *,
        steps: int = 1000,
        batch_size: int = 256,
        lr: float = 1e-3,
        last_lr: float = 1e-4,
        seed: int = 0,
        who: str = "",
    ) -> None:
        if data.ndim != 2 or not len(data) or data.shape[1] != module.dim:
            raise ManyoneError(f"alignment data {list(data.shape)}: must be [n, {module.dim}], n at least 1")
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise ManyoneError(f"{name} = {value}: must be at least 1")
        if not 0 < last_lr <= lr:
            raise ManyoneError(f"last_lr = {last_lr}: must be above 0 and not above lr = {lr}")
        self.module, self.data, self.batch_size = module, data, batch_size
        self.lr, self.last_lr, self.seed, self.who = lr, last_lr, seed, who
        own = [p for p in module.parameters() if p.requires_grad]
        self.steps = steps if own else 0
        self.iteration = 0
        self._adam = torch.optim.Adam(own, lr=lr, betas=(0.9, 0.999), fused=True) if own else None
        if self.done:
            module.settle(data)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.iteration >= self.steps

    def rate(self, step: int) -> float:
        """Learning rate of ``step``: ``lr`` at the first, ``last_lr`` at the last."""
        falling = 0.5 * (1 + math.cos(math.pi * step / max(1, self.steps - 1)))
        return self.last_lr + (self.lr - self.last_lr) * falling

    def step(self) -> dict[str, float]:
        """One step: ``loss``, ``mse`` of the batch."""
        if self._adam is None or self.done:
            raise ManyoneError(f"the alignment {self.who} has taken all its {self.steps} steps")
        draw = generator_for(self.seed, "align", self.who, self.iteration)
        rows = torch.randint(len(self.data), (self.batch_size,), generator=draw)
        x = self.data[rows.to(self.data.device)]
        if self.iteration == 0:
            self.module.begin(x)
        loss, mse = self.module.loss(x, draw)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.param_groups[0]["lr"] = self.rate(self.iteration)
        self._adam.step()
        self.module.after_step()
        self.iteration += 1
        if self.done:
            self.module.settle(self.data)
        return {"loss": float(loss.detach()), "mse": float(mse)}

    def state_dict(self) -> dict[str, Any]:
        """Steps taken, the alignment's tensors, the optimiser's."""
        optimiser = None if self._adam is None else self._adam.state_dict()
        return {"iteration": self.iteration, "module": self.module.state_dict(), "optimiser": optimiser}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.iteration = int(state["iteration"])
        self.module.load_state_dict(state["module"])
        if self._adam is not None:
            self._adam.load_state_dict(state["optimiser"])


def feature_difference(first: Tensor, second: Tensor, *, pairs: int = 4096, seed: int = 0) -> float:
    """How far apart the aligned vectors of two tasks lie, [n, width] and [m, width].

    The mean Euclidean distance of ``pairs`` random pairs, one of each task. The paper does not say how its figure
    "feature difference" is computed; this is our reading.
    """
    draw = generator_for(seed, "pairs")
    one, other = (t[torch.randint(len(t), (pairs,), generator=draw).to(t.device)] for t in (first, second))
    return float((one - other).square().sum(-1).sqrt().mean())


def _mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with a ReLU between two."""
    layers: list[_Module] = []
    for one, next_ in pairwise(sizes):
        layers += [nn.Linear(one, next_), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
