"""From options to what they describe: the rounds of a run, the stacked program of a stability sweep."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from manyone.data.tables.tables import Table, fill_missing
from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.participation import Participation, RandomFailures
from manyone.minimax.mixing.topology import TOPOLOGIES, Topology
from manyone.minimax.predict import Scaling, build_network
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.problem import Problem
from manyone.minimax.problems.wave import WaveGame
from manyone.minimax.random_features import random_cosines
from manyone.minimax.ranks.distributed import TorchDistributed
from manyone.minimax.ranks.failures import Membership
from manyone.minimax.recipes.learner import RoundLearner
from manyone.minimax.recipes.options import LocalSGDAOptions, StabilityOptions
from manyone.minimax.recipes.problem import Case, inputs, open_table
from manyone.minimax.schedules import decaying
from manyone.minimax.simulated import Simulated
from manyone.minimax.stability.laboratory import Laboratory
from manyone.minimax.stability.sweep import Entry, Sweep, distinct_points
from manyone.minimax.steps import OuterStep
from manyone.recipes.options import CommonOptions


def method(o: LocalSGDAOptions) -> DistributedSGDA:
    """The algorithm that the options describe."""
    plain = o.outer_lr == 1 and not o.outer_momentum
    return DistributedSGDA(
        topology=resolve_topology(o.topology, o.clients),
        steps=o.local_steps,
        rounds=o.rounds,
        batch=o.batch_size,
        step_sizes=(decaying(o.eta_x), decaying(o.eta_y)) if o.decay else (o.eta_x, o.eta_y),
        local_step=o.local_step,
        outer=None if plain else OuterStep(o.outer_lr, o.outer_momentum),
        order=o.order,
        participation=Participation(fraction=o.participation, seed=o.seed) if o.participation < 1 else None,
        failures=RandomFailures(o.failures, seed=o.seed) if o.failures else None,
        weighting=o.weighting,
        push_sum=o.push_sum,
    )


def rounds(o: LocalSGDAOptions, case: Case, recipe: str) -> RoundLearner:
    """The run: in one process, or on the ranks that torchrun started."""
    averaged = o.output == "time-average"
    device = _device(o)
    words: dict[str, Any] = {"seed": o.seed, "dtype": case.dtype, "device": device, "time_average": averaged}
    run: Simulated | TorchDistributed
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        membership = Membership.join(device=device, timeout=o.timeout)
        run = TorchDistributed(case.problem, case.data(), method(o), membership=membership, **words)
    else:
        run = Simulated(case.problem, case.data(), method(o), **words)
    return RoundLearner(run, case, recipe, time_average=averaged)


def sweeps(*runs: StabilityOptions, methods: Sequence[str] = ()) -> Sweep:
    """One stacked program for the sweeps of all ``runs``, which may differ in what they sweep and around what.

    ``methods`` names the rows of each run in the results, instead of what it sweeps.
    """
    first, free = runs[0], {f: getattr(runs[0], f) for f in _AROUND}
    for other in runs[1:]:
        if dataclasses.replace(other, **free) != first:
            raise ManyoneError(f"runs that differ in more than {', '.join(_AROUND)} cannot be stacked")
    rows = [row for o, name in zip(runs, methods or [""] * len(runs), strict=True) for row in rename(entries(o), name)]
    (table,) = fill_missing(open_table(first))
    problem, fields, labels = stability_problem(first, table)
    points, where = distinct_points(rows)
    lab = Laboratory(
        problem, fields, labels, points, method=DistributedSGDA(batch=first.batch_size), replicas=first.replicas,
        seed=first.seed, neighbour=first.neighbour, test=first.test, device=_device(first),
        dtype=torch.float64 if first.precision == "64-true" else torch.float32,
    )  # fmt: skip
    return Sweep(lab, rows, where, inputs(first, table))


_AROUND = (
    "sweep_rounds", "sweep_steps", "sweep_clients", "sweep_samples", "sweep_eta", "sweep_topology", "sweep_partition",
    "clients", "samples", "local_steps", "rounds", "eta", "topology", "partition",
)  # fmt: skip


def entries(o: StabilityOptions) -> list[Entry]:
    """The rows of results that the options ask for: one value at a time around the others."""
    around = {name: getattr(o, name) for name in ("clients", "samples", "rounds", "eta", "topology", "partition")}
    around["steps"] = o.local_steps
    found = []
    for name, letter, key, values in (
        ("rounds", "t", "rounds", o.sweep_rounds),
        ("local-steps", "k", "steps", o.sweep_steps),
        ("clients", "m", "clients", o.sweep_clients),
        ("samples", "n", "samples", o.sweep_samples),
        ("step-size", "eta", "eta", o.sweep_eta),
    ):
        found += [Entry(name, f"{letter}{v}", _condition(o.partition), {**around, key: v}) for v in values]
    for kind in o.sweep_partition:
        found += [Entry("topology", name, _condition(kind), {**around, "topology": name, "partition": kind})
                  for name in o.sweep_topology]  # fmt: skip
    if not found:
        raise ManyoneError("nothing to sweep: give at least one of --sweep-rounds, --sweep-steps, --sweep-clients ...")
    return found


def rename(rows: Sequence[Entry], method: str) -> list[Entry]:
    """``rows`` under the name ``method``, if one is given."""
    return [row._replace(method=method) if method else row for row in rows]


def stability_problem(o: StabilityOptions, table: Table) -> tuple[Problem, dict[str, torch.Tensor], torch.Tensor]:
    """(problem, fields of the pool, class numbers [N]), in double precision."""
    features, hidden = Scaling.fit(table.features, o.scale)(table.features), list(o.hidden)
    if o.problem == "gan":
        generator = build_network([o.latent, *hidden, table.width], activation="leaky-relu")
        critic = build_network([table.width, *reversed(hidden), 1], activation="leaky-relu")
        return GAN(generator, critic, o.latent), {"features": features}, table.labels
    if o.problem == "wave":
        g = torch.cat([features, -features / 2], 1)
        return WaveGame(table.width, wave=o.wave), {"g": g}, table.labels
    if o.random_features:
        features = random_cosines(features, o.random_features, o.seed)
    fields, p, width = (
        {"features": features, "labels": table.signs.double()},
        positive_rate(table.signs),
        len(features.T),
    )
    linear = o.problem == "auc-linear"
    score = None if linear else build_network([width, *hidden, 1])
    problem = AUC(p, dim=width if linear else None, score=score, ridge=o.ridge, ridge_y=o.ridge_y)
    return problem, fields, table.labels


def resolve_topology(text: str, clients: int) -> Topology:
    """``--topology``: a name, hierarchical:GROUP[:EVERY], or a file with an edge list that connects all clients."""
    name, _, rest = text.partition(":")
    if name == "hierarchical":
        words = rest.split(":") if rest else []
        if not 1 <= len(words) <= 2 or not all(w.isdigit() for w in words):
            raise ManyoneError(
                f"--topology {text}: give the group size, hierarchical:GROUP or hierarchical:GROUP:EVERY"
            )
        return Topology("hierarchical", group=int(words[0]), every=int(words[1]) if len(words) == 2 else 4)
    if text in TOPOLOGIES:
        return Topology(text)
    if Path(text).is_file():
        topology = Topology.from_file(text)
        topology.weights(0, clients)  # refused here when they do not fit
        return topology
    raise ManyoneError(f"--topology {text}: choose one of {', '.join(TOPOLOGIES)}, or a file with one edge a line")


def _device(o: CommonOptions) -> torch.device:
    """``double`` whatever the states are: mixing matrices are made in double precision."""
    return device_of(o.device, double=True)


def _condition(partition: str) -> str:
    return "clean" if partition == "iid" else partition
