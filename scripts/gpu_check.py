"""What must hold on a GPU, in one table: every field's smallest run, its resume and its agreement with the CPU; speeds.

    python scripts/gpu_check.py [--only runs speeds] [--minutes 8] [--json F]
    python scripts/gpu_check.py --device cpu      # rehearses the script where there is no GPU

Without a GPU it says so in one line. Three checks a field, each by the command line: a run that was killed and resumed
ends with the weights of the whole run; ``manyone eval`` of that run gives the same figures on the GPU and on the CPU;
and where every draw is made on the CPU, training on the CPU ends with the same weights but for rounding. Then speeds:
HarmoDT's step against the re-enacted published one at 6 blocks of width 256, roll-outs with 16 workers, CommFormer on
VMAS, and stacked clients. A new field adds its line to ``RUNS``, and a figure of its own to ``SPEEDS``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from manyone.data.rasters.geotiff import write_raster
from manyone.data.rasters.scenes import Grid
from manyone.data.trajectories.trajectories import Trajectories
from manyone.minimax import AUC, ClientData, DistributedSGDA, Simulated

ROOT = Path(__file__).resolve().parents[1]


class Run(NamedTuple):
    """A field's smallest run; ``cut`` records of training are waited for before it is killed (0: there are none)."""

    words: str
    cut: int
    same_draws: bool = True
    """Every draw is made on the CPU, so that training there must end with the same weights but for rounding."""


RUNS = {
    "merging": Run("wemoe --suite fixture --limit 60 --steps 60 --checkpoint-every 5", 12),
    "policies": Run(
        "harmodt --data cheetah-dir:0=data/0 cheetah-dir:1=data/1 --horizon 12 --eval-episodes 2 --batch-size 3 "
        "--width 16 --layers 1 --heads 2 --context 4 --warmup 2 --mask-every 5 --eta-max 9 --dropout 0 --steps 60 "
        "--checkpoint-every 5 --workers 1",
        12,
    ),
    "planners": Run(
        "vq-cd --data cheetah-dir:0=data/0 cheetah-dir:1=data/1 --alignment vq --align-steps 20 --align-hidden 16 "
        "--codes 16 --width 32 --layers 2 --inverse-width 16 --steps 30 --batch-size 8 --diffusion-steps 20 "
        "--sampling-steps 3 --horizon 12 --eval-episodes 2 --checkpoint-every 5 --workers 1",
        12,
    ),
    "minimax": Run("local-sgda --clients 4 --rounds 200 --checkpoint-every 20", 1),
    "teams": Run(
        "commformer --env relay:agents=4 --envs 64 --width 16 --iterations 30 --checkpoint-every 3 --no-film "
        "--eval-episodes 50",
        6,
        same_draws=False,
    ),
    "behavior": Run(
        "obd --data cheetah-dir:0=data/0 --horizon 12 --eval-episodes 2 --students 2 --size 6 --width 16 --teacher iql "
        "--teacher-steps 20 --steps 60 --checkpoint-every 5 --workers 1 --no-baselines",
        12,
    ),
    "earth": Run("earth-map --data area=scene.tif --labels labels.tif --model vit-random --unit refl --block 8", 0),
    "sql": Run(
        "kid --data shop=pairs --student-width 32 --teacher-width 32 --vocabulary 300 --teacher-steps 10 "
        "--warm-start 5 --steps 60 --batch-size 8 --max-output 24 --eval-pairs 4 --checkpoint-every 5 --workers 1",
        12,
        same_draws=False,
    ),
}


class Line(NamedTuple):
    """One line of the table; ``holds`` None is a figure without a bound."""

    check: str
    figure: str
    holds: bool | None


# -- runs ------------------------------------------------------------------------------------------------------------


def manyone(folder: Path, *words: object) -> subprocess.Popen[str]:
    """``manyone WORDS`` in ``folder``, from this repository."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "MANYONE_CACHE": str(folder.parent / "cache")}
    command = [sys.executable, "-m", "manyone", *map(str, words)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What ``process`` printed; raises with its complaint when it failed."""
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args[3:])}: {err.strip() or out.strip()}")  # type: ignore[index]
    return out


def gap(one: Path, other: Path) -> float:
    """The largest difference of two runs' weights, as a share of the largest weight of each tensor."""
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    if a.keys() != b.keys():
        raise RuntimeError(f"{one} and {other} have other tensors: {sorted(a.keys() ^ b.keys())[:3]}")
    pairs = ((a[name].double(), b[name].double()) for name in a if a[name].is_floating_point())
    return max(float((x - y).abs().max() / x.abs().max().clamp_min(1e-12)) for x, y in pairs if x.numel())


def figures_of(run: Path) -> dict[str, float]:
    """The figures that ``manyone eval`` prints of ``run``."""
    words = (line.split() for line in finish(manyone(run.parent, "eval", run.name)).splitlines())
    return {pair[0]: float(pair[1]) for pair in words if len(pair) == 2 and is_number(pair[1])}


