"""Forward and router-training cost of a weight-ensembling mixture, side by side with two plain formulations.

    python benchmarks/wemoe_forward.py [--batches 1 4 16 64] [--blocks 12] [--processes 5] [--json rows.jsonl]

Sizes are those of CLIP ViT-B/32's vision encoder (width 768, MLP 3072, 50 tokens) with 8 experts. ``expert by expert``
is the formulation of FusionBench (for each sample, for each task vector, out of place), ``stack times gate`` that of
the first WEMoE code (all task vectors times the gate, then a sum). All run in one process on the same tensors; the
figures are CPU milliseconds per sample, the median over rounds in which all take turns. How an allocator hands out
pages differs from process to process and moves the plain formulations most: ``--processes`` takes medians of several.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from manyone.merging.moe.wemoe import WeightEnsemblingMoE

WIDTH, HIDDEN, TOKENS, EXPERTS, HEADS = 768, 3072, 50, 8, 12


class MLP(nn.Module):
    """fc2(GELU(fc1 x))."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block; with ``attention=False`` only the MLP on its input."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        if attention:
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = MLP()

    def forward(self, x: Tensor) -> Tensor:
        if not self.attention:
            return self.mlp(x)
        batch, tokens, _ = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.attn["proj"](mixed)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """``blocks`` blocks and a token mean."""

    def __init__(self, blocks: int, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(attention) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


class PlainMoE(nn.Module):
    """The two plain formulations of one critical MLP; the same routers and task vectors as the module under test."""

    def __init__(self, mlp: MLP, taus: list[dict[str, Tensor]], router: nn.Module, stacked: bool) -> None:
        super().__init__()
        self.mlp, self.taus, self.router, self.stacked = mlp, taus, router, stacked
        self.stack = {k: torch.stack([t[k] for t in taus]) for k in taus[0]} if stacked else {}

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x)
        outputs = []
        for sample, gate in zip(x, gates):
            weights = dict(self.mlp.named_parameters())
            if self.stacked:
                for name, stack in self.stack.items():
                    weights[name] = weights[name] + (stack * gate.view(-1, *[1] * (stack.ndim - 1))).sum(0)
            else:
                for weight, tau in zip(gate, self.taus):
                    for name, value in tau.items():
                        weights[name] = weights[name] + weight * value
            outputs.append(functional_call(self.mlp, weights, (sample,)))
        return torch.stack(outputs)


def plain_copy(static: Encoder, experts: list[dict[str, Tensor]], model: WeightEnsemblingMoE, stacked: bool) -> Encoder:
    """The encoder with its MLPs replaced by :class:`PlainMoE`; everything else merged like in ``model``."""
    encoder = copy.deepcopy(static)
    encoder.load_state_dict(
        {k: v for k, v in model.encoder.state_dict().items() if ".mlp." not in k} | mlp_state(static), strict=True
    )
    for index, block in enumerate(encoder.blocks):
        prefix = f"blocks.{index}.mlp."
        taus = [
            {k[len(prefix) :]: e[k] - v for k, v in static.state_dict().items() if k.startswith(prefix)}
            for e in experts
        ]
        block.mlp = PlainMoE(block.mlp, taus, model.routers[index], stacked)
    return encoder


def mlp_state(static: Encoder) -> dict[str, Tensor]:
    return {k: v for k, v in static.state_dict().items() if ".mlp." in k}


def side_by_side(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU milliseconds of one call of each: the median over ``repeats`` rounds, every function once a round.

    Rounds, because the cost of allocating memory and of a shared cache depends on what ran before: taking turns gives
    every function the same neighbours. The first round warms up and does not count.
    """
    spent: dict[str, list[float]] = {label: [] for label in functions}
    for _ in range(repeats + 1):
        for label, function in functions.items():
            start = time.process_time()
            function()
            spent[label].append(time.process_time() - start)
    return {label: statistics.median(times[1:]) * 1e3 for label, times in spent.items()}


def held_mib(module: nn.Module) -> float:
    """MiB of a module's parameters, buffers and task vectors (storages counted once)."""
    held = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        if isinstance(part, PlainMoE):
            held += [v for tau in part.taus for v in tau.values()] + list(part.stack.values())
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values()) / 2**20


