"""What every learner of policies can do besides training: give its policy, say what it cost, and show itself.

Public names: :class:`PolicyTrainer`, :data:`History`, :func:`effort_of`, :func:`sizes_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from manyone.claims.figure import Figure
from manyone.engine.learner import Learner
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import PolicyData

SECTION = "Masks and groups"
"""Where a report shows the figures."""
History = Mapping[str, Sequence[tuple[int, float]]]
"""What the steps measured: name of the metric -> (step, value)."""


class PolicyTrainer(Learner, Protocol):
    """A :class:`~manyone.engine.learner.Learner` of one policy for many tasks, or of one a task."""

    @property
    def iteration(self) -> int:
        """Steps taken."""

    def policy(self, variant: str = "") -> Any:
        """What acts in many episodes at once (the roll-outs' ``BatchedPolicy``), as it is now.

        ``variant`` is one of the learner's ways to act; "" is the one that it is judged by.
        """

    def effort(self) -> dict[str, float]:
        """What it has been trained with: ``updates`` of a network, and ``samples_per_task``, the steps of data whose
        actions the loss has compared (of a window of K steps, K), in the mean over tasks.
        """

    def sizes(self) -> dict[str, float]:
        """Trained parameters and, where there are masks or groups, their sizes."""

    def figures(self, policy: Any, history: History) -> Iterator[Figure]:
        """What a report shows of it, after ``policy`` has acted and the steps have measured ``history``."""


def effort_of(data: PolicyData, updates: int, tasks_per_step: int, batch_size: int) -> dict[str, float]:
    """``updates`` and ``samples_per_task`` after as many steps on ``tasks_per_step`` tasks of ``data`` each."""
    windows = updates * tasks_per_step * batch_size / len(data)
    return {"updates": float(updates), "samples_per_task": windows * data.window_steps}


def sizes_of(networks: Iterable[nn.Module], masks: TaskMasks | None = None) -> dict[str, float]:
    """Parameters of ``networks``; with ``masks`` their bytes and mean overlap."""
    sizes = {"trainable_parameters": float(sum(p.numel() for net in networks for p in net.parameters()))}
    if masks is not None:
        sizes["mask_bytes"] = float(masks.nbytes)
        count = len(masks)
        if count > 1:
            overlap = masks.overlap().double()
            sizes["mask_overlap"] = float((overlap.sum() - overlap.diagonal().sum()) / (count * (count - 1)))
    return sizes
