"""Generated pairs a second, and how well made-up databases tell wrong queries from golds.

    python benchmarks/sql_generation.py [--db chinook] [--pairs 5000] [--workers 1] [--instances 4] [--json F]

Two tables. First, making a folder of executed pairs about a database (a registered one or a SQLite file): seconds and
CPU seconds, pairs, different SQL, and the shares of candidates that were dropped. Second, Spider's development set on
fuzz databases: of all golds, the share that runs on every instance and the share with an answer on the first; of
mutants (one thing changed), the share whose result differs from the gold's on some instance, by kind and by the number
of instances. Both packages are fetched where the cache lacks them.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from manyone.data.sql.fuzz import discrimination
from manyone.data.sql.made import account, make_pairs
from manyone.data.sql.pairs import load_pairs


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def generation(db: str, pairs: int, workers: int) -> dict[str, float | str]:
    """One folder of pairs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs"
        wall, cpu = time.perf_counter(), cpu_seconds()
        found = make_pairs([db], out, pairs=pairs, workers=workers)
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        facts = account(out)
        made = sum(len(split) for split in found.splits.values())
    dropped = ", ".join(f"{reason} {share:.0%}" for reason, share in facts["dropped"].items())
    return {"database": db, "pairs": made, "sql": facts["sql"], "seconds": wall, "cpu_seconds": cpu,
            "pairs_per_cpu_second": made / cpu, "dropped": dropped}  # fmt: skip


def discriminations(most: int) -> list[dict[str, float | str]]:
    """Spider's golds and mutants on 1 to ``most`` instances."""
    found = load_pairs("spider-dev", instances=most)
    rows = []
    for count in range(1, most + 1):
        files = {db_id: paths[:count] for db_id, paths in found.databases.items()}
        report = discrimination(found.splits["test"], found.schemas, files)
        shares = {kind: report.rejected[kind] / made for kind, made in report.made.items()}
        rows.append({"instances": count, "golds": report.golds, "run": 1 - len(report.failed) / report.golds,
                     "with an answer": report.filled, "mutants": sum(report.made.values()), "rejected": report.share,
                     **shares})  # fmt: skip
    return rows


def show(rows: list[dict[str, float | str]]) -> None:
    """A table of rows with the same columns."""
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))


def main() -> None:
    """Prints both tables; with ``--json`` also writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="chinook")
    for name, default in (("pairs", 5000), ("workers", 1), ("instances", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_pairs("chinook", pairs=1)  # fetched and made before the clock runs
    rows = [generation(options.db, options.pairs, options.workers)]
    show(rows)
    told = discriminations(options.instances)
    show(told)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *told]))


if __name__ == "__main__":
    main()
