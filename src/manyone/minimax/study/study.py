"""The minimax study: stability, generalisation and optimisation of Distributed-SGDA, measured on coupled twins.

A job is one part of one problem with one seed: a group of replicas whose twins, clients and grid points are rows of
one stacked program. Intervals on the page are over seeds, which share nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyone.claims.study import Job
from manyone.errors import ManyoneError
from manyone.minimax.study.settings import PARTS, SETTINGS, SUMMARIES, Entry, Setting

if TYPE_CHECKING:
    from manyone.claims.study import SuiteInfo

TITLE = "Many clients, one saddle point: the claims of distributed minimax optimisation"
NOTES = [
    "A twin run repeats a run on a data set that differs in one sample of one client, with the same draws, start and "
    "noise. δ_mean is the distance of the two mean models, δ_avg the mean distance of the clients, δ_own that of the "
    "client whose sample changed; all are 0 when nothing differs. R is the primal risk on unseen rows, R_S on the "
    "training rows. References of ratios: the complete graph, and K = 1 of the same budget.",
    "Every seed is a group of replicas with splits, replaced samples and draws of its own; figures are means over its "
    "replicas, intervals are over seeds. Replaced samples are drawn rarely, so distances have heavy tails.",
    "The papers' figures are curves whose numbers are not public; their statements are quoted with where they come "
    "from. Bounds called derived follow from the recursion that the manual's page on minimax states.",
]
SEEDS = {"smoke": 4, "laptop": 8, "paper": 20}


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of a suite at a scale."""
    if suite not in SETTINGS.get(scale, {}):
        raise ManyoneError(f"minimax study: no suite {suite!r} at scale {scale!r}")
    return SETTINGS[scale][suite]


def entries_of(setting: Setting, part: str) -> list[Entry]:
    """The rows of a part."""
    return list(PARTS[part](setting))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Fetches the suite's table; what it is made of."""
    from manyone.claims.study import SuiteInfo, TaskInfo
    from manyone.data.tables.tables import load_table

    setting = setting_of(scale, suite)
    table = load_table(setting.data)
    used = max(e.point.get("clients", setting.base["clients"]) * e.point.get("samples", setting.base["samples"])
               for part in PARTS for e in entries_of(setting, part) or [Entry("", "", "", {})])  # fmt: skip
    task = TaskInfo(table.name, len(table.classes), used, 0, setting.test, table.source, table.licence)
    kind = {"auc": "AUC maximisation", "gan": "GAN"}[setting.kind]
    return SuiteInfo(suite, f"{kind} on a table", (task,))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Long parts first; parts without entries are left out."""
    return [
        Job(suite, seed, part)
        for part in PARTS
        for suite in suites
        for seed in seeds
        if entries_of(setting_of(scale, suite), part)
    ]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of a job, with the slopes of sweeps and the choice of K."""
    setting = setting_of(scale, suite)
    entries = entries_of(setting, part)
    slopes = sum(2 for method in SUMMARIES if sum(e.method == method for e in entries) >= 3)
    return len(entries) + slopes + (any(e.method == "trade-off" for e in entries) and setting.replicas > 1)


def settings(scale: str, suite: str) -> dict[str, Any]:
    """What is varied and how much of everything there is."""
    return asdict(setting_of(scale, suite))


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """One stacked program; appends the rows that are missing."""
    import torch

    from manyone.claims.figure import save_figures
    from manyone.claims.rows import append_rows, keys_in
    from manyone.minimax.study.laboratory import figures_of, laboratory, rows_of

    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    setting = setting_of(scale, suite)
    entries = entries_of(setting, part)
    lab, where = laboratory(setting, entries, seed)
    print(f"{lab.members} models at a time, {lab.client_steps} local steps")
    found = lab.run()
    results = [found[i] for i in where]
    append_rows(path, [row for row in rows_of(suite, seed, entries, results) if row.key not in done])
    if seed == 0:
        save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures_of(suite, entries, results))
