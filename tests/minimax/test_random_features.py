"""Random features: the kernel that they stand for, and that a seed fixes them."""

import torch

from manyone.minimax.random_features import random_cosines


def test_inner_products_tend_to_the_gaussian_kernel_of_width_0_3():
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = 0.3 * rows / rows.norm(dim=1, keepdim=True)
    features = random_cosines(rows, 40_000)
    kernel = torch.exp(-torch.cdist(rows, rows).square() / (2 * 0.3**2))
    assert float((features @ features.T - kernel).abs().max()) < 0.03


def test_a_seed_fixes_them_and_more_of_them_than_rows_are_independent():
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(random_cosines(rows, 64, 1), random_cosines(rows, 64, 1))
    assert not torch.equal(random_cosines(rows, 64, 1), random_cosines(rows, 64, 2))
    assert int(torch.linalg.matrix_rank(random_cosines(rows, 64))) == 20
