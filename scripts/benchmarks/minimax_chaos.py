"""Chaos: 4 ranks with 16 clients, kill -9 one of them at a random moment of a random round, again and again.

Every run must end, with a finite model whose test AUC lies where undisturbed runs lie: within the 95% prediction
interval of the same job in one process (the simulation has the trajectory of an undisturbed real run) over seeds.

    python scripts/benchmarks/minimax_chaos.py [--repetitions 10] [--rounds 200] [--json FILE]

Prints one line a run and a verdict; the exit code is 1 when a run does not meet the above.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from manyone.data.tables.partitions import partition
from manyone.data.tables.tables import Table, load_table, prepare
from manyone.minimax import AUC, ClientData, DistributedSGDA, Membership, Simulated, TorchDistributed, positive_rate
from manyone.minimax.launch import launch
from manyone.randomness import generator_for

RANKS, CLIENTS = 4, 16
TOPOLOGIES = ("ring", "complete", "exponential", "star")


def job(seed: int, rounds: int, topology: str) -> tuple[tuple[AUC, ClientData, DistributedSGDA], Table]:
    """Problem, data and method; test set: linear AUC on breast cancer, label-mixed Dirichlet shards."""
    train, test = prepare(load_table("breast-cancer"), seed=seed)
    parts = partition(train.labels, CLIENTS, kind="dirichlet", alpha=0.5, per_client=28, seed=seed)
    rows = torch.cat(parts)
    data = ClientData.of_parts({"features": train.features, "labels": train.signs}, parts)
    problem = AUC(positive_rate(train.signs[rows]), dim=train.width)
    return (problem, data, DistributedSGDA(topology=topology, steps=5, rounds=rounds)), test


def test_auc(problem: AUC, z: torch.Tensor, test: Table) -> float:
    """Area under the curve of the consensus model ``z`` [P]."""
    from sklearn.metrics import roc_auc_score

    x, _ = problem.spec.unpack(z)
    return float(roc_auc_score(test.labels, problem.score(x, test.features)))


def rank_main(seed: int, rounds: int, topology: str, folder: Path) -> None:
    """One rank; tells its progress in a file, and the survivors save their model."""
    membership = Membership.join(timeout=30)
    rank = membership.rank
    arguments, _ = job(seed, rounds, topology)
    run = TorchDistributed(*arguments, membership=membership, seed=seed)
    progress = folder / f"progress-{rank}"
    z = run.run(callback=lambda _, t: progress.write_text(str(t)))
    torch.save({"z": z[0, 0], "losses": run.losses, "clients": len(run.clients)}, folder / f"model-{rank}.pt")
    membership.leave()


def chaos(seed: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One run with one killed rank."""
    draw = generator_for(seed, "chaos")
    victim = int(torch.randint(RANKS, (1,), generator=draw))
    after = int(torch.randint(1, rounds - 5, (1,), generator=draw))
    delay = float(torch.rand(1, generator=draw)) * 0.02
    topology = TOPOLOGIES[seed % len(TOPOLOGIES)]

    def killer(pids: list[int]) -> None:
        def watch() -> None:
            progress = folder / f"progress-{victim}"
            while not progress.exists() or int(progress.read_text() or 0) < after:
                time.sleep(0.002)
            time.sleep(delay)
            os.kill(pids[victim], signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()

    began = time.perf_counter()
    command = [sys.executable, __file__, "--rank-of", str(seed), "--rounds", str(rounds)]
    codes = launch(
        [*command, "--topology", topology, "--folder", str(folder)], RANKS, quorum=RANKS - 1, on_start=killer
    )
    models = [torch.load(file, weights_only=True) for file in sorted(folder.glob("model-*.pt"))]
    arguments, test = job(seed, rounds, topology)
    return {
        "seed": seed,
        "topology": topology,
        "killed": victim,
        "after round": after,
        "codes": codes,
        "seconds": round(time.perf_counter() - began, 1),
        "went on from round": [loss["round"] for loss in models[0]["losses"]],
        "survivors agree": all(torch.equal(m["z"], models[0]["z"]) for m in models),
        "clients left": models[0]["clients"],
        "finite": bool(torch.isfinite(models[0]["z"]).all()),
        "AUC": test_auc(arguments[0], models[0]["z"], test),
    }


def undisturbed(seed: int, rounds: int) -> float:
    """Test AUC of the same job without a loss."""
    arguments, test = job(seed, rounds, TOPOLOGIES[seed % len(TOPOLOGIES)])
    z = Simulated(*arguments, seed=seed).run()
    return test_auc(arguments[0], z[0, 0], test)


def interval(values: list[float]) -> tuple[float, float]:
    """95% prediction interval for one more value (Student's t), cut at 1."""
    from scipy.stats import t

    n = len(values)
    half = t.ppf(0.975, n - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return statistics.mean(values) - half, min(1.0, statistics.mean(values) + half)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10, help="runs with a kill (default 10, at least 3)")
    parser.add_argument("--rounds", type=int, default=200, help="rounds a run (default 200, at least 20)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rank-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--topology", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank_of is not None:
        rank_main(given.rank_of, given.rounds, given.topology, given.folder)
        return 0
    whole = [undisturbed(seed, given.rounds) for seed in range(given.repetitions)]
    low, high = interval(whole)
    print(f"undisturbed: test AUC {statistics.mean(whole):.4f}, 95% prediction interval [{low:.4f}, {high:.4f}]")
    results = []
    for seed in range(given.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            results.append(chaos(seed, given.rounds, Path(folder)))
        found = results[-1]
        found["undisturbed"] = whole[seed]
        found["well"] = found["finite"] and found["survivors agree"] and low <= found["AUC"] <= high
        print(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
    well = sum(r["well"] for r in results)
    print(f"{well} of {len(results)} runs ended with a finite model, the same on all survivors, within the interval")
    if given.json:
        given.json.write_text(json.dumps({"undisturbed": whole, "interval": [low, high], "runs": results}, indent=1))
    return 0 if well == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
