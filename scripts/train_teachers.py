"""Trains the teachers that manyone brings for its own data sets, and packs them.

    python scripts/train_teachers.py train                          # all nine sets, 5 to 15 CPU-minutes each
    python scripts/train_teachers.py train hopper-medium-replay --method iql --steps 50000
    python scripts/train_teachers.py pack                           # the best of each set becomes the package's file

A teacher is what ``manyone run METHOD --suite mujoco-BODY --quality QUALITY`` trains on seed 0 of the set: made by the
recipe's options and builder. Every one is scored in episodes that no training saw, with the correlation of its values
and its own discounted returns, and kept in ``--out``; ``pack`` takes the one of each set with the best score.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.evaluate import Evaluator
from manyone.behavior.recipes.problem import load_problem
from manyone.behavior.recipes.run_teacher import scores_of
from manyone.behavior.teachers import packaged
from manyone.behavior.teachers.artefact import SavedTeacher, read_teacher, save_teacher
from manyone.recipes.arm import Arm

QUALITIES = ("medium-replay", "medium", "medium-expert")
SETS = [f"{body}-{quality}" for body in ("hopper", "halfcheetah", "walker2d") for quality in QUALITIES]
EPISODES, SEED = 50, 12345
"""Of the score; the seed of their starts is of no other evaluation."""


def train(name: str, method: str, given: dict[str, Any], out: Path) -> None:
    """One teacher on the set ``name``, into a folder of ``out``."""
    body, _, quality = name.partition("-")
    arm = Arm(method, method, {"suite": f"mujoco-{body}", "quality": quality, "device": "cpu", **given})
    options = arm.options()
    (data,) = load_problem(options).data
    learner = arm.build(options, data)
    started = time.process_time()
    for _ in range(options.steps):
        learner.step()
    seconds = time.process_time() - started
    saved = learner.saved()
    with Evaluator(Frame.of(data), episodes=EPISODES, students=1, seed=SEED, workers=0) as evaluator:
        # as it will be packed: what is written is what was scored
        packaged.pack(out / "rounded.safetensors", saved)
        saved = packaged.unpack(out / "rounded.safetensors")
        scores = scores_of(saved, evaluator, options.discount)
    words = arm.with_(**given).words()
    info = {**saved.info, "data": f"mujoco-{name}", "command": " ".join(["manyone", *words]),
            "cpu_seconds": round(seconds), "episodes": EPISODES, **scores}  # fmt: skip
    place = out / f"{name}-{method}-{int(time.time())}"
    save_teacher(place, SavedTeacher(saved.teacher, saved.frame, info))
    print(
        json.dumps({"set": name, "method": method, "given": given, "cpu_seconds": round(seconds), **scores}), flush=True
    )


def pack(out: Path) -> None:
    """The best teacher of each set, into the package."""
    best: dict[str, SavedTeacher] = {}
    for path in sorted(out.glob("*/config.json")):
        found = read_teacher(path.parent)
        name = found.info["data"]
        if name not in best or found.info["normalised"] > best[name].info["normalised"]:
            best[name] = found
    folder = Path(packaged.__file__).with_name("files")
    folder.mkdir(exist_ok=True)
    for name, saved in best.items():
        path = folder / f"{name}.safetensors"
        packaged.pack(path, saved)
        info = saved.info
        print(f"{name}: {saved.teacher.name}, {100 * info['normalised']:.1f}, correlation of values "
              f"{info['value_correlation']:.2f}, {path.stat().st_size} bytes")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("teachers"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("train")
    one.add_argument("sets", nargs="*", choices=[[], *SETS], default=[])
    one.add_argument("--method", choices=("td3bc", "iql", "calql"), default="td3bc")
    one.add_argument("--steps", type=int)
    one.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="further options")
    verbs.add_parser("pack")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.verb == "pack":
        pack(given.out)
        return
    torch.set_num_threads(1)
    options = {key: json.loads(value) for key, _, value in (word.partition("=") for word in given.set)}
    options |= {} if given.steps is None else {"steps": given.steps}
    for name in given.sets or SETS:
        train(name, given.method, options, given.out)


if __name__ == "__main__":
    main()
