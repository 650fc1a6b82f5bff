"""Embedding throughput beside torchgeo-bench's extractor with the same network of timm, and the sweep after it.

    python benchmarks/earth_embedding.py [--images 256] [--rounds 3] [--peers FOLDER] [--json F]

Both programs run in one environment of their own (extra earth-models; see ``_earth_extractor.py``) on the same images,
one after the other, several rounds; medians of CPU seconds. ``again``: the same command once more, as a sweep of
protocols, poolings and strengths would ask for it: from the store, without a pass, where the peer encodes anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from _peers import peer_python

from manyone.assets.cache import cache_folder

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=cache_folder("peers"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    python = peer_python(asked.peers / "earth-models", [pinned, "-e", f"{ROOT}[earth-models]"])
    found: dict[str, list[dict[str, float]]] = {"ours": [], "loader": [], "again": []}
    script = str(Path(__file__).with_name("_earth_extractor.py"))
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for program, rows in found.items():
                done = subprocess.run([str(python), script, program, folder, str(asked.images)], capture_output=True,
                                      text=True, check=False)  # fmt: skip
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    unit = statistics.median(row["cpu_s"] for row in found["loader"])
    table = []
    print(f"{'program':36} {'images/CPU s':>12} {'x peer':>8} {'passes':>7}")
    names = {"ours": "earth-embed, into the store", "loader": "DataLoader, as torchgeo-bench does",
             "again": "earth-embed, the second time"}  # fmt: skip
    for program, rows in found.items():
        seconds = statistics.median(row["cpu_s"] for row in rows)
        one = {"program": names[program], "images_s": rows[0]["images"] / seconds, "times_peer": unit / seconds,
               "passes": rows[0]["passes"], "first": rows[0]["first"]}  # fmt: skip
        print(f"{one['program']:36} {one['images_s']:12.1f} {one['times_peer']:8.2f} {one['passes']:7.0f}", flush=True)
        table.append(one)
    apart = abs(table[0]["first"] - table[1]["first"]) / table[1]["first"]
    print(f"the first vectors differ by {apart:.1e} (half precision)")
    if asked.json:
        asked.json.write_text("".join(json.dumps({"benchmark": "earth-embedding", **row}) + "\n" for row in table))


if __name__ == "__main__":
    main()
