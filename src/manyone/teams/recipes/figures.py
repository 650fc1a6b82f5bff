"""What the page of a team's run draws: who hears whom, returns, messages, the gate, and an episode.

Written as ``figures.json`` into the run folder; ``manyone report RUN`` puts them on the page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Circle, FancyArrowPatch
from PIL import Image

from manyone.claims.figure import Figure, image_of
from manyone.engine.files import part_beside, writing
from manyone.envs.teams.types import TeamSpec

_FRAMES_A_SECOND, _HOLD = 4.0, 1.5  # of a GIF; seconds that its last frame stays
Line = Mapping[str, Any]
"""One line of metrics.jsonl."""


def agent_labels(spec: TeamSpec) -> list[str]:
    """The agents' names, or numbers from 1 where the environment has none."""
    names = list(spec.agent_names) or [str(k + 1) for k in range(spec.agents)]
    return names if len(set(names)) == len(names) else [f"{name} {k + 1}" for k, name in enumerate(names)]


def draw_graph(links: np.ndarray, names: Sequence[str], strength: np.ndarray | None = None) -> str:
    """The communication graph as a PNG, base64: an arrow from each sender to whoever hears it.

    ``links`` [n, n], row = receiver; ``strength`` [n, n] in 0..1 sets the arrows' width. A node grows with
    the number of its listeners.
    """
    n = len(names)
    angle = [math.pi / 2 - 2 * math.pi * k / n for k in range(n)]
    at = [(math.cos(a), math.sin(a)) for a in angle]
    canvas = Canvas(figsize=(5.6, 4.6), dpi=110)
    FigureCanvasAgg(canvas)
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.set_xlim(-1.704, 1.704)
    axes.set_ylim(-1.4, 1.4)
    axes.set_axis_off()
    heard = [int(links[:, j].sum() - links[j, j]) for j in range(n)]
    most = max([*heard, 1])
    size = [0.07 + 0.09 * h / most for h in heard]
    for i in range(n):
        for j in range(n):
            if i == j or not links[i, j]:
                continue
            wide = 1.4 if strength is None else 0.6 + 2.4 * float(strength[i, j])
            arrow = FancyArrowPatch(
                at[j], at[i], connectionstyle="arc3,rad=0.14", arrowstyle="-|>", mutation_scale=11, linewidth=wide,
                color="#2b6cb0", alpha=0.75, shrinkA=130 * size[j], shrinkB=130 * size[i],
            )  # fmt: skip
            axes.add_patch(arrow)
    for k, (x, y) in enumerate(at):
        axes.add_patch(Circle((x, y), size[k], facecolor="#fbd38d", edgecolor="#744210", linewidth=1.2, zorder=3))
        axes.text(x, y, str(k + 1), ha="center", va="center", fontsize=10, zorder=4)
        if names[k] != str(k + 1):
            out = 1.05 + size[k]
            side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
            axes.text(x * out, y * out, names[k], ha=side, va="bottom" if y > 0 else "top", fontsize=8)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    return base64.b64encode(stream.getvalue()).decode()


def graph_figures(spec: TeamSpec, links: np.ndarray, strength: np.ndarray | None) -> list[Figure]:
    """Who hears whom: the drawn network, the matrix, and what a known best graph says about it."""
    names = agent_labels(spec)
    n = len(names)
    section = "Communication"
    learned = strength is not None
    hears = "learned" if learned else "fixed"
    count = int(links.sum())
    figures = []
    if count:
        figures.append(
            Figure(
                "image", f"The {hears} graph",
                {"data": draw_graph(links, names, strength), "width": 480},
                f"An arrow leads from the sender to the agent that hears it; {count} of {n * (n - 1)} possible links. "
                "A larger circle has more listeners." + (" Wider: the graph is surer of the link." if learned else ""),
                section,
            )
        )  # fmt: skip
    shown = links if strength is None else strength
    values = [[None if i == j else float(shown[i, j]) for j in range(n)] for i in range(n)]
    text = "Rows receive, columns send. " + (
        "Softmax of the logits over the other agents; the largest of each row are the links." if learned
        else "1: the agent hears the sender."
    )  # fmt: skip
    figures.append(
        Figure("matrix", "Who hears whom", {"rows": names, "columns": names, "values": values}, text, section)
    )
    heard = [float(links[:, j].sum()) for j in range(n)]
    figures.append(
        Figure("bars", "Listeners of each agent", {"names": names, "values": heard, "unit": "count"}, "", section)
    )
    best = spec.details.get("best_senders")
    if best is not None:
        rows = [
            [names[i], names[int(s)], ", ".join(names[j] for j in range(n) if links[i, j]) or "nobody",
             "yes" if links[i, int(s)] else "no"]
            for i, s in enumerate(best)
        ]  # fmt: skip
        table = {"columns": ["agent", "needs", "hears", "found"], "rows": rows}
        figures.append(Figure("table", "Against the best graph, which is known here", table, "", section))
    return figures


