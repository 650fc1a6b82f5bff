"""A study that computes nothing: rows by formula, a job that fails and one whose process dies (see test_reproduce)."""

import os
import signal
import time
from pathlib import Path

from manyone.claims.figure import Figure, save_figures
from manyone.claims.rows import Row, append_rows, load_rows
from manyone.claims.study import Job, SuiteInfo

TITLE = "Toys"
NOTES = ["Nothing was measured."]
SEEDS = {"smoke": 2, "laptop": 3}
METHODS = {"plain": 0.5, "clever": 0.75}


def prepare(scale, suite):
    return SuiteInfo(suite, "toy", (), (f"made for {scale}",))


def jobs(scale, suites, seeds):
    return [Job(suite, seed, part) for part in ("first", "second") for seed in seeds for suite in suites]


def count_rows(scale, suite, part):
    return len(METHODS)


def settings(scale, suite):
    return {"scale": scale, "suite": suite}


def run_job(scale, suite, seed, part, folder):
    with (folder / "order").open("a") as order:  # appended: two processes write here
        order.write(f"{os.getpid()} {suite} {seed} {part} {os.environ['OMP_NUM_THREADS']}\n")
    path = Path(folder) / f"{suite}-{seed}-{part}.jsonl"
    done = {r.key for r in load_rows(path)} if path.exists() else set()
    condition = "clean" if part == "first" else "shifted"
    for method, level in METHODS.items():
        row = Row(suite, seed, method, "", condition, {"a": level + seed / 100}, {"regret": 1 - level + seed / 10})
        if row.key not in done:
            append_rows(path, [row])
        print("measured", method)
        what = (folder / "trouble").read_text() if (folder / "trouble").exists() else ""
        if (seed, part) == (1, "first"):
            if what == "raise":
                raise ValueError("the toy broke\nand more lines")
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "wait":
                time.sleep(60)
    figure = Figure("bars", f"Levels of seed {seed}", {"names": list(METHODS), "values": list(METHODS.values())})
    save_figures(folder / f"{suite}-{seed}-{part}.figures.json", [figure] if seed == 0 and part == "first" else [])
