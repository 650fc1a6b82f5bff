"""The stability laboratory: how far one changed sample moves a distributed run, and how well the result generalises.

Every replica is run twice, on a data set S and on a neighbour S' that differs in one sample, with the same draws, the
same start and the same noise. Replicas, twins, clients and all grid points are rows of ONE stacked program
(``Simulated``). Measured at chosen rounds:

    delta_mean = ||zbar - zbar'||, delta_avg = (1/m) sum_i ||z_i - z_i'||, delta_own = ||z_i0 - z_i0'||,
    consensus = sqrt((1/m) sum_i ||z_i - zbar||^2)

and at the end risks and gaps of zbar (``stability_measures``). Definitions: Lei et al., ICML 2021; Zhu et al.,
"Stability and Generalization for Distributed SGDA".
Public: ``Laboratory``, ``PointResult``, ``Summary``, ``summarise``, ``distances``, ``log_slope``,
``leave_one_out_choice``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.data.tables.partitions import Kind
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, t_interval
from manyone.minimax.arguments import whole
from manyone.minimax.fields import as_field
from manyone.minimax.method import DistributedSGDA, resolve_method
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.problem import Problem
from manyone.minimax.sampling import sample_indices
from manyone.minimax.simulated import Simulated
from manyone.minimax.stability.looseness import bounds_of
from manyone.minimax.stability.measures import measure, measure_together
from manyone.minimax.stability.twins import Neighbour, Twins, draw_twins
from manyone.randomness import seed_for

DISTANCES = ("delta_mean", "delta_avg", "delta_own", "consensus")
_DATA_KEYS = ("clients", "samples", "partition", "alpha")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Summary:
    """``n`` values in short: the t-interval of the mean besides median and quantiles (distances are heavy-tailed)."""

    mean: float
    error: float
    interval: Interval
    median: float
    low: float
    high: float
    n: int


def summarise(values: Tensor | Sequence[float], level: float = 0.95) -> Summary:
    """Mean, its standard error and t-interval, median, 10 % and 90 % quantiles."""
    x = np.asarray(values, dtype=np.float64)
    error = float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan
    low, median, high = np.quantile(x, [0.1, 0.5, 0.9])
    return Summary(
        float(x.mean()), error, t_interval(x.tolist(), level), float(median), float(low), float(high), len(x)
    )


@dataclass(frozen=True)
class PointResult:
    """One grid point: its ``settings``; ``rounds`` at which ``curves`` (name -> [records, R]) were taken; ``final``:
    name -> [R], the distances and measures at the end and ``hits``, how often the replaced sample was drawn;
    ``together``: what exists of all replicas at once (weak gaps, bounds)."""

    settings: Mapping[str, Any]
    rounds: tuple[int, ...]
    curves: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    together: Mapping[str, float] = field(default_factory=dict)

    def summary(self, name: str) -> Summary:
        """Over the replicas."""
        return summarise(self.final[name])


def distances(state: Tensor, changed: Tensor) -> dict[str, Tensor]:
    """The three distances and the consensus error (of the first twin), each [R], of ``state`` [R, 2, m, P].

    ``changed`` (bool [R, m]): the clients whose sample differs; delta_own is the mean over them, 0 when there are none.
    """
    first, second = state[:, 0], state[:, 1]
    each = torch.linalg.vector_norm(first - second, dim=-1)
    mask = changed.to(each)
    return {
        "delta_mean": torch.linalg.vector_norm(first.mean(1) - second.mean(1), dim=-1),
        "delta_avg": each.mean(1),
        "delta_own": (each * mask).sum(1) / mask.sum(1).clamp_min(1),
        "consensus": (first - first.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt(),
    }


class Laboratory:
    """A sweep of grid points with coupled twins, as one stacked program.

    Args:
        problem: what is solved; fields, labels: the pool of samples [N, ...] and their class numbers int64 [N] (used
            to deal rows by class and to draw replacements).
        points: mappings that override clients, samples, partition, alpha (whose defaults are the other arguments),
            and topology, steps, rounds, eta (both), eta_x, eta_y of ``method``.
        replicas: R, each with its own split, replaced sample and draws, the same for all points (paired).
        neighbour: "one", "per_client" or "none", see ``stability_data``; test: unseen rows a replica.
        records: about how many rounds of each point the curves have.
    """

    def __init__(
        self,
        problem: Problem,
        fields: Mapping[str, Any],
        labels: Any,
        points: Sequence[Mapping[str, Any]] = ({},),
        *,
        method: DistributedSGDA | None = None,
        replicas: int = 8,
        seed: int = 0,
        neighbour: Neighbour = "one",
        test: int = 1000,
        clients: int = 16,
        samples: int = 50,
        partition: Kind = "iid",
        alpha: float = 0.5,
        records: int = 10,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
        backend: str = "auto",
        chunk: int | None = None,
        **old: Any,
    ) -> None:
        method = resolve_method(method, old, "Laboratory")
        replicas, seed = whole("replicas", replicas, 1), whole("seed", seed)
        fields, labels = problem.prepare({n: as_field(v) for n, v in fields.items()}), as_field(labels)
        base = {"clients": clients, "samples": samples, "partition": partition, "alpha": alpha}
        self.problem, self.seed, self.method = problem, seed, method
        self.twins: list[Twins] = []
        made: dict[tuple[Any, ...], Twins] = {}
        grid = []
        for point in points:
            own = {**base, **{k: v for k, v in point.items() if k in _DATA_KEYS}}
            key = tuple(own.values())
            if key not in made:
                made[key] = draw_twins(
                    fields, labels, clients=own["clients"], samples=own["samples"], kind=own["partition"],
                    alpha=own["alpha"], replicas=replicas, seed=seed, neighbour=neighbour, test=test,
                )  # fmt: skip
            self.twins.append(made[key])
            grid.append({k: v for k, v in point.items() if k not in _DATA_KEYS} | {"data": made[key].data})
        self.simulated = Simulated(
            problem, self.twins[0].data, method, points=grid, seed=seed, dtype=dtype, device=device, backend=backend,
            chunk=chunk,
        )  # fmt: skip
        self._due = [_due(len(p.ends), records) for p in self.simulated.points]
        self._rounds: list[list[int]] = [[] for _ in points]
        self._curves: list[dict[str, list[Tensor]]] = [{name: [] for name in DISTANCES} for _ in points]
        common = {**base, "topology": Topology.of(method.topology).name, "steps": method.steps, "rounds": method.rounds,
                  "eta_x": method.step_sizes[0], "eta_y": method.step_sizes[1]}  # fmt: skip
        self.settings = [common | _expanded(point) for point in points]

    @property
    def members(self) -> int:
        """Rows of the stacked state: models that are trained at the same time."""
        return len(self.simulated.z)

    @property
    def client_steps(self) -> int:
        """Local steps of all rows together."""
        sim = self.simulated
        return sum(p.ends[-1] * p.clients * sim.replicas * sim.twins for p in sim.points)

    @property
    def total_steps(self) -> int:
        """Global local steps until the last grid point is done."""
        return self.simulated.total_steps

    def run(self, progress: Progress | None = None) -> list[PointResult]:
        """Runs everything; one result a grid point, in the given order. ``progress(steps done, steps in all)``."""
        while self.simulated.step < self.total_steps:
            self.advance(self.simulated.step + max(1, self.total_steps // 50))
            if progress is not None:
                progress(self.simulated.step, self.total_steps)
        return self.results()

    @torch.no_grad()
    def advance(self, until: int) -> None:
        """Runs to the global local step ``until``, taking distances at the rounds that are due."""

        def watch(run: Simulated, i: int, done: int) -> None:
            if done in self._due[i]:
                self._rounds[i].append(done)
                for name, value in distances(run.state(i), self.twins[i].changed.to(run.device)).items():
                    self._curves[i][name].append(value.double().cpu())

        self.simulated.advance(until, watch, record_every=1 << 40)

    def results(self) -> list[PointResult]:
        """The measurements, when everything has run."""
        if self.simulated.step < self.total_steps:
            raise ManyoneError(f"{self.simulated.step} of {self.total_steps} steps are done: call run() first")
        return [self._result(i) for i in range(len(self.simulated.points))]

    def largest_distance(self) -> float:
        """The largest delta_avg of any grid point at present (a replica's mean), for progress and for divergence."""
        found = [distances(self.simulated.state(i), t.changed.to(self.simulated.device))["delta_avg"].mean()
                 for i, t in enumerate(self.twins)]  # fmt: skip
        return float(torch.stack(found).max())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {"simulated": self.simulated.state_dict(), "rounds": self._rounds, "curves": self._curves}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned, into a laboratory constructed with the same arguments."""
        self.simulated.load_state_dict(state["simulated"])
        self._rounds = [list(r) for r in state["rounds"]]
        self._curves = [{name: list(values) for name, values in c.items()} for c in state["curves"]]

    def hits(self, point: int) -> Tensor:
        """How often a replaced sample was drawn, [R]."""
        point_, twins = self.simulated.points[point], self.twins[point]
        counts = torch.zeros(self.simulated.replicas, dtype=torch.float64)
        if self.method.batch == "full":
            return counts
        for r, i in twins.changed.nonzero().tolist():
            n = int(twins.data.sizes[i])
            drawn = sample_indices(self.seed, r, [i], range(point_.ends[-1]), n, self.method.batch)
            counts[r] += float((drawn == twins.place[r, i]).sum())
        return counts

    def samples(self, point: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """Each replica's training samples (of S, all clients) and unseen ones."""
        twins = self.twins[point]
        fields = twins.data.fields
        seen = [twins.data.pooled(r) for r in range(self.simulated.replicas)]
        return seen, [{k: v[twins.test[r]] for k, v in fields.items()} for r in range(self.simulated.replicas)]

    @torch.no_grad()
    def _result(self, i: int) -> PointResult:
        stacked = {name: torch.stack(values) for name, values in self._curves[i].items()}
        seen, unseen = self.samples(i)
        z = self.simulated.consensus(i)[:, 0]
        final = {name: values[-1] for name, values in stacked.items()} | {"hits": self.hits(i)}
        final |= measure(self.problem, z, seen, unseen, self.seed)
        together = measure_together(self.problem, z, seen, unseen)
        together |= bounds_of(self.problem, self.settings[i], final, self.simulated.points[i].ends[-1])
        return PointResult(self.settings[i], tuple(self._rounds[i]), stacked, final, together)


def log_slope(x: Sequence[float], values: Tensor, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Least-squares slope of log(mean over replicas) on log x for ``values`` [points, R], all means above 0.

    With a 95 % bootstrap interval over replicas (the same draw for all points: they are paired).
    """
    count = values.shape[1]
    logs = np.log(np.asarray(x, dtype=np.float64))
    centred = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    table = values.double().cpu().numpy()

    def slope(chosen: np.ndarray) -> float:
        means = table[:, chosen].mean(1)
        return float(centred @ np.log(means)) if (means > 0).all() else math.nan

    source = np.random.Generator(np.random.Philox(seed_for(seed, "slope bootstrap")))
    draws = np.array([slope(source.integers(count, size=count)) for _ in range(resamples)])
    value = slope(np.arange(count))
    if count < 2 or np.isnan(draws).all():
        return Interval(value, math.nan, math.nan, count)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high), count)


def leave_one_out_choice(risks: Tensor) -> tuple[Tensor, Tensor]:
    """An honest optimum: ``risks`` [points, R] -> (chosen point int64 [R], its risk [R]).

    For every replica the point is chosen by the mean risk of the OTHER replicas, so that the chosen risk is unbiased.
    """
    count = risks.shape[1]
    if count < 2:
        raise ManyoneError("a choice on the other replicas needs at least 2 of them")
    others = (risks.sum(1, keepdim=True) - risks) / (count - 1)
    chosen = others.argmin(0)
    return chosen, risks.gather(0, chosen[None])[0]


def _expanded(point: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(point)
    if "eta" in own:
        own = {"eta_x": own["eta"], "eta_y": own.pop("eta"), **own}
    if isinstance(own.get("topology"), Topology):
        own["topology"] = own["topology"].name
    return own


def _due(rounds: int, records: int) -> set[int]:
    """About ``records`` rounds, the last among them."""
    count = max(1, min(records, rounds))
    return {round(rounds * (k + 1) / count) for k in range(count)}
