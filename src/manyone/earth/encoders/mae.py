"""A masked auto-encoder for satellite images, small enough to be trained on one scene (He et al., 2022, for any bands).

    keep a random floor(N (1 - r)) of the N patches                      choose_tokens
    encode what was kept, fill in mask tokens, restore the order         MaskedAutoencoder.predict
    loss = mean over masked patches of the squared error per value       masked_loss

With ``channels`` None the encoder has a wave stem: each batch shows it a random subset of the bands, and all bands are
to be predicted. Public names: :class:`MaeOptions`, :class:`MaskedAutoencoder`, :func:`choose_tokens`,
:func:`masked_loss`, :func:`patchify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from manyone.earth.encoders.vit import PlainViT, VitSize, sincos_2d
from manyone.errors import ManyoneError
from manyone.nets.vit import TransformerBlock


@dataclass(frozen=True)
class MaeOptions:
    """What is trained, and how; the defaults take about a minute of one processor core."""

    size: VitSize = field(default_factory=VitSize)
    crop: int = 32
    """Pixels a side of the crops that it learns from; smaller images are taken whole."""
    ratio: float = 0.75
    """Share of the patches that is hidden."""
    decoder_width: int = 64
    decoder_depth: int = 2
    normalised: bool = False
    """Predict each patch minus its mean, divided by its standard deviation."""
    wave: bool = False
    """Any bands, told apart by their wavelengths."""
    steps: int = 200
    batch_size: int = 16
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 50
    """Steps in which the learning rate rises from 0; after them it falls to 0 along a cosine."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ManyoneError(f"ratio = {self.ratio}: must be between 0 and 1")
        for name in ("crop", "decoder_depth", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ManyoneError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.decoder_width % 4 or self.decoder_width % self.size.heads:
            raise ManyoneError(f"decoder_width = {self.decoder_width}: must be a multiple of 4 and of size.heads")


class MaskedAutoencoder(nn.Module):
    """Encoder (any subset of the patches) and a narrow decoder (all of them) for images of ``bands`` bands."""

    def __init__(self, encoder: PlainViT, bands: int, options: MaeOptions) -> None:
        super().__init__()
        size, width = encoder.size, options.decoder_width
        self.encoder, self.bands, self.options = encoder, bands, options
        self.narrow = nn.Linear(size.width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, size.heads, int(width * size.mlp_ratio), 1e-6) for _ in range(options.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, size.patch**2 * bands)
        for linear in (module for module in self.blocks.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def predict(self, pixels: Tensor, noise: Tensor, lam_nm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(predicted patches [B, N, p p C], hidden bool [B, N]).

        ``pixels`` [B, C', H, W]: the bands that are shown, with their wavelengths where the stem asks for them;
        ``noise`` [B, N] decides what is hidden: see :func:`choose_tokens`.
        """
        tokens = self.encoder.embed(pixels, lam_nm)
        kept, restore = choose_tokens(noise, self.options.ratio)
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        shown = self.narrow(self.encoder.encode(tokens))
        absent = self.mask_token.expand(len(noise), noise.shape[1] - kept.shape[1], -1)
        x = torch.cat([shown, absent], 1).gather(1, restore[..., None].expand(-1, -1, shown.shape[2]))
        patch = self.encoder.size.patch
        x = x + sincos_2d(pixels.shape[2] // patch, pixels.shape[3] // patch, shown.shape[2]).to(x)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x)), restore >= kept.shape[1]

    def forward(
        self, pixels: Tensor, noise: Tensor, lam_nm: Tensor | None = None, shown: Tensor | None = None
    ) -> Tensor:
        """The loss on ``pixels`` [B, C, H, W]; ``shown`` int [C']: the bands that the encoder sees (None: all)."""
        seen = pixels if shown is None else pixels[:, shown]
        prediction, hidden = self.predict(seen, noise, lam_nm if shown is None or lam_nm is None else lam_nm[shown])
        return masked_loss(prediction, patchify(pixels, self.encoder.size.patch), hidden, self.options.normalised)


def choose_tokens(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """(kept [B, floor(N (1 - ratio))], restore [B, N]) from ``noise`` [B, N]: the smallest values are kept.

    ``restore`` undoes the order: (kept tokens, then others).gather(restore) stands as the tokens stood. At least one
    token is kept.
    """
    count = max(1, math.floor(noise.shape[1] * (1 - ratio) + 1e-9))  # 10 * (1 - 0.9) is 0.9999...
    order = noise.argsort(1)
    return order[:, :count], order.argsort(1)


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, h w, C p p], row by row."""
    n, bands, height, width = pixels.shape
    tiles = pixels.reshape(n, bands, height // patch, patch, width // patch, patch)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def masked_loss(prediction: Tensor, target: Tensor, hidden: Tensor, normalised: bool = False) -> Tensor:
    """Mean squared error per value over the hidden patches; [B, N, d], [B, N, d], bool [B, N] -> scalar.

    ``normalised``: of the target patches, each with its own mean and standard deviation taken out.
    """
    if normalised:
        mean, variance = target.mean(2, keepdim=True), target.var(2, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    if not bool(hidden.any()):
        raise ManyoneError(f"no patch of {hidden.shape[1]} is hidden: use larger crops or a larger ratio")
    return (prediction - target)[hidden].square().mean()
