"""Test AUC against CPU time: Local-SGDA on 16 clients beside LibAUC's PESG in one process, same model and data.

    python benchmarks/minimax_auc.py [--data spambase] [--target 0.97] [--seeds 2] [--json F]

Model: one hidden layer of 64. Data: 80 % for training, columns standardised, rows of norm 1. PESG (LibAUC 2.0.1, its
defaults, AUC margin loss, batch 32) runs in a virtual environment of its own under the cache folder (made on the first
run; only what its losses and optimisers import is installed with it). Local-SGDA: 16 clients with a sixteenth of the
rows each, K = 5, batch 2 a client, so that both see 32 samples at a time; the same objective (margin form). Several
step sizes of both are shown. CPU seconds of the training steps alone; test AUC is taken 40 times on the way; medians
over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _peers import peer_python

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
LIBAUC = ["torch==2.13.0", "numpy", "scipy", "pandas", "scikit-learn", "tqdm", "pyyaml", "omegaconf"]
STEPS, LOOKS = 2000, 40
STEP_SIZES = {"local-sgda": (0.1, 0.3), "pesg": (0.1, 0.3, 1.0)}

PESG = """
import sys, json, time, numpy as np, torch
from sklearn.metrics import roc_auc_score
from libauc.losses.auc import AUCMLoss
from libauc.optimizers.pesg import PESG
torch.set_num_threads(1)
d = np.load(sys.argv[1]); seed, steps, looks = map(int, sys.argv[2:5])
lr = float(sys.argv[5])
x, y, u, v = (torch.from_numpy(d[k]) for k in ("x", "y", "u", "v"))
torch.manual_seed(seed)
model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
loss_fn = AUCMLoss(imratio=float(y.mean()), version="v1")
optimiser = PESG(model.parameters(), loss_fn=loss_fn, lr=lr, verbose=False, device="cpu")
source, spent, curve = torch.Generator().manual_seed(seed), 0.0, []
for look in range(looks):
    began = time.process_time()
    for _ in range(steps // looks):
        j = torch.randint(len(x), (32,), generator=source)
        optimiser.zero_grad()
        loss_fn(torch.sigmoid(model(x[j])), y[j][:, None], auto=False).backward()
        optimiser.step()
    spent += time.process_time() - began
    with torch.no_grad():
        curve.append((spent, float(roc_auc_score(v.numpy(), model(u)[:, 0].numpy()))))
print("CURVE", json.dumps(curve))
"""


def ours(train, test, seed: int, eta: float) -> list[tuple[float, float]]:
    """(CPU s, test AUC) along Local-SGDA."""
    import torch

    from manyone.data.tables.partitions import partition
    from manyone.minimax import AUC, ClientData, DistributedSGDA, Simulated, positive_rate
    from manyone.minimax.predict import build_network
    from manyone.minimax.stability.measures import roc_auc

    torch.set_num_threads(1)
    problem = AUC(positive_rate(train.signs), score=build_network([train.width, 64, 1]), form="aucm")
    parts = partition(train.labels, 16, seed=seed)
    data = ClientData.of_parts({"features": train.features, "labels": train.signs}, parts)
    method = DistributedSGDA(steps=5, rounds=STEPS // 5, batch=2, step_sizes=(eta, eta))
    run = Simulated(problem, data, method, seed=seed)
    spent, curve = 0.0, []
    for look in range(LOOKS):
        began = time.process_time()
        run.advance((look + 1) * STEPS // LOOKS)
        spent += time.process_time() - began
        x, _ = problem.spec.unpack(run.consensus()[0, 0])
        curve.append((spent, roc_auc(problem.score(x, test.features), test.signs)))
    return curve


def pesg(python: Path, train, test, seed: int, size: float) -> list[tuple[float, float]]:
    """(CPU s, test AUC) along LibAUC's PESG, in a process of its own."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, x=train.features, y=(train.signs > 0).float(), u=test.features, v=(test.signs > 0).float())
        words = [str(python), "-c", PESG, str(path), str(seed), str(STEPS), str(LOOKS), str(size)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"LibAUC ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("CURVE"))[6:])


def main() -> None:
    """Prints the comparison."""
    from platformdirs import user_cache_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="spambase")
    parser.add_argument("--target", type=float, default=0.97)
    parser.add_argument("--seeds", type=int, default=2)
    cache = Path(os.environ.get("MANYONE_CACHE", user_cache_path("manyone")))
    parser.add_argument("--peers", type=Path, default=cache / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from manyone.data.tables.tables import load_table, prepare

    python = peer_python(options.peers / "libauc", LIBAUC, ["--no-deps", "libauc==2.0.1"])
    rows = []
    for name, sizes in STEP_SIZES.items():
        for size in sizes:
            found = []
            for seed in range(options.seeds):
                train, test = prepare(load_table(options.data), seed=seed)
                if name == "pesg":
                    found.append(pesg(python, train, test, seed, size))
                else:
                    found.append(ours(train, test, seed, size))
            reached = [next((t for t, auc in curve if auc >= options.target), float("inf")) for curve in found]
            row = {
                "benchmark": "minimax-auc",
                "method": name,
                "step_size": size,
                f"cpu_s_to_auc_{options.target}": round(statistics.median(reached), 3),
                "best_auc": round(statistics.median(max(auc for _, auc in curve) for curve in found), 4),
                "cpu_s": round(statistics.median(curve[-1][0] for curve in found), 2),
            }
            rows.append(row)
            print(", ".join(f"{k} {v}" for k, v in row.items() if k != "benchmark"))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
