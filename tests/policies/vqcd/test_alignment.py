"""Alignments of every kind: their loss against the plain one, widths, training that resumes, reports."""

from __future__ import annotations

import json

import pytest
import torch
from tests.reference import vqcd as plain

from manyone.errors import ManyoneError
from manyone.policies.vqcd.alignment import AlignmentTraining, feature_difference, make_alignment
from manyone.randomness import generator_for

KINDS = ("vq", "fsq", "ae", "vae", "padding")


def data(dim: int, rows: int = 600, seed: int = 0) -> torch.Tensor:
    """Rows of ``dim`` entries with few degrees of freedom, of unit variance or so."""
    draw = generator_for(seed, "data", dim)
    low, mixing = torch.randn(rows, 2, generator=draw), torch.randn(2, dim, generator=draw)
    return torch.tanh(low @ mixing) * 1.3


def draw() -> torch.Generator:
    return generator_for(0, "draw")


def trained(kind: str, x: torch.Tensor, steps: int = 150, **more):
    module = make_alignment(kind, x.shape[1], **{"hidden": 32, "codes": 64, "latents": 4} | more)
    training = AlignmentTraining(module, x, steps=steps, batch_size=64)
    while not training.done:
        training.step()
    return module


def layers(half: torch.nn.Sequential):
    return [(layer.weight, layer.bias) for layer in half if isinstance(layer, torch.nn.Linear)]


def test_the_loss_and_its_gradients_are_the_plain_ones():
    x = data(5, rows=7)
    module = make_alignment("vq", 5, latents=3, codes=11, hidden=6, commitment=0.4, seed=3)
    loss, mse = module.loss(x, draw())
    loss.backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters()}
    module.zero_grad()
    codebook = module.bottleneck.codebook
    expected = plain.qsa_loss(x, layers(module.encoder), layers(module.decoder), codebook, 0.4)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, value in module.named_parameters():
        assert torch.allclose(found[name], value.grad, rtol=1e-4, atol=1e-6), name
    assert float(mse) == pytest.approx(
        float((module.restored(module.aligned(x)).detach() - x).square().mean()), rel=1e-5
    )


