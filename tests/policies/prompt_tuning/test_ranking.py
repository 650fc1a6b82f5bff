"""The direction from ranks: the sum over pairs, downhill on a quadratic, blind to anything but order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import prompt_tuning

from manyone.policies.prompt_tuning.ranking import rank_direction, rank_weights


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_the_direction_is_the_mean_over_pairs_ties_left_out(losses, seed):
    noise = torch.randn(len(losses), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = rank_direction(noise, torch.tensor(losses, dtype=torch.float64))
    torch.testing.assert_close(found, prompt_tuning.rank_direction(noise, losses), atol=1e-12, rtol=0)


def test_only_the_order_counts_and_stacks_are_rows():
    losses = torch.tensor([[3.0, 1.0, 2.0, 9.0], [0.0, 5.0, 5.0, -1.0]])
    assert torch.equal(rank_weights(losses.exp() + 4), rank_weights(losses))
    assert rank_weights(losses)[0].tolist() == pytest.approx([1 / 6, -3 / 6, -1 / 6, 3 / 6])
    noise = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    both = rank_direction(noise, losses)
    for row in range(2):
        torch.testing.assert_close(both[row], rank_direction(noise[row], losses[row]))


def test_it_points_uphill_on_a_quadratic_and_steps_against_it_come_down():
    draw = torch.Generator().manual_seed(1)
    scales = torch.linspace(0.5, 2, 8)
    x = torch.randn(8, generator=draw) * 3

    def value(points):
        return (scales * points.square()).sum(-1)

    first, cosines = float(value(x)), []
    for _ in range(120):
        noise = torch.randn(15, 8, generator=draw)
        direction = rank_direction(noise, value(x + 0.05 * noise))
        cosines.append(float(torch.cosine_similarity(direction, 2 * scales * x, dim=0)))
        x = x - 0.1 * direction
    assert min(cosines[:30]) > 0
    assert float(value(x)) < 0.01 * first
