"""Offline data of a sequence of tasks as a planner trains on it: windows of aligned states and actions.

Public names: :class:`PlanBatch`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PlanBatch(NamedTuple):
    """B windows of T steps of one task, aligned: all tasks have the same widths Ds and Da."""

    states: Tensor
    """[B, T, Ds]"""
    actions: Tensor
    """[B, T, Da]"""
    returns: Tensor
    """What the windows' first steps still earn, from 0 (the task's least) to 1 (its most), [B]."""
    valid: Tensor
    """Steps that are within the episode, bool [B, T]; what follows an episode's end repeats its last state."""
    times: Tensor
    """When the windows begin in their episodes, from 0 to 1 for the longest of the task's, [B]."""
