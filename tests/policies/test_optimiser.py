"""The learning-rate schedule at its ends."""

from __future__ import annotations

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.optimiser import FlatAdamW, learning_rate


def test_the_first_step_of_a_warm_up_moves_and_the_last_has_the_whole_rate():
    assert [learning_rate(t, 2.0, 4, "constant", 100) for t in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_a_cosine_is_the_whole_rate_after_the_warm_up_none_at_the_end_and_none_past_it():
    found = [learning_rate(t, 2.0, 10, "cosine", 110) for t in (10, 60, 110, 150, 1000)]
    assert found == pytest.approx([2.0, 1.0, 0.0, 0.0, 0.0], abs=1e-12)
    assert learning_rate(3, 2.0, 0, "cosine", 0) == pytest.approx(0.0)  # nothing planned: past the end


def test_another_schedule_is_refused():
    with pytest.raises(ManyoneError, match="schedule 'linear': must be constant or cosine"):
        learning_rate(0, 1.0, 0, "linear", 10)


def test_the_flat_optimiser_is_torchs_bit_by_bit_and_goes_on_from_its_state():
    draw = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 9, generator=draw)
    theirs = ours.clone().requires_grad_()
    torchs = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3, fused=True)
    flat = FlatAdamW(ours, 0.3, "shared")
    for step in range(4):
        theirs.grad = torch.randn(2, 9, generator=draw)
        torchs.param_groups[0]["lr"] = 0.1 / (step + 1)
        torchs.step()
        flat.step(theirs.grad, 0.1 / (step + 1))
        assert torch.equal(ours, theirs)
        fresh = FlatAdamW(ours, 0.3, "shared")
        fresh.load_state_dict({name: value.clone() for name, value in flat.state_dict().items()})
        flat = fresh
