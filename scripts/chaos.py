"""Kills every field's runs at moments drawn from a seed and lets them go on; what comes out must not show it.

    python scripts/chaos.py [--kills 100] [--seed 0] [--only merging sql] [--json F]

Each command is run once undisturbed, then again and again with a signal (SIGKILL twice as often as SIGTERM) after a
share of that time which is drawn evenly from [0, 1); it goes on by ``manyone resume`` where there is a run, else by the
same command. Every few kills it may end. Checked after every kill: the processes are gone, and what is called ``model``
loads. Checked at the end: the files of the result are those of the undisturbed run, byte for byte (but for moments of
the clock), and nothing else is left: no hidden file, no file that the undisturbed run lacks, no work in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gpu_check import ROOT, RUNS, make_data, make_pairs, make_scene
from safetensors.torch import save_file

LIVES = 4
"""Kills after which a command may end, at most; it is drawn from 1 to this."""
PATIENCE = 20.0
"""Seconds that the processes of a killed command may take to end."""


class Victim(NamedTuple):
    """A command whose result is ``out``, in a folder that ``make`` has prepared."""

    words: tuple[str, ...]
    make: Callable[[Path], object]


def make_models(folder: Path) -> None:
    """A base and three experts of a few megabytes."""
    draws = torch.Generator().manual_seed(0)
    base = {f"layers.{k}.weight": torch.randn(512, 512, generator=draws) for k in range(12)}
    for name in ("base", "a", "b", "c"):
        moved = {n: v + (name != "base") * 0.01 * torch.randn(v.shape, generator=draws) for n, v in base.items()}
        (folder / name).mkdir()
        save_file(moved, folder / name / "model.safetensors")


def _of_field(words: str) -> Victim:
    makers = {"data/0": make_data, "=pairs": make_pairs, "=scene.tif": make_scene}
    make = next((maker for mark, maker in makers.items() if mark in words), lambda folder: None)
    return Victim(("run", *words.split(), "--device", "cpu", "--out", "out"), make)


VICTIMS: dict[str, Victim] = {
    **{field: _of_field(run.words) for field, run in RUNS.items()},
    "files": Victim(
        ("run", "ties", "--base", "base", "--experts", "a", "b", "c", "--max-shard-size", "4MB", "--out", "out"),
        make_models,
    ),
    "pairs": Victim(
        ("data", "make", "sql-pairs", "--db", "shop.sqlite", "--pairs", "300", "--out", "out"),
        lambda folder: (make_pairs(folder), shutil.rmtree(folder / "pairs")),
    ),
}


class Outcome(NamedTuple):
    """What happened to one command."""

    victim: str
    kills: int
    resumed: int
    ends: int
    """How often the command came to its end afterwards."""
    seconds: float
    problems: list[str]


def start(folder: Path, words: tuple[str, ...]) -> subprocess.Popen[str]:
    """``manyone WORDS`` in ``folder``, as the leader of a session of its own."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "MANYONE_CACHE": str(folder.parent / "cache")}
    log = (folder.parent / f"{folder.name}.log").open("w")
    return subprocess.Popen(
        [sys.executable, "-m", "manyone", *words], cwd=folder, env=environment, stdout=log, stderr=log, text=True,
        start_new_session=True,
    )  # fmt: skip


def left_running(session: int) -> list[int]:
    """The processes of ``session`` that live."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(place.name))
    return found


def contents(out: Path) -> dict[str, bytes]:
    """The files of a result; without the moments and the paths that differ from run to run."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix in (".jsonl", ".json", ".yaml", ".md", ".html", ".csv"):
                data = re.sub(rb'"time": \{[^{}]*\}|"(seconds|cpu_s|wall_s|unix)": [0-9.e+-]+', b"", data)
            found[str(path.relative_to(out))] = data
    return found


def result(out: Path) -> dict[str, bytes]:
    """What a command is run for: ``model`` of a run (and its final figures), else everything."""
    everything = contents(out)
    if "config.yaml" not in everything:
        return everything
    finals = [line for line in everything.get("metrics.jsonl", b"").splitlines() if b'"kind": "final"' in line]
    kept = {name: data for name, data in everything.items() if name.startswith("model/")}
    return {**kept, "final figures": b"\n".join(finals)}


def loads(model: Path) -> str | None:
    """What is wrong with a folder called ``model``, or None."""
    from manyone.engine.artefact import DIGEST
    from manyone.engine.files import sha256
    from manyone.weights.open import open_checkpoint

    config = model / "config.json"
    known = json.loads(config.read_text()).get(DIGEST) if config.is_file() else None
    if known is not None and sha256(model / "model.safetensors") != known:
        return f"{model}: its tensors are not those of its checksum"
    if known is None and any(model.glob("*.safetensors")):
        for value in open_checkpoint(model).values():
            if not np.isfinite(value.double().sum().item()):
                return f"{model}: NaN or Inf"
    return None


