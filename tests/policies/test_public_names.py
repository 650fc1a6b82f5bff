"""The names that a user imports from the field."""

from __future__ import annotations

import numpy as np
import pytest

import manyone.policies as policies


def test_every_public_name_is_there_and_listed():
    assert {"load_policy", "load", "save", "PolicyLearner", "GroupedLearner", "TaskMasks", "PolicyData"} <= set(
        policies.__all__
    )
    assert set(policies.__all__) <= set(dir(policies))
    assert all(getattr(policies, name) is not None for name in policies.__all__)
    with pytest.raises(AttributeError):
        policies.nothing  # noqa: B018


def test_a_method_is_a_plain_object_that_trains_saves_and_loads(tasks, tmp_path):
    data = policies.PolicyData(tasks(2), context=4, prompt=2)
    model = policies.build_model("harmodt", data, width=8, layers=1, heads=2)
    learner = policies.PolicyLearner(model, data, steps=4, mask_every=2, warmup=0)
    for _ in range(4):
        learner.step()
    policies.save(tmp_path / "a", model, data.table, learner.masks[0])
    policy = policies.load(tmp_path / "a")
    policy.reset("task-1")
    assert np.isfinite(policy.act(np.zeros(5))).all()
