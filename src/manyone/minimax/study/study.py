"""The minimax study: stability, generalisation and optimisation of Distributed-SGDA, measured on coupled twins.

A job is one part of one problem with one seed: a group of replicas whose twins, clients and grid points are rows of
one stacked program. Intervals on the page are over seeds, which share nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from manyone.claims.figure import Figure, save_figures
from manyone.claims.rows import append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.data.tables.tables import load_table
from manyone.minimax.recipes.build import entries, rename
from manyone.minimax.stability.figures import figures_of
from manyone.minimax.stability.results import ALGORITHMS, DERIVED, SLOPES, TRENDS, rows_of
from manyone.minimax.stability.sweep import Entry
from manyone.minimax.study.settings import PARTS, arms, setting_of
from manyone.minimax.study.trends import bounds_table, constants_table, trends_table
from manyone.recipes.needs import Needs, together

TITLE = "Many clients, one saddle point: the claims of distributed minimax optimisation"
NOTES = [
    "A twin run repeats a run on a data set that differs in one sample of one client, with the same draws, start and "
    "noise. δ_mean is the distance of the two mean models, δ_avg the mean distance of the clients, δ_own that of the "
    "client whose sample changed; all are 0 when nothing differs. R is the primal risk on unseen rows, R_S on the "
    "training rows. References of ratios: the complete graph, and K = 1 of the same budget.",
    "Every seed is a group of replicas with splits, replaced samples and draws of its own; figures are means over its "
    "replicas, intervals are over seeds. Replaced samples are drawn rarely, so distances have heavy tails.",
    "Classes of problems: c-sc, linear AUC; sc-sc, the same with ridges on x and α and steps below μ/L²; "
    "pl-sc-auc, linear AUC with more random features than samples; pl-sc-wave, a game whose primal risk is a sum of "
    "x² + 3 sin² x, tilted by the samples; nc-sc, MLP AUC; nc-nc, a GAN. Local-SGDA has a server, Local-DSGDA a "
    "ring. Slopes are of logarithms of means over replicas; a late slope leaves the smallest value of the sweep out.",
    "The papers' figures are curves whose numbers are not public; their statements are quoted with where they come "
    "from. Bounds called derived follow from the recursion that the manual's page on minimax states.",
]
QUICK = ("auc-mlp",)
SEEDS = {"smoke": 4, "laptop": 5, "paper": 20}


def entries_of(scale: str, suite: str, part: str) -> list[Entry]:
    """The rows of a part."""
    return [row for arm in arms(scale, suite, part) for row in rename(entries(arm.options()), arm.method)]


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    return together(arm.needs() for arm in arms(scale, suite))


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Fetches the suite's table; what it is made of."""
    options = [arm.options() for arm in arms(scale, suite)]
    points = [e.point for part in PARTS for e in entries_of(scale, suite, part)]
    table = load_table(options[0].data)
    used = max(p["clients"] * p["samples"] for p in points)
    task = TaskInfo(table.name, len(table.classes), used, 0, options[0].test, table.source, table.licence)
    kind = {"gan": "GAN", "wave": "Wave game"}.get(options[0].problem, "AUC maximisation")
    return SuiteInfo(suite, f"{kind} on a table", (task,))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Long parts first; parts without arms are left out."""
    return [Job(suite, seed, part) for part in PARTS for suite in suites for seed in seeds if arms(scale, suite, part)]


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of a job, with the slopes of sweeps and the choice of K."""
    rows = entries_of(scale, suite, part)
    slopes = sum(2 for method in SLOPES if sum(e.method == method for e in rows) >= 3)
    swept = [f"{a}-{s}" for a in ALGORITHMS for s in TRENDS]
    found = sum(sum(e.method == name for e in rows) >= 3 for name in swept)
    slopes += found + (len(DERIVED) if found else 0)
    several = arms(scale, suite, part)[0].options().replicas > 1
    return len(rows) + slopes + (several and any(e.method == "trade-off" for e in rows))


def settings(scale: str, suite: str) -> dict[str, Any]:
    """What is varied and how much of everything there is."""
    return asdict(setting_of(scale, suite))


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """The classes of problems side by side: trends, bounds beside measured values, constants."""
    classes = [suite for suite in suites if setting_of(scale, suite).trends]
    paths = [folder / f"{job.file}.jsonl" for job in jobs(scale, classes, seeds)]
    rows = [row for path in paths if path.exists() for row in load_rows(path)]
    return [draw(rows) for draw in (trends_table, bounds_table, constants_table)] if rows else []


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """The arms of a part as one stacked program; appends the rows that are missing."""
    torch.set_num_threads(1)
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    first, *others = chosen = arms(scale, suite, part)
    sweep = first.build(
        first.options(seed=seed), *(arm.options(seed=seed) for arm in others), methods=[arm.method for arm in chosen]
    )
    print(f"{sweep.lab.members} models at a time, {sweep.lab.client_steps} local steps")
    sweep.lab.run()
    results = sweep.results()
    append_rows(path, [row for row in rows_of(suite, seed, sweep.entries, results) if row.key not in done])
    if seed == 0:
        save_figures(folder / f"{suite}-{seed}-{part}.figures.json", figures_of(suite, sweep.entries, results))
