"""Where the clients of every grid point, replica and twin lie in the stacked state.

Points are laid out by falling number of total steps, so that those still running are always the first rows.
Public: ``Point``, ``resolve_points``, ``lay_out``, ``Layout``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.local import Members
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.schedules import StepSize, round_ends

_KEYS = ("eta", "eta_x", "eta_y", "steps", "rounds", "topology", "data")


@dataclass(frozen=True)
class Point:
    """One grid point: its settings and ``ends``, the global steps at which its rounds end."""

    topology: Topology
    data: ClientData
    ends: tuple[int, ...]
    eta_x: StepSize
    eta_y: StepSize
    settings: Mapping[str, Any]

    @property
    def clients(self) -> int:
        """m."""
        return self.data.clients


@dataclass(frozen=True)
class Layout:
    """``order``: points as they lie in Z; ``rows``: of every point; ``fields``: the common sample pool."""

    members: Members
    fields: dict[str, Tensor]
    rows: list[slice]
    order: list[int]
    replicas: int
    twins: int


def resolve_points(
    method: DistributedSGDA, data: ClientData, points: Sequence[Mapping[str, Any]], replicas: int | None
) -> list[Point]:
    """Grid points from the method's settings and the overrides of each."""
    eta_x, eta_y = method.step_sizes
    base = {"topology": method.topology, "steps": method.steps, "rounds": method.rounds, "data": data}
    resolved = []
    for overrides in points:
        unknown = set(overrides) - set(_KEYS)
        if unknown:
            raise ManyoneError(f"grid point option {sorted(unknown)[0]!r}: choose from {', '.join(_KEYS)}")
        own = dict(overrides)
        if "eta" in own:
            own = {"eta_x": own["eta"], "eta_y": own.pop("eta"), **own}
        now = {"eta_x": eta_x, "eta_y": eta_y, **base, **own}
        data = now["data"] if replicas is None else now["data"].repeated(replicas)
        topology = Topology.of(now["topology"])
        topology.weights(0, data.clients)  # raises here when they do not fit
        ends = tuple(round_ends(now["steps"], now["rounds"]))
        resolved.append(Point(topology, data, ends, now["eta_x"], now["eta_y"], dict(overrides)))
    shapes = {(point.data.replicas, point.data.twins) for point in resolved}
    if len(shapes) != 1:
        raise ManyoneError(f"all grid points need the same replicas and twins, got {sorted(shapes)}")
    return resolved


def lay_out(points: Sequence[Point], weighting: str) -> Layout:
    """The rows of all points. ``weighting`` "loss" gives client i the loss weight m n_i / sum n."""
    order = sorted(range(len(points)), key=lambda i: (-points[i].ends[-1], points[i].clients))
    replicas, twins = points[0].data.replicas, points[0].data.twins
    pools, offsets = _pools(points)
    width = max(point.data.table.shape[3] for point in points)
    rows: list[slice] = [slice(0, 0)] * len(points)
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("client", "replica", "clients", "table", "sizes", "weight")
    }
    at = 0
    for i in order:
        data, m = points[i].data, points[i].clients
        count = replicas * twins * m
        rows[i] = slice(at, at + count)
        at += count
        table = torch.zeros(count, width, dtype=torch.int64)
        table[:, : data.table.shape[3]] = data.table.reshape(count, -1) + offsets[i]
        columns["table"].append(table)
        columns["client"].append(torch.arange(m).repeat(replicas * twins))
        columns["replica"].append(torch.arange(replicas).repeat_interleave(twins * m))
        columns["clients"].append(torch.full((count,), m))
        columns["sizes"].append(data.sizes.repeat(replicas * twins))
        columns["weight"].append((m * data.sizes.double() / data.sizes.sum()).repeat(replicas * twins))
    joined = {name: torch.cat(values) for name, values in columns.items()}
    weight = joined.pop("weight")
    members = Members(**joined, weight=weight if weighting == "loss" else None)
    fields = {
        name: torch.cat([pool[name] for pool in pools]) if len(pools) > 1 else pools[0][name] for name in pools[0]
    }
    return Layout(members, fields, rows, order, replicas, twins)


def _pools(points: Sequence[Point]) -> tuple[list[Mapping[str, Tensor]], list[int]]:
    """The distinct sample pools, every point's offset into their concatenation."""
    pools: list[Mapping[str, Tensor]] = []
    starts: dict[tuple[int, ...], int] = {}
    offsets, length = [], 0
    for point in points:
        fields = point.data.fields
        key = tuple(value.data_ptr() for value in fields.values()) + tuple(len(value) for value in fields.values())
        if key not in starts:
            if pools and set(fields) != set(pools[0]):
                raise ManyoneError(f"grid points with unequal fields: {sorted(fields)} and {sorted(pools[0])}")
            starts[key] = length
            pools.append(fields)
            length += len(next(iter(fields.values()))) if fields else 1
        offsets.append(starts[key])
    return pools, offsets