def curve(
    lines: Sequence[Line], metric: str, steps: int, *, title: str, label: str, section: str = "Learning"
) -> Figure | None:
    """A metric of training and of the evaluations (with its interval) over environment steps; None without two points.

    ``steps``: environment steps of an iteration. Training is averaged to at most 60 points.
    """

    def found(*kinds: str) -> list[Line]:
        return [line for line in lines if line.get("kind") in kinds and isinstance(line.get(metric), int | float)]

    def mean(part: Sequence[Line], name: str) -> float:
        return math.fsum(line[name] for line in part) / len(part)

    series: dict[str, Any] = {}
    tests = found("eval", "final")
    if len(tests) > 1:
        own = {"x": [t["step"] * steps for t in tests], "y": [t[metric] for t in tests]}
        ends = {end: [t.get(f"{metric}_{end}") for t in tests] for end in ("low", "high")}
        known = all(isinstance(v, int | float) for values in ends.values() for v in values)
        series["evaluation, greedy" + ", 95 % interval" * known] = own | (ends if known else {})
    trained = found("train")
    if len(trained) > 1:
        size = -(-len(trained) // 60)
        parts = [trained[k : k + size] for k in range(0, len(trained), size)]
        series["training, sampled actions"] = {
            "x": [mean(part, "step") * steps for part in parts], "y": [mean(part, metric) for part in parts],
        }  # fmt: skip
    if not series:
        return None
    return Figure("lines", title, {"series": series, "x_label": "environment steps", "y_label": label}, section=section)


def budget_figure(budgets: Sequence[Mapping[str, float]], own: Mapping[str, float]) -> Figure:
    """Messages a step against return: the trained policy under budgets from no link to all; ``own`` is how it acts."""
    points = sorted(budgets, key=lambda b: b["links"])
    names = {"x": "links", "y": "return", "low": "return_low", "high": "return_high"}
    series = {"only the strongest links of each agent": {k: [p[name] for p in points] for k, name in names.items()}}
    marks = [{"x": own["links"], "y": own["return"], "label": "as trained"}]
    data = {
        "series": series,
        "marks": marks,
        "x_label": "messages a step, whole team",
        "y_label": "return, 95 % interval",
    }
    text = (
        "The finished policy with other budgets than it was trained with: every agent keeps only its strongest links, "
        "the gate is open. Where the line is flat, messages bring nothing."
    )
    return Figure("lines", "Messages against return", data, text, "Communication")


def use_figure(spec: TeamSpec, use: Sequence[Sequence[float]]) -> Figure:
    """How often each link was used, ``use`` [n, n] shares of the test episodes' steps."""
    names = agent_labels(spec)
    values = [[None if i == j else v for j, v in enumerate(row)] for i, row in enumerate(use)]
    text = "Share of the test episodes' steps at which the message got through: link chosen, gates open."
    data = {"rows": names, "columns": names, "values": values, "unit": "%"}
    return Figure("matrix", "How often each link is used", data, text, "Communication")


def receiving_figure(spec: TeamSpec, received: Sequence[Sequence[float]]) -> Figure | None:
    """Who receives when within an episode, ``received`` [H, n]; rows without a running episode hold NaN."""
    rows = [row for row in received if not any(math.isnan(v) for v in row)]
    if len(rows) < 2:
        return None
    names = agent_labels(spec)
    x = list(range(1, len(rows) + 1))
    series = {"whole team": {"x": x, "y": [math.fsum(row) / len(row) for row in rows]}}
    if len(names) <= 5:
        series |= {name: {"x": x, "y": [row[k] for row in rows]} for k, name in enumerate(names)}
    data = {"series": series, "x_label": "step of the episode", "y_label": "share that receives"}
    text = "Of the episodes that still run at the step."
    return Figure("lines", "Receiving over an episode", data, text, "Communication")


def film_figure(path: Path) -> Figure:
    """An episode as a GIF."""
    return Figure(
        "image", "An episode", {"data": image_of(path), "width": 360}, "Greedy, the first test episode.", "Episode"
    )


def save_gif(frames: Sequence[np.ndarray], path: Path) -> None:
    """Writes frames [height, width, 3] as a looping GIF; the last one stays for a while."""
    wide = min(max(f.shape[1] for f in frames), 480)
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        if frame.shape[1] > wide:
            picture = picture.resize((wide, round(frame.shape[0] * wide / frame.shape[1])))
        pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    times = [round(1000 / _FRAMES_A_SECOND)] * (len(pictures) - 1) + [round(1000 * _HOLD)]
    with writing(path), part_beside(path) as part:
        pictures[0].save(part / path.name, save_all=True, append_images=pictures[1:], duration=times, loop=0)
        (part / path.name).replace(path)