def moved_to(run: Path, device: str) -> Path:
    """A copy of ``run`` that computes on ``device``."""
    copy = run.with_name(f"{run.name}-moved")
    shutil.copytree(run, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["options"]["device"] = device
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def cut_short(folder: Path, words: list[object], records: int) -> None:
    """Starts a run and kills it after ``records`` records of training."""
    victim = manyone(folder, "run", *words)
    metrics = folder / str(words[words.index("--out") + 1]) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b'"train"') >= records):
        if victim.poll() is not None or time.monotonic() > deadline:
            victim.kill()
            raise RuntimeError(f"no {records} records of training: {victim.communicate()[1].strip()[-300:]}")
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    if (metrics.parent / "model").exists():
        raise RuntimeError("the run was over before it could be killed: give it more steps")


def make_scene(folder: Path) -> None:
    """A made image of three bands and a class for each pixel, by quarters of the image."""
    draws, grid = np.random.default_rng(0), Grid("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0))
    labels = np.add.outer(np.arange(64) // 16, np.arange(64) // 16) % 2
    pixels = 0.2 + 0.2 * labels + 0.05 * draws.normal(size=(3, 64, 64))
    write_raster(folder / "scene.tif", pixels.astype(np.float32), grid, names=("red", "green", "blue"))
    write_raster(folder / "labels.tif", labels[None].astype(np.uint8), grid, nodata=255)


def make_pairs(folder: Path) -> None:
    """Questions about a small shop, with executed SQL."""
    with contextlib.closing(sqlite3.connect(folder / "shop.sqlite")) as db:
        db.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price REAL, stock INTEGER)")
        rows = [(i, f"product {i}", ("tea", "coffee", "cocoa")[i % 3], 1 + i * 0.75, i * 7 % 11) for i in range(40)]
        db.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?)", rows)
        db.commit()
    finish(manyone(folder, "data", "make", "sql-pairs", "--db", "shop.sqlite", "--pairs", 80, "--out", "pairs"))


def make_data(folder: Path) -> None:
    """Random episodes of both directions of HalfCheetah: what is checked is arithmetic, not learning."""
    draws = np.random.Generator(np.random.Philox(5))
    for task in range(2):
        episodes = [
            {
                "observations": draws.standard_normal((30, 20)) + task,
                "actions": draws.uniform(-1, 1, (30, 6)),
                "rewards": draws.standard_normal(30),
            }
            for _ in range(4)
        ]
        Trajectories.from_episodes(f"cheetah-dir:{task}", episodes).save(folder / "data" / str(task))


def check_field(field: str, device: str, folder: Path) -> list[Line]:
    """The three checks of ``field``."""
    run = RUNS[field]
    folder.mkdir(parents=True)
    if "data/0" in run.words:
        make_data(folder)
    if "=pairs" in run.words:
        make_pairs(folder)
    if "=scene.tif" in run.words:
        make_scene(folder)
    words: list[object] = [*run.words.split(), "--device", device]
    finish(manyone(folder, "run", *words, "--out", "whole"))
    lines = []
    if run.cut:
        cut_short(folder, [*words, "--out", "cut"], run.cut)
        finish(manyone(folder, "resume", "cut"))
        resumed = gap(folder / "whole", folder / "cut")
        lines = [
            Line(f"{field}: killed and resumed, largest difference of a weight", f"{resumed:.1e}", resumed <= 1e-5)
        ]

    there, here = figures_of(folder / "whole"), figures_of(moved_to(folder / "whole", "cpu"))
    apart = max((abs(there[k] - here[k]) / max(1.0, abs(here[k])) for k in here), default=float("nan"))
    lines.append(Line(f"{field}: {len(here)} figures of eval, {device} against cpu", f"{apart:.1e}", apart <= 1e-2))

    if run.same_draws:
        finish(manyone(folder, "run", *run.words.split(), "--device", "cpu", "--out", "on-cpu"))
        trained = gap(folder / "on-cpu", folder / "whole")
        lines.append(Line(f"{field}: trained on {device} and on cpu", f"{trained:.1e}", trained <= 1e-2))
    return lines


