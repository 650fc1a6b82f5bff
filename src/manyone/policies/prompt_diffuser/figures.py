"""What a report shows of a prompt diffuser: the angle between its two gradients, and its prompts beside real ones.

Public names: :func:`guidance_figure`, :func:`prompt_figures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from manyone.claims.figure import Figure
from manyone.policies.prompt_diffuser.acting import PromptGenerator
from manyone.policies.prompt_diffuser.prompts import PromptPool
from manyone.policies.protocol import History
from manyone.policies.tasks import label

SECTION = "Prompts"
_TASKS = 4  # whose prompts are drawn
_DRAWS = 32
_POINTS = 150  # of a curve


def guidance_figure(history: History, first_steps: int) -> Iterator[Figure]:
    """Cosine of the denoising and the imitation gradient over the steps, and the share of conflicts."""
    if not history.get("cosine"):
        return
    series = {}
    for name, metric in (("cosine", "cosine"), ("share of tasks in conflict", "conflict")):
        steps, values = zip(*history[metric])
        series[name] = _smoothed([float(s) for s in steps], [float(v) for v in values])
    marks = [{"x": float(first_steps), "label": "stage 2"}] if 0 < first_steps < history["cosine"][-1][0] else []
    data: dict[str, Any] = {"series": series, "x_label": "step", "y_label": "cosine, share", "marks": marks}
    caption = (
        "Between the gradients of the denoising and of the imitation loss, before the projection; means of blocks."
    )
    yield Figure("lines", "Cosine of the two gradients", data, caption, SECTION)


def prompt_figures(generator: PromptGenerator, pool: PromptPool, names: Sequence[str], seed: int) -> Iterator[Figure]:
    """Generated prompts beside the real ones of the first tasks: the main direction of (s, a), and the rewards."""
    chosen = list(names[:_TASKS])
    real = [torch.cat((own["observations"], own["actions"]), -1) for own in map(pool.task, range(len(chosen)))]
    every = torch.cat([one.flatten(0, 1) for one in real])
    axis = torch.linalg.svd(every - every.mean(0), full_matrices=False).Vh[0]
    curves: dict[str, dict[str, Any]] = {}
    rewards: dict[str, dict[str, Any]] = {}
    for task, name in enumerate(chosen):
        made, x = generator.draw(name, range(_DRAWS), seed)
        drawn = torch.cat((made["observations"], made["actions"]), -1)
        for kind, values in (("real", real[task]), ("generated", drawn)):
            curves[f"{label(name)}, {kind}"] = _band((values - every.mean(0)) @ axis) | {"group": kind}
        if generator.diffuser.reward:
            for kind, values in (("real", pool.task(task)["rewards"]), ("generated", generator.diffuser.rewards(x))):
                rewards[f"{label(name)}, {kind}"] = _band(values) | {"group": kind}
    caption = f"Mean and range of the tasks' real prompts and of {_DRAWS} generated ones, step by step."
    for title, series, y in (("States and actions of prompts", curves, "first principal component"),
                             ("Rewards of prompts", rewards, "reward")):  # fmt: skip
        if series:
            data = {"series": series, "x_label": "step of the prompt", "y_label": y}
            yield Figure("lines", title, data, caption, SECTION)


def _band(values: Tensor) -> dict[str, Any]:
    """Mean, least and largest over the prompts [n, K*] at each step."""
    steps = list(range(1, values.shape[1] + 1))
    return {"x": steps, "y": values.mean(0).tolist(), "low": values.amin(0).tolist(), "high": values.amax(0).tolist()}


def _smoothed(steps: list[float], values: list[float]) -> dict[str, list[float]]:
    """At most so many points, each the mean of a block."""
    size = -(-len(steps) // _POINTS)
    blocks = [slice(i, i + size) for i in range(0, len(steps), size)]
    return {key: [sum(own[b]) / len(own[b]) for b in blocks] for key, own in (("x", steps), ("y", values))}
