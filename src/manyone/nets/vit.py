"""A vision transformer with timm's parameter names (Dosovitskiy et al., 2021): pre-norm blocks, learned positions.

Names: ``cls_token``, ``pos_embed``, ``patch_embed.proj``, ``blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1,
mlp.fc2}``, ``norm``; a timm checkpoint of the same sizes loads once its classifier ``head.*`` is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.images import normalised
from manyone.nets.mlp import Mlp


class Attention(nn.Module):
    """Multi-head self-attention with one joint query-key-value projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> the same."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class TransformerBlock(nn.Module):
    """x + Attention(LN x), then x + Mlp(LN x)."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, width] -> the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each projected linearly."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, patches, width], as one matrix product (a strided convolution is slower on a CPU)."""
        patch = self.proj.kernel_size[0]
        n, channels, height, width = images.shape
        tiles = images.view(n, channels, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(tiles.reshape(n, -1, channels * patch * patch), self.proj.weight.flatten(1), self.proj.bias)


class ViT(nn.Module):
    """Encoder of images uint8 or float in [0, 1], [n, channels, size, size] -> features [n, width].

    ``pool`` is "token" (the class token) or "avg" (the mean of the patch tokens), both after the last LayerNorm.
    """

    def __init__(
        self,
        size: int = 32,
        patch: int = 8,
        channels: int = 3,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        pool: Literal["token", "avg"] = "token",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if size % patch or width % heads:
            raise ManyoneError(
                f"a ViT needs size % patch == 0 and width % heads == 0, got {size}, {patch}, {width}, {heads}"
            )
        if pool not in ("token", "avg"):
            raise ManyoneError(f"unknown pool {pool!r}: use token or avg")
        self.channels, self.size, self.pool, self.mean, self.std = channels, size, pool, tuple(mean), tuple(std)
        self.patch_embed = PatchEmbed(patch, channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, int(width * mlp_ratio), eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last LayerNorm, [n, 1 + patches, width]; the first is the class token."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (self.channels, self.size, self.size):
            expected = f"[n, {self.channels}, {self.size}, {self.size}]"
            raise ManyoneError(f"this ViT reads images {expected}, got {list(images.shape)}")
        x = self.patch_embed(normalised(images, self.mean, self.std, self.pos_embed.dtype))
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, width]."""
        x = self.tokens(images)
        return x[:, 0] if self.pool == "token" else x[:, 1:].mean(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
