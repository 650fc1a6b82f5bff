"""A small frozen policy and few episodes of new tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.tasks import PolicyData

SHAPE = {"width": 12, "layers": 2, "heads": 3, "max_timestep": 20}


def few_shots(
    tasks: Callable[..., list], count: int = 3, prompt: int = 3, dtype: torch.dtype = torch.float32, **options
) -> FewShots:
    """Of ``count`` tasks five episodes each, for a policy of other tasks."""
    made = tasks(count + 2)
    data = PolicyData(made[count:], context=4, prompt=prompt, normalisation="pooled", scale="pooled", dtype=dtype)
    model = DecisionTransformer(5, 2, context=4, prompt=prompt, seed=1, **SHAPE).to(dtype)
    with torch.no_grad():  # fresh blocks hardly look at a prompt
        for block in model.blocks.parameters():
            block.mul_(12 if block.ndim == 2 else 1)
    policy = SavedPolicy(model, data.table, None, [0, 1], {}, {})
    return FewShots(policy, [one.select(range(5)) for one in made[:count]], **options)


def fingerprint(model: DecisionTransformer) -> str:
    """A hash of all weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()
