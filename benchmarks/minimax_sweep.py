"""A stability sweep of 5 local-step counts x 5 step sizes x 8 replicas x 2 twins: one program against one run each.

    python benchmarks/minimax_sweep.py [--repeats 2] [--sample 10] [--json F]

Linear AUC on spambase, m = 16, n = 50, T = 60. Sequential: every (grid point, replica, twin) is a simulation of its
own, already stacked over its 16 clients; both twins of one replica of ``--sample`` grid points, evenly spread, are
timed and scaled up to all 400. CPU seconds without making the data. The numbers must agree: the largest difference of
delta_mean is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
STEPS, ETAS, REPLICAS, ROUNDS = (1, 2, 5, 10, 20), (0.01, 0.03, 0.1, 0.2, 0.3), 8, 60


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sample", type=int, default=10, help="grid points that are timed one by one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import torch

    from manyone.minimax import ClientData, DistributedSGDA, Laboratory, Simulated
    from manyone.minimax.recipes.build import stability_problem
    from manyone.minimax.recipes.options import StabilityOptions

    torch.set_num_threads(1)
    problem, fields, labels = stability_problem(StabilityOptions())
    points = [{"steps": k, "eta": eta} for k in STEPS for eta in ETAS]
    together, apart, worst = [], [], 0.0
    for repeat in range(options.repeats):
        method = DistributedSGDA(rounds=ROUNDS)
        lab = Laboratory(problem, fields, labels, points, method=method, replicas=REPLICAS, seed=repeat, records=1)
        began = time.process_time()
        lab.simulated.run()
        together.append(time.process_time() - began)
        cost: dict[int, list[float]] = {k: [] for k in STEPS}
        for number in range(options.sample):
            i = number * len(points) // options.sample
            twins, ends = lab.twins[i], []
            for twin in (0, 1):
                data = ClientData(fields, twins.data.table[:1, twin : twin + 1], twins.data.sizes)
                eta = points[i]["eta"]
                alone = DistributedSGDA(steps=points[i]["steps"], rounds=ROUNDS, step_sizes=(eta, eta))
                run = Simulated(problem, data, alone, seed=repeat, dtype=torch.float64)
                began = time.process_time()
                run.run()
                cost[points[i]["steps"]].append(time.process_time() - began)
                ends.append(run.consensus()[0, 0])
            state = lab.simulated.consensus(i)[0]
            worst = max(worst, float(((ends[0] - ends[1]).norm() - (state[0] - state[1]).norm()).abs()))
        each = {k: statistics.median(v) for k, v in cost.items() if v}
        apart.append(sum(each[k] for k in STEPS) * len(ETAS) * REPLICAS * 2)
    row = {
        "benchmark": "minimax-sweep",
        "runs": len(points) * REPLICAS * 2,
        "one_program_cpu_s": round(statistics.median(together), 2),
        "sequential_cpu_s": round(statistics.median(apart), 1),
        "ratio": round(statistics.median(apart) / statistics.median(together), 1),
        "largest_difference": worst,
    }
    print(f"{row['runs']} runs (5 K x 5 step sizes x 8 replicas x 2 twins, 16 clients each)")
    times = f"one program {row['one_program_cpu_s']} CPU s, one by one {row['sequential_cpu_s']} CPU s"
    print(f"{times}: ratio {row['ratio']}")
    print(f"largest difference of delta_mean: {worst:.1e}")
    if options.json:
        options.json.write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
