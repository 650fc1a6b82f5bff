"""The grid points of the stability study: what is varied, for which problem, and how much a scale gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from manyone.errors import ManyoneError

TOPOLOGIES = ("complete", "exponential", "torus", "grid", "ring", "star", "path", "isolated")


class Entry(NamedTuple):
    """One row of results: ``point`` is its grid point (see ``minimax.stability.Laboratory``)."""

    method: str
    variant: str
    condition: str
    point: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """A problem on data, and the sweeps made of it. ``base`` holds the values where nothing is varied.

    ``data``: a table's name; ``scale``: how its rows are scaled; ``test``: unseen rows a replica; ``hidden``: widths of
    an MLP score (none: linear), of the GAN's generator and, reversed, of its discriminator; ``label``: the column of a
    user's file.
    """

    kind: str
    data: str
    replicas: int
    base: Mapping[str, Any]
    local_steps: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    etas: tuple[float, ...] = ()
    topologies: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ("iid", "by-class")
    topology_rounds: int = 60
    budget: tuple[int, ...] = ()
    budget_steps: int = 300
    trade_off: tuple[int, ...] = ()
    trade_off_point: Mapping[str, Any] | None = None
    batch: int = 1
    test: int = 1000
    scale: str = "standard-rows"
    hidden: tuple[int, ...] = ()
    latent: int = 16
    label: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("auc", "gan"):
            raise ManyoneError(f"kind = {self.kind!r}: choose 'auc' or 'gan'")


def sweep_entries(s: Setting) -> Iterator[Entry]:
    """K, m, n and step size, one at a time around ``base``, and K where the sample is small (the trade-off)."""
    for k in s.local_steps:
        yield Entry("local-steps", f"k{k}", "clean", {"steps": k})
    for m in s.clients:
        yield Entry("clients", f"m{m}", "clean", {"clients": m})
    for n in s.samples:
        yield Entry("samples", f"n{n}", "clean", {"samples": n})
    for eta in s.etas:
        yield Entry("step-size", f"eta{eta}", "clean", {"eta": eta})
    for k in s.trade_off:
        yield Entry("trade-off", f"k{k}", "clean", {**(s.trade_off_point or {}), "steps": k})


def topology_entries(s: Setting) -> Iterator[Entry]:
    """Topologies on alike and on label-sorted clients; K at a fixed number of local steps."""
    for kind in s.partitions:
        condition = "clean" if kind == "iid" else kind
        for name in s.topologies:
            yield Entry("topology", name, condition, {"topology": name, "partition": kind, "rounds": s.topology_rounds})
        for name in ("complete", "ring") if s.budget else ():
            for k in s.budget:
                point = {"topology": name, "partition": kind, "steps": k, "rounds": s.budget_steps // k}
                yield Entry(f"budget-{name}", f"k{k}", condition, point)


PARTS = {"sweeps": sweep_entries, "topology": topology_entries}
SUMMARIES = {"clients": "m", "samples": "n"}
"""Sweeps that also get a row with the slope of log delta_mean: method -> the letter of its variants."""

_LINEAR = {"clients": 16, "samples": 50, "steps": 5, "rounds": 100, "eta": 0.1, "topology": "server"}
_SMALL = {"clients": 4, "samples": 25, "rounds": 60, "eta": 0.1}
_MLP = {"clients": 16, "samples": 70, "steps": 5, "rounds": 60, "eta": 0.3, "topology": "server"}
_GAN = {"clients": 8, "samples": 100, "steps": 5, "rounds": 200, "eta": 0.05, "topology": "server"}


def _linear(replicas: int, **words: Any) -> Setting:
    values: dict[str, Any] = {
        "local_steps": (1, 2, 5, 10, 20), "clients": (2, 4, 8, 16, 32, 64), "samples": (12, 25, 50, 100, 200),
        "etas": (0.01, 0.03, 0.1, 0.3), "topologies": TOPOLOGIES, "budget": (1, 5, 20, 100),
        "trade_off": (1, 2, 5, 10, 20, 50, 100), "trade_off_point": _SMALL,
    }  # fmt: skip
    return Setting("auc", "spambase", replicas, _LINEAR, **{**values, **words})


def _mlp(replicas: int, **words: Any) -> Setting:
    values: dict[str, Any] = {"local_steps": (1, 5, 20), "clients": (4, 16), "batch": 2, "test": 500, "hidden": (16,),
                              "scale": "rows"}  # fmt: skip
    return Setting("auc", "digits:8", replicas, _MLP, **{**values, **words})


def _gan(replicas: int, rounds: int = 200, **words: Any) -> Setting:
    values: dict[str, Any] = {
        "local_steps": (1, 5), "etas": (0.02, 0.05, 0.1), "batch": 16, "test": 500, "hidden": (32,), "scale": "none",
    }  # fmt: skip
    return Setting("gan", "digits", replicas, {**_GAN, "rounds": rounds}, **{**values, **words})


SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "auc-linear": _linear(4, topologies=("complete", "ring", "star", "isolated"), budget=(1, 20, 100),
                              trade_off=(1, 5, 10, 100)),
        "auc-mlp": _mlp(2),
        "gan": _gan(1, rounds=100),
    },
    "laptop": {"auc-linear": _linear(8), "auc-mlp": _mlp(6, local_steps=(1, 2, 5, 10, 20), clients=(2, 4, 8, 16)),
               "gan": _gan(2, topologies=("complete", "ring", "isolated"), partitions=("iid",), topology_rounds=100)},
    "paper": {
        "auc-linear": _linear(20, local_steps=(1, 2, 5, 10, 20, 50, 100)),
        "auc-mlp": _mlp(20, local_steps=(1, 2, 5, 10, 20, 50), clients=(2, 4, 8, 16)),
        "gan": Setting("gan", "mnist", 5, {**_GAN, "samples": 500}, local_steps=(1, 5, 20), etas=(0.01, 0.02, 0.05),
                       batch=64, test=2000, hidden=(256, 512, 1024), scale="none", latent=128),
    },
}  # fmt: skip
"""Scale -> suite -> setting."""
