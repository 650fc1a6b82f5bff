"""What the stability study runs: for each part of a suite the arms, which are runs of the recipe ``stability``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from manyone.errors import ManyoneError
from manyone.minimax.stability.results import ALGORITHMS
from manyone.recipes.arm import Arm

TOPOLOGIES = ("complete", "exponential", "torus", "grid", "ring", "star", "path", "isolated")
_NO_SWEEP: Mapping[str, Any] = {
    f"sweep_{name}": () for name in ("rounds", "steps", "clients", "samples", "eta", "topology")
}


@dataclass(frozen=True)
class Setting:
    """What a scale gives to a suite. ``given``: options of the recipe that all arms share; then what they sweep.

    ``topology_rounds``: T where topologies are compared; ``budget``: K's compared at ``budget_steps`` local steps in
    all; ``trade_off``: K's compared where the sample is small, at ``trade_off_point``.
    """

    given: Mapping[str, Any]
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
    trends: Mapping[str, tuple[int, ...]] | None = None
    """For a class of problems: T, n and m ("rounds", "samples", "clients") to compare, with either algorithm."""


def setting_of(scale: str, suite: str) -> Setting:
    """The setting of a suite at a scale."""
    if suite not in SETTINGS.get(scale, {}):
        raise ManyoneError(f"minimax study: no suite {suite!r} at scale {scale!r}")
    return SETTINGS[scale][suite]


def arms(scale: str, suite: str, part: str | None = None) -> list[Arm]:
    """The arms of one part of a suite, or of all. The arms of a part are computed as one stacked program."""
    setting = setting_of(scale, suite)
    return [arm for name in (PARTS if part is None else (part,)) for arm in PARTS[name](setting)]


def _sweep_arms(s: Setting) -> Iterator[Arm]:
    """K, m, n and step size, one at a time around ``given``; K where the sample is small (the trade-off)."""
    swept = {"sweep_steps": s.local_steps, "sweep_clients": s.clients, "sweep_samples": s.samples, "sweep_eta": s.etas}
    if any(swept.values()):
        yield Arm("", "stability", {**s.given, **_NO_SWEEP, **swept}, "around")
    if s.trade_off:
        given = {**s.given, **(s.trade_off_point or {}), **_NO_SWEEP, "sweep_steps": s.trade_off}
        yield Arm("trade-off", "stability", given)


def _topology_arms(s: Setting) -> Iterator[Arm]:
    """Topologies on alike and on label-sorted clients; K at a fixed number of local steps."""
    for kind in s.partitions:
        if s.topologies:
            swept = {"sweep_topology": s.topologies, "sweep_partition": (kind,)}
            given = {**s.given, "rounds": s.topology_rounds, **_NO_SWEEP, **swept}
            yield Arm("topology", "stability", given, kind)
        for name in ("complete", "ring") if s.budget else ():
            for k in s.budget:
                point = {"topology": name, "partition": kind, "rounds": s.budget_steps // k, "sweep_steps": (k,)}
                yield Arm(f"budget-{name}", "stability", {**s.given, **_NO_SWEEP, **point}, f"k{k}, {kind}")


def _trend_arms(s: Setting) -> Iterator[Arm]:
    """T, n and m, one at a time around ``given``, with a server and by gossip on a ring."""
    for algorithm, topology in ALGORITHMS.items():
        for sweep, values in (s.trends or {}).items():
            given = {**s.given, "topology": topology, **_NO_SWEEP, f"sweep_{sweep}": values}
            yield Arm(f"{algorithm}-{sweep}", "stability", given)


PARTS = {"sweeps": _sweep_arms, "topology": _topology_arms, "trends": _trend_arms}


def _linear(replicas: int, **words: Any) -> Setting:
    values: dict[str, Any] = {
        "local_steps": (1, 2, 5, 10, 20), "clients": (2, 4, 8, 16, 32, 64), "samples": (12, 25, 50, 100, 200),
        "etas": (0.01, 0.03, 0.1, 0.3), "topologies": TOPOLOGIES, "budget": (1, 5, 20, 100),
        "trade_off": (1, 2, 5, 10, 20, 50, 100),
        "trade_off_point": {"clients": 4, "samples": 25, "rounds": 60, "eta": 0.1},
    }  # fmt: skip
    return Setting({"problem": "auc-linear", "replicas": replicas}, **{**values, **words})


def _mlp(replicas: int, **words: Any) -> Setting:
    values: dict[str, Any] = {"local_steps": (1, 5, 20), "clients": (4, 16)}
    return Setting({"problem": "auc-mlp", "replicas": replicas}, **{**values, **words})


def _gan(replicas: int, rounds: int = 200, **words: Any) -> Setting:
    values: dict[str, Any] = {"local_steps": (1, 5), "etas": (0.02, 0.05, 0.1)}
    return Setting({"problem": "gan", "replicas": replicas, "rounds": rounds}, **{**values, **words})


def _class(problem: str, replicas: int, ts: tuple[int, ...], ns: tuple[int, ...], ms: tuple[int, ...],
           **given: Any) -> Setting:  # fmt: skip
    """A class of problems, for the trends of both algorithms over T, n and m."""
    given = {"problem": problem, "replicas": replicas, **given}
    return Setting(given, trends={"rounds": ts, "samples": ns, "clients": ms})


def _classes(replicas: int, ts: tuple[int, ...], ns: tuple[int, ...], ms: tuple[int, ...]) -> dict[str, Setting]:
    """The classes of the paper's abstract whose gaps are exact, on the problem that stands for each.

    All compare n = 12 with 50 and m = 2 with 16, and have T = 100. Strongly convex-concave: a step below mu/L^2. More
    features (256) than samples (200 at most): convex, PL, not strongly. The wave game contracts within ten steps, so
    that a distance tells of few draws of the replaced sample: many replicas of few numbers.
    """
    few, wide = tuple(n for n in ns if n <= 50), {"data": "breast-cancer", "random_features": 256, "test": 200}
    late = (100, 400, 800, 1600) if max(ts) > 400 else (100, 200, 400)
    return {
        "c-sc": _class("auc-linear", replicas, ts, ns, ms, clients=8),
        "sc-sc": _class("auc-linear", replicas, ts, ns, ms, clients=8, ridge=0.3, ridge_y=0.3, eta=0.03),
        "pl-sc-auc": _class("auc-linear", replicas, late, few, ms, clients=4, samples=12, eta=0.3, **wide),
        "pl-sc-wave": _class("wave", 4 * replicas, ts, ns, ms, data="magic", clients=8, samples=25, eta=0.02),
    }


def _networks(replicas: int, ts: tuple[int, ...]) -> dict[str, Setting]:
    """The two classes of networks: an MLP score and a GAN."""
    ns, ms = (12, 25, 50), (2, 4, 8, 16)
    return {
        "nc-sc": _class("auc-mlp", replicas, ts, ns, ms, clients=8, samples=50, rounds=100),
        "nc-nc": _class("gan", max(2, replicas // 2), (50, 100, 200), ns, ms, clients=8, samples=50, rounds=100),
    }


_MNIST = {"problem": "gan", "data": "mnist", "replicas": 5, "rounds": 200, "samples": 500, "batch_size": 64,
          "test": 2000, "hidden": (256, 512, 1024), "latent": 128}  # fmt: skip

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "auc-linear": _linear(4, topologies=("complete", "ring", "star", "isolated"), budget=(1, 20, 100),
                              trade_off=(1, 5, 10, 100)),
        "auc-mlp": _mlp(2),
        "gan": _gan(1, rounds=100),
        **_classes(4, (25, 100, 400), (12, 25, 50), (2, 4, 16)),
    },
    "laptop": {"auc-linear": _linear(8), "auc-mlp": _mlp(6, local_steps=(1, 2, 5, 10, 20), clients=(2, 4, 8, 16)),
               "gan": _gan(2, topologies=("complete", "ring", "isolated"), partitions=("iid",), topology_rounds=100),
               **_classes(8, (25, 100, 400, 1600), (12, 25, 50, 100, 200), (2, 4, 8, 16)),
               **_networks(6, (25, 100, 400))},
    "paper": {
        "auc-linear": _linear(20, local_steps=(1, 2, 5, 10, 20, 50, 100)),
        "auc-mlp": _mlp(20, local_steps=(1, 2, 5, 10, 20, 50), clients=(2, 4, 8, 16)),
        "gan": Setting(_MNIST, local_steps=(1, 5, 20), etas=(0.01, 0.02, 0.05)),
        **_classes(20, (25, 100, 400, 1600), (12, 25, 50, 100, 200), (2, 4, 8, 16)),
        **_networks(20, (25, 100, 400, 1600)),
    },
}  # fmt: skip
"""Scale -> suite -> setting."""
