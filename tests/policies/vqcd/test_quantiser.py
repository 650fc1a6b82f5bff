"""Codebooks: nearest codes, whose gradient goes where, the bound, starts and moving averages."""

from __future__ import annotations

import pytest
import torch
from tests.reference import vqcd as plain

from manyone.errors import ManyoneError
from manyone.policies.vqcd.quantiser import VectorQuantiser, cluster_means, code_use, initial_codes, nearest_codes
from manyone.randomness import generator_for


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator_for(seed, "test", *shape))


@pytest.mark.parametrize("width", [1, 2, 6])  # 6: compared with all codes, not by a tree
def test_the_nearest_code_is_the_one_that_a_loop_finds(width):
    codes, encoded = normal(40, width), normal(7, 3 * width)
    quantiser = VectorQuantiser(40, width)
    with torch.no_grad():
        quantiser.codebook.copy_(codes)
    for row, chosen, value in zip(encoded, quantiser.indices(encoded), quantiser.quantised(encoded), strict=True):
        expected, numbers = plain.quantise(row, codes)
        assert chosen.tolist() == numbers
        assert torch.equal(value, expected)


@pytest.mark.parametrize("width", [2, 6])
def test_codes_find_themselves_however_close_they_lie(width):
    codes = (3 - 1e-6 * torch.arange(64.0)).unsqueeze(1).expand(64, width).contiguous()
    found = nearest_codes(codes, codes)
    assert torch.equal(codes[found], codes)
    expanded = (codes.square().sum(1) - 2 * codes @ codes.T).argmin(1)  # what a faster formula would have said
    assert not torch.equal(codes[expanded], codes)


def test_quantised_vectors_are_rows_of_the_codebook_and_stay_what_they_are():
    quantiser = VectorQuantiser(30, 2, seed=1)
    z = quantiser.quantised(normal(50, 8))
    rows = {tuple(row) for row in quantiser.codebook.tolist()}
    assert {tuple(latent) for latent in z.reshape(-1, 2).tolist()} <= rows
    assert torch.equal(quantiser.quantised(z), z)
    through, _ = quantiser(z.requires_grad_())
    assert torch.equal(through, z), "what the decoder reads are the codes, not codes and a rounding error"


def test_the_decoders_gradient_reaches_the_encoder_unchanged_and_not_the_codebook():
    quantiser, encoded = VectorQuantiser(30, 2), normal(5, 8).requires_grad_()
    through, _ = quantiser(encoded)
    through.retain_grad()
    (through * normal(5, 8, seed=1)).square().sum().backward()
    assert torch.equal(encoded.grad, through.grad)
    assert bool((encoded.grad != 0).all())
    assert quantiser.codebook.grad is None


def gradients(commitment: float) -> tuple[torch.Tensor, torch.Tensor]:
    quantiser, encoded = VectorQuantiser(30, 2, commitment=commitment), normal(5, 8).requires_grad_()
    quantiser(encoded)[1].backward()
    return encoded.grad, quantiser.codebook.grad


def test_the_penalty_pulls_codes_to_encodings_and_c_times_as_much_encodings_to_codes():
    encoded, codebook = gradients(0.25)
    quantiser = VectorQuantiser(30, 2)
    chosen = quantiser.indices(normal(5, 8))
    apart = normal(5, 8).view(5, 4, 2) - quantiser.codebook.detach()[chosen]
    assert torch.allclose(encoded, 0.25 * 2 / 5 * apart.flatten(1))
    pulled = torch.zeros(30, 2).index_add_(0, chosen.flatten(), -2 / 5 * apart.reshape(-1, 2))
    assert torch.allclose(codebook, pulled)
    assert bool((codebook[code_is_free(chosen, 30)] == 0).all())


def code_is_free(chosen: torch.Tensor, codes: int) -> torch.Tensor:
    free = torch.ones(codes, dtype=torch.bool)
    free[chosen.flatten()] = False
    return free


def test_c_scales_the_encoders_gradient_alone():
    (encoded, codebook), (encoded4, codebook4), (none, codebook0) = gradients(0.25), gradients(1.0), gradients(0.0)
    assert torch.equal(encoded4, 4 * encoded)
    assert torch.equal(codebook4, codebook)
    assert torch.equal(codebook0, codebook)
    assert not none.any()


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_codes_stay_within_the_bound_also_when_they_are_pulled_out_of_it(codebook):
    quantiser, far = VectorQuantiser(16, 2, codebook=codebook), 50 + normal(64, 4)
    adam = torch.optim.Adam(quantiser.parameters(), lr=0.5)
    beyond = False
    for _ in range(30):
        adam.zero_grad()
        quantiser(far)[1].backward() if codebook == "gradient" else quantiser(far)
        adam.step()
        beyond |= float(quantiser.codebook.detach().abs().max()) > 3
        quantiser.after_step()
        assert float(quantiser.codebook.abs().max()) <= 3
    assert float(quantiser.codebook.max()) == 3, "they were pulled out"
    assert beyond == (codebook == "gradient"), "the gradient would have left it; the average is clipped at once"


