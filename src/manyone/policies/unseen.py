"""Tasks that no mask was trained for: the vote of all masks, and a prompt of the new task's data.

Hu et al., "HarmoDT" (arXiv 2405.18080): M_vote = 1[sum_i M_i >= c]. The prompt alone carries the new task's identity;
nothing is fine-tuned. Public names: :func:`unseen_policy`.
"""

from __future__ import annotations

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.acting import SequencePolicy
from manyone.policies.masks import TaskMasks
from manyone.policies.tasks import PolicyData


def unseen_policy(
    model: DecisionTransformer, data: PolicyData, masks: TaskMasks | None = None, *, threshold: int | None = None
) -> SequencePolicy:
    """A policy for the tasks of ``data``, which were not trained on: their statistics, targets and prompts.

    ``threshold`` is c, 1 (the union of all masks) to N (their intersection); None: half of the masks, rounded up (25
    of 50). Without ``masks`` the network is dense.
    """
    if model.id_tokens:
        raise ManyoneError("a network with task tokens knows no token for an unseen task: use one with prompts")
    if model.widths:
        raise ManyoneError("a network with maps of each task's own widths has none for an unseen task")
    if masks is None:
        return SequencePolicy(model, data.table)
    vote = TaskMasks.ones(masks.shapes, 1)
    vote.set(0, masks.vote(-(-len(masks) // 2) if threshold is None else threshold).cpu())
    return SequencePolicy(model, data.table, vote, assignment=[0] * len(data))
