import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.minimax.sampling import sample_indices, sample_normals


def test_a_draw_depends_on_seed_replica_client_and_step_alone():
    whole = sample_indices(7, 2, range(6), range(20), 50, 5)
    assert whole.shape == (20, 6, 5)
    assert torch.equal(sample_indices(7, 2, [4, 1], [13], 50, 5)[0], whole[13, [4, 1]])
    assert torch.equal(sample_indices(7, [2, 0], [4, 4], range(20), 50, 5)[:, 0], whole[:, 4])
    for other in (
        sample_indices(8, 2, range(6), range(20), 50, 5),
        sample_indices(7, 1, range(6), range(20), 50, 5),
        sample_indices(7, 2, range(6), range(20), 50, 5, stream=1),
    ):
        assert not torch.equal(other, whole)
    assert torch.equal(sample_indices(7, 2, range(6), range(20), 50, 3), whole[..., :3])


def test_draws_are_uniform_and_within_each_clients_size():
    draws = sample_indices(0, 0, range(4), range(5000), [1, 2, 10, 10], 2)
    assert draws[:, 0].max() == 0
    counts = np.bincount(draws[:, 2].flatten().numpy(), minlength=10)
    assert len(counts) == 10
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 27.9  # chi-square, 9 degrees of freedom, 0.1%
    assert abs(np.corrcoef(draws[:, 2, 0], draws[:, 3, 0])[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[1:, 2, 0], draws[:-1, 2, 0])[0, 1]) < 0.05


def test_normals():
    noise = sample_normals(3, 1, range(3), range(4), (500, 3))
    assert noise.shape == (4, 3, 500, 3)
    assert abs(float(noise.mean())) < 0.03
    assert float(noise.var()) == pytest.approx(1.0, abs=0.03)
    assert float((noise**4).mean()) == pytest.approx(3.0, abs=0.2)
    assert torch.equal(sample_normals(3, 1, [2], [3], (500, 3))[0, 0], noise[3, 2])


def test_errors():
    with pytest.raises(ManyoneError, match="client 5 has 0"):
        sample_indices(0, 0, [4, 5], [0], [3, 0], 1)
    with pytest.raises(ManyoneError, match="draws a step"):
        sample_indices(0, 0, [0], [0], 5, 0)
