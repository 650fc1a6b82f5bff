"""What denoisers are told: sinusoids of a step, conditions and their absence."""

import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.embedding import ConditionEmbedding, StepEmbedding, frequencies, sinusoids


def test_sinusoids_are_the_published_ones():
    found = sinusoids(torch.tensor([0, 7]), frequencies(8))
    for row, n in zip(found, (0, 7)):
        rates = [10000 ** (-i / 3) for i in range(4)]
        wanted = [math.sin(n * f) for f in rates] + [math.cos(n * f) for f in rates]
        assert row.tolist() == pytest.approx(wanted, abs=1e-6)
    assert StepEmbedding(8, 16)(torch.tensor([1, 2, 3])).shape == (3, 8)


def test_an_absent_condition_is_zero_whatever_it_holds():
    embed = ConditionEmbedding(2, 8)
    given, present = torch.randn(3, 2), torch.tensor([True, False, True])
    found = embed(given, present, 3)
    assert torch.equal(found[1], torch.zeros(8))
    assert torch.equal(found[present], embed(given, None, 3)[present])
    assert torch.equal(embed(None, None, 3), torch.zeros(3, 8))


def test_wrong_sizes_are_named():
    for width in (2, 7):
        with pytest.raises(ManyoneError, match=f"embedding = {width}: must be even and at least 4"):
            frequencies(width)
    with pytest.raises(ManyoneError, match="condition of 3 numbers: this network was built for 2"):
        ConditionEmbedding(2, 8)(torch.zeros(1, 3), None, 1)
