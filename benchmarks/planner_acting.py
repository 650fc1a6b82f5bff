"""Acting with diffusion planners: many environments in lock-step against one at a time, guidance in one call or two.

    python benchmarks/planner_acting.py [--rounds 3] [--environments 50] [--singles 10] [--json F]

A plan is 10 DDIM steps (eta 0) over windows [8, 20] with guidance 1.2, the first state known, estimates clipped at 3.
``published`` is the planner of Continual Diffuser, one environment at a time and two calls of its U-Net a step (see
``_published_planners.py``). ``one at a time`` is ours for one environment, so many times as there are environments
(``--singles`` plans are timed and multiplied); ``lock-step`` is ours for all at once. ``two calls`` has the conditional
and the unconditional estimate in calls of their own. CPU milliseconds of one thread, medians of ``--rounds`` rounds in
which all take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _published_planners import Continual, as_ours
from planner_training import CHANNELS, HORIZON, STEPS, medians, show
from torch import Tensor, nn

from manyone.nets.diffusion.denoisers import ResidualMLPDenoiser
from manyone.nets.diffusion.dit import DiT
from manyone.nets.diffusion.guidance import guided
from manyone.nets.diffusion.process import Known, Network, Process
from manyone.nets.diffusion.sampling import sample
from manyone.nets.diffusion.schedules import make_schedule
from manyone.nets.diffusion.unet import TemporalUNet
from manyone.nets.memory import keep_freed_memory

SCALE, PLAN = 1.2, 10


class Planner:
    """Plans from first states, with guidance in one call or in two."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser, self.process = denoiser, Process(make_schedule("cosine", STEPS), clip=3.0)
        self.where = torch.zeros(1, HORIZON, 1, dtype=torch.bool)
        self.where[:, 0] = True

    @torch.no_grad()
    def plan(self, states: Tensor, calls: int = 1) -> Tensor:
        """[B, T, C] from ``states`` [B, C]."""
        rows = len(states)
        condition = torch.full((rows, 1), 0.95)
        network = guided(self.denoiser, condition, SCALE) if calls == 1 else self.in_two_calls(condition)
        noise = torch.randn(rows, HORIZON, CHANNELS)
        return sample(network, self.process, noise, steps=PLAN, known=Known(self.where, states.unsqueeze(1)))

    def in_two_calls(self, condition: Tensor) -> Network:
        """What guidance is where nobody has put its halves together."""
        on, off = (torch.full((len(condition),), value) for value in (True, False))

        def network(x: Tensor, n: Tensor) -> Tensor:
            with_ = self.denoiser(x, n, condition, on)
            without = self.denoiser(x, n, condition, off)
            return without + SCALE * (with_ - without)

        return network


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a network."""
    published = Continual(CHANNELS, 32, (1, 2))
    unet = TemporalUNet(CHANNELS)
    unet.load_state_dict(as_ours(published.average))
    networks: dict[str, nn.Module] = {"U-Net 32 x (1, 2)": unet, "perceptron 4 x 384": ResidualMLPDenoiser(20, 8),
                                      "DiT 4 x 128": DiT(CHANNELS)}  # fmt: skip
    states = torch.randn(options.environments, CHANNELS)
    scaled = options.environments / options.singles
    for name, network in networks.items():
        planner = Planner(network)

        def singly(plan: Callable[[Tensor], Tensor]) -> Callable[[], None]:
            def run() -> None:
                for row in range(options.singles):
                    plan(states[row % options.environments][None])

            return run

        competitors: dict[str, Callable[[], Any]] = {
            "one at a time": singly(planner.plan),
            "one at a time, two calls": singly(lambda s, planner=planner: planner.plan(s, 2)),
            "lock-step": lambda planner=planner: planner.plan(states),
            "lock-step, two calls": lambda planner=planner: planner.plan(states, 2),
        }
        if network is unet:
            competitors["published"] = singly(lambda s: published.plan(s, HORIZON))
        found = medians(competitors, options.rounds)
        singles = {n: v * scaled for n, v in found.items() if not n.startswith("lock")}
        together = found["lock-step"]
        yield {
            "network": name, "environments": options.environments,
            "published ms": singles.get("published", "-"), "one at a time ms": singles["one at a time"],
            "lock-step ms": together,
            "published / lock-step": singles["published"] / together if network is unet else "-",
            "one at a time / lock-step": singles["one at a time"] / together,
            "two calls / one, 1 environment": singles["one at a time, two calls"] / singles["one at a time"],
            "two calls / one, all": found["lock-step, two calls"] / together,
            "a plan for one ms": found["one at a time"] / options.singles,
        }  # fmt: skip


def main() -> None:
    """Prints the table; with ``--json`` also writes its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 3), ("environments", 50), ("singles", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    kept = show("plans of 10 steps with guidance", rows(options))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in kept))


if __name__ == "__main__":
    main()
