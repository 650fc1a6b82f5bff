import pytest
import torch
from tests.reference.minimax import simplex_projection

from manyone.errors import ManyoneError
from manyone.minimax.problems.projections import ball, box, nonnegative, simplex


@pytest.mark.parametrize("seed", range(10))
def test_simplex_projection(seed):
    y = 2 * torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = simplex(y)
    assert float((z.sum(-1) - 1).abs().max()) <= 1e-14
    assert float(z.min()) >= 0
    assert torch.allclose(simplex(z), z, atol=1e-15)  # idempotent
    assert torch.allclose(simplex(y + 3.7), z, atol=1e-14)  # adding a constant changes nothing
    for row, found in zip(y, z, strict=True):
        assert torch.allclose(simplex_projection(row), found, atol=1e-12)  # brute force


def test_simplex_corners():
    assert simplex(torch.tensor([5.0, 0.0, 0.0])).tolist() == [1.0, 0.0, 0.0]
    assert simplex(torch.tensor([4.0])).tolist() == [1.0]
    assert simplex(torch.tensor([1.0, 1.0]), total=4.0).tolist() == [2.0, 2.0]
    with pytest.raises(ManyoneError, match="positive"):
        simplex(torch.ones(2), total=0.0)


def test_other_sets():
    y = torch.tensor([[3.0, -4.0], [0.3, 0.4]])
    assert nonnegative(y).tolist() == [[3.0, 0.0], [pytest.approx(0.3), pytest.approx(0.4)]]
    assert box(y, -1.0, 1.0)[0].tolist() == [1.0, -1.0]
    assert torch.allclose(ball(y, 1.0), torch.tensor([[0.6, -0.8], [0.3, 0.4]]))
