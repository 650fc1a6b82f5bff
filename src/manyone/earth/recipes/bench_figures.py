"""What a comparison draws: leaderboard, ranks, labels against accuracy, confusion, classes, cost, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyone.claims.figure import Figure
from manyone.earth.benching import Cell
from manyone.earth.catalogue import catalogue, is_model
from manyone.earth.published import published
from manyone.earth.statistics import Ranking

SECTION = "Comparison"
BLIND = "without the image"
"""What guesses from the training labels alone is called in tables."""
_METRICS = {"accuracy": "overall accuracy, %", "micro_map": "micro mAP, %", "rmse": "RMSE"}


def figures_of(
    cells: Sequence[Cell],
    ranks: Mapping[str, Ranking],
    sets: Mapping[str, Mapping[str, Any]],
    skipped: Mapping[str, str],
    encoding: Mapping[str, float],
) -> list[Figure]:
    """All for which there are figures."""
    drawn = []
    for protocol in dict.fromkeys(c.protocol for c in cells):
        drawn.append(_leaderboard(protocol, [c for c in cells if c.protocol == protocol], ranks.get(protocol), sets))
    drawn += [_ranks(protocol, rank) for protocol, rank in ranks.items()]
    for data in sets:
        own = [c for c in cells if c.data == data]
        drawn += [*_labels(data, own), *_classes(data, own, sets[data]["classes"])]
    drawn += [*_cost(cells, encoding), *_published(cells), _sets(sets)]
    if skipped:
        rows = [[where, why] for where, why in skipped.items()]
        drawn.append(Figure("table", "Left out", {"columns": ["pair", "why"], "rows": rows}, "", SECTION))
    return drawn


def _leaderboard(
    protocol: str, cells: Sequence[Cell], rank: Ranking | None, about: Mapping[str, Mapping[str, Any]]
) -> Figure:
    models = list(dict.fromkeys(c.model for c in cells))
    sets = list(dict.fromkeys(c.data for c in cells))
    own = {(c.model, c.data): c for c in cells}
    mean = dict(zip(rank.models, rank.ranks, strict=True)) if rank else {}
    rows = []
    for model in sorted(models, key=lambda m: mean[m].value if m in mean else 1e9):
        ends = f"{mean[model].value:.2f} [{mean[model].low:.1f}, {mean[model].high:.1f}]" if model in mean else None
        rows.append([model, *(_text(own.get((model, s))) for s in sets), ends])
    units = ", ".join(sorted({f"{_METRICS[c.metric]}" for c in cells}))
    caption = f"{units}; 95 % intervals over blocks of ground where samples have any, else over samples."
    if all("blind" in about[s] for s in sets):
        metrics = {c.data: c.metric for c in cells}
        rows.append([BLIND, *(_figure(about[s]["blind"], metrics[s]) for s in sets), None])
        caption += " The last line always says the largest class (the mean, the labels' rates) of the training samples."
    if rank and rank.notes:
        caption += f" {' '.join(rank.notes)}"
    return Figure("table", f"Leaderboard: {protocol}", {"columns": ["encoder", *sets, "mean rank"], "rows": rows},
                  caption, SECTION)  # fmt: skip


def _ranks(protocol: str, rank: Ranking) -> Figure:
    order = sorted(range(len(rank.models)), key=lambda i: rank.ranks[i].value)
    names, values = [rank.models[i] for i in order], [rank.ranks[i].value for i in order]
    data = {"names": names, "values": values,
            "low": [_known(rank.ranks[i].low) for i in order],
            "high": [_known(rank.ranks[i].high) for i in order]}  # fmt: skip
    caption = f"Mean rank over {', '.join(rank.data_sets)}; 1 is best; intervals over sets."
    if rank.critical_difference is not None:
        caption += (f" Critical difference (Nemenyi, 5 %): {rank.critical_difference:.2f}: encoders whose mean ranks "
                    f"differ by less are not told apart. Friedman p = {rank.friedman_p:.2g}.")  # fmt: skip
        groups = _groups(values, rank.critical_difference)
        caption += " Not told apart: " + "; ".join(f"{names[a]} to {names[b]}" for a, b in groups) + "."
    return Figure("bars", f"Critical difference: {protocol}", data, caption, SECTION)


def _groups(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """The longest runs of sorted ranks within one critical difference."""
    found: list[tuple[int, int]] = []
    for start, first in enumerate(ranks):
        end = max(k for k in range(start, len(ranks)) if ranks[k] - first < difference)
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found


def _labels(data: str, cells: Sequence[Cell]) -> list[Figure]:
    series = {}
    for cell in cells:
        if len(cell.curve) > 1:
            x = sorted(cell.curve)
            mean = [cell.curve[n][0] for n in x]
            spread = [0.0 if cell.curve[n][1] != cell.curve[n][1] else cell.curve[n][1] for n in x]
            series[cell.model] = {"x": [float(n) for n in x], "y": mean,
                                  "low": [m - s for m, s in zip(mean, spread, strict=True)],
                                  "high": [m + s for m, s in zip(mean, spread, strict=True)]}  # fmt: skip
    if not series:
        return []
    return [Figure("lines", f"{data}: accuracy against labels",
                   {"series": series, "x_label": "labels a class", "y_label": "accuracy", "log_x": True},
                   "Linear probe on few labels; bands are one standard deviation over three draws.",
                   SECTION)]  # fmt: skip


def _classes(data: str, cells: Sequence[Cell], classes: Sequence[str]) -> list[Figure]:
    """IoU of every class by encoder, and the confusion matrix of the one that validation chose."""
    own = [c for c in cells if c.iou and c.protocol == "linear"] or [c for c in cells if c.iou]
    own = [c for c in own if c.protocol == own[0].protocol]
    if not own:
        return []
    iou = Figure("matrix", f"{data}: IoU by class",
                 {"rows": [c.model for c in own], "columns": list(classes), "unit": "%",
                  "values": [list(c.iou) for c in own]},
                 f"Protocol {own[0].protocol}; empty: the class is in neither truth nor prediction.",
                 SECTION)  # fmt: skip
    best = max(own, key=lambda c: c.chosen.get("val", c.value))
    shares = [[v / sum(row) if sum(row) else None for v in row] for row in best.confusion]
    matrix = Figure("matrix", f"{data}: confusion of {best.model}",
                    {"rows": list(classes), "columns": list(classes), "values": shares, "unit": "%"},
                    f"Rows are the truth, each 100 %; protocol {best.protocol}.", SECTION)  # fmt: skip
    return [iou, matrix]


def _cost(cells: Sequence[Cell], encoding: Mapping[str, float]) -> list[Figure]:
    """Mean accuracy against the encoder's processor seconds, a point an encoder."""
    series = {}
    scored = [c for c in cells if c.protocol == "linear" and c.metric == "accuracy"]
    for model in dict.fromkeys(c.model for c in scored):
        own = [c for c in scored if c.model == model and f"{model} on {c.data}" in encoding]
        if own:
            cost = sum(encoding[f"{model} on {c.data}"] for c in own) / len(own)
            series[model] = {"x": [max(cost, 1e-4)], "y": [sum(c.value for c in own) / len(own)]}
    if not series:
        return []
    return [Figure("lines", "Cost against accuracy",
                   {"series": series, "log_x": True, "x_label": "processor seconds for 1,000 samples",
                    "y_label": "accuracy, mean of its sets"},
                   "What the encoder takes; means are over the sets that an encoder reads, which differ.",
                   SECTION)]  # fmt: skip


