"""What can be drawn of a sweep's results.

Public: ``figures_of``, ``topology_figure``.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.minimax.mixing.topology import Topology, grid_shape
from manyone.minimax.stability.laboratory import PointResult, summarise
from manyone.minimax.stability.results import LETTERS, SLOPES
from manyone.minimax.stability.sweep import Entry


def figures_of(name: str, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Figure]:
    """What can be drawn of these results: sweeps, the trade-off with its optimum, distances over rounds, topologies."""
    found = [*_sweeps(name, entries, results), *_trade_offs(name, entries, results)]
    found += _over_rounds(name, entries, results)
    if any(e.method == "topology" for e in entries):
        clients = int(next(r.settings["clients"] for e, r in zip(entries, results) if e.method == "topology"))
        names = list(dict.fromkeys(e.variant for e in entries if e.method == "topology"))
        found.append(topology_figure(names, clients))
    return found


_LABELS = {
    "rounds": "communication rounds T",
    "local-steps": "local steps K a round",
    "clients": "clients m",
    "samples": "samples n a client",
    "step-size": "step size",
}


def _curve(x: Sequence[float], values: Sequence[Tensor]) -> dict[str, list[float]]:
    """Means with 95 % t-intervals over replicas."""
    short = [summarise(v) for v in values]
    curve = {"x": list(x), "y": [s.mean for s in short]}
    if all(math.isfinite(s.interval.low) for s in short):
        curve |= {"low": [s.interval.low for s in short], "high": [s.interval.high for s in short]}
    return curve


def _sweeps(name: str, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Figure]:
    found = []
    for method, label in _LABELS.items():
        own = [
            (float(e.variant.removeprefix(LETTERS[method])), r) for e, r in zip(entries, results) if e.method == method
        ]
        if len(own) < 2:
            continue
        own.sort(key=lambda pair: pair[0])
        x = [value for value, _ in own]
        series = {"delta_mean": _curve(x, [r.final["delta_mean"] for _, r in own])}
        caption = "Means and 95 % intervals over replicas."
        if method in SLOPES and min(series["delta_mean"]["y"]) > 0:
            start = series["delta_mean"]["y"][0] * x[0]
            series["slope −1 (derived)"] = {"x": x, "y": [start / value for value in x]}
            caption += " The derived bound falls like 1/x."
        log = all(v > 0 for curve in series.values() for v in (*curve["y"], *curve.get("low", ())))
        data = {"series": series, "x_label": label, "y_label": "distance", "log_x": True, "log_y": log}
        found.append(Figure("lines", f"{name}: stability against {label}", data, caption, "Stability"))
    return found


def _trade_offs(name: str, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Figure]:
    """Gap and optimisation error against K, the best population risk marked."""
    found = []
    for method in ("local-steps", "trade-off"):
        own = [(float(e.variant.removeprefix("k")), r) for e, r in zip(entries, results) if e.method == method]
        own.sort(key=lambda pair: pair[0])
        if len(own) < 2:
            continue
        x = [k for k, _ in own]
        final = own[0][1].final
        if "gap" in final:
            series = {"primal gap R − R_S": _curve(x, [r.final["gap"] for _, r in own])}
            if "error" in final:
                series["optimisation error"] = _curve(x, [r.final["error"] for _, r in own])
            whole = [float(r.final["risk_test"].mean()) for _, r in own]
            low = min(whole)
            series["population risk, above its minimum"] = {"x": x, "y": [v - low for v in whole]}
            mark = {"x": x[whole.index(low)], "label": f"best population risk: K = {x[whole.index(low)]:g}"}
            data = {"series": series, "x_label": "local steps K a round", "y_label": "risk", "log_x": True,
                    "marks": [mark]}  # fmt: skip
            where = ", ".join(f"{k} = {own[0][1].settings[k]}" for k in ("clients", "samples", "rounds", "eta_x"))
            caption = f"Means and 95 % intervals over replicas; {where}."
            found.append(Figure("lines", f"{name}: gap and optimisation error against K ({method})", data, caption,
                                "The trade-off"))  # fmt: skip
        elif "frechet" in final:
            for key, label in (("frechet", "pixel Fréchet distance"), ("plain_gap", "plain gap F − F_S")):
                data = {"series": {label: _curve(x, [r.final[key] for _, r in own])}, "log_x": True,
                        "x_label": "local steps K a round", "y_label": label}  # fmt: skip
                found.append(Figure("lines", f"{name}: {label} against K", data, "", "The trade-off"))
    return found


def _over_rounds(name: str, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Figure]:
    """Distances over rounds: by topology, and for GANs by K and step size."""
    found = []
    groups: dict[tuple[str, str], list[tuple[str, PointResult]]] = {}
    for entry, result in zip(entries, results):
        if entry.method in ("topology", "local-steps", "step-size"):
            groups.setdefault((entry.method, entry.condition), []).append((entry.variant, result))
    for (method, condition), members in groups.items():
        if len(members) < 2:
            continue
        for distance in ("delta_own", "delta_mean") if method == "topology" else ("delta_avg",):
            series = {
                variant: {"x": list(r.rounds), "y": r.curves[distance].mean(1).tolist()} for variant, r in members
            }
            log = all(v > 0 for s in series.values() for v in s["y"])
            data = {"series": series, "x_label": "round", "y_label": distance, "log_y": log}
            kind = "" if condition == "clean" else f", {condition} clients"
            found.append(Figure("lines", f"{name}: {distance} over rounds, by {method}{kind}", data,
                                "Means over replicas.", "Distance over rounds"))  # fmt: skip
    return found


def topology_figure(names: Sequence[str], clients: int) -> Figure:
    """Pictures of the graphs with their spectral gaps (one PNG)."""
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    canvas = Canvas(figsize=(2.6 * columns, 2.9 * lines), layout="constrained")
    for k, name in enumerate(names):
        topology = Topology.of(name)
        axis = canvas.add_subplot(lines, columns, k + 1)
        places = _places(name, clients)
        w = topology.weights(0, clients)
        for i in range(clients):
            for j in range(clients):
                if i != j and float(w[i, j]) > 0:
                    axis.plot(*zip(places[i], places[j]), color="#7a869a", linewidth=0.6, zorder=1)
        axis.scatter([x for x, _ in places], [y for _, y in places], s=26, color="#1f5fa8", zorder=2)
        axis.set_title(f"{name}\nspectral gap {1 - topology.contraction(clients):.3g}", fontsize=9)
        axis.set_aspect("equal")
        axis.axis("off")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = "Spectral gap 1 − λ: 1 is an exact average in one round, 0 no connection."
    return Figure("image", f"Topologies of {clients} clients", {"data": data}, text, "Topologies")


def _places(name: str, m: int) -> list[tuple[float, float]]:
    """Where the nodes are drawn: a lattice, a star, a line or a circle."""
    if name in ("grid", "torus"):
        rows, columns = grid_shape(m)
        return [(float(i % columns), float(-(i // columns))) for i in range(rows * columns)]
    if name == "path":
        return [(float(i), 0.0) for i in range(m)]
    hub = name in ("star",)
    around = m - 1 if hub else m
    circle = [(math.cos(2 * math.pi * i / around), math.sin(2 * math.pi * i / around)) for i in range(around)]
    return [(0.0, 0.0), *circle] if hub else circle