def measure(name: str, blocks: int, attention: bool, batches: list[int], repeats: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    static = Encoder(blocks, attention).requires_grad_(False).eval()
    experts = [{k: v + 1e-3 * torch.randn_like(v) for k, v in static.state_dict().items()} for _ in range(EXPERTS)]
    model = WeightEnsemblingMoE(static, experts)
    loop = plain_copy(static, experts, model, stacked=False)
    runs: dict[str, nn.Module] = {"static": static, "manyone": model, "expert by expert": loop}
    if blocks == 1:
        runs["stack times gate"] = plain_copy(static, experts, model, stacked=True)
        for variant in ("grouped", "factored"):
            runs[variant] = copy.deepcopy(model)
            runs[variant].strategy = variant  # type: ignore[assignment]
        runs["batch routing"] = copy.deepcopy(model)
        runs["batch routing"].routing = "batch"  # type: ignore[assignment]
        runs["sparse, 90 % pruned"] = WeightEnsemblingMoE(static, experts, prune_ratio=0.9, strategy="sparse")
    rows: list[dict[str, object]] = [
        {"part": name, "what": "held", "batch": 0, "method": label, "value": held_mib(run)}
        for label, run in runs.items()
    ]
    for batch in batches:
        x = torch.randn(batch, TOKENS, WIDTH)
        with torch.no_grad():
            wanted = loop(x)
            gap = float((model(x) - wanted).abs().max() / wanted.abs().max())
            calls = {label: (lambda run=run, x=x: run(x)) for label, run in runs.items()}
            for label, ms in side_by_side(calls, max(3, repeats // batch)).items():
                row = {"part": name, "what": "forward", "batch": batch, "method": label, "ms_per_sample": ms / batch}
                rows.append(row)
        rows.append({"part": name, "what": "relative difference", "batch": batch, "method": "manyone", "value": gap})
    for batch in [b for b in batches if b <= 4] if blocks > 1 else [b for b in batches if b <= 16]:
        x = torch.randn(batch, TOKENS, WIDTH, requires_grad=True)
        trained = [label for label in ("manyone", "expert by expert", "stack times gate") if label in runs]
        calls = {label: (lambda run=runs[label], x=x: run(x).square().mean().backward()) for label in trained}
        for label, ms in side_by_side(calls, max(3, repeats // batch // 2)).items():
            kept = memory_of(lambda run=runs[label], x=x: run(x).square().mean())  # type: ignore[misc]
            row = {"part": name, "what": "training", "batch": batch, "method": label, "ms_per_sample": ms / batch}
            rows.append(row | {"saved_mib": kept})
    return rows


def memory_of(forward: Callable[[], Tensor]) -> float:
    """MiB of tensors that autograd keeps for the backward pass (storages counted once, parameters too)."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(seen.values()) / 2**20


def show(rows: list[dict[str, object]]) -> None:
    for part in dict.fromkeys(r["part"] for r in rows):
        held = {r["method"]: r["value"] for r in rows if r["part"] == part and r["what"] == "held"}
        print(f"\n{part}, held in memory: " + ", ".join(f"{m} {v:.0f} MiB" for m, v in held.items()))
        gaps = [r["value"] for r in rows if r["part"] == part and r["what"] == "relative difference"]
        print(f"{part}, largest relative difference to expert by expert: {max(gaps):.1e}")  # type: ignore[type-var]
        for what in ("forward", "training"):
            chosen = [r for r in rows if r["part"] == part and r["what"] == what]
            batches = list(dict.fromkeys(r["batch"] for r in chosen))
            if not chosen:
                continue
            table = {(r["method"], r["batch"]): r for r in chosen}
            print(f"\n{part}, {what}: CPU ms per sample (x = expert by expert / this)")
            print(f"{'':24}" + "".join(f"{'B=' + str(b):>18}" for b in batches))
            for method in dict.fromkeys(r["method"] for r in chosen):
                cells = ""
                for b in batches:
                    row = table.get((method, b))
                    if row is None:
                        cells += f"{'':>18}"
                        continue
                    ratio = float(table["expert by expert", b]["ms_per_sample"]) / float(row["ms_per_sample"])  # type: ignore[arg-type]
                    cells += f"{row['ms_per_sample']:>10.1f} ({ratio:4.1f}x)"
                print(f"{method!s:24}{cells}")
            saved = {m: table[m, b]["saved_mib"] for m, b in table if b == batches[-1]} if what == "training" else {}
            if saved:
                print(
                    f"kept for backward at B={batches[-1]}: " + ", ".join(f"{m} {v:.0f} MiB" for m, v in saved.items())
                )


def medians(runs: list[list[dict[str, object]]]) -> list[dict[str, object]]:
    """One table of the medians of several processes' tables, figure by figure."""
    rows = []
    for same in zip(*runs, strict=True):
        row = dict(same[0])
        for figure in ("ms_per_sample", "value", "saved_mib"):
            if figure in row:
                row[figure] = statistics.median(r[figure] for r in same)  # type: ignore[type-var]
        rows.append(row)
    return rows


def in_processes(count: int) -> list[dict[str, object]]:
    """This command line in ``count`` fresh processes, one after the other."""
    words = sys.argv[1:]
    place = next((i for i, w in enumerate(words) if w.startswith("--processes")))
    words = words[:place] + words[place + (1 if "=" in words[place] else 2) :]
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            file = Path(folder) / f"{i}.jsonl"
            subprocess.run(
                [sys.executable, __file__, *words, "--json", str(file)], check=True, stdout=subprocess.DEVNULL
            )
            tables.append([json.loads(line) for line in file.read_text().splitlines()])
    return medians(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--blocks", type=int, default=6, help="blocks of the encoder; 0 measures the one MLP alone")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="fresh processes to take the median of")
    parser.add_argument("--json", type=Path, default=None, help="append one JSON row per figure to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        rows = in_processes(options.processes)
    else:
        rows = measure("one MLP", 1, False, options.batches, options.repeats)
        if options.blocks:
            rows += measure(
                f"{options.blocks}-block encoder", options.blocks, True, options.batches, max(1, options.repeats // 4)
            )
    show(rows)
    if options.json is not None:
        with options.json.open("a") as file:
            for row in rows:
                file.write(json.dumps({"bench": "wemoe_forward", "threads": options.threads, **row}) + "\n")


if __name__ == "__main__":
    main()