def test_a_moving_average_brings_codes_to_the_means_of_what_chose_them_and_takes_no_gradient():
    centres = torch.tensor([[-2.0, 1.0], [1.5, -0.5]])
    points = (centres.repeat(100, 1) + 0.1 * normal(200, 2)).view(50, 8)
    quantiser = VectorQuantiser(2, 2, codebook="ema", init="kmeans")
    quantiser.begin(points + 0.3)
    start = quantiser.codebook.clone()
    for _ in range(600):
        assert not quantiser(points)[1].requires_grad
        quantiser.after_step()
    chosen = quantiser.indices(points).flatten()
    means = torch.stack([points.view(-1, 2)[chosen == code].mean(0) for code in range(2)])
    assert torch.allclose(quantiser.codebook, means, atol=1e-2)
    assert float((start - means).abs().max()) > 0.25


def test_codes_that_nothing_chooses_stay_where_they_are_under_a_moving_average():
    quantiser = VectorQuantiser(8, 2, codebook="ema", seed=3)
    chosen = quantiser.indices(torch.zeros(4, 2))[0, 0]
    before = quantiser.codebook.clone()
    quantiser(torch.zeros(4, 2))
    quantiser.after_step()
    others = torch.arange(8) != chosen
    assert torch.allclose(quantiser.codebook[others], before[others], atol=1e-4)
    assert not torch.allclose(quantiser.codebook[chosen], before[chosen], atol=1e-3)


def test_as_many_codes_as_distinct_points_give_every_point_back():
    points = torch.randint(-2, 3, (300, 8), generator=generator_for(0, "points")).float()  # 25 distinct pairs
    exact = VectorQuantiser(25, 2, init="kmeans")
    exact.begin(points)
    assert torch.equal(exact.quantised(points), points)
    few = VectorQuantiser(24, 2, init="kmeans")
    few.begin(points)
    assert not torch.equal(few.quantised(points), points)


def test_more_codes_never_give_a_larger_error():
    points = normal(400, 4)
    errors = []
    for codes in (1, 4, 16, 64, 256):
        quantiser = VectorQuantiser(codes, 2, init="kmeans")
        quantiser.begin(points)
        errors.append(float((quantiser.quantised(points) - points).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * errors[0]


def test_clusters_are_the_points_own():
    points = torch.tensor([[0.0, 0.0], [0.0, 0.2], [5.0, 5.0], [5.0, 5.2]]).repeat(10, 1)
    found = cluster_means(points, torch.zeros(2, 2), seed=0)
    assert sorted(found.tolist()) == [[0.0, pytest.approx(0.1)], [5.0, pytest.approx(5.1)]]


def test_starts():
    assert float(initial_codes("normal", 512, 2, 0).std()) == pytest.approx(1, abs=0.05)
    assert float(initial_codes("uniform", 512, 2, 0).abs().max()) <= 1 / 512
    assert torch.equal(initial_codes("normal", 512, 2, 0), initial_codes("normal", 512, 2, 0))
    assert not torch.equal(initial_codes("normal", 512, 2, 0), initial_codes("normal", 512, 2, 1))
    quantiser = VectorQuantiser(16, 2)
    before = quantiser.codebook.clone()
    quantiser.begin(normal(9, 4))
    assert torch.equal(quantiser.codebook, before), "only k-means takes the first encodings"


def test_the_use_of_codes():
    assert code_use(torch.tensor([[0, 1], [1, 0]]), 5) == {
        "codes_used": 2.0, "dead_codes": 3.0, "perplexity": pytest.approx(2.0),
    }  # fmt: skip
    assert code_use(torch.tensor([3] * 9), 5)["perplexity"] == pytest.approx(1.0)
    assert code_use(torch.arange(5), 5)["perplexity"] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": 0}, "codes = 0: must be at least 1"),
        ({"commitment": -1.0}, "commitment = -1.0: must be 0 or more"),
        ({"bound": 0.0}, "bound = 0.0: must be positive"),
        ({"init": "zeros"}, "codebook init 'zeros': must be normal, kmeans, uniform"),
        ({"codebook": "adam"}, "codebook 'adam': must be gradient or ema"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ManyoneError, match=message):
        VectorQuantiser(**arguments)


def test_encodings_that_are_no_numbers_say_what_to_do():
    with pytest.raises(ManyoneError, match="no longer finite: try a smaller alignment learning rate"):
        VectorQuantiser(4, 2).quantised(torch.tensor([[float("nan"), 0.0]]))
