"""Round time of real ranks: TorchDistributed against a bare loop of the same local steps and one all-reduce.

    python benchmarks/minimax_ranks.py [--ranks 2] [--rounds 100] [--blocks 7] [--json F]

Linear AUC (d = 300), 16 clients over the ranks (gloo), K = 5, batch 4. The bare loop advances the same stacked rows and
calls ``all_reduce`` on their sum, nothing else. Both alternate block by block on the same processes; the median of the
blocks' wall times, and of their ratios, is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
DIM, SAMPLES, STEPS, BATCH, CLIENTS = 300, 50, 5, 4, 16


def rank(rounds: int, blocks: int, topology: str) -> None:
    """What every rank does; rank 0 prints its times."""
    import torch
    import torch.distributed as dist

    from manyone.minimax import AUC, ClientData, DistributedSGDA, TorchDistributed

    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(CLIENTS, SAMPLES, DIM, generator=source), dim=-1)
    y = torch.where(torch.rand(CLIENTS, SAMPLES, generator=source) < 0.4, 1.0, -1.0)
    data = ClientData.of_shards({"features": x, "labels": y})
    real, bare = (
        TorchDistributed(
            AUC(0.4, dim=DIM), data,
            DistributedSGDA(topology=name, steps=STEPS, rounds=rounds * (blocks + 1), batch=BATCH),
        )
        for name in (topology, "server")
    )  # fmt: skip
    local, rows, step = bare.local, slice(0, len(bare.z)), 0

    @torch.no_grad()
    def bare_rounds(count: int) -> None:
        nonlocal step
        for _ in range(count):
            for _ in range(STEPS):
                local.advance(step, rows)
                step += 1
            total = local.z.sum(0, keepdim=True)
            dist.all_reduce(total)
            local.z.copy_((total / CLIENTS).expand_as(local.z))

    real.run(rounds)
    bare_rounds(rounds)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for block in range(blocks):
        for name in ("ours", "bare") if block % 2 else ("bare", "ours"):
            dist.barrier()
            began = time.perf_counter()
            if name == "ours":
                real.run(real.rounds_done + rounds)
            else:
                bare_rounds(rounds)
            times[name].append((time.perf_counter() - began) / rounds)
    if dist.get_rank() == 0:
        print("TIMES", json.dumps(times))
    real.membership.leave()


def main() -> None:
    """Starts the ranks and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100, help="rounds a block")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--topologies", nargs="+", default=["server"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "RANK" in os.environ:
        rank(options.rounds, options.blocks, options.topologies[0])
        return
    rows = []
    for topology in options.topologies:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.ranks)]
        words += [__file__, "--rounds", str(options.rounds), "--blocks", str(options.blocks), "--topologies", topology]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        times = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TIMES"))[6:])
        ratio = statistics.median(a / b for a, b in zip(times["ours"], times["bare"]))
        ours, bare = (1000 * statistics.median(times[n]) for n in ("ours", "bare"))
        figures = {"ms_per_round": round(ours, 3), "bare_ms_per_round": round(bare, 3), "ratio": round(ratio, 3)}
        rows.append({"benchmark": "minimax-ranks", "topology": topology, "ranks": options.ranks, **figures})
        print(
            f"{topology}, {options.ranks} ranks: {ours:.2f} ms a round, bare all-reduce loop {bare:.2f} ms: {ratio:.2f}"
        )
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
