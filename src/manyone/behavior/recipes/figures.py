"""What the page of a distillation draws: how scores and losses went, which states count, and what the set teaches.

Written as ``figures.json`` into the run folder; ``manyone report RUN`` puts them on the page.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manyone.behavior.artefact import Distilled
from manyone.behavior.distillation import Distillations, DistilLearner
from manyone.behavior.evaluate import StudentScores
from manyone.claims.figure import Figure
from manyone.claims.numbers import significant
from manyone.envs.single.stills import stills
from manyone.errors import ManyoneError

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

Line = Mapping[str, Any]
"""One line of metrics.jsonl."""
Rows = Mapping[str, Mapping[str, float]]
"""What acted -> its scores."""

_POINTS = 60  # of a training curve, at most
_BINS = 12
_SHOWN, _ACROSS, _TILE = 12, 3, 220  # pictures of a sheet, in a row, and their width in pixels
_RECORDED = 1 << 17  # recorded states that distances are taken to, at most
_DRAWN = 512  # recorded states whose own nearest neighbours are measured
_PIECE = 1 << 22  # distances computed at a time


def run_figures(
    learner: Distillations,
    lines: Sequence[Line],
    baselines: Mapping[str, Rows],
    scores: Mapping[str, Sequence[StudentScores]],
) -> list[Figure]:
    """All figures of a finished run: of each set by itself.

    ``baselines``: set -> what else acted there -> its scores; ``scores``: set -> (each student, their ensemble).
    """
    found: list[Figure | None] = []
    count = len(learner.learners)
    for one in learner.learners:
        name = one.data.name
        suffix, front = (f"/{name}", f"{name}: ") if count > 1 else ("", "")
        own = [line for line in lines if count == 1 or line.get("kind") != "train" or f"loss{suffix}" in line]
        found.append(score_curve(own, suffix, count, baselines.get(name, {}), section=f"{front}Score"))
        found += student_bars(*scores[name], section=f"{front}Score") if name in scores else []
        found += loss_curves(own, count, one.clip, section=f"{front}Distillation")
        found += set_figures(one, section=f"{front}The set")
    found.append(cost_table(lines, learner.learners[0], peak_memory()))
    return [figure for figure in found if figure is not None]


# --- scores -----------------------------------------------------------------------------------------------------------


def score_curve(
    lines: Sequence[Line], suffix: str, sets: int, baselines: Rows, *, section: str = "Score"
) -> Figure | None:
    """The students' score over the outer steps with its interval, beside what else acts; None without two points.

    Normalised scores (x 100) where the lines have them, else returns. Metrics are called ``return`` and so on with
    ``suffix`` behind; a step of the run is a ``sets``-th of an outer step.
    """
    tests = [line for line in lines if line.get("kind") in ("eval", "final")]
    metric = next((m for m in ("normalised", "return") if any(f"{m}{suffix}" in line for line in tests)), "return")
    times = 100 if metric == "normalised" else 1

    def points(name: str, *ends: str) -> dict[str, list[float]] | None:
        keys = [f"{name}{end}{suffix}" for end in ("", *ends)]
        known = [line for line in tests if all(isinstance(line.get(key), int | float) for key in keys)]
        values = {end: [times * line[key] for line in known] for end, key in zip(("y", "low", "high"), keys)}
        return {"x": [line["step"] / sets for line in known], **values} if len(known) > 1 else None

    alone, together = points(metric, "_low", "_high"), points(f"ensemble_{metric}")
    alone, interval = (alone, ", 95 % interval over students") if alone else (points(metric), "")
    if alone is None:
        return None
    series: dict[str, Any] = {f"students{interval}": alone} | ({"their ensemble": together} if together else {})
    ends = [alone["x"][0], alone["x"][-1]]
    for name, row in baselines.items():
        if isinstance(row.get(metric), int | float):
            series[name] = {"x": ends, "y": [times * row[metric]] * 2}
    label = "normalised score x 100" if metric == "normalised" else "return"
    text = "Fresh students, trained on the set as it was at the step. " + "Level lines: measured once, before." * bool(
        baselines
    )
    return Figure("lines", "Score over outer steps", {"series": series, "x_label": "outer steps", "y_label": label},
                  text.strip(), section)  # fmt: skip


def student_bars(students: StudentScores, ensemble: StudentScores, *, section: str = "Score") -> list[Figure]:
    """One bar a student, best first, with the spread of its episodes, and one of them all together."""
    frame = students.frame
    scored = frame.reference is not None

    def score(value: float) -> float:
        found = frame.normalised(value)
        return float(value) if found is None else 100 * found

    order = np.argsort(-students.returns.mean(1), kind="stable")
    rows = [(f"student {k + 1}", students.returns[k]) for k in order] + [("all together", ensemble.returns[0])]
    data: dict[str, Any] = {"names": [name for name, _ in rows], "values": [score(r.mean()) for _, r in rows]}
    if students.returns.shape[1] > 1:
        quartiles = [np.quantile(r, (0.25, 0.75)) for _, r in rows]
        data |= {"low": [score(q[0]) for q in quartiles], "high": [score(q[1]) for q in quartiles]}
    between, within = (significant(score(v) - score(0.0)) for v in (students.between, students.within))
    text = (
        "Students differ in their first weights alone. Whiskers: the middle half of "
        f"{students.returns.shape[1]} episodes. Standard deviation between students {between}, between the episodes of "
        f"a student {within}."
    )
    title = "Normalised score x 100 of each student" if scored else "Return of each student"
    return [Figure("bars", title, data, text, section)]


# --- training ---------------------------------------------------------------------------------------------------------


def loss_curves(lines: Sequence[Line], sets: int, clip: float, *, section: str = "Distillation") -> list[Figure]:
    """Outer loss, norm of its gradient and share of clipped steps; each averaged to at most 60 points."""
    trained = [line for line in lines if line.get("kind") == "train"]
    if len(trained) < 2:
        return []
    size = -(-len(trained) // _POINTS)
    parts = [trained[k : k + size] for k in range(0, len(trained), size)]
    x = [math.fsum(line["step"] for line in part) / len(part) / sets for part in parts]

    def mean(metric: str) -> list[float]:
        return [math.fsum(line[metric] for line in part) / len(part) for part in parts]

    def figure(title: str, label: str, series: Mapping[str, list[float]], text: str) -> Figure:
        drawn = {name: {"x": x, "y": y} for name, y in series.items()}
        data = {"series": drawn, "x_label": "outer steps", "y_label": label}
        return Figure("lines", title, data, text, section)

    found = [
        figure("Outer loss", "H", {"outer loss": mean("loss")},
               "Of trained students on a fresh batch of recorded states, before the step."),
        figure("Gradient of the set", "norm", {"norm before clipping": mean("gradient_norm"), "clip": [clip] * len(x)},
               "The joint norm over states and actions."),
        figure("Clipped steps", "share", {"share of steps": mean("clipped")}, ""),
    ]  # fmt: skip
    if "inner_lr" in trained[0]:
        rates = {"learning rate": mean("inner_lr"), "momentum": mean("inner_momentum")}
        found.append(figure("Learned inner training", "", rates, "What students are trained with."))
    return found


# --- the set ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Moves:
    """How far N synthetic pairs have gone; distances are root mean squares over the entries of a standardised state."""

    moved: np.ndarray
    """[N]: from where each state started."""
    nearest: np.ndarray
    """[N]: to the nearest recorded state."""
    usual: np.ndarray
    """[m]: of recorded states to the nearest other one."""
    actions: np.ndarray
    """[N]: root mean square change of the actions."""
    beyond: float | None
    """The share of action entries beyond the bounds; None where actions are discrete."""


def moves(one: Distilled, start: tuple[Tensor, Tensor], recorded: Tensor) -> Moves:
    """Distances of the set from its ``start`` (states, actions) and from ``recorded`` states [n, S]."""
    states = one.states.double()
    rows = torch.linspace(0, len(recorded) - 1, min(len(recorded), _RECORDED)).round().long()
    recorded = recorded.detach().cpu()[rows].double()
    some = torch.linspace(0, len(recorded) - 1, min(len(recorded), _DRAWN)).round().long()
    width = math.sqrt(states.shape[1])
    begun = [value.detach().cpu().double() for value in start]
    return Moves(
        ((states - begun[0]).norm(dim=1) / width).numpy(),
        (_nearest(states, recorded, None) / width).numpy(),
        (_nearest(recorded[some], recorded, some) / width).numpy(),
        (one.actions.double() - begun[1]).square().mean(1).sqrt().numpy(),
        None if one.frame.choices else one.beyond(),
    )


def _nearest(states: Tensor, recorded: Tensor, own: Tensor | None) -> Tensor:
    """[k]: distance of each state to the nearest recorded one, other than the row ``own`` [k] that it is itself."""
    best = torch.full((len(states),), math.inf, dtype=states.dtype)
    size = max(1, _PIECE // len(states))
    for begin in range(0, len(recorded), size):
        apart = torch.cdist(states, recorded[begin : begin + size], compute_mode="donot_use_mm_for_euclid_dist")
        if own is not None:
            here = (own >= begin) & (own < begin + size)
            apart[here, own[here] - begin] = math.inf
        best = torch.minimum(best, apart.min(1).values)
    return best


def set_figures(learner: DistilLearner, *, section: str = "The set") -> list[Figure]:
    """Which recorded states count, what the synthetic ones look like, and how far they have gone."""
    one = learner.distilled()
    found = moves(one, learner.start, learner.data.states)
    drawn = [weight_histogram(learner.weights, section=section)] if learner.weights is not None else []
    try:
        drawn.append(contact_sheet(one, found, section=section))
        missing = ""
    except ManyoneError as problem:
        print(f"no pictures: {problem}", file=sys.stderr)
        missing = f" No pictures: {problem}."
    return [*drawn, moves_figure(found, missing, section=section)]


def weight_histogram(weights: Tensor, *, section: str = "The set") -> Figure:
    """How the outer loss weighs recorded states, ``weights`` [n] or those of each choice [n, C]."""
    given = weights.detach().double().cpu()
    each = (given.mean(1) if given.ndim == 2 else given).numpy()
    size = float(np.abs(each).mean()) or 1.0
    counts, edges = np.histogram(each / size, bins=_BINS)
    names = [f"{significant(a, 2)} to {significant(b, 2)}" for a, b in itertools.pairwise(edges)]
    data = {"names": names, "values": (counts / len(each)).tolist(), "unit": "%"}
    total = float(np.abs(each).sum()) or 1.0
    top = np.sort(np.abs(each))[::-1][: max(1, len(each) // 10)].sum() / total
    zero = float((each == 0).mean())
    even = total**2 / (len(each) * float(np.square(each).sum()) or 1.0)
    text = (
        f"Shares of the recorded states by their weight, in units of the mean size ({significant(size)}). The tenth "
        f"with the largest has {100 * top:.0f} % of all weight; {100 * zero:.1f} % weigh nothing; {100 * even:.0f} % "
        "of the states would do as much if all weighed alike (Kish)."
    )
    return Figure("bars", "Weights of the recorded states", data, text, section)


def moves_figure(found: Moves, more: str = "", *, section: str = "The set") -> Figure:
    """Medians of the distances with their middle halves."""
    rows = {
        "synthetic: from where it started": found.moved,
        "synthetic: to the nearest recorded": found.nearest,
        "recorded: to the nearest other one": found.usual,
    }
    quartiles = [np.quantile(values, (0.25, 0.5, 0.75)) for values in rows.values()]
    low, middle, high = np.stack(quartiles, 1).tolist()
    data = {"names": list(rows), "values": middle, "low": low, "high": high}
    change = significant(float(np.median(found.actions)), 2)
    acts = f"Labels moved by {change}."
    if found.beyond is not None:
        acts = (
            f"Actions moved by {change} (their bounds are 2 apart); {100 * found.beyond:.1f} % of their entries lie "
            "beyond the bounds."
        )
    text = (
        "In standard deviations of the data, root mean square over the entries of a state; median and middle half. "
        f"{acts}{more}"
    )
    return Figure("bars", "How far the states have gone", data, text, section)


def representatives(states: Tensor, count: int = _SHOWN) -> list[tuple[int, int]]:
    """(row, rows that it stands for) of the states nearest to k-means centres, the largest cluster first."""
    from sklearn.cluster import KMeans  # here: its import takes seconds

    points = states.detach().cpu().double().numpy()
    clusters = min(count, len(np.unique(points, axis=0)))
    fitted = KMeans(clusters, n_init=4, random_state=0).fit(points)
    apart = fitted.transform(points)
    sizes = np.bincount(fitted.labels_, minlength=clusters)
    order = np.argsort(-sizes, kind="stable")
    inside = np.where(fitted.labels_[:, None] == np.arange(clusters), apart, math.inf)
    return [(int(inside[:, k].argmin()), int(sizes[k])) for k in order]


def contact_sheet(one: Distilled, found: Moves, *, section: str = "The set") -> Figure:
    """Twelve synthetic states with their actions, as different as they are; ``ManyoneError`` if none can be drawn."""
    frame = one.frame
    if frame.environment is None:
        raise ManyoneError(f"{one.name}: no environment to draw it in")
    chosen = representatives(one.states)
    rows = [row for row, _ in chosen]
    actions = one.actions[rows].double()
    if frame.low is not None and frame.high is not None:  # as they are, beyond the bounds too
        low, high = frame.low.double(), frame.high.double()
        actions = (low + high) / 2 + actions * (high - low) / 2
    drawn = stills(frame.environment, one.observations()[rows].numpy(), actions.numpy(), _TILE)
    words = [
        (f"no. {row + 1}, stands for {count}", f"moved {found.moved[row]:.1f}, nearest {found.nearest[row]:.1f}"
         + " (cut)" * cut)
        for (row, count), cut in zip(chosen, drawn.clipped)
    ]  # fmt: skip
    far = " (cut): positions far off are drawn closer." * any(drawn.clipped)
    # what MuJoCo draws has arcs and an arrow; Gymnasium's own pictures do not
    marks = (
        "Arcs show the way that each torque turns its joint, blue above 0 and orange below; the dark arrow is a tenth "
        "of a second of velocity. " * ("MuJoCo" in drawn.drawn_by)
    )
    text = (
        f"{len(rows)} of {len(one)} states, each nearest to the centre of a cluster, with the actions to take there "
        f"(bars; a notch: beyond the bounds). {marks}Below: how far the state moved and how far the nearest recorded "
        f"one is, in standard deviations. States are {drawn.drawn_by}.{far}"
    )
    data = {"data": _sheet(drawn.pictures, words), "width": _ACROSS * (_TILE + 10)}
    return Figure("image", "What the set teaches", data, text, section)


def _sheet(pictures: Sequence[np.ndarray], words: Sequence[tuple[str, str]]) -> str:
    """Pictures side by side, each over its words, as a PNG in base64."""
    edge, line = 10, 16
    wide, high = pictures[0].shape[1], pictures[0].shape[0]
    across = min(_ACROSS, len(pictures))
    down = -(-len(pictures) // across)
    each = high + len(words[0]) * line + edge
    sheet = Image.new("RGB", (across * (wide + edge) - edge, down * each), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, (picture, own) in enumerate(zip(pictures, words)):
        left, top = k % across * (wide + edge), k // across * each
        sheet.paste(Image.fromarray(picture), (left, top))
        for number, text in enumerate(own):
            draw.text((left + 2, top + high + number * line), text, fill=(45, 55, 72), font=font)
    stream = io.BytesIO()
    sheet.quantize(192, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


# --- cost -------------------------------------------------------------------------------------------------------------


def peak_memory() -> float | None:
    """The most memory that this process has held, in MB; None where the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def cost_table(lines: Sequence[Line], learner: DistilLearner, memory: float | None) -> Figure | None:
    """Processor seconds of an outer step and of what it consists of; None where no line tells."""
    times = [line.get("time", {}).get("cpu") for line in lines if line.get("kind") == "train"]
    known = [value for value in times if isinstance(value, int | float)]
    if not known:
        return None
    step = median(known)
    inner = learner.inner.steps * learner.at_once
    rows: list[list[Any]] = [["outer step, processor ms", significant(1e3 * step)]]
    if inner:
        rows.append(["a step of one student and back, processor ms", significant(1e3 * step / inner)])
    if memory is not None:
        rows.append(["most memory of the process, MB", significant(memory)])
    text = (
        f"Medians; {learner.at_once} students of {learner.inner.steps} steps on {len(learner.states)} pairs, compared "
        f"on {learner.batch_size} recorded states. Evaluations are not in it."
    )
    return Figure("table", "What an outer step costs", {"columns": ["", "measured"], "rows": rows}, text, "Cost")
