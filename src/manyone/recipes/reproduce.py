"""``manyone reproduce``: runs what tests the papers' claims, then prints and writes the verdicts.

Each (suite, seed, part) is one process with one thread, as many side by side as there are processors: for networks of
this size that is cheaper than threads inside one. Rows that exist already are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from manyone.errors import ManyoneError

CLAIMS = Path(__file__).parent / "claims"
SEEDS = 3

Job = tuple[str, int, str]
"""Suite, seed and part (see ``merging_study.PARTS``)."""


def ls() -> list[dict[str, str]]:
    """All claims, for ``manyone ls claims``."""
    return [
        {"claim": c.id, "field": claims.field, "statement": c.statement}
        for claims in _all_claims()
        for c in claims.claims
    ]


def _all_claims() -> list[Any]:
    from manyone.report.claims import load_claims

    return [load_claims(path) for path in sorted(CLAIMS.glob("*.toml"))]


def reproduce(
    names: Sequence[str] = (),
    *,
    scale: str = "smoke",
    seeds: int | None = None,
    out: Path | None = None,
    workers: int | None = None,
) -> int:
    """Tests the claims called ``names`` (all by default) at ``scale`` and prints the path of the report."""
    from manyone.recipes.merging_study import PARTS

    started = time.time()
    claims = _all_claims()
    known = {c.id: c for field in claims for c in field.claims}
    for name in names:
        if name not in known:
            raise ManyoneError(f"unknown claim {name!r}: see `manyone ls claims`")
    chosen = [known[n] for n in names] or list(known.values())
    suites = list(dict.fromkeys(s for c in chosen for s in c.tests.get(scale, ())))
    if not suites:
        raise ManyoneError(f"no claim chosen is tested at scale {scale!r}: try another --scale")
    folder = out or Path("runs") / f"reproduce-{scale}"
    count = seeds or SEEDS
    loaded = [_prepare(suite) for suite in suites]
    jobs = [(suite, seed, part) for part in PARTS for seed in range(count) for suite in suites]
    _measure(jobs, folder / "rows", workers or _processors())
    study = _study(loaded, jobs, folder, scale, count, [c.id for c in chosen] if names else [], time.time() - started)
    study.save(folder)
    from manyone.report.html import write
    from manyone.report.terminal import show

    page = write(folder / "report.html", study)
    show(study)
    print(f"wall time: {time.time() - started:.0f} s on {_processors()} processors")
    print(f"report: {page.resolve()}")
    return 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(suite: str) -> Any:
    """Fetches and decodes a suite here, once, where its progress can be seen."""
    from manyone.data.suites import load_suite

    loaded = load_suite(suite, seed=0)
    for note in loaded.notes:
        print(f"{suite}: {note}")
    return loaded


def _measure(jobs: Sequence[Job], folder: Path, workers: int) -> None:
    """Runs all jobs, ``workers`` at a time, with one progress bar over the rows of all of them."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from manyone.recipes.merging_study import count_rows

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManyoneError(f"{folder}: cannot be made: {error.strerror}; choose another folder with --out") from error
    total = sum(count_rows(suite, part) for suite, _, part in jobs)
    waiting = list(jobs)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        shown = bar.add_task("measuring", total=total)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    running[job] = _start(job, folder)
                time.sleep(0.2)
                for job in [j for j, p in running.items() if p.poll() is not None]:
                    _check(job, running.pop(job), folder)
                now = ", ".join(f"{suite} seed {seed}, {part}" for suite, seed, part in running)
                bar.update(shown, completed=sum(_lines(folder, j) for j in jobs), description=now or "done")
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    suite, seed, part = job
    code = "import sys; from pathlib import Path; from manyone.recipes.merging_study import run_seed; "
    code += "run_seed(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / f"{suite}-{seed}-{part}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, suite, str(seed), part, str(folder)], env=environment, stdout=log, stderr=log
        )


def _check(job: Job, process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.returncode == 0:
        return
    suite, seed, part = job
    log = folder / f"{suite}-{seed}-{part}.log"
    last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    raise ManyoneError(f"{suite}, seed {seed}, ended with status {process.returncode}: {last} (all of it: {log})")


def _lines(folder: Path, job: Job) -> int:
    path = folder / f"{job[0]}-{job[1]}-{job[2]}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _study(
    suites: Sequence[Any],
    jobs: Sequence[Job],
    folder: Path,
    scale: str,
    seeds: int,
    only: Sequence[str],
    seconds: float,
) -> Any:
    """Everything that the page shows."""
    import platform
    from dataclasses import asdict
    from importlib import metadata

    from manyone import __version__
    from manyone.recipes.study_settings import SETTINGS, Settings
    from manyone.report.results import load_rows
    from manyone.report.study import Study, SuiteInfo

    rows = [row for suite, seed, part in jobs for row in load_rows(folder / "rows" / f"{suite}-{seed}-{part}.jsonl")]
    text = (CLAIMS / "merging.toml").read_text()
    command = f"manyone reproduce {' '.join(only)}{' ' if only else ''}--scale {scale} --seeds {seeds}"
    return Study(
        title=f"Many into one: the claims of model merging, tested at scale {scale}",
        scale=scale,
        rows=rows,
        claims_text=_only(text, only),
        suites=[SuiteInfo.of(s) for s in suites],
        curves=list(_curves(jobs, folder / "rows")),
        configs={s.name: asdict(SETTINGS.get(s.name, Settings())) for s in suites},
        commands=[command],
        environment={
            "manyone": __version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "machine": f"{_processors()} processors, {platform.machine()}, {platform.system()}",
            "wall time": f"{seconds:.0f} s",
        },
        notes=[
            "Scaling coefficients are chosen on the validation split. Adaptation sees the unlabelled test inputs, as "
            "in the papers (the transductive setting).",
            "Intervals are over seeds: experts and adaptation are drawn anew for each seed, and so are base and data "
            "split on mini6. On images all seeds share one base, like a public checkpoint, and with it its data split.",
        ],
        made=time.strftime("%Y-%m-%d"),
    )


def _only(text: str, names: Sequence[str]) -> str:
    """The claims file with only the claims called ``names``."""
    if not names:
        return text
    head, *blocks = text.split("[[claims]]")
    return "[[claims]]".join([head, *(b for b in blocks if any(f'id = "{n}"' in b for n in names))])


def _curves(jobs: Sequence[Job], folder: Path) -> Iterator[Any]:
    from manyone.report.study import Curve

    for suite, seed, part in jobs:
        path = folder / f"{suite}-{seed}.curves.json"
        if part != "clean" or not path.exists():
            continue
        for name, points in json.loads(path.read_text()).items():
            method, _, variant = name.partition(" ")
            yield Curve(suite, seed, method, tuple(points), variant)
