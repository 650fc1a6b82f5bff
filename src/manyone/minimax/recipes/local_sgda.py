"""``manyone run local-sgda`` and ``local-dsgda``: many clients train one saddle point, through a server or by gossip.

    manyone run local-sgda                                            # AUC on breast-cancer, 16 clients, simulated
    manyone run local-dsgda --data my.csv --label y --topology ring
    torchrun --nproc-per-node 2 -m manyone run local-dsgda --clients 16      # for real: the same numbers

One step of the loop is one communication round.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Split, check

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from manyone.engine.run import RunFolder
    from manyone.minimax.cases import Case


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Local-SGDA: clients make K local steps of gradient descent ascent, then a server averages them."""

    problem: Literal["auc", "gan", "agnostic", "group-dro", "neyman-pearson"] = "auc"
    """What is solved: auc (maximise the area under the ROC curve), gan, agnostic (worst mixture of clients), group-dro
    (worst mixture of classes), neyman-pearson (fewest misses under a bound on false alarms)."""
    data: str = ""
    """A real data set by name (breast-cancer, spambase, digits:8, fashion-mnist:shirt/coat ...: manyone data ls) or a
    CSV, Parquet or libsvm file. Default: breast-cancer; digits for gan, agnostic and group-dro."""
    label: str | None = None
    """Column of your file that holds the label."""
    positive: str | None = None
    """Label of the positive class; default: the rarer of two."""
    categories: Literal["refuse", "one-hot"] = "refuse"
    """Columns of words in your file: an error, or one 0/1 column a word."""
    test: float = 0.2
    """Share of the rows kept for testing; in (0, 1)."""
    scale: Literal["standard-rows", "standard", "rows", "none"] = "standard-rows"
    """Scaling: columns standardised on the training rows, then every row to norm 1 (what step sizes of 0.1 assume)."""
    model: Literal["linear", "mlp"] = "linear"
    """Score or classifier."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers of an mlp, and of the GAN's networks."""
    latent: int = 16
    """Width of the GAN's noise; 1 or more."""
    gan_form: Literal["zero-sum", "non-saturating"] = "zero-sum"
    """The GAN's game."""
    form: Literal["solam", "aucm"] = "solam"
    """AUC objective: square loss over pairs, or the margin form."""
    ridge: float = 0.0
    """Weight of (ridge/2) ||x||^2 in the AUC objective; 0 or more."""
    rho: float = 0.0
    """Weight of (rho/2) ||lambda - uniform||^2 for agnostic and group-dro; 0 or more."""
    level: float = 0.5
    """Bound on the mean softplus loss of negatives for neyman-pearson; above 0."""
    clients: int = 16
    """Clients m; 1 or more."""
    partition: Literal["auto", "iid", "by-class", "dirichlet"] = "auto"
    """How the training rows are dealt; auto: iid, by-class for agnostic."""
    alpha: float = 0.5
    """Concentration of the dirichlet partition; above 0, small is heterogeneous."""
    per_client: int | None = None
    """Rows of each client; default: all rows are dealt."""
    topology: str = "server"
    """Who averages with whom: server, complete, exponential, torus, grid, ring, path, star, isolated,
    one-peer-exponential, random-matching, hierarchical:GROUP[:EVERY], or a file with one edge (two client numbers) a
    line."""
    steps: int = 5
    """Local steps K between two communications; 1 or more."""
    rounds: int = 100
    """Communication rounds T; 1 or more."""
    batch: int = 1
    """Samples a local step; 1 or more."""
    eta_x: float = 0.1
    """Step size of the minimised block; above 0."""
    eta_y: float = 0.1
    """Step size of the maximised block; 0 or more."""
    decay: bool = False
    """Step sizes eta / (s + 1) at the local step s."""
    local_step: str = "simultaneous"
    """Local step: simultaneous, alternating, extragradient, extragradient-two-samples, optimistic, heavy-ball, adam,
    gdmax, sgda-plus, gradient-tracking or control-variates."""
    participation: float = 1.0
    """Share of the clients that the server draws in every round; in (0, 1]."""
    failures: float = 0.0
    """Probability that a client is down in a round (simulated; the mixing matrix is repaired); in [0, 1)."""
    weighting: Literal["uniform", "loss", "average"] = "uniform"
    """Clients of unequal size: count alike, or by their size in the loss or in the server's average."""
    output: Literal["mean", "time-average"] = "mean"
    """The model: the clients' mean at the end, or its average over the rounds."""
    evaluate_every: int = 10
    """Rounds between evaluations; 0: only at the end."""
    checkpoint_every: int = 25
    """Rounds between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("test", self.test, 0 < self.test < 1, "in (0, 1)")
        for name in ("clients", "steps", "rounds", "batch", "latent"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("per-client", self.per_client, self.per_client is None or self.per_client >= 1, "1 or more")
        check("hidden", self.hidden, all(w >= 1 for w in self.hidden), "widths of 1 or more")
        check("eta-x", self.eta_x, self.eta_x > 0, "above 0")
        for name in ("eta_y", "ridge", "rho", "evaluate_every", "checkpoint_every"):
            check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("alpha", "level"):
            check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        check("participation", self.participation, 0 < self.participation <= 1, "in (0, 1]")
        check("failures", self.failures, 0 <= self.failures < 1, "in [0, 1)")
        check("precision", self.precision, self.precision in ("32-true", "64-true"), "32-true or 64-true here")

    def run(self, run: RunFolder) -> None:
        """Trains, evaluates and saves the consensus model."""
        from manyone.engine.loop import train

        case = self.case()
        if self.dry_run:
            print("\n".join(self.plan(case)))
            return
        learner = RoundLearner(self, run.recipe, case)
        try:
            final = train(
                learner, run, steps=self.rounds, evaluate_every=self.evaluate_every,
                checkpoint_every=self.checkpoint_every, loggers=self.logger,
            )  # fmt: skip
        finally:
            learner.leave()
        _print(final)

    def evaluate(self, run: RunFolder, split: Split) -> Mapping[str, float]:
        """Figures of the saved consensus model on a split."""
        if split == "val":
            raise ManyoneError("these runs keep no validation split: use --split test or train")
        from manyone.engine.checkpoint import load_newest

        found = load_newest(run.checkpoints)
        if found is None:
            raise ManyoneError(f"{run.path} has no checkpoint yet: manyone resume {run.path}")
        case = self.case()
        z = found[1]["learner"]["model"]
        return case.figures(z, case.train if split == "train" else case.test)

    def case(self) -> Case:
        """The problem on its data."""
        import torch

        from manyone.minimax.cases import load_case

        return load_case(self, torch.float64 if self.precision == "64-true" else torch.float32)

    def plan(self, case: Case) -> list[str]:
        """What a dry run prints."""
        from manyone.data.tables.partitions import describe_partition
        from manyone.minimax.cases import topology_of

        topology, size = topology_of(self.topology), case.problem.spec.size
        gap = 1 - topology.contraction(self.clients)
        sent = self.rounds * topology.bytes_per_round(self.clients, size, case.dtype.itemsize)
        return [
            f"{self.problem} on {case.table.name}: {len(case.train.labels)} training and {len(case.test.labels)} test "
            f"rows of {case.table.width} features",
            describe_partition(case.train.raw.labels, case.parts, len(case.table.classes)),
            f"{case.problem.spec.p} + {case.problem.spec.q} numbers a client; {self.rounds} rounds of {self.steps} "
            f"local steps, {sent / 1e6:.3g} MB sent by the busiest client",
            f"topology {self.topology}: spectral gap {gap:.3g}",
            "nothing was written",
        ]


@dataclass(kw_only=True)
class DecentralisedOptions(Options):
    """Local-DSGDA: clients make K local steps of gradient descent ascent, then average with their neighbours."""

    topology: str = "ring"
    """Who averages with whom: ring, torus, grid, path, star, exponential, complete, isolated, one-peer-exponential,
    random-matching, hierarchical:GROUP[:EVERY], server, or a file with one edge (two client numbers) a line."""


class RoundLearner:
    """One round a step, in one process (``Simulated``) or on the ranks that torchrun started (``TorchDistributed``)."""

    def __init__(self, options: Options, recipe: str, case: Case) -> None:
        from manyone.minimax.cases import topology_of
        from manyone.minimax.method import DistributedSGDA
        from manyone.minimax.mixing.participation import Participation, RandomFailures
        from manyone.minimax.schedules import decaying

        self.options, self.recipe, self.case = options, recipe, case
        self.real = int(os.environ.get("WORLD_SIZE", "1")) > 1
        o = options
        method = DistributedSGDA(
            topology=topology_of(o.topology),
            steps=o.steps,
            rounds=o.rounds,
            batch=o.batch,
            step_sizes=(decaying(o.eta_x), decaying(o.eta_y)) if o.decay else (o.eta_x, o.eta_y),
            local_step=o.local_step,
            weighting=o.weighting,
            participation=Participation(fraction=o.participation, seed=o.seed) if o.participation < 1 else None,
            failures=RandomFailures(o.failures, seed=o.seed) if o.failures else None,
        )
        words: dict[str, Any] = {"seed": o.seed, "dtype": case.dtype, "device": _device(o.device)}
        words["time_average"] = o.output == "time-average"
        self._evaluated: Tensor | None = None
        self.sim: Any
        if self.real:
            from manyone.minimax.ranks.distributed import TorchDistributed

            self.sim = TorchDistributed(case.problem, case.data(), method, **words)
        else:
            from manyone.minimax.simulated import Simulated

            self.sim = Simulated(case.problem, case.data(), method, **words)

    def model(self) -> Tensor:
        """The consensus model [P] (all ranks must call it)."""
        if self.options.output == "time-average":
            return self.sim.time_average()[0, 0].cpu()
        return self.sim.consensus()[0, 0].cpu()

    def step(self) -> Mapping[str, float]:
        """One round; ``loss`` is the objective at the consensus model, on at most 512 training samples."""
        z = self.sim.round()[0, 0].cpu()
        return {"loss": self.case.loss(z)}

    def evaluate(self) -> Mapping[str, float]:
        """Figures of the model on both splits, and the disagreement of the clients."""
        state = self.sim.state()[0, 0].cpu()
        spread = (state - state.mean(0)).square().sum(1).mean().sqrt()
        done = self.sim.rounds_done if self.real else self.sim.rounds_done()
        self._evaluated = self.model() if done else state.mean(0)
        return {**self.case.evaluate(self._evaluated), "consensus_error": float(spread)}

    def state_dict(self) -> dict[str, Any]:
        return {"real": self.real, "run": self.sim.state_dict(), "model": self.model()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["real"] != self.real:
            where = "with torchrun" if state["real"] else "in one process, without torchrun"
            raise ManyoneError(f"this run was begun {where}: resume it the same way")
        self.sim.load_state_dict(state["run"])

    def export(self, folder: Path) -> None:
        from manyone.minimax.artefact import save

        case, o, z = self.case, self.options, self._evaluated
        assert z is not None  # the loop evaluates last, on all ranks; this is called on one
        info = {"recipe": self.recipe, "problem": o.problem, "data": case.table.name, "clients": o.clients}
        save(folder, case.problem.spec, z, case.scaling, {"kind": case.kind, **info, **case.config(z)})

    def leave(self) -> None:
        """Ends this rank's part in a distributed run."""
        if self.real:
            self.sim.membership.leave()


def _device(name: str) -> torch.device:
    """The device by its name; auto: the GPU of this rank when there is one."""
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if name == "auto":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise ManyoneError(f"device '{name}' is unknown: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ManyoneError(f"device '{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ManyoneError("device 'mps' is not there: torch finds no Apple GPU")
    return torch.device(name)


def _print(metrics: Mapping[str, float]) -> None:
    """The final figures, for people, on the rank that writes."""
    from manyone.engine.fabric import is_writer

    if not is_writer():
        return
    from rich.console import Console
    from rich.table import Table

    names = dict.fromkeys(k.partition("/")[2] for k in metrics if "/" in k)
    table = Table("", "train", "test", box=None)
    for name in names:
        table.add_row(name, *(f"{metrics[f'{split}/{name}']:.4f}" for split in ("train", "test")))
    for name, value in metrics.items():
        if "/" not in name:
            table.add_row(name, "", f"{value:.4g}")
    Console().print(table)
