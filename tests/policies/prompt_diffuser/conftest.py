"""A small frozen policy with the few episodes of two tasks, and a small diffusion model of their prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.prompt_diffuser.model import PromptDiffuser
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.tasks import PolicyData


def make_policy(made: list, *, pooled: bool = True, dtype: torch.dtype = torch.float32) -> SavedPolicy:
    """A policy of 3-step prompts for ``made``; its blocks are so large that prompts make a difference."""
    pool: Any = "pooled" if pooled else "task"
    data = PolicyData(made, context=4, prompt=3, normalisation=pool, scale=pool, dtype=dtype)
    model = DecisionTransformer(5, 2, width=8, layers=1, heads=2, context=4, prompt=3, max_timestep=20)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(20 if name.startswith("blocks.") and value.ndim == 2 else 1)
    return SavedPolicy(model.to(dtype), data.table, None, list(range(len(made))), {}, {})


def make_diffuser(shots: FewShots | None = None, **changes: Any) -> PromptDiffuser:
    """A diffusion model of 5-wide states and 2-wide actions, fitted to the pool of ``shots``."""
    options: dict[str, Any] = {"steps": 4, "width": 16, "layers": 2, "embedding": 4, **changes}
    diffuser = PromptDiffuser(5, 2, 3, 14, **options)
    if shots is not None:
        diffuser = diffuser.to(shots.table.mean.dtype)
        assert shots.pool is not None
        diffuser.fit(shots.pool)
    return diffuser


@pytest.fixture
def policy() -> Callable[..., SavedPolicy]:
    return make_policy


@pytest.fixture
def diffuser() -> Callable[..., PromptDiffuser]:
    return make_diffuser


@pytest.fixture
def shots(tasks) -> FewShots:
    """Two tasks, five episodes each."""
    made = tasks(2)
    return FewShots(make_policy(made), [one.select(range(5)) for one in made])


@pytest.fixture
def precise(tasks) -> FewShots:
    """The same in double precision."""
    made = tasks(2)
    return FewShots(make_policy(made, dtype=torch.float64), [one.select(range(5)) for one in made])
