"""Generative adversarial networks as a game between two modules.

    f(G, D) = E log D(u) + E log(1 - D(G(v))),   u data, v standard normal

Zero-sum: G descends f, D ascends it (the minimax of the theory). Non-saturating: G descends -E log D(G(v)) instead,
a two-loss game. D returns logits; all logarithms are log-sigmoids of them.
Public: ``GAN``.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from manyone.errors import ManyoneError
from manyone.minimax.problems.problem import Batch, Loss, Problem
from manyone.minimax.scores import Buffers, Model
from manyone.weights.checkpoint import Weights


class GAN(Problem):
    """x: the generator (latent [b, latent] -> samples), y: the discriminator (samples -> one logit each).

    The field ``features`` holds the data. The latent numbers are explicit noise, so that twins share them.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent: int,
        *,
        form: Literal["zero-sum", "non-saturating"] = "zero-sum",
        buffers: Buffers = "refuse",
    ) -> None:
        if form not in ("zero-sum", "non-saturating"):
            raise ManyoneError(f"GAN: form = {form!r}, choose 'zero-sum' or 'non-saturating'")
        if latent < 1:
            raise ManyoneError(f"GAN: latent = {latent} must be at least 1")
        self.generator, self.discriminator = Model(generator, buffers=buffers), Model(discriminator, buffers=buffers)
        self.latent = latent
        self.zero_sum = form == "zero-sum"
        self.stackable = self.generator.stackable and self.discriminator.stackable

    def init(self, seed: int) -> tuple[Weights, Weights]:
        return self.generator.init(seed), self.discriminator.init(seed + 1)

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.latent)

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Loss:
        if noise is None:
            raise ManyoneError("a GAN's loss needs the latent noise [b, latent]")
        real = self.discriminator(y, batch["features"]).squeeze(-1)
        fake = self.discriminator(y, self.generator(x, noise)).squeeze(-1)
        value = logsigmoid(real).mean(-1) + logsigmoid(-fake).mean(-1)
        return value if self.zero_sum else (-logsigmoid(fake).mean(-1), -value)

    def samples(self, z: Tensor, noise: Tensor) -> Tensor:
        """What the generator of the flat state ``z`` [P] makes of ``noise`` [b, latent]."""
        return self.generator(self.spec.unpack(z)[0], noise)