def _published(cells: Sequence[Cell]) -> list[Figure]:
    """What others published of the same encoders: beside ours for the same set, and on other sets."""
    rows = []
    for model in dict.fromkeys(c.model for c in cells):
        name = catalogue_id(model)
        if name is None:
            continue
        for figure in published(name):
            ours = next((c for c in cells if c.model == model and c.data in (figure.data, figure.data.lower())), None)
            rows.append([model, figure.data or "mean of several", figure.variant, figure.value,
                         _text(ours) if ours else None, figure.source])  # fmt: skip
    if not rows:
        return []
    return [Figure("table", "Published figures of these encoders",
                   {"columns": ["encoder", "set", "protocol", "published", "ours", "source"], "rows": rows},
                   "As printed by others, with other splits and protocols: beside ours, never mixed with them.",
                   SECTION)]  # fmt: skip


def catalogue_id(model: str) -> str | None:
    """The catalogue's id of an encoder: its own name, or what its library builds it as."""
    library, colon, name = model.partition(":")
    if not colon:
        return model if is_model(model) else None
    for entry in catalogue().values():
        if any(loader.library == library and loader.call == name for loader in entry.loaders):
            return entry.id
    return None


def _sets(sets: Mapping[str, Mapping[str, Any]]) -> Figure:
    rows = [[name, about["sensor"], len(about["bands"]), len(about["classes"]), " / ".join(map(str, about["samples"])),
             about["split"], about["licence"], "; ".join(about["notes"])] for name, about in sets.items()]  # fmt: skip
    columns = ["set", "sensor", "bands", "classes", "train / val / test", "split", "licence", "notes"]
    return Figure("table", "Sets", {"columns": columns, "rows": rows}, "", SECTION)


def _text(cell: Cell | None) -> str | None:
    if cell is None:
        return None
    times = 1 if cell.metric == "rmse" else 100
    ends = "" if cell.low is None or cell.high is None else f" [{times * cell.low:.1f}, {times * cell.high:.1f}]"
    return f"{_figure(cell.value, cell.metric)}{ends}"


def _figure(value: float, metric: str) -> str:
    return f"{value if metric == 'rmse' else 100 * value:.1f}"


def _known(value: float) -> float | None:
    return value if value == value else None