def leftovers(folder: Path, cache: Path, before: set[str], out: Path, whole: set[str]) -> Iterator[str]:
    """What a command left behind that an undisturbed one does not."""
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.name.startswith(".") or path.name.endswith((".part", ".tmp")):
            yield f"left behind: {name}"
    for path in folder.iterdir():
        if path.name not in before and path != out:
            yield f"left behind: {path.name}"
    here = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    yield from (f"not in the undisturbed result: {name}" for name in sorted(here - whole)[:3])
    # Checkpoints before the newest, and stages that are in the cache already, are nothing that anybody needs.
    lacking = (name for name in sorted(whole - here) if "checkpoints/" not in name and not name.startswith("stages/"))
    yield from (f"missing: {name}" for name in list(lacking)[:3])
    for path in cache.rglob("*"):
        if path.name.startswith(".") and path.name.endswith((".part", ".tmp")):
            yield f"left in the cache: {path.relative_to(cache)}"


def torment(name: str, kills: int, seed: int, root: Path) -> Outcome:
    """Kills ``VICTIMS[name]`` ``kills`` times and compares what comes out."""
    victim, draws = VICTIMS[name], random.Random(f"{seed} {name}")
    folder, cache = root / name / "work", root / name / "cache"
    folder.mkdir(parents=True)
    victim.make(folder)
    before = {path.name for path in folder.iterdir()}
    began = time.monotonic()
    whole = start(folder, victim.words)
    if whole.wait():
        said = (folder.parent / "work.log").read_text().strip()
        return Outcome(name, 0, 0, 0, 0.0, [f"fails undisturbed: {said[-300:]}"])
    length = time.monotonic() - began
    wanted, files = result(folder / "out"), set(contents(folder / "out"))
    shutil.rmtree(folder / "out")

    problems: list[str] = []
    done = resumed = ends = 0
    while done < kills and len(problems) < 5:
        for _ in range(min(draws.randint(1, LIVES), kills - done)):
            again = (folder / "out/config.yaml").is_file()
            process = start(folder, ("resume", "out") if again else victim.words)
            try:
                process.wait(draws.random() * length)
            except subprocess.TimeoutExpired:
                process.send_signal(draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                process.wait()
                done += 1
                resumed += again
            else:
                if process.returncode:
                    said = (folder.parent / "work.log").read_text().strip()
                    problems.append(f"fails after {done} kills: {said[-300:]}")
                break
            deadline = time.monotonic() + PATIENCE
            while (left := left_running(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
            if left:
                problems.append(f"{len(left)} processes go on after the kill")
                os.killpg(process.pid, signal.SIGKILL)
            model = folder / "out" / "model"
            if model.is_dir() and (wrong := loads(model)):
                problems.append(wrong)
        again = (folder / "out/config.yaml").is_file()
        process = start(folder, ("resume", "out") if again else victim.words)
        if process.wait() and not (folder / "out").is_dir():
            problems.append(f"does not end: {(folder.parent / 'work.log').read_text().strip()[-300:]}")
            continue
        ends += 1
        found = result(folder / "out")
        differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        problems += [f"other than undisturbed: {key}" for key in differing[:3]]
        problems += leftovers(folder, cache, before, folder / "out", files)
        shutil.rmtree(folder / "out")
    return Outcome(name, done, resumed, ends, time.monotonic() - began, problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(VICTIMS), default=list(VICTIMS))
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 1) // 2 * 2), help="commands")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    share = [
        options.kills // len(options.only) + (k < options.kills % len(options.only)) for k in range(len(options.only))
    ]
    with tempfile.TemporaryDirectory(prefix="manyone-chaos-") as root, ThreadPoolExecutor(options.at_once) as pool:
        jobs = [
            pool.submit(torment, name, kills, options.seed, Path(root))
            for name, kills in zip(options.only, share, strict=True)
        ]
        outcomes = []
        print(f"{'command':<12}{'kills':>7}{'resumed':>9}{'ends':>6}{'seconds':>9}  problems")
        for job in jobs:
            outcomes.append(job.result())
            one = outcomes[-1]
            print(
                f"{one.victim:<12}{one.kills:>7}{one.resumed:>9}{one.ends:>6}{one.seconds:>9.0f}  {len(one.problems)}"
            )
            for problem in one.problems:
                print(f"    {problem}")
            sys.stdout.flush()
    if options.json:
        options.json.write_text("".join(json.dumps(one._asdict()) + "\n" for one in outcomes))
    faults = sum(len(one.problems) for one in outcomes)
    print(f"{sum(one.kills for one in outcomes)} kills, {faults} problems")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
