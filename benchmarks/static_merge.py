"""Static merging side by side: this project, mergekit, FusionBench and the memory bandwidth, in one run.

    python benchmarks/static_merge.py [--experts 8] [--layers 12] [--threads 1] [--repeats 1] [--json F]

Builds a base and experts of ViT-B/32 size (CLIP's vision encoder with random weights, float32, safetensors) in a
temporary folder and merges them with every tool, each in a process of its own. The peers come from PyPI into virtual
environments under the cache folder (``--peers``), made on the first run; nothing of them is used but their own entry
points. Columns: wall clock and CPU time of the whole process, CPU time without the tool's import (measured in a process
that only imports), peak resident memory, and peak anonymous memory above a process that only imports.

Read the table with these differences in mind. mergekit's ``ties`` trims every tensor by itself, which is another method
than TIES' trim over the whole model. FusionBench loads and saves Hugging Face models, the only way in which its
algorithms take their input. This project's writes are forced to the disk (fsync), the others' are not. The floor reads
every input byte once (twice for TIES, which needs a pass for its thresholds) and writes the output once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from _peers import peer_python

TORCH = "torch==2.13.0"
PEERS = {"mergekit": "mergekit==0.1.5", "fusion-bench": "fusion-bench==0.2.33"}

METHODS = ("task-arithmetic", "ties", "ties-sparse")
"""``ties-sparse``: TIES of experts that differ from the base in a tenth of their entries."""

LOADS = {"task-arithmetic": "", "ties": "import manyone.merging.static.elementwise"}
"""What this project imports for a method only when it is chosen: TIES needs PyTorch, task arithmetic does not."""

OURS = """
import sys
from pathlib import Path
from manyone.merging.static.methods import merge
if len(sys.argv) > 1:
    folder, method, count, out = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    merge(method, folder / "base", [folder / f"{sys.argv[5]}{i}" for i in range(count)], out=out)
