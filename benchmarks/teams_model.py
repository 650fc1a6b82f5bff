"""CommFormer's network: acting and updating, against the published formulation and against other ways to decode.

    python benchmarks/teams_model.py [--rounds 15] [--device cuda] [--json F]

Width 64, one head, one block, fp32, one thread; n agents with A actions: 3 (9), 10 (18), 27 (36), density 0.4. Acting
draws the actions of B environments and their log-probabilities and values; an update is forward and backward of 320
samples: for the network's weights with the graph given, for the graph's logits alone, for both. Before anything is
timed, the package's model with the published settings is checked to agree with the published formulation (see
``_published_commformer.py``). Methods take turns; figures are medians of milliseconds, of CPU time on a CPU, with a GPU
of wall time until it is done.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _published_commformer import PublishedCommFormer

from manyone.envs.teams.types import Observation, TeamSpec
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import LearnedGraph, links_for, sample_noise

SIZES = {3: 9, 10: 18, 27: 36}
OBSERVATION, SAMPLES = 64, 320


def clock(device: torch.device) -> float:
    """CPU seconds of this process; with a GPU wall seconds after all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def medians(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each call: ``rounds`` in turn, after one to warm up; quick ones several times a turn."""
    repeats, taken = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        start = clock(device)
        call()
        repeats[name] = max(1, min(20, int(0.02 / max(clock(device) - start, 1e-4))))
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock(device)
            for _ in range(repeats[name]):
                call()
            taken[name].append(1e3 * (clock(device) - start) / repeats[name])
    return {name: statistics.median(values) for name, values in taken.items()}


class Case:
    """Models of one size with the same weights, and data for them."""

    def __init__(self, agents: int, actions: int, device: torch.device) -> None:
        torch.manual_seed(agents)
        self.spec = TeamSpec("bench", agents, OBSERVATION, actions=actions)
        self.device, self.agents, self.count = device, agents, actions
        self.own = CommFormer(self.spec).to(device)
        self.official = CommFormer(self.spec, scale="official", decoder_mask="official", relation="transposed")
        self.official.load_state_dict(self.own.state_dict())
        self.official.to(device)
        self.published, self.settled = PublishedCommFormer(self.official), copy.deepcopy(self.own)
        self.learned = LearnedGraph(agents, links_for(agents, 0.4)).to(device)
        generator = torch.Generator().manual_seed(0)
        self.graph = self.learned.sample(sample_noise(generator, agents).to(device)).detach()
        self.noise = sample_noise(generator, agents).to(device)

    def data(self, batch: int) -> tuple[Observation, torch.Tensor, torch.Tensor]:
        """(observations, actions, Gumbel noise) of ``batch`` slots."""
        shape = batch, self.agents
        obs = Observation(
            torch.randn(*shape, OBSERVATION, device=self.device),
            torch.ones(shape, dtype=torch.bool, device=self.device),
        )
        noise = -torch.empty(*shape, self.count, device=self.device).exponential_().log()
        return obs, torch.randint(self.count, shape, device=self.device), noise

    def check(self) -> float:
        """Largest difference between the package with published settings and the published formulation."""
        obs, actions, noise = self.data(16)
        mine = self.official.act(obs, self.graph, noise=noise)
        theirs = self.published.act(obs.observations, self.graph, noise)
        assert torch.equal(mine.actions, theirs[0]), "actions differ from the published formulation"
        scored = self.official.evaluate(obs, actions, self.graph)
        found = self.published.evaluate(obs.observations, actions, self.graph)
        pairs = [(mine.log_probs, theirs[1]), (mine.values, theirs[2]), *zip(scored[:3], found)]
        worst = max((a - b).abs().max().item() for a, b in pairs)
        assert worst < 1e-4, f"differs from the published formulation by {worst:.1e}"
        return worst


def acting(case: Case, batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds to act in ``batch`` environments."""
    obs, _, noise = case.data(batch)

    def by(how: str) -> Callable[[], object]:
        def call() -> None:
            case.own.decode = how  # type: ignore[assignment]
            case.own.act(obs, case.graph, noise=noise)

        return call

    calls: dict[str, Callable[[], object]] = {
        "published": lambda: case.published.act(obs.observations, case.graph, noise),
        "cached": by("cached"),
        "cached, steady": lambda: case.settled.act(obs, case.graph, noise=noise),
        "fixed-point": by("fixed-point"),
        "full": by("full"),
        "values only": lambda: case.own.values(obs, case.graph),
    }
    if case.agents * batch > 3000:
        del calls["full"]
    with case.settled.steady():  # as in a roll-out, during which no weight changes
        return medians(calls, rounds, case.device)


def updating(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of forward and backward of 320 samples."""
    obs, actions, _ = case.data(SAMPLES)

    def backward(parts: tuple[Any, ...], inputs: list[torch.Tensor]) -> None:
        torch.autograd.grad(sum(part.mean() for part in parts[:3]), inputs, allow_unused=True)

    def published() -> None:
        graph = case.learned.sample(case.noise)
        parts = case.published.evaluate(obs.observations, actions, graph)
        backward(parts, [*case.official.parameters(), case.learned.logits])

    def weights() -> None:
        backward(case.own.evaluate(obs, actions, case.graph), list(case.own.parameters()))

    def both() -> None:
        graph = case.learned.sample(case.noise)
        backward(case.own.evaluate(obs, actions, graph), [*case.own.parameters(), case.learned.logits])

    def graph_alone() -> None:
        case.own.requires_grad_(False)
        graph = case.learned.sample(case.noise)
        backward(case.own.evaluate(obs, actions, graph), [case.learned.logits])
        case.own.requires_grad_(True)

    calls = {"published": published, "weights and graph": both, "weights": weights, "graph": graph_alone}
    return medians(calls, rounds, case.device)


def main() -> None:
    """Prints one table for acting and one for updating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--agents", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 32, 256])
    parser.add_argument("--skip-slow", action="store_true", help="leave out what takes over 3 s a call (n 27, B 256)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for agents in options.agents:
        case = Case(agents, SIZES[agents], device)
        print(
            f"n = {agents}, A = {case.count}: differs from the published formulation by {case.check():.1e}", flush=True
        )
        for batch in options.batch:
            if options.skip_slow and agents * agents * agents * batch > 2_000_000:
                continue
            rounds = max(3, options.rounds // (4 if agents * batch > 500 else 1))
            found[f"act n={agents} B={batch}"] = show(f"act n={agents} B={batch}", acting(case, batch, rounds))
        rounds = max(3, options.rounds // (3 if agents > 10 else 1))
        found[f"update n={agents}"] = show(f"update n={agents}, {SAMPLES} samples", updating(case, rounds))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def show(title: str, values: dict[str, float]) -> dict[str, float]:
    """Prints a line of milliseconds, each with how many times faster than published it is; returns the values."""
    parts = [f"{name} {ms:.2f} ({values['published'] / ms:.1f}x)" for name, ms in values.items()]
    print(f"{title:28s} " + "  ".join(parts), flush=True)
    return values


if __name__ == "__main__":
    main()
