"""AdaMerging and its fused gradient; TIES-processed task vectors."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import adamerging as plain
from tests.reference.toy import Toy, digest, perturbed
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.adaptation.adamerging import AdaMerging, ties_task_vectors


@pytest.fixture(scope="module")
def network() -> Toy:
    return Toy(hidden=12)


@pytest.fixture(scope="module")
def experts(network: Toy) -> list[dict[str, Tensor]]:
    return perturbed(network, 3)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("granularity", ["layer", "task"])
@pytest.mark.parametrize("plus_plus", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
def test_features_and_gradients_agree_with_weighted_copies(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor, granularity: str, plus_plus: bool, clamp: bool
) -> None:
    model = AdaMerging(network, experts, granularity=granularity, plus_plus=plus_plus, clamp=clamp)  # type: ignore[arg-type]
    base = network.state_dict()
    taus: list[dict[str, Tensor]] = [{k: e[k] - v for k, v in base.items()} for e in experts]
    if plus_plus:
        taus = plain.ties(taus, 0.2)
    with torch.no_grad():
        model.coefficients += torch.randn(model.coefficients.shape, generator=torch.Generator().manual_seed(1))
    assert model.coefficients.shape == ((len(base), 3) if granularity == "layer" else (3,))
    coefficients = model.coefficients.detach().clone().requires_grad_()
    wanted = plain.features(network, base, taus, coefficients, x, clamp)
    got = model(x)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    wanted.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(model.coefficients.grad, coefficients.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(model.fold()(x), model(x), rtol=1e-5, atol=1e-5)


def test_merging_once_per_step_gives_the_same_gradients(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    model = AdaMerging(network, experts)
    for part in (x[:2], x[2:]):
        model(part).square().sum().backward()
    apart = model.coefficients.grad
    model.coefficients.grad = None
    with model.adaptation_step(0):
        for part in (x[:2], x[2:]):
            model(part).square().sum().backward()
    torch.testing.assert_close(model.coefficients.grad, apart, rtol=1e-5, atol=1e-4)
    with model.merged_once():
        torch.testing.assert_close(model(x), model.fold()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plus_plus", [False, True])
def test_tensors_that_no_expert_changed_cost_nothing_and_change_nothing(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor, plus_plus: bool
) -> None:
    base = network.state_dict()
    still = {name for name in base if name.startswith("stem.")}
    experts = [{k: base[k] if k in still else v for k, v in expert.items()} for expert in experts]
    model = AdaMerging(network, experts, plus_plus=plus_plus)
    assert model.names == [name for name in base if name not in still]
    taus: list[dict[str, Tensor]] = [{k: e[k] - v for k, v in base.items()} for e in experts]
    coefficients = torch.full((len(base), 3), 0.3, requires_grad=True)
    wanted = plain.features(network, base, plain.ties(taus, 0.2) if plus_plus else taus, coefficients, x)
    wanted.square().sum().backward()
    with model.adaptation_step(0):
        got = model(x)
        got.square().sum().backward()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert coefficients.grad is not None
    moved = [k for k, name in enumerate(base) if name not in still]
    torch.testing.assert_close(model.coefficients.grad, coefficients.grad[moved], rtol=1e-4, atol=1e-3)
    assert set(model.merged_weights()) == set(base)


def test_only_coefficients_are_trained_and_inputs_stay(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    before = digest(network.state_dict()), [digest(e) for e in experts]
    model = AdaMerging(network, experts)
    frozen = digest(dict(model.encoder.state_dict()))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().sum().backward()
    optimiser.step()
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["coefficients"]
    assert digest(dict(model.encoder.state_dict())) == frozen
    assert (digest(network.state_dict()), [digest(e) for e in experts]) == before
    assert model.train().encoder.training is False


def test_zero_coefficients_are_the_base_and_one_expert_at_one_is_itself(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    assert torch.equal(AdaMerging(network, experts, scale=0.0)(x), network(x))
    expert = copy.deepcopy(network)
    expert.load_state_dict(experts[1])
    torch.testing.assert_close(AdaMerging(network, experts[1:2], scale=1.0)(x), expert(x), rtol=1e-5, atol=1e-6)


def test_gradients_are_exact_in_double_precision() -> None:
    network = Toy(hidden=3, depth=1).double()
    model = AdaMerging(network, perturbed(network, 2))
    x = torch.randn(2, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def features(coefficients: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"coefficients": coefficients}, (x,))

    assert torch.autograd.gradcheck(features, (model.coefficients.detach().clone().requires_grad_(),))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.integers(1, 5), st.floats(0.05, 1), st.integers(0, 1000))
def test_ties_task_vectors_keep_the_largest_entries_of_one_sign(
    size: int, experts: int, density: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    taus = {"a": torch.randn(experts, size, generator=g), "b": torch.randn(experts, 2, 3, generator=g)}
    done = ties_task_vectors(taus, density)
    rows = [{k: v[i] for k, v in taus.items()} for i in range(experts)]
    total = size + 6
    flat = torch.cat([done["a"], done["b"].reshape(experts, -1)], 1)
    assert not ((flat > 0).any(0) & (flat < 0).any(0)).any()
    assert int((flat != 0).sum(1).max()) <= int(density * total) + 1
    if int(density * total) < total:  # the reference trims at index d - floor(density d) - 1
        for i, row in enumerate(plain.ties(rows, density)):
            assert torch.equal(done["a"][i], row["a"])
            assert torch.equal(done["b"][i], row["b"])


def test_bad_arguments_are_named(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    with pytest.raises(ManyoneError, match="granularity"):
        AdaMerging(network, experts, granularity="block")  # type: ignore[arg-type]
    with pytest.raises(ManyoneError, match="density"):
        ties_task_vectors({"x": torch.ones(2, 3)}, density=0.0)
    with pytest.raises(ManyoneError, match=r"norm\.weight"):
        AdaMerging(network, [{**experts[0], "blocks.0.norm.weight": torch.ones(3)}])
