"""Experts that are probably not what was meant: one alone, the same twice, the base among them.

What such a merge computes is well defined except where a direction is asked for that is not there (a task vector of
zero in spherical interpolation of task vectors): that is refused, all else is said. Two models are compared by their
values, beginning with their small tensors, until the first that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from manyone.errors import ManyoneError
from manyone.merging.static.movement import names_of
from manyone.merging.static.plan import Plan
from manyone.merging.static.stream import working_dtype
from manyone.weights.checkpoint import Checkpoint

_MEANS = ("average", "fisher", "regmean")
"""Methods that give a single expert back as it is."""


def doubts(method: str, plan: Plan, options: Mapping[str, Any]) -> Iterator[str]:
    """What the user should know of the experts, a line each; ``ManyoneError`` where the merge would have no sense."""
    names = names_of(plan.experts)
    if len(plan.experts) == 1 and method in _MEANS:
        yield f"one expert only, {names[0]}: {method} of one is that expert"
    still = [name for name, expert in zip(names, plan.experts) if same_values(plan, plan.base, expert)]
    for name in still:
        if method == "slerp" and options.get("space") == "task-vectors":
            raise ManyoneError(
                f"{name}: is the base itself: its task vector is zero and has no direction; leave it out"
            )
        if method == "model-stock":
            raise ManyoneError(f"{name}: is the base itself: its task vector is zero and has no angle; leave it out")
        if method == "slerp":
            continue  # from the base to an expert is a way that people go
        effect = "it draws the result to the base" if method in _MEANS else "its task vector is zero and adds nothing"
        yield f"{name}: is the base itself; {effect}"
    for k, name in enumerate(names):
        twin = next((j for j in range(k) if same_values(plan, plan.experts[j], plan.experts[k])), None)
        if twin is not None and name not in still:
            yield f"{name}: has the same weights as {names[twin]}, which counts twice"


def same_values(plan: Plan, one: Checkpoint, other: Checkpoint) -> bool:
    """Whether both models have the same values in all that is merged."""
    for name in sorted(plan.merged, key=lambda name: plan.info(name).numel):
        if one.entries[name] is other.entries[name]:
            continue
        dtype = working_dtype(plan.base.info(name).dtype)
        for _, start, stop in plan.chunks([name]):
            buffers = [np.empty(stop - start, dtype) for _ in range(2)]
            a, b = (m.floats(name, start, stop, out) for m, out in zip((one, other), buffers))
            if not np.array_equal(a, b):
                return False
    return True
