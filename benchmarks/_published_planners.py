"""The published training and sampling of diffusion planners, spelt out to be timed.

``Continual`` is the planner of CoD (arXiv 2409.02512, program): every convolution block reshapes around its GroupNorm,
every residual block has a map of the joint time and return embedding of its own, the average is kept by a loop over
parameters every 10 steps, and guidance calls the network twice. ``Clean`` is CleanDiffuser's (arXiv 2406.09509) U-Net
after Janner et al.: GroupNorm over a dimension put in and taken out, the condition added to the time embedding, its
average a loop over parameters after every step, AdamW, and known entries held by multiplying with a mask.
Both run torch's optimisers as these programs call them. Written from descriptions of the programs; no line is theirs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("weight", "bias")


class Sinusoid(nn.Module):
    """Sines and cosines of the step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, n: Tensor) -> Tensor:
        half = self.width // 2
        scale = math.log(10000) / (half - 1)
        angle = n[:, None] * torch.exp(torch.arange(half, device=n.device) * -scale)[None, :]
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class ConvBlock(nn.Module):
    """Convolution, GroupNorm over a dimension put in and taken out, Mish."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5, groups: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(groups, outputs)
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x).unsqueeze(2)).squeeze(2))


class Residual(nn.Module):
    """Two blocks, the embedding after the first."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ConvBlock(inputs, outputs), ConvBlock(outputs, outputs)])
        self.time = nn.Sequential(nn.Mish(), nn.Linear(embedding, outputs))
        self.around = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        out = self.blocks[0](x) + self.time(e).unsqueeze(-1)
        return self.blocks[1](out) + self.around(x)


class UNet(nn.Module):
    """[B, T, C] at n [B] under a return [B, 1]; ``joint`` concatenates the embeddings, else they are added."""

    def __init__(self, channels: int, dim: int, multipliers: Sequence[int], joint: bool) -> None:
        super().__init__()
        widths = [channels, *(dim * m for m in multipliers)]
        pairs = list(pairwise(widths))
        self.joint = joint
        embedding = 2 * dim if joint else dim
        self.time = nn.Sequential(Sinusoid(dim), nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
        self.returns = nn.Sequential(
            nn.Linear(1, dim), nn.Mish(), nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for number, (a, b) in enumerate(pairs):
            last = number == len(pairs) - 1
            half = nn.Identity() if last else nn.Conv1d(b, b, 3, 2, 1)
            self.downs.append(nn.ModuleList([Residual(a, b, embedding), Residual(b, b, embedding), half]))
        self.middle = nn.ModuleList(Residual(widths[-1], widths[-1], embedding) for _ in range(2))
        for a, b in reversed(pairs[1:]):
            twice = nn.ConvTranspose1d(a, a, 4, 2, 1)
            self.ups.append(nn.ModuleList([Residual(2 * b, a, embedding), Residual(a, a, embedding), twice]))
        self.end = nn.Sequential(ConvBlock(widths[1], widths[1]), nn.Conv1d(widths[1], channels, 1))

    def forward(self, x: Tensor, n: Tensor, returns: Tensor, kept: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        t, r = self.time(n), kept * self.returns(returns)
        e = torch.cat([t, r], dim=-1) if self.joint else t + r
        stack = []
        for first, second, half in self.downs:
            x = second(first(x, e), e)
            stack.append(x)
            x = half(x)
        for block in self.middle:
            x = block(x, e)
        for first, second, twice in self.ups:
            x = torch.cat((x, stack.pop()), dim=1)
            x = twice(second(first(x, e), e))
        return self.end(x).permute(0, 2, 1)


class Continual:
    """CoD's planner: ``step`` trains on windows [B, T, C], ``plan`` samples from a first state."""

    def __init__(self, channels: int, dim: int, multipliers: Sequence[int], steps: int = 200) -> None:
        self.model = UNet(channels, dim, multipliers, joint=True)
        self.average = copy.deepcopy(self.model)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=3e-4)
        self.steps, self.done = steps, 0
        s = torch.linspace(0, steps + 1, steps + 1, dtype=torch.float64) / (steps + 1)
        bars = torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - bars[1:] / bars[:-1]).clamp(0, 0.999)
        self.bars = torch.cumprod(1 - beta, 0).float()

    def step(self, x0: Tensor, returns: Tensor) -> float:
        """One optimiser step."""
        n = torch.randint(0, self.steps, (len(x0),))
        noise = torch.randn_like(x0)
        a = self.bars.gather(-1, n).reshape(-1, 1, 1)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        x[:, 0] = x0[:, 0].clone()
        kept = torch.bernoulli(torch.full((len(x0), 1), 0.75))
        out = self.model(x, n, returns, kept)
        out[:, 0] = x0[:, 0].clone()
        loss = F.mse_loss(out, noise, reduction="none").mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.done += 1
        if self.done % 10 == 0:
            for now, mean in zip(self.model.parameters(), self.average.parameters()):
                mean.data = mean.data * 0.995 + (1 - 0.995) * now.data
        return loss.item()

    @torch.no_grad()
    def plan(self, state: Tensor, horizon: int, scale: float = 1.2, stride: int = 20) -> Tensor:
        """Plans [B, T, C] from states [B, C]: two calls a step."""
        rows = len(state)
        x = torch.randn(rows, horizon, state.shape[1])
        x[:, 0] = state
        returns = torch.full((rows, 1), 0.95)
        on, off = torch.ones(rows, 1), torch.zeros(rows, 1)
        for k in reversed(range(0, self.steps, stride)):
            n = torch.full((rows,), k, dtype=torch.long)
            e_c = self.average(x, n, returns, on)
            e_u = self.average(x, n, returns, off)
            e = e_u + scale * (e_c - e_u)
            a = self.bars.gather(-1, n).reshape(-1, 1, 1)
            before = self.bars.gather(-1, n - stride).reshape(-1, 1, 1) if k >= stride else torch.ones_like(a)
            sigma = ((1 - before) / (1 - a)).sqrt() * (1 - a / before).sqrt()
            start = (x - (1 - a).sqrt() * e) / a.sqrt()
            x = before.sqrt() * start + (1 - before - sigma**2).clamp(min=0).sqrt() * e + sigma * torch.randn_like(x)
            x = x.clamp(-3, 3)
            x[:, 0] = state
        return x


class Clean:
    """CleanDiffuser's training step."""

    def __init__(self, channels: int, dim: int, multipliers: Sequence[int], horizon: int, steps: int = 200) -> None:
        self.model = UNet(channels, dim, multipliers, joint=False)
        self.average = copy.deepcopy(self.model)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=1e-5)
        self.steps = steps
        self.fixed = torch.zeros(1, horizon, channels)
        self.fixed[:, 0] = 1.0
        self.weight = torch.ones(1, horizon, channels)
        t = torch.linspace(1e-3, 1.0, steps)
        self.alpha = torch.cos((t + 0.008) / 1.008 * math.pi / 2)
        self.sigma = (1 - self.alpha**2).sqrt()

    def step(self, x0: Tensor, returns: Tensor) -> float:
        """One optimiser step."""
        n = torch.randint(self.steps, (len(x0),))
        noise = torch.randn_like(x0)
        alpha, sigma = self.alpha[n].reshape(-1, 1, 1), self.sigma[n].reshape(-1, 1, 1)
        x = x0 * alpha + sigma * noise
        x = (1.0 - self.fixed) * x + self.fixed * x0
        kept = (torch.rand(len(x0), 1) > 0.25).float()
        loss = (self.model(x, n, returns, kept) - noise) ** 2
        loss = (loss * self.weight * (1 - self.fixed)).mean()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for now, mean in zip(self.model.parameters(), self.average.parameters()):
                mean.data.mul_(0.995).add_(now.data, alpha=1.0 - 0.995)
        return loss.item()


