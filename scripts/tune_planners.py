"""What the baselines of the study of continual planning are run with, chosen on a seed that the study does not report.

    python scripts/tune_planners.py --workers 2 --out tuning.jsonl

Every candidate is an arm of the study (scale laptop) with other options, trained and played as the study does it; the
best mean score of all tasks at the end wins. What was chosen stands in
``src/manyone/policies/study/continual/settings.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from manyone.policies.study.continual import study
from manyone.policies.study.continual.settings import setting_of

SCALE, SUITE, SEED = "laptop", "bodies", 100
CANDIDATES: dict[str, list[Mapping[str, Any]]] = {
    **{name: [{"protection": v} for v in (0.01, 1.0, 100.0, 10000.0, 1e6)] for name in ("ewc", "mas")},
    "l2": [{"protection": v} for v in (0.0001, 0.01, 1.0, 10.0, 100.0, 1000.0, 10000.0)],
    "lora": [{"rank": v} for v in (8, 32, 64, 128)],
}


def tried(name: str, candidate: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The figures of one candidate."""
    torch.set_num_threads(1)
    setting = setting_of(SCALE, SUITE)
    arm = dataclasses.replace(setting, tuned={**setting.tuned, name: candidate}).arm(name)
    metrics = study.measure(SCALE, SUITE, arm, seed)[1].metrics
    shown = {key: round(metrics[key], 4) for key in ("average", "plasticity", "forgetting", "cpu_s")}
    return {"part": name, **candidate, **shown}


def main() -> None:
    """Tries all candidates and says which are best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--out", type=Path, required=True, help="file of rows, which is added to")
    args = parser.parse_args()
    work = [(name, candidate) for name in args.only for candidate in CANDIDATES[name]]
    study.problem_of(SCALE, SUITE)  # made here once: the workers find it, and start no workers of their own
    best: dict[str, dict[str, Any]] = {}
    for row in Parallel(n_jobs=args.workers, return_as="generator")(delayed(tried)(*one, args.seed) for one in work):
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        if row["average"] > best.get(row["part"], row)["average"] or row["part"] not in best:
            best[row["part"]] = row
    for row in best.values():
        print("best:", row)


if __name__ == "__main__":
    main()
