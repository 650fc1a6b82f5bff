"""Joint training: all tasks' data at once. What sequential training would like to reach; no upper bound of it.

    theta = argmin of (1 / I) sum_i L_i        one step takes the windows of one task, the tasks in turn

As many steps as all tasks of a sequence have together, each on a batch of one task (task ``step mod I``), so that every
task has had as many windows as in a sequence. The network is told the task. With one task it is fine-tuning.
Public names: :class:`Joint`.
"""

from __future__ import annotations

from manyone.policies.vqcd.strategy import Strategy


class Joint(Strategy):
    """All tasks in one phase, in turn."""

    def shares(self, task: int, step: int) -> list[tuple[int, float]]:
        """The tasks in turn."""
        return [(step % self.trainee.tasks, 1.0)]
