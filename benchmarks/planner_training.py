"""Training of diffusion planners: a step here against the published programs' steps spelt out, at equal width.

    python benchmarks/planner_training.py [--rounds 5] [--large] [--json F]

A step is what a program does on a batch of windows [B, 8, 20] with their returns: diffusion steps and noise drawn, the
first state known, a quarter of the returns dropped, forward, backward, optimiser, moving average. ``continual`` is the
planner of Continual Diffuser, ``clean`` CleanDiffuser's (see ``_published_planners.py``); ours is the temporal U-Net of
``manyone run vq-cd --denoiser unet`` with its loss, fused Adam and average. The networks have the same layers, and
before anything is timed they give the same output for the same weights. ``fused Adam`` is the published step with that
one word changed, which tells the network's part of the difference from the optimiser's. The perceptron that CPU runs
use by default follows, against itself in modules, with the library's Mish and optimiser and a loop for the average.

Columns: CPU milliseconds of one thread, medians of ``--rounds`` rounds in which all take turns. ``--large`` adds the
published sizes (60 and 66 million parameters).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _published_planners import Clean, Continual, UNet, as_ours
from torch import Tensor, nn

from manyone.nets.diffusion.denoisers import ResidualMLPDenoiser
from manyone.nets.diffusion.ema import Ema
from manyone.nets.diffusion.process import Known, Process
from manyone.nets.diffusion.schedules import make_schedule
from manyone.nets.diffusion.unet import TemporalUNet
from manyone.nets.memory import keep_freed_memory

CHANNELS, HORIZON, STEPS = 20, 8, 200


class Ours:
    """The training step of ``manyone run vq-cd`` on windows that lie there already."""

    def __init__(self, denoiser: nn.Module, every: int) -> None:
        self.denoiser, self.process = denoiser, Process(make_schedule("cosine", STEPS))
        parameters = list(denoiser.parameters())
        self.optimiser = torch.optim.Adam(parameters, lr=3e-4, fused=True)
        self.ema, self.done = Ema(parameters, 0.995, every), 0
        self.where = torch.zeros(1, HORIZON, 1, dtype=torch.bool)
        self.where[:, 0] = True

    def step(self, x0: Tensor, returns: Tensor) -> float:
        """One optimiser step."""
        n, noise = torch.randint(1, STEPS + 1, (len(x0),)), torch.randn_like(x0)
        present = torch.rand(len(x0)) >= 0.25
        loss = self.process.loss(
            lambda x, n: self.denoiser(x, n, returns, present), x0, noise, n, Known(self.where, x0)
        )
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.done += 1
        self.ema.update(self.done)
        return loss.item()


class PlainPerceptron(nn.Module):
    """The residual perceptron in modules, with the weights of ``ours``."""

    def __init__(self, ours: ResidualMLPDenoiser) -> None:
        super().__init__()
        self.net = copy.deepcopy(ours)

    def forward(self, x: Tensor, n: Tensor, returns: Tensor, present: Tensor) -> Tensor:
        net = self.net
        angle = n[:, None] * net.step.frequency
        step = net.step.second(F.mish(net.step.first(torch.cat((angle.sin(), angle.cos()), -1))))
        told = net.told.third(F.mish(net.told.second(F.mish(net.told.first(returns))))) * present[:, None]
        h = net.first(torch.cat((x.flatten(1), step, told), -1))
        for block in net.blocks:
            h = h + F.mish(block["linear"](block["norm"](h)))
        return net.last(F.mish(h)).view_as(x)


class PlainStep:
    """A step of :class:`PlainPerceptron` as programs write it."""

    def __init__(self, ours: ResidualMLPDenoiser) -> None:
        self.model = PlainPerceptron(ours)
        self.average = copy.deepcopy(self.model)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=3e-4)
        self.bars = make_schedule("cosine", STEPS).alpha_bar.float()

    def step(self, x0: Tensor, returns: Tensor) -> float:
        """One optimiser step."""
        n, noise = torch.randint(1, STEPS + 1, (len(x0),)), torch.randn_like(x0)
        a = self.bars[n].reshape(-1, 1, 1)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        x[:, 0] = x0[:, 0]
        out = self.model(x, n, returns, torch.rand(len(x0)) >= 0.25)
        loss = ((out - noise)[:, 1:] ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for now, mean in zip(self.model.parameters(), self.average.parameters()):
                mean.mul_(0.995).add_(now, alpha=0.005)
        return loss.item()


def agree(theirs: UNet, ours: TemporalUNet, x: Tensor, returns: Tensor) -> None:
    """Both networks give the same for the same weights."""
    ours.load_state_dict(as_ours(theirs))
    n, present = torch.randint(1, STEPS, (len(x),)), torch.rand(len(x)) >= 0.25
    with torch.no_grad():
        wanted = theirs(x, n, returns, present[:, None].float())
        torch.testing.assert_close(ours(x, n, returns, present), wanted, atol=1e-4, rtol=1e-4)


def medians(competitors: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of a call of each, in turns, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(rounds + 1):
        for name, call in competitors.items():
            start = time.process_time()
            call()
            if number:
                spent[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times) for name, times in spent.items()}


def repeated(step: Callable[..., float], times: int, *given: Tensor) -> Callable[[], None]:
    """``times`` steps in one call."""

    def run() -> None:
        for _ in range(times):
            step(*given)

    return run


def unets(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the first table."""
    sizes = [(32, (1, 2), 32, 10), (32, (1, 2), 64, 10), (64, (1, 2, 4), 32, 5)]
    for dim, multipliers, batch, times in sizes + [(128, (1, 4, 8), 32, 1), (256, (1, 2, 4), 32, 1)] * options.large:
        x0, returns = torch.randn(batch, HORIZON, CHANNELS), torch.rand(batch, 1)
        continual, clean = Continual(CHANNELS, dim, multipliers), Clean(CHANNELS, dim, multipliers, HORIZON)
        fused = Continual(CHANNELS, dim, multipliers)
        fused.optimiser = torch.optim.Adam(fused.model.parameters(), lr=3e-4, fused=True)
        network = TemporalUNet(CHANNELS, dim=dim, multipliers=multipliers)
        agree(continual.model, network, x0, returns)
        steps = {"continual": continual.step, "clean": clean.step, "fused Adam": fused.step,
                 "ours": Ours(network, 10).step}  # fmt: skip
        rounds = options.rounds if dim < 128 else max(2, options.rounds // 2)
        found = medians({n: repeated(s, times, x0, returns) for n, s in steps.items()}, rounds)
        found = {name: value / times for name, value in found.items()}
        yield {
            "U-Net": f"{dim} x {multipliers}", "parameters": sum(p.numel() for p in network.parameters()),
            "batch": batch, **{f"{n} ms": v for n, v in found.items()},
            **{f"{n} / ours": v / found["ours"] for n, v in found.items() if n != "ours"},
        }  # fmt: skip


def perceptrons(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the second table."""
    for batch in (32, 64, 256):
        x0, returns = torch.randn(batch, HORIZON, CHANNELS), torch.rand(batch, 1)
        net = ResidualMLPDenoiser(CHANNELS, HORIZON)
        n, present = torch.randint(1, STEPS, (batch,)), torch.rand(batch) >= 0.25
        plain = PlainStep(net)
        torch.testing.assert_close(net(x0, n, returns, present), plain.model(x0, n, returns, present))
        steps = {"plain": plain.step, "ours": Ours(net, 1).step}
        found = medians({n: repeated(s, 10, x0, returns) for n, s in steps.items()}, options.rounds)
        size = sum(p.numel() for p in net.parameters())
        found = {name: value / 10 for name, value in found.items()}
        yield {"perceptron": "4 x 384", "parameters": size, "batch": batch,
               **{f"{n} ms": v for n, v in found.items()}, "plain / ours": found["plain"] / found["ours"]}  # fmt: skip


def show(title: str, rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints rows as they come, under their columns."""
    print(f"\n{title}")
    kept: list[dict[str, Any]] = []
    for row in rows:
        if not kept:
            print(" | ".join(row))
        print(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
        kept.append(row)
    return kept


def main() -> None:
    """Prints the tables; with ``--json`` also writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="the published sizes too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    rows = show("a training step of a temporal U-Net", unets(options))
    rows += show("a training step of the residual perceptron", perceptrons(options))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
