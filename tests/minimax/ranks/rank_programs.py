"""What the ranks of the distributed tests run, and how they are started: real processes, one import for all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.participation import FailureTrace, Participation, RandomFailures, RandomStepCounts
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.ranks.distributed import TorchDistributed
from manyone.minimax.ranks.exchange import RankLayout
from manyone.minimax.ranks.failures import Membership
from manyone.minimax.sampling import sample_indices
from manyone.minimax.steps import HeavyBall, OuterStep, Simultaneous

DOUBLE = {"dtype": torch.float64}
TOPOLOGIES = ("complete", "ring", "exponential", "star")
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "one-peer": ("one-peer-exponential", {}),
    "matching": ("random-matching", {}),
    "combine-then-adapt": ("ring", {"order": "combine-then-adapt"}),
    "participation by n_i": ("server", {"participation": Participation(count=3, seed=2), "weighting": "average"}),
    "failures": ("ring", {"failures": RandomFailures(0.3, seed=1), "weighting": "loss"}),
    "push-sum": ("exponential", {"failures": FailureTrace({1: [0, 5], 2: [3]}), "push_sum": True}),
    "stragglers": ("server", {"client_steps": RandomStepCounts(1, 3, seed=4)}),
    "outer step": ("server", {"outer": OuterStep()}),
    "momentum, averaged": ("complete", {"local_step": HeavyBall(0.5, 0.5, sync="average"), "step_sizes": (0.02, 0.1)}),
    "gradient tracking": ("server", {"local_step": "gradient-tracking"}),
    "replicas": ("star", {"replicas": 2, "time_average": True}),
    "local y": ("ring", {"local_y": True, "order": "combine-then-adapt"}),
    "running p": ("ring", {"running_p": True}),
}


def torchrun(function: Callable[..., Any], ranks: int, *arguments: Any, restarts: int = 0) -> dict[int, Any]:
    """``function(*arguments)`` on ``ranks`` processes, by torchrun's own agent; rank -> result."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The fork server imports torch once for all ranks; it finds this module by PYTHONPATH.
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    multiprocessing.set_forkserver_preload(["tests.minimax.ranks.rank_programs"])
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="forkserver", max_restarts=restarts, monitor_interval=0.1, run_id=f"test-{os.getpid()}",
    )  # fmt: skip
    return elastic_launch(config, function)(*arguments)


def auc_problem(
    model: str = "linear", clients: int = 8, uneven: bool = False, running_p: bool = False
) -> tuple[AUC, ClientData]:
    """Linear or MLP AUC on made, heterogeneous shards: client i's features are shifted by i."""
    samples, width = 12, 6
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(clients * samples, width, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(clients * samples, generator=generator) < 0.4, 1.0, -1.0).double()
    features += 0.3 * labels[:, None] + 0.05 * torch.arange(clients * samples)[:, None] // samples
    sizes = [samples - (i % 3 if uneven else 0) for i in range(clients)]
    parts = [torch.arange(i * samples, i * samples + n) for i, n in enumerate(sizes)]
    data = ClientData.of_parts({"features": features, "labels": labels}, parts)
    p = positive_rate(labels)
    if model == "linear":
        return AUC(p, dim=width, running_p=running_p), data
    return AUC(p, score=nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 1))), data


