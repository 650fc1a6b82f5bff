"""Concrete masks: relaxed, shared by the experts, with noise that depends on (seed, step) alone."""

import pytest
import torch
from tests.reference.toy import Toy, perturbed
from torch import Tensor

from manyone.merging.adaptation.adamerging import AdaMerging
from manyone.merging.adaptation.concrete import ConcreteMerging
from manyone.merging.adaptation.learner import AdaptationLearner
from manyone.merging.heads import Head


@pytest.fixture(scope="module")
def network() -> Toy:
    return Toy(hidden=12)


@pytest.fixture(scope="module")
def experts(network: Toy) -> list[dict[str, Tensor]]:
    return perturbed(network, 2)


X = torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(9))


def test_new_masks_are_even_and_change_nothing(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    model = ConcreteMerging(network, experts)
    assert all(torch.equal(m, torch.full_like(m, 0.5)) for m in model.masks().values())
    torch.testing.assert_close(model(X), AdaMerging(network, experts)(X), rtol=1e-5, atol=1e-5)


def test_a_mask_scales_all_experts_alike_and_keeps_its_mean(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    model = ConcreteMerging(network, experts)
    with torch.no_grad():
        for logit in model.logits:
            logit.copy_(torch.randn(logit.shape, generator=torch.Generator().manual_seed(logit.numel())))
    base, masks = network.state_dict(), model.masks()
    for name, merged in model.merged_weights().items():
        tau = 0.3 * sum(e[name] - base[name] for e in experts)
        torch.testing.assert_close(merged, base[name] + masks[name] / masks[name].mean() * tau, rtol=1e-5, atol=1e-6)


def test_noise_is_a_function_of_seed_and_step(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    def draw(seed: int, step: int) -> Tensor:
        model = ConcreteMerging(network, experts, seed=seed)
        model.noise_step = step
        return torch.cat([m.flatten() for m in model.masks().values()])

    assert torch.equal(draw(0, 3), draw(0, 3))
    assert not torch.equal(draw(0, 3), draw(0, 4))
    assert not torch.equal(draw(0, 3), draw(1, 3))
    mask = draw(0, 0)
    assert mask.mean().item() == pytest.approx(0.5, abs=0.05)
    assert float((mask < 0.1).float().mean()) == pytest.approx(float((mask > 0.9).float().mean()), abs=0.05)


@pytest.mark.parametrize("adamerging", [False, True])
def test_adaptation_learns_masks_and_coefficients_in_turn(
    network: Toy, experts: list[dict[str, Tensor]], adamerging: bool
) -> None:
    heads = {
        t: Head(torch.randn(4, 8, generator=torch.Generator().manual_seed(i)), scale=3.0) for i, t in enumerate("ab")
    }
    model = ConcreteMerging(network, experts, adamerging=adamerging)
    learner = AdaptationLearner(
        model, heads, {"a": X, "b": X + 1}, lr=1e-2, steps=30, batch_size=3, objective="information-maximisation"
    )
    assert len(learner.optimisers) == (2 if adamerging else 1)
    before = learner.evaluate()["criterion"]
    for _ in range(30):
        metrics = learner.step()
    assert metrics["fell_back"] == 0.0
    assert learner.evaluate()["criterion"] < before
    assert (model.inner.coefficients != 0.3).any().item() is adamerging
    assert all(logit.abs().sum() > 0 for logit in model.logits)
    assert not any(p.requires_grad for p in model.encoder.parameters())
