"""Recipes side by side: every output of this project beside mergekit 0.1.5's, and the greatest difference of any value.

    python benchmarks/mergekit_parity.py [--peers FOLDER] [--only NAME ...] [--record]

mergekit comes from PyPI into a virtual environment of its own (``--peers``) on the first run, and is called there with
the same recipes and the same tiny models (``tests/merging/static/parity.py``); of its code nothing but its entry point
is used. Random methods are compared on equal draws: both projects' generators are replaced for the time of the run.
Differences above rounding are named, each with its bound; one beyond its bound ends the run with status 1.
``--record`` stores mergekit's outputs for the tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _peers import peer_python

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.merging.static.parity import (  # noqa: E402
    CASES,
    RECORDED,
    difference,
    load,
    make_models,
    read_output,
    run_ours,
    store,
    write_recipes,
)

TORCH, MERGEKIT = "torch==2.13.0", "mergekit==0.1.5"
THEIRS = """
import sys
import traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from tests.merging.static.parity import draw

torch.bernoulli = lambda p, *rest, **named: (draw(p.shape) < p).to(p.dtype)
options = MergeOptions(quiet=True, write_model_card=False, clone_tensors=True)
for path in map(Path, sys.argv[2:]):
    recipe = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    run_merge(recipe, f"theirs-{path.stem}", options)
"""


def run_mergekit(python: Path, folder: Path, recipes: list[Path]) -> None:
    """mergekit's outputs beside the recipes, one process for all of them."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-c", THEIRS, str(ROOT), *[path.name for path in recipes]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mergekit stopped:\n{done.stderr[-3000:]}")


def main() -> None:
    """Prints the table; exits with 1 if a difference is beyond its bound."""
    from platformdirs import user_cache_path

    cache = Path(os.environ.get("MANYONE_CACHE", user_cache_path("manyone"))) / "peers"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=cache, help="folder of the peers' virtual environments")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help="only these recipes")
    parser.add_argument("--record", action="store_true", help="store mergekit's outputs for the tests")
    options = parser.parse_args()
    names = options.only or list(CASES)
    python = peer_python((options.peers / "mergekit").absolute(), [TORCH, MERGEKIT])
    stored: dict[str, dict[str, np.ndarray]] = {}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="manyone-parity-") as place:
        folder = Path(place)
        make_models(folder)
        recipes = write_recipes(folder)
        run_mergekit(python, folder, [recipes[name] for name in names])
        print(f"{'recipe':<30} {'difference':>10} {'bound':>8}")
        for name in names:
            case, path = CASES[name], recipes[name]
            theirs = read_output(folder / f"theirs-{path.stem}")
            found = difference(run_ours(path, folder / f"ours-{path.stem}"), theirs)
            beyond = not found <= case.bound
            failed += beyond
            words = case.why and f"on purpose: {case.why}"
            print(f"{name:<30} {found:>10.1e} {case.bound:>8.1e}  {'BEYOND ' * beyond}{words}")
            stored[name] = theirs
    print(f"{len(names)} recipes, {failed} beyond their bound")
    if options.record:
        store((load(RECORDED) if options.only else {}) | stored, RECORDED)
        print(f"{RECORDED}: {RECORDED.stat().st_size / 1000:.0f} kB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