"""

FLOOR = """
import mmap, os, sys, warnings
import torch
if len(sys.argv) > 1:
    warnings.simplefilter("ignore")
    paths, passes, out = sys.argv[3].split(","), int(sys.argv[1]), sys.argv[2]
    piece = 1 << 18
    for _ in range(passes):
        for path in paths:
            with open(path, "rb") as file:
                data = torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.float32)
            for start in range(0, len(data), piece // 4):
                data[start : start + piece // 4].sum()
    block = bytes(piece)
    with open(out, "wb", buffering=0) as file:
        for _ in range(os.path.getsize(paths[0]) // piece + 1):
            file.write(block)
"""

FUSION_BENCH = """
import sys
import torch
from transformers import CLIPVisionModel
from fusion_bench import BaseModelPool
from fusion_bench.method import TaskArithmeticAlgorithm, TiesMergingAlgorithm

class Folders(BaseModelPool):
    def load_model(self, name, *args, **options):
        folder = "base" if name == "_pretrained_" else sys.argv[5] + name
        return CLIPVisionModel.from_pretrained(f"{sys.argv[1]}/{folder}")

if len(sys.argv) > 1:
    pool = Folders({name: None for name in ["_pretrained_", *map(str, range(int(sys.argv[3])))]})
    if sys.argv[2] == "ties":
        algorithm = TiesMergingAlgorithm(scaling_factor=0.3, threshold=20, remove_keys=[], merge_func="sum")
    else:
        algorithm = TaskArithmeticAlgorithm(scaling_factor=0.3)
    algorithm.run(pool).save_pretrained(sys.argv[4])
"""


def make_models(folder: Path, experts: int, layers: int, sparse: bool) -> list[Path]:
    """Folders ``base``, ``e0`` ... with CLIP's vision encoder of ViT-B/32 size; experts drift by 2.5e-4 per weight.

    With ``sparse`` also ``s0`` ...: the same experts, nine tenths of whose entries are the base's.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(patch_size=32, num_hidden_layers=layers)
    model = CLIPVisionModel(config)
    model.save_pretrained(folder / "base")
    start = {name: value.clone() for name, value in model.named_parameters()}
    for i in range(experts):
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(start[name]).add_(torch.randn(value.shape), alpha=2.5e-4)
        model.save_pretrained(folder / f"e{i}")
        if sparse:
            with torch.no_grad():
                for name, value in model.named_parameters():
                    value.copy_(torch.where(torch.rand(value.shape) < 0.1, value, start[name]))
            model.save_pretrained(folder / f"s{i}")
    return [folder / name / "model.safetensors" for name in ["base", *[f"e{i}" for i in range(experts)]]]


def peer(name: str, root: Path) -> Path:
    """The Python of a virtual environment that holds the peer ``name``, made if need be."""
    return peer_python(root / name, [TORCH, PEERS[name]])


def measure(command: list[str], cap: float | None, threads: int) -> dict:
    """Runs ``command`` with at most ``cap`` GB of private memory; times in seconds, memory in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "HF_HUB_OFFLINE": "1"}

    def limit() -> None:
        if cap is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(cap * 1e9), int(cap * 1e9)))

    with tempfile.TemporaryFile("w+") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, preexec_fn=limit)
        peak, stop = [0.0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.005):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    return
                found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
                peak[0] = max([peak[0], *[int(value) / 1000 for value in found]])

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        watcher.join()
        log.seek(0)
        text = log.read()
    row = {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "rss_mb": round(usage.ru_maxrss / 1000),
        "anonymous_mb": round(peak[0]),
        "outcome": "ok",
    }
    if process.returncode:
        asked = re.search(r"tried to allocate (\d+) bytes", text)
        tail = [line for line in text.splitlines() if line.strip()][-1:] or ["no output"]
        if asked or "MemoryError" in text or "Cannot allocate memory" in text or process.returncode < 0:
            more = f", asked for {int(asked[1]) / 1e9:.1f} GB more" if asked else ""
            limit_ = f" under the cap of {cap:g} GB" if cap is not None else ""
            row["outcome"] = f"out of memory at {peak[0] / 1000:.1f} GB{more}{limit_}"
        else:
            row["outcome"] = f"failed: {tail[0][:120]}"
    return row


def mergekit_recipe(folder: Path, method: str, experts: int, kind: str) -> Path:
    """The mergekit recipe of the same merge of the experts ``kind`` 0 ..."""
    import yaml

    parameters = {"weight": 0.3} | ({"density": 0.2, "normalize": False} if method == "ties" else {})
    paths = [folder / f"{kind}{i}" / "model.safetensors" for i in range(experts)]
    models = [{"model": str(path), "parameters": parameters} for path in paths]
    recipe = {
        "merge_method": method.replace("-", "_"),
        "base_model": str(folder / "base" / "model.safetensors"),
        "models": models,
    }
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(
    experts: int,
    layers: int,
    threads: int,
    repeats: int,
    cap: float,
    peers: Path | None,
    only: list[str] | None = None,
    methods: Sequence[str] = METHODS,
) -> list[dict]:
    """All rows: one per method and tool (``only`` these), the fastest of ``repeats`` by CPU time."""
    rows = []
    pythons = {name: peer(name, peers) for name in PEERS if only is None or name in only} if peers else {}
    with tempfile.TemporaryDirectory(prefix="manyone-bench-") as name:
        folder = Path(name)
        print("making the models", file=sys.stderr)
        dense = make_models(folder, experts, layers, "ties-sparse" in methods)
        for merge in methods:
            method, kind = merge.removesuffix("-sparse"), "s" if merge.endswith("-sparse") else "e"
            files = [dense[0], *[folder / f"{kind}{i}" / "model.safetensors" for i in range(experts)]]
            joined = ",".join(map(str, files))
            out = folder / "out"
            own = [str(folder), method, str(experts), str(out), kind]
            passes = "2" if method == "ties" else "1"
            tools = {
                "floor": ([sys.executable, "-c", FLOOR], [passes, str(out), joined]),
                "manyone": ([sys.executable, "-c", LOADS[method] + OURS], own),
            }
            if "mergekit" in pythons:
                script = str(pythons["mergekit"].with_name("mergekit-pytorch"))
                tools["mergekit"] = ([script], [str(mergekit_recipe(folder, method, experts, kind)), str(out)])
            if "fusion-bench" in pythons:
                start = [str(pythons["fusion-bench"]), "-c", FUSION_BENCH]
                tools["fusion-bench"] = (start, own)
            for tool, (start, arguments) in tools.items():
                if only is not None and tool not in [*only, "manyone"]:
                    continue
                limit = cap if tool in PEERS else None
                alone = start + (["--help"] if tool == "mergekit" else [])
                importing = min((measure(alone, limit, threads) for _ in range(2)), key=lambda row: row["cpu_s"])
                found = []
                for _ in range(repeats):
                    for path in files:  # all start from the same page cache
                        path.read_bytes()
                    found.append(measure(start + arguments, limit, threads))
                    shutil.rmtree(out, ignore_errors=True)
                    out.unlink(missing_ok=True)
                    if found[-1]["outcome"] != "ok":
                        break
                best = min(found, key=lambda row: row["cpu_s"])
                rows.append(
                    {
                        "benchmark": "static-merge",
                        "method": merge,
                        "tool": tool,
                        "experts": experts,
                        "bytes": files[0].stat().st_size,
                        "threads": threads,
                        **best,
                        "cpu_without_import_s": round(best["cpu_s"] - importing["cpu_s"], 2),
                        "anonymous_mb": best["anonymous_mb"] - importing["anonymous_mb"],
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def table(rows: list[dict]) -> str:
    """The rows for people, with each tool's CPU time relative to this project's."""
    own = {row["method"]: row for row in rows if row["tool"] == "manyone"}
    lines = [
        f"{'method':<16} {'tool':<13} {'wall s':>8} {'CPU s':>8} {'CPU-import':>10} {'x CPU':>7} {'x net':>7} "
        f"{'RSS MB':>8} {'anon MB':>8}  outcome"
    ]
    for row in rows:
        mine = own[row["method"]]
        ok = row["outcome"] == "ok"
        net = mine["cpu_without_import_s"]
        lines.append(
            f"{row['method']:<16} {row['tool']:<13} {row['wall_s']:>8.2f} {row['cpu_s']:>8.2f} "
            f"{row['cpu_without_import_s']:>10.2f} {row['cpu_s'] / mine['cpu_s'] if ok else float('nan'):>7.1f} "
            f"{row['cpu_without_import_s'] / net if ok and net > 0 else float('nan'):>7.1f} "
            f"{row['rss_mb']:>8} {row['anonymous_mb']:>8}  {row['outcome']}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with ``--json`` also writes its rows, one JSON object a line."""
    from platformdirs import user_cache_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="the fastest by CPU time is shown")
    parser.add_argument(
        "--memory-cap", type=float, default=14.0, help="GB of private memory (mapped weights count) that a peer may use"
    )
    parser.add_argument(
        "--peers", type=Path, default=Path(os.environ.get("MANYONE_CACHE", user_cache_path("manyone"))) / "peers"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure this project and the floor alone")
    parser.add_argument("--tools", nargs="+", choices=["floor", *PEERS], help="measure only these beside this project")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers = None if options.no_peers else options.peers
    counts = (options.experts, options.layers, options.threads, options.repeats)
    rows = run(*counts, options.memory_cap, peers, options.tools, options.methods)
    print(table(rows))
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