def test_the_divergence_is_that_of_the_encodings_from_a_standard_normal():
    x = data(5, rows=7)
    module = make_alignment("vae", 5, latents=3, hidden=6, beta=2.0)
    loss, mse = module.loss(x, draw())
    mean, log_variance = module.encoder(x).chunk(2, -1)
    expected = sum(plain.gaussian_divergence(m, v) for m, v in zip(mean, log_variance, strict=True)) / 7
    assert float((loss - 5 * mse).detach()) == pytest.approx(2 * expected, rel=1e-4)
    assert torch.equal(module.aligned(x), mean), "once trained, the mean"
    noise = torch.randn(7, 6, generator=draw())
    drawn = mean + (log_variance / 2).exp() * noise
    assert float(mse) == pytest.approx(float((module.restored(drawn).detach() - x).square().mean()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [(4, 1), (11, 3), (17, 6)])
def test_every_space_has_one_width_and_comes_back_in_its_own(kind, dims):
    for dim, latents, width in zip(dims, (10, 5), (20, 10), strict=True):
        module = make_alignment(kind, dim, latents=latents, padded_width=width, hidden=8, codes=16)
        x = data(dim, rows=6).view(2, 3, dim)
        z = module.aligned(x)
        assert z.shape == (2, 3, width)
        assert module.width == width
        assert not z.requires_grad
        assert module.restored(z).shape == (2, 3, dim)
        with pytest.raises(ManyoneError, match=f"of {dim} entries to {width} got vectors of {dim + 1}"):
            module.aligned(torch.zeros(2, dim + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_error_and_the_bound_holds_for_all_data(kind):
    x = data(6)
    before, module = trained(kind, x, steps=1), trained(kind, x, steps=200)
    first, last = before.report(x), module.report(x)
    if kind == "padding":
        assert last["mse"] == 0
    else:
        assert last["mse"] < (0.8 if kind == "vae" else 0.2) * first["mse"]
    z = module.aligned(x)
    assert float(z.abs().max()) <= module.bound + 1e-6
    assert module.bound == 3 if kind in ("vq", "fsq") else 0 < module.bound < float("inf")
    assert torch.equal(module.quantised(z), z)


def test_codes_from_the_first_encodings_start_as_wide_as_normal_ones():
    x = data(6)
    module = make_alignment("vq", 6, latents=4, codes=64, hidden=32, init="kmeans")
    narrow = module.encoder(x)
    module.begin(x)
    encoded = module.encoder(x)
    assert float(narrow.detach().std()) < 0.3
    assert torch.allclose(encoded.mean(0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(encoded.std(0), torch.ones(8), atol=1e-3)
    assert module.report(x)["codes_used"] == 64
    other = make_alignment("vq", 6, latents=4, codes=64, hidden=32)
    before = other.encoder(x)
    other.begin(x)
    assert torch.equal(other.encoder(x), before), "only k-means changes the encoder's start"


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_codes_are_counted(kind):
    x = data(6)
    module = trained(kind, x)
    pairs = {tuple(pair) for pair in module.aligned(x).reshape(-1, 2).tolist()}
    report = module.report(x)
    assert report["codes_used"] == len(pairs) > 10
    assert report["codes_used"] + report["dead_codes"] == 64
    assert 1 < report["perplexity"] <= report["codes_used"]
    assert set(trained("ae", x, steps=1).report(x)) == {"mse"}


def test_a_planned_vector_is_moved_to_the_nearest_codes():
    module = trained("fsq", data(6))
    z = module.aligned(data(6))
    assert torch.equal(module.quantised(z + 0.1), z), "the grid of 8 values from -3 to 3 is 0.86 wide"
    vq = trained("vq", data(6))
    near = vq.quantised(vq.aligned(data(6)) + 0.3 * torch.randn(600, 8, generator=draw()))
    assert {tuple(p) for p in near.reshape(-1, 2).tolist()} <= {tuple(p) for p in vq.bottleneck.codebook.tolist()}


def test_a_grid_has_at_most_as_many_codes_as_asked_for():
    for codes, levels in ((512, 22), (484, 22), (483, 21), (4, 2)):
        assert make_alignment("fsq", 3, codes=codes).bottleneck.levels == levels
    with pytest.raises(ManyoneError, match="fsq has 1 value an entry"):
        make_alignment("fsq", 3, codes=3)


def test_the_grids_gradient_is_that_of_the_squashing():
    module = make_alignment("fsq", 3, codes=64)
    encoded = torch.tensor([[0.3, -0.8, 2.0, 0.0]], requires_grad=True)
    z, penalty = module.bottleneck(encoded, draw())
    z.sum().backward()
    assert torch.equal(z, module.bottleneck.code(encoded))
    assert torch.allclose(encoded.grad, 3 * (1 - torch.tanh(encoded.detach()) ** 2))
    assert float(penalty) == 0


@pytest.mark.parametrize("more", [{}, {"codebook": "ema", "init": "kmeans"}, {"kind": "vae"}])
def test_a_resumed_training_ends_in_the_same_bits(more):
    x, kind = data(6), more.pop("kind", "vq")

    def training():
        module = make_alignment(kind, 6, latents=3, hidden=8, codes=16, **more)
        return AlignmentTraining(module, x, steps=20, batch_size=16, seed=5, who="task")

    whole, first, second = training(), training(), training()
    seen = [whole.step() for _ in range(20)]
    for _ in range(8):
        first.step()
    second.load_state_dict(first.state_dict())
    rest = [second.step() for _ in range(12)]
    assert rest == seen[8:]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name
    assert whole.done
    assert second.done
    with pytest.raises(ManyoneError, match="has taken all its 20 steps"):
        whole.step()


def test_what_is_drawn_depends_on_the_seed_and_on_whose_it_is():
    def losses(**who):
        training = AlignmentTraining(make_alignment("ae", 6, hidden=8), data(6), steps=2, batch_size=16, **who)
        return [training.step()["loss"] for _ in range(2)]

    assert losses(who="a") == losses(who="a")
    assert losses(who="a") != losses(who="b")
    assert losses(who="a") != losses(who="a", seed=1)
    one, other = (make_alignment("vq", 6, hidden=8, seed=seed).state_dict() for seed in (0, 1))
    assert all(not torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_falls_from_the_first_to_the_last():
    training = AlignmentTraining(make_alignment("ae", 6, hidden=8), data(6), steps=101)
    assert training.rate(0) == pytest.approx(1e-3)
    assert training.rate(100) == pytest.approx(1e-4)
    assert training.rate(50) == pytest.approx((1e-3 + 1e-4) / 2)


def test_padding_needs_no_training_and_gives_everything_back():
    x = data(4)
    module = make_alignment("padding", 4, padded_width=7)
    training = AlignmentTraining(module, x, steps=50)
    assert training.done
    assert torch.equal(module.restored(module.aligned(x)), x)
    assert not module.aligned(x)[:, 4:].any()
    assert module.bound == float(x.abs().max())
    again = AlignmentTraining(make_alignment("padding", 4, padded_width=7), x, steps=50)
    again.load_state_dict(training.state_dict())
    assert again.done


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_makes_the_module_again(kind):
    x = data(6)
    module = trained(kind, x, steps=5, padded_width=9)
    again = make_alignment(**json.loads(json.dumps(module.config())))
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.aligned(x), module.aligned(x))
    assert again.bound == module.bound


def test_many_rows_give_what_few_give():
    x = data(3, rows=70_000)  # more than are aligned at once
    module = make_alignment("ae", 3, latents=1, hidden=4, layers=1)
    assert torch.allclose(module.aligned(x)[-100:], module.aligned(x[-100:]), atol=1e-6)
    assert module.aligned(x).shape == (70_000, 2)


def test_the_difference_of_features_is_a_mean_distance():
    near, far = torch.zeros(50, 4), torch.full((30, 4), 2.0)
    assert feature_difference(near, far) == pytest.approx(4.0)
    assert feature_difference(near, near) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "pca"}, "alignment 'pca': must be vq, fsq, ae, vae, padding"),
        ({"dim": 0}, "dim = 0: must be at least 1"),
        ({"hidden": 0}, "hidden = 0: must be at least 1"),
        ({"layers": -1}, "layers = -1: must be 0 or more"),
        ({"bound": -3.0}, "bound = -3.0: must be positive"),
        ({"kind": "vae", "beta": -1.0}, "beta = -1.0: must be 0 or more"),
        ({"kind": "padding", "padded_width": 2}, "padded_width = 2: must be at least the 5 entries"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ManyoneError, match=message):
        make_alignment(**{"kind": "vq", "dim": 5} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": torch.zeros(3, 4)}, r"alignment data \[3, 4\]: must be \[n, 6\]"),
        ({"data": torch.zeros(0, 6)}, r"alignment data \[0, 6\]"),
        ({"steps": 0}, "steps = 0: must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"last_lr": 0.1}, "last_lr = 0.1: must be above 0 and not above lr = 0.001"),
    ],
)
def test_training_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ManyoneError, match=message):
        AlignmentTraining(make_alignment("ae", 6, hidden=4), **{"data": data(6)} | arguments)
