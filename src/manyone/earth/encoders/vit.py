"""A small plain vision transformer for images of any bands and size: what is pre-trained here, and its random control.

Patches of p x p pixels, fixed 2D sine-cosine positions (so any grid, square or not), pre-norm blocks, no class token.
The patch projection is linear for fixed bands, or a :class:`~manyone.earth.stems.wave.WaveStem` for any.

Public names: :class:`PlainViT`, :class:`VitSize`, :class:`VitEncoder`, :func:`sincos_2d`, :func:`random_vit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import images, padded, pooled, weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.earth.stems.wave import WaveStem
from manyone.engine.artefact import load_weights
from manyone.errors import ManyoneError
from manyone.nets.vit import PatchEmbed, TransformerBlock
from manyone.randomness import seed_for


@dataclass(frozen=True)
class VitSize:
    """How large the network is; the default is that of the small masked auto-encoder."""

    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.heads:
            raise ManyoneError(f"width = {self.width}: must be a multiple of 4 and of heads = {self.heads}")


class PlainViT(nn.Module):
    """[B, C, H, W] -> tokens [B, h w, width]; ``channels`` None: any bands, told apart by their wavelengths."""

    def __init__(self, channels: int | None, size: VitSize = VitSize()) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.stem = (
            WaveStem(size.patch, size.width) if channels is None else PatchEmbed(size.patch, channels, size.width)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(size.width, size.heads, int(size.width * size.mlp_ratio), 1e-6) for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embed(self, pixels: Tensor, lam_nm: Tensor | None = None) -> Tensor:
        """Tokens before the first block: projected patches plus positions. H and W are multiples of the patch."""
        if self.channels is None:
            if lam_nm is None:
                raise ManyoneError("this ViT has a wave stem: it needs the wavelengths of the bands")
            tokens = self.stem(pixels, lam_nm)
        else:
            if pixels.shape[1] != self.channels:
                raise ManyoneError(f"{pixels.shape[1]} bands: this ViT was made for {self.channels}")
            tokens = self.stem(pixels)
        grid = pixels.shape[2] // self.size.patch, pixels.shape[3] // self.size.patch
        return tokens + sincos_2d(*grid, self.size.width).to(tokens)

    def encode(self, tokens: Tensor) -> Tensor:
        """Any subset of the tokens [B, n, width] through all blocks and the last norm."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, pixels: Tensor, lam_nm: Tensor | None = None) -> Tensor:
        """All tokens [B, h w, width], row by row."""
        return self.encode(self.embed(pixels, lam_nm))


class VitEncoder:
    """A :class:`PlainViT` as an encoder. Sides that are no multiple of the patch have their last pixels repeated."""

    def __init__(self, network: PlainViT, spec: ModelSpec) -> None:
        self.network, self.spec = network.eval().requires_grad_(False), spec

    @torch.inference_mode()
    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map [B, D, ceil(H / p), ceil(W / p)]."""
        patch = self.network.size.patch
        x = padded(images(pixels, self.spec.id), patch)
        tokens = self.network(x, context.wavelengths_nm)
        return [tokens.transpose(1, 2).unflatten(2, (x.shape[2] // patch, x.shape[3] // patch))]

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """Mean and maximum over the tokens, [B, D] each."""
        return pooled(self.maps(pixels, context)[0])

    def digest(self) -> str:
        """Of the weights and the sizes."""
        settings = {"size": asdict(self.network.size), "channels": self.network.channels}
        return weights_digest(settings, self.network.state_dict().items())

    def to(self, device: torch.device | str) -> VitEncoder:
        """Itself, on ``device``."""
        self.network.to(device)
        return self


def random_vit(bands: tuple[Band, ...] | None, *, size: VitSize | None = None, seed: int = 0) -> VitEncoder:
    """The network of the small masked auto-encoder with its first weights (``bands`` None: with a wave stem)."""
    size = size or VitSize()
    network = seeded_vit(None if bands is None else len(bands), size, seed)
    spec = ModelSpec(
        "vit-random", bands, size.width, patch=size.patch, licence="Apache-2.0", trained=False,
        needs=frozenset(["wavelength"]) if bands is None else frozenset(),
    )  # fmt: skip
    return VitEncoder(network, spec)


def vit_from(
    size: VitSize, channels: int | None, tensors: Mapping[str, Tensor], id: str, bands: tuple[Band, ...] | None
) -> VitEncoder:
    """The encoder of saved weights; ``channels`` None: with a wave stem."""
    network = PlainViT(channels, size)
    load_weights(network, dict(tensors), id)
    wave = channels is None
    spec = ModelSpec(
        id, None if wave else bands, size.width, patch=size.patch, trained=id != "vit-random",
        needs=frozenset(["wavelength"]) if wave else frozenset(),
        licence="Apache-2.0" if id == "vit-random" else "that of the imagery",
    )  # fmt: skip
    return VitEncoder(network, spec)


def seeded_vit(channels: int | None, size: VitSize, seed: int) -> PlainViT:
    """A network whose first weights depend on ``seed`` and the sizes alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "earth vit", channels or 0))
        return PlainViT(channels, size)


@lru_cache(maxsize=8)
def sincos_2d(rows: int, columns: int, width: int) -> Tensor:
    """Positions [rows * columns, width]: half of the width tells the row, half the column; each first sines.

    PE(v)_j = [sin(v w_j), cos(v w_j)], w_j = 10000^(-j / (d / 2)), d = width / 2.
    """
    if width % 4:
        raise ManyoneError(f"width = {width}: must be a multiple of 4")
    omega = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def one(count: int) -> Tensor:
        phase = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    by_row = one(rows)[:, None].expand(-1, columns, -1)
    by_column = one(columns)[None].expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=2).flatten(0, 1).float()
