"""Training of Surgery and SurgeryV2: stored representations against the published loop spelt out.

    python benchmarks/surgery_training.py [--tasks 8] [--inputs 256] [--steps 24] [--depth 6] [--width 128] [--json F]

The published loop, at every step: merge all parameters anew, run the merged model and the expert on 16 images, one Adam
step on the task's corrections. Both start from the same corrections and see the same batches; ``difference`` is the
largest gap between their losses. Times are CPU seconds of one thread. ``prepare`` is spent once (the experts' and the
merged model's representations); a full training is 1000 steps a task.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from manyone.merging.surgery.learner import SurgeryLearner
from manyone.merging.surgery.model import Surgery, SurgeryV2, token_mean
from manyone.nets import build_encoder

Weights = Mapping[str, Tensor]


def merged_weights(base: Weights, taus: list[Weights], scale: float) -> dict[str, Tensor]:
    """theta_0 + scale sum_i tau_i, tensor by tensor."""
    return {n: v + scale * sum(tau[n] for tau in taus) for n, v in base.items()}


class Published:
    """The published training loop for one kind of surgery, one optimiser step a call."""

    def __init__(
        self, encoder: nn.Module, base: Weights, experts: list[Weights], model: Surgery | SurgeryV2, scale: float
    ) -> None:
        self.network, self.base, self.experts = copy.deepcopy(encoder).requires_grad_(False), base, experts
        self.taus = [{n: e[n] - v for n, v in base.items()} for e in experts]
        self.scale, self.two = scale, isinstance(model, SurgeryV2)
        self.corrections = copy.deepcopy(model.corrections)
        self.optimisers = [
            torch.optim.Adam([p for c in self.corrections for p in (c.down[t], c.up[t])], lr=1e-3)
            for t in range(len(experts))
        ]

    def forward(self, weights: Weights, x: Tensor, task: int | None) -> tuple[list[Tensor], Tensor]:
        """Token means and feature, corrected for ``task``."""
        means: list[Tensor] = []

        def hook(place: int, hidden: Tensor) -> Tensor:
            hidden = hidden if task is None else self.corrections[place](hidden, [task])
            means.append(token_mean(hidden, x))
            return hidden

        blocks = self.network.blocks if self.two else []
        handles = [b.register_forward_hook(lambda _m, _a, out, _i=i: hook(_i, out)) for i, b in enumerate(blocks)]
        feature = functional_call(self.network, dict(weights), (x,))
        for handle in handles:
            handle.remove()
        return means, feature if task is None else self.corrections[-1](feature, [task])

    def step(self, task: int, x: Tensor) -> float:
        """Merge, two forward passes, one Adam step; returns the loss."""
        means, feature = self.forward(merged_weights(self.base, self.taus, self.scale), x, task)
        with torch.no_grad():
            wanted, target = self.forward(self.experts[task], x, None)
        loss = (feature - target).abs().mean()
        for a, b in zip(means, wanted):
            loss = loss + (a - b).abs().mean()
        self.optimisers[task].zero_grad()
        loss.backward()
        self.optimisers[task].step()
        return loss.item()


def measure(version: int, encoder: nn.Module, experts: list[Weights], inputs: dict[str, Tensor], steps: int) -> dict:
    """Both formulations on the same world; seconds per 1000 optimiser steps."""
    base, tasks, scale = encoder.state_dict(), tuple(inputs), 0.3
    taus = [{n: e[n] - v for n, v in base.items()} for e in experts]
    merged = copy.deepcopy(encoder)
    merged.load_state_dict(merged_weights(base, taus, scale))
    width = hidden = merged(next(iter(inputs.values()))[:1]).shape[1]
    model = Surgery(merged, width, tasks) if version == 1 else SurgeryV2(merged, width, hidden, tasks)
    published = Published(encoder, base, experts, model, scale)

    start = time.process_time()
    learner = SurgeryLearner(model, dict(zip(tasks, experts)), inputs)
    prepare = time.process_time() - start
    iterations = max(steps // (2 * len(tasks)), 1)
    start = time.process_time()
    ours = [learner.step() for _ in range(iterations)]
    own_time = time.process_time() - start

    theirs = []
    start = time.process_time()
    for k in range(iterations):
        row = {}
        for t, task in enumerate(tasks):
            pair = [published.step(t, inputs[task][learner.orders[t].batch(2 * k + b)]) for b in range(2)]
            row[f"loss/{task}"] = sum(pair) / 2
        theirs.append(row)
    plain_time = time.process_time() - start
    taken = iterations * 2 * len(tasks)
    return {
        "method": "surgery" if version == 1 else "surgery-v2",
        "tasks": len(tasks),
        "published_s_per_1000_steps": 1000 * plain_time / taken,
        "manyone_s_per_1000_steps": 1000 * own_time / taken,
        "manyone_prepare_s": prepare,
        "faster": plain_time / own_time,
        "faster_whole_training": 1000 * len(tasks) * plain_time / taken
        / (prepare + 1000 * len(tasks) * own_time / taken),
        "difference": max(abs(a[key] - b[key]) for a, b in zip(ours, theirs) for key in b),
    }  # fmt: skip


def main() -> None:
    """Prints the table; with ``--json`` also writes its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 8), ("inputs", 256), ("steps", 64), ("depth", 6), ("width", 128), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = {"kind": "vit", "size": options.size, "patch": 4, "width": options.width, "depth": options.depth, "heads": 4}
    encoder = build_encoder(spec)
    experts = [
        {n: v + 0.02 * torch.randn_like(v) for n, v in encoder.state_dict().items()} for _ in range(options.tasks)
    ]
    shape = (options.inputs, 3, options.size, options.size)
    inputs = {f"task{t}": torch.randint(256, shape, dtype=torch.uint8) for t in range(options.tasks)}
    rows = [measure(version, encoder, experts, inputs, options.steps) for version in (1, 2)]
    columns = list(rows[0])
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