def runs(device: str, folder: Path) -> Iterator[Line]:
    """All fields side by side: their processes mostly start up."""
    at_once = min(len(RUNS), max(1, (os.cpu_count() or 1) // 2))
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {field: pool.submit(check_field, field, device, folder / field) for field in RUNS}
        for field, job in jobs.items():
            try:
                yield from job.result()
            except Exception as problem:
                traceback.print_exc()
                yield Line(f"{field}: failed", str(problem).splitlines()[0][:90], False)


# -- speeds ----------------------------------------------------------------------------------------------------------


def benchmark(folder: Path, name: str, *words: object) -> list[dict[str, Any]]:
    """The rows of a benchmark of this repository."""
    file = folder / f"{name}.json"
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *map(str, words), "--json", str(file)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, cwd=folder
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()[-300:]}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def harmodt_step(device: str, folder: Path, small: bool) -> Iterator[Line]:
    size = ("--tasks", 3, "--width", 32, "--layers", 1, "--rounds", 1) if small else ("--tasks", 10, "--rounds", 5)
    row = benchmark(folder, "harmodt_training", *size, "--device", device)[0]
    ratio = row["published ms"] / row["masked ms"]
    figure = f"{row['published ms']:.1f} / {row['masked ms']:.1f} ms = {ratio:.2f}x"
    yield Line("HarmoDT's step, published / ours", figure, None if small else ratio >= 3)


def roll_outs(device: str, folder: Path, small: bool) -> Iterator[Line]:
    size = ("--workers", 2, "--episodes", 4, "--tasks", 2, "--steps", 2) if small else ("--workers", 16, "--steps", 10)
    rows = [row for row in benchmark(folder, "rollouts", *size, "--device", device) if "size" in row]
    for name in dict.fromkeys(row["size"] for row in rows):
        one, *_, many = (row for row in rows if row["size"] == name)
        ratio = one["ms"] / many["ms"]
        bound = None if small else ratio >= 10
        yield Line(f"roll-outs {name}, one at a time / {many['method']}", f"{ratio:.1f}x", bound)


def vmas_team(device: str, folder: Path, small: bool) -> Iterator[Line]:
    size = ("--batches", 8, "--iterations", 1) if small else ("--batches", 256, 1024, "--iterations", 2)
    for row in benchmark(folder, "teams_steps", *size, "--tasks", "simple_spread", "--device", device, "--skip-peer"):
        figure = f"{row['env_steps_per_s']:,.0f} env-steps/s, update {row['update']:.0%}"
        yield Line(f"CommFormer on VMAS, {row['environments']} environments", figure, None)


def stacked_clients(device: str, folder: Path, small: bool) -> Iterator[Line]:
    clients, rounds = (16, 5) if small else (1024, 100)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(clients * 32, 64, generator=draws)
    y = (x[:, 0] + torch.randn(len(x), generator=draws) > 0).float()
    data = ClientData.of_parts({"features": x, "labels": y}, torch.arange(len(x)).view(clients, 32))
    method = DistributedSGDA(topology="ring", steps=5, rounds=rounds, step_sizes=(0.01, 0.01))
    taken, ends = {}, {}
    for where in dict.fromkeys(["cpu", device]):
        Simulated(AUC(0.5, dim=64), data, method, seed=0, device=where).run()  # warms up
        began = time.perf_counter()
        ends[where] = Simulated(AUC(0.5, dim=64), data, method, seed=0, device=where).run()
        taken[where] = time.perf_counter() - began
    apart = float((ends["cpu"] - ends[device].cpu()).abs().max())
    yield Line(f"{clients} stacked clients, {device} against cpu", f"{apart:.1e}", apart <= 1e-3)
    yield Line(f"{clients} stacked clients, cpu / {device}", f"{taken['cpu'] / taken[device]:.1f}x", None)


SPEEDS: dict[str, Callable[[str, Path, bool], Iterator[Line]]] = {
    "HarmoDT's step": harmodt_step,
    "roll-outs": roll_outs,
    "CommFormer on VMAS": vmas_team,
    "stacked clients": stacked_clients,
}


def speeds(device: str, folder: Path, deadline: float, small: bool) -> Iterator[Line]:
    """One after the other, so that none disturbs another."""
    for name, measure in SPEEDS.items():
        if time.monotonic() > deadline:
            yield Line(f"{name}: not measured", "out of time", False)
            continue
        try:
            yield from measure(device, folder, small)
        except Exception as problem:
            traceback.print_exc()
            yield Line(f"{name}: failed", str(problem).splitlines()[0][:90], False)


# -- the table -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Prints the table; 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=("runs", "speeds"), default=("runs", "speeds"))
    parser.add_argument("--minutes", type=float, default=8, help="no measurement begins after three quarters of them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing was checked (--device cpu rehearses the checks)")
        return 0
    rehearsal = options.device == "cpu"
    name = "cpu, a rehearsal at small sizes" if rehearsal else torch.cuda.get_device_name(torch.device(options.device))
    print(f"on {name}; torch {torch.__version__}", flush=True)
    began = time.monotonic()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts: dict[str, Iterator[Line]] = {
            "runs": runs(options.device, folder / "runs"),
            "speeds": speeds(options.device, folder, began + 45 * options.minutes, rehearsal),
        }
        for part in options.only:
            for line in parts[part]:
                lines.append(line)
                mark = {None: " ", True: "ok", False: "NO"}[line.holds]
                print(f"{mark:2}  {line.check:70} {line.figure}", flush=True)
    bad = sum(line.holds is False for line in lines)
    print(f"{len(lines) - bad} of {len(lines)} lines hold or have no bound; {time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text("".join(json.dumps(line._asdict()) + "\n" for line in lines))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
