"""What Distributed-SGDA is, once, apart from where it runs.

    method = DistributedSGDA(topology="ring", steps=5, rounds=100, step_sizes=(0.1, 0.1))
    zbar = Simulated(problem, data, method, seed=0).run()                            # all clients in one process
    zbar = TorchDistributed(problem, data, method, seed=0, membership=here).run()    # on real ranks: the same numbers

Public: ``DistributedSGDA``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from manyone.errors import ManyoneError
from manyone.minimax.arguments import number, whole
from manyone.minimax.mixing.participation import Participation, StepCounts, Uptime
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.schedules import LocalStepCount, StepSize
from manyone.minimax.steps import LocalStep, OuterStep, local_step

BatchSize = int | Literal["full"]


@dataclass(frozen=True, kw_only=True)
class DistributedSGDA:
    """K local steps of gradient descent ascent on every client, then the clients mix; T times.

    Attributes:
        topology: a name of ``TOPOLOGIES`` or a ``Topology``.
        steps: K, local steps a round (a number or a function of t); rounds: T; batch: samples a step or "full".
        step_sizes: of x and of y, each a number, ``decaying(c0)`` or a function of the global local step. 0.1 suits
            rows of norm 1 (``Scaling.fit(rows, "standard-rows")``, what the command line does); rows of d standardised
            features have norm sqrt(d) and need about 0.1 / d.
        local_step: a name of ``STEPS`` or a plug-in; outer: the server's step on a round's displacement.
        order: "adapt-then-combine", Z+ = W Z^K, or "combine-then-adapt", Z+ = W Z^0 + (Z^K - Z^0).
        participation: server only, who takes part; failures: ``alive(t, m, replica)``, who is up (gossip repairs W).
        client_steps: K_i as numbers or a function (t, m, replica) -> int64 [m], at most K; normalise: then correct
            the displacements for the unequal K_i.
        weighting: "uniform"; "loss", client i's loss times m n_i / sum n; "average", the server's mean weighted by n_i.
        push_sum: mass-corrected mixing for directed graphs with failures.
        local_y: only x is mixed; every client keeps its own y (adversarial perturbations of its own samples).
    """

    topology: Topology | str = "server"
    steps: LocalStepCount = 5
    rounds: int = 100
    batch: BatchSize = 1
    step_sizes: tuple[StepSize, StepSize] = (0.1, 0.1)
    local_step: LocalStep | str = "simultaneous"
    outer: OuterStep | None = None
    order: Literal["adapt-then-combine", "combine-then-adapt"] = "adapt-then-combine"
    participation: Participation | None = None
    failures: Uptime | None = None
    client_steps: Sequence[int] | StepCounts | None = None
    normalise: bool = True
    weighting: Literal["uniform", "loss", "average"] = "uniform"
    push_sum: bool = False
    local_y: bool = False

    def __post_init__(self) -> None:
        sizes = self.step_sizes
        if isinstance(sizes, str) or not hasattr(sizes, "__len__") or len(sizes) != 2:
            raise ManyoneError(f"step_sizes = {self.step_sizes!r}: give two, (of x, of y)")
        checked = {
            "step_sizes": tuple(e if callable(e) else number(n, e) for n, e in zip(("eta_x", "eta_y"), sizes)),
            "steps": self.steps if callable(self.steps) else whole("steps", self.steps, 1),
            "rounds": whole("rounds", self.rounds, 1),
        }
        if self.batch != "full":
            if isinstance(self.batch, str):
                raise ManyoneError(f"batch = {self.batch!r}: a number of samples, or 'full'")
            checked["batch"] = whole("batch", self.batch, 1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        Topology.of(self.topology)
        local_step(self.local_step)
        if self.outer is not None and not isinstance(self.outer, OuterStep):
            raise ManyoneError(f"outer = {self.outer!r}: give an OuterStep(lr, momentum)")
        if self.order not in ("adapt-then-combine", "combine-then-adapt"):
            raise ManyoneError(f"order = {self.order!r}: choose 'adapt-then-combine' or 'combine-then-adapt'")
        if self.weighting not in ("uniform", "loss", "average"):
            raise ManyoneError(f"weighting = {self.weighting!r}: choose 'uniform', 'loss' or 'average'")
        if self.push_sum and (self.order != "adapt-then-combine" or self.outer is not None):
            raise ManyoneError("push_sum goes with order='adapt-then-combine' (--order) and without an outer step")
        if self.local_y and (self.push_sum or self.outer is not None or self.participation is not None):
            raise ManyoneError("local_y goes without push_sum, outer and participation")

    def check(self, topology: Topology, m: int, needs_average: bool) -> None:
        """Raises when these options do not fit ``topology`` (the method's own or a grid point's)."""
        name, server = topology.name, topology.name == "server"
        if self.participation is not None and not server:
            raise ManyoneError(f"participation is for topology 'server', not {name!r}: use failures")
        if self.weighting == "average" and not server:
            raise ManyoneError(f"weighting='average' is for topology 'server', not {name!r}: use weighting='loss'")
        if self.push_sum and server:
            raise ManyoneError("push_sum is for gossip: choose a topology other than 'server'")
        if self.failures is not None and not self.push_sum and not server and not topology.symmetric(m):
            raise ManyoneError(f"topology {name!r} is directed: to keep the mean with failures it needs push_sum=True "
                               "(--push-sum)")  # fmt: skip
        if needs_average and name not in ("server", "complete"):
            raise ManyoneError(f"gradient tracking needs topology 'server' or 'complete', not {name!r}")

    @property
    def partial(self) -> bool:
        """Whether some clients may do fewer steps than others."""
        return self.participation is not None or self.failures is not None or self.client_steps is not None

    @property
    def needs_start(self) -> bool:
        """Whether the state at the round's start is needed at its end."""
        return (
            self.order == "combine-then-adapt"
            or self.push_sum
            or self.outer is not None
            or (self.client_steps is not None and self.normalise)
        )


def resolve_method(
    method: DistributedSGDA | Topology | str | None, old: Mapping[str, Any], who: str
) -> DistributedSGDA:
    """The method; or one made of the arguments that ``who`` took in version 0.1 (a topology and keywords), with one
    deprecation warning that names the replacement."""
    names = {f.name for f in fields(DistributedSGDA)} | {"eta_x", "eta_y"}
    for name in old:
        if name not in names:
            raise TypeError(f"{who}() got an unexpected keyword argument {name!r}")
    if isinstance(method, DistributedSGDA):
        if old:
            raise ManyoneError(f"{who}: give {', '.join(old)} to DistributedSGDA, not beside it")
        return method
    given = dict(old) if method is None else {"topology": method, **old}
    if given:
        etas = {name: given.pop(name) for name in ("eta_x", "eta_y") if name in given}
        if etas:
            given["step_sizes"] = (etas.get("eta_x", 0.1), etas.get("eta_y", 0.1))
        value = f"DistributedSGDA({', '.join(f'{name}=...' for name in given)})"
        text = f"{who}: give the algorithm as one value, method={value}, instead of single arguments"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    return DistributedSGDA(**given)