def as_ours(model: UNet) -> dict[str, Tensor]:
    """The weights of a ``joint`` network by the names of ``manyone.nets.diffusion.unet.TemporalUNet``."""
    own, shares = model.state_dict(), []
    found = {
        f"step.{ours}.{k}": own[f"time.{theirs}.{k}"] for ours, theirs in (("first", 1), ("second", 3)) for k in KINDS
    }
    for ours, theirs in (("first", 0), ("second", 2), ("third", 4)):
        found |= {f"told.{ours}.{k}": own[f"returns.{theirs}.{k}"] for k in KINDS}

    def kernel(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"], found[f"{ours}.bias"] = own[f"{theirs}.weight"].permute(2, 1, 0), own[f"{theirs}.bias"]

    def block(ours: str, theirs: str) -> None:
        kernel(ours, f"{theirs}.conv")
        found[f"{ours}.gain"], found[f"{ours}.shift"] = own[f"{theirs}.norm.weight"], own[f"{theirs}.norm.bias"]

    def pair(ours: str, theirs: str) -> None:
        for name, number in (("first", 0), ("second", 1)):
            block(f"{ours}.{name}.first", f"{theirs}.{number}.blocks.0")
            block(f"{ours}.{name}.second", f"{theirs}.{number}.blocks.1")
            shares.append(f"{theirs}.{number}.time.1")
            if f"{theirs}.{number}.around.weight" in own:
                found[f"{ours}.{name}.around.weight"] = own[f"{theirs}.{number}.around.weight"].squeeze(-1)
                found[f"{ours}.{name}.around.bias"] = own[f"{theirs}.{number}.around.bias"]

    for level in range(len(model.downs)):
        pair(f"down.{level}", f"downs.{level}")
        if f"downs.{level}.2.weight" in own:
            kernel(f"shorten.{level}", f"downs.{level}.2")
    pair("middle", "middle")
    for level in range(len(model.ups)):
        pair(f"up.{level}", f"ups.{level}")
        kernel(f"lengthen.{level}", f"ups.{level}.2")
    block("end", "end.0")
    found["out.weight"], found["out.bias"] = own["end.1.weight"].squeeze(-1), own["end.1.bias"]
    return found | {f"embed.{k}": torch.cat([own[f"{name}.{k}"] for name in shares]) for k in KINDS}