def option_arguments(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Constructor arguments of one entry of ``OPTIONS``, for either backend."""
    topology, extra = OPTIONS[name]
    extra = dict(extra)
    problem, data = auc_problem(uneven=True, running_p=extra.pop("running_p", False))
    run = {key: extra.pop(key) for key in ("replicas", "time_average") if key in extra}
    return (problem, data, DistributedSGDA(topology=topology, steps=3, rounds=5, batch=2, **extra)), {**DOUBLE, **run}


def everything(folder: str) -> dict[Any, Any]:
    """All that eight ranks are needed for, in one start of eight processes."""
    out: dict[Any, Any] = {}
    world = Membership.join(timeout=60)
    rank = world.rank
    for model in ("linear", "mlp"):
        for topology in TOPOLOGIES:
            run = TorchDistributed(
                *auc_problem(model), DistributedSGDA(topology=topology, steps=5, rounds=10), membership=world, **DOUBLE
            )
            run.run()
            out["float64", model, topology] = run.state()
    run = TorchDistributed(*auc_problem("mlp"), DistributedSGDA(topology="ring", steps=5, rounds=10), membership=world)
    run.run()
    out["float32"] = run.state()
    _checkpoints(out, world, Path(folder))
    groups = {n: dist.new_group(range(n)) for n in (2, 3, 4)}
    for count, group in groups.items():
        if rank >= count:
            continue
        part = Membership.of_group(group)
        for name in ("ring", "exponential"):
            run = TorchDistributed(
                *auc_problem(), DistributedSGDA(topology=name, steps=3, rounds=6), membership=part, **DOUBLE
            )
            run.run()
            out["layout", count, name] = run.state()
        if count == 4:
            run = TorchDistributed(
                *auc_problem("mlp"),
                DistributedSGDA(topology="ring", steps=2, rounds=6),
                membership=part,
                checkpoints=folder,
                **DOUBLE,
            )
            out["resumed on 4 ranks from"] = run.resume()
            run.run()
            out["resumed on 4 ranks"] = run.state()
    try:
        TorchDistributed(*auc_problem(), DistributedSGDA(step_sizes=(50, 50), rounds=200), membership=world).run()
    except ManyoneError as problem_found:
        out["diverged"] = str(problem_found)
    if rank < 2:
        _on_two(out, Membership.of_group(groups[2]))
    return out


def _checkpoints(out: dict[Any, Any], world: Membership, folder: Path) -> None:
    """Four rounds with a checkpoint every second, then a fresh object that resumes and goes to the end."""

    def make() -> TorchDistributed:
        method = DistributedSGDA(topology="ring", steps=2, rounds=6)
        return TorchDistributed(*auc_problem("mlp"), method, membership=world, checkpoints=folder, checkpoint_every=2,
                                **DOUBLE)  # fmt: skip

    straight = make()
    out["nothing to resume"] = straight.resume()
    straight.run()
    again = make()
    out["resumed at the end"] = again.resume()
    world_barrier(world)
    if world.rank == 0:
        for file in (folder / "round-000006").glob("complete.json"):
            file.unlink()  # as if the job had died while this state was written
    world_barrier(world)
    half = make()
    out["resumed from"] = half.resume()
    half.checkpoint_every = 0
    half.run()
    out["resume is exact"] = torch.equal(half.z, straight.z) and torch.equal(again.z, straight.z)
    out["uninterrupted"] = straight.state()


def world_barrier(world: Membership) -> None:
    """All ranks meet."""
    dist.barrier(world.group)


def _on_two(out: dict[Any, Any], pair: Membership) -> None:
    """Two ranks with four clients each, and with 3 + 5: all options, own data, sizes of messages, errors."""
    for name in OPTIONS:
        arguments, options = option_arguments(name)
        run = TorchDistributed(*arguments, membership=pair, clients_per_rank=(3, 5), **options)
        run.run(record_every=2)
        out["option", name] = run.state()
        out["records", name] = run.records
        if options.get("time_average"):
            out["time average"] = run.time_average()
    problem, data = auc_problem(uneven=True)
    own = RankLayout.of(8, 2).rows(pair.rank)
    parts = {k: [data.shard(i)[k] for i in own] for k in data.fields}
    rows = torch.arange(sum(map(len, parts["labels"]))).split([len(x) for x in parts["labels"]])
    mine = ClientData.of_parts({k: torch.cat(v) for k, v in parts.items()}, rows)
    run = TorchDistributed(
        problem,
        mine,
        DistributedSGDA(topology="ring", steps=3, rounds=4, weighting="loss"),
        own_data=True,
        membership=pair,
        **DOUBLE,
    )
    run.run()
    out["own data"] = run.state()
    out["rows sent"] = {
        name: TorchDistributed(
            *auc_problem(), DistributedSGDA(topology=name), membership=pair
        )._round.mixer.rows_per_round(0)
        for name in ("ring", "star", "isolated", "exponential", "server")
    }
    try:
        TorchDistributed(*auc_problem(), DistributedSGDA(topology="ring", batch=1 + pair.rank), membership=pair)
    except ManyoneError as problem_found:
        out["other options"] = str(problem_found)
    out["averager"] = _model_averager(pair)


def _model_averager(pair: Membership) -> dict[int, Tensor]:
    """torch's own local SGD on the same job: SGD that maximises over y, averaged by PeriodicModelAverager.

    warmup_steps -> [2, P]: what the two workers hold after 4 rounds of K = 5 steps.
    """
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    problem, data = auc_problem(clients=2)
    shard, steps, found = data.shard(pair.rank), 5, {}
    for warmup in (steps - 1, 0):
        x, y = problem.spec.unpack(problem.start(0, torch.float64))
        params = {k: nn.Parameter(v.clone()) for k, v in {**x, **y}.items()}
        groups = [{"params": [params[k] for k in x]}, {"params": [params[k] for k in y], "maximize": True}]
        optimiser = torch.optim.SGD(groups, lr=0.1)
        averager = PeriodicModelAverager(period=steps, warmup_steps=warmup, process_group=pair.group)
        for s in range(4 * steps):
            place = sample_indices(0, 0, [pair.rank], [s], [len(shard["labels"])], 1)[0, 0]
            loss = problem.loss(
                {k: params[k] for k in x}, {k: params[k] for k in y}, {k: v[place] for k, v in shard.items()}
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            averager.average_parameters(params.values())
        flat = problem.spec.pack({k: params[k].detach() for k in x}, {k: params[k].detach() for k in y})
        rows = torch.zeros(2, len(flat), dtype=torch.float64)
        rows[pair.rank] = flat
        dist.all_reduce(rows, group=pair.group)
        found[warmup] = rows
    return found


def dies_once(folder: str) -> tuple[int, int, Tensor]:
    """Rank 1 is killed in round 5 of the first attempt; every attempt resumes what the last one saved."""
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    fate = Doomed(14, signal.SIGKILL if first and os.environ["RANK"] == "1" else 0)
    method = DistributedSGDA(topology="ring", steps=3, rounds=8, local_step=fate)
    run = TorchDistributed(*auc_problem(), method, membership=Membership.join(timeout=20), checkpoints=folder,
                           checkpoint_every=2, **DOUBLE)  # fmt: skip
    start = run.resume()
    run.run()
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"]), start, run.state()


class Doomed(Simultaneous):
    """A local step that sends its own process a signal before step number ``at``, in the middle of a round."""

    def __init__(self, at: int, number: int) -> None:
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "count", 0)

    def __repr__(self) -> str:
        return "Doomed"

    def step(self, at: Any) -> None:
        object.__setattr__(self, "count", self.count + 1)
        if self.number and self.count == self.at + 1:
            os.kill(os.getpid(), self.number)
        super().step(at)
