"""WEMoE and E-WEMoE on a toy network: definitions, identities, counts, storage."""

import copy
import json

import pytest
import torch
from tests.reference import wemoe as plain
from tests.reference.toy import Toy, digest, perturbed
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.adaptation.adamerging import AdaMerging
from manyone.merging.moe.routing import Pass, Router, masks_of, position_code
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.randomness import generator_for

N, M = 3, 3


@pytest.fixture(scope="module")
def network() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def experts(network: Toy) -> list[dict[str, Tensor]]:
    return perturbed(network, N)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(9))


def moved(model: WeightEnsemblingMoE, size: float = 0.3) -> WeightEnsemblingMoE:
    """Routers away from their initialisation, so that routing weights differ between inputs."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.routers.parameters():
            p += size * torch.randn(p.shape, generator=g).to(p)
    return model


def routers_of(model: WeightEnsemblingMoE) -> list[dict[str, Tensor]]:
    return [dict(model.router(k).named_parameters()) for k in range(len(model.blocks))]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("router_layers", [0, 1, 2])
@pytest.mark.parametrize("routing", ["sample", "batch"])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.9])
def test_features_and_router_gradients_agree_with_the_explicit_merge(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor, router_layers: int, routing: str, prune_ratio: float
) -> None:
    model = moved(
        WeightEnsemblingMoE(
            network,
            experts,
            router_layers=router_layers,
            routing=routing,
            prune_ratio=prune_ratio,
            strategy="tiled",  # type: ignore[arg-type]
        ),
        0.1,
    )
    base = network.state_dict()
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    expected = plain.features(
        x,
        base,
        experts,
        routers_of(model),
        scale=0.3,
        depth=M,
        batch_routing=routing == "batch",
        prune_ratio=prune_ratio or None,
    )
    names = [name for name, _ in model.routers.named_parameters()]
    wanted = torch.autograd.grad((expected * weight).sum(), list(model.routers.parameters()))
    for strategy in ("loop", "grouped", "tiled", "factored", "auto"):
        model.strategy = strategy  # type: ignore[assignment]
        got = model(x)
        close(got, expected)
        for name, a, b in zip(
            names, torch.autograd.grad((got * weight).sum(), list(model.routers.parameters())), wanted
        ):
            assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6, name


def test_zero_routing_gives_the_base_and_one_hot_routing_the_expert(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    model = WeightEnsemblingMoE(network, experts)
    u = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with model.given(torch.zeros(N)):
            close(model.encoder.blocks[1].mlp(u), network.blocks[1].mlp(u), 1e-6)  # type: ignore[operator, index, union-attr]
        for i in range(N):
            expert = Toy()
            expert.load_state_dict(experts[i])
            with model.given(torch.eye(N)[i]):
                close(model.encoder.blocks[1].mlp(u), expert.blocks[1].mlp(u))  # type: ignore[operator, index, union-attr]
    single = WeightEnsemblingMoE(network, experts[:1], scale=1.0)
    expert = Toy()
    expert.load_state_dict(experts[0])
    with single.given(torch.ones(1)):
        close(single(x), expert(x))


def test_given_routing_weights_may_differ_by_block_and_sample(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    model = moved(WeightEnsemblingMoE(network, experts))
    r = model.routing_weights(x)
    assert r.shape == (5, M, N)
    assert r.std(0).min() > 0
    with model.given(r):
        close(model(x), model(x))
        assert torch.equal(model.routing_weights(x), r)
    with torch.no_grad():
        free = model(x)
        with model.given(r):
            close(model(x), free)
        with model.given(r[0]):
            close(model(x)[0], free[0])
    with pytest.raises(ManyoneError, match="routing weights must be"), model.given(torch.ones(N + 1)):
        pass
    with pytest.raises(ManyoneError, match="5 rows"), model.given(r):
        model(x[:3])


def test_silent_routers_make_the_task_arithmetic_model(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    base = network.state_dict()
    pruned = Toy()
    pruned.load_state_dict(
        {
            k: v + 0.3 * sum(plain.prune(e[k] - v, 0.9) if ".mlp." in k else e[k] - v for e in experts)
            for k, v in base.items()
        }
    )
    for ratio, wanted in ((0.0, _ta(network, experts)), (0.9, pruned)):
        model = WeightEnsemblingMoE(network, experts, prune_ratio=ratio)
        for name, p in model.routers.named_parameters():
            if name.endswith("weight"):
                nn.init.zeros_(p)
        close(model(x), wanted(x))


def test_a_folded_model_equals_the_unfolded_and_layerwise_adamerging(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    model = moved(WeightEnsemblingMoE(network, experts, router_layers=0))
    folded = model.fold()
    assert {k: v.shape for k, v in folded.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert type(folded.blocks[0].mlp.fc1) is nn.Linear  # type: ignore[index, union-attr]
    close(folded(x), model(x))
    ada = AdaMerging(network, experts)
    with torch.no_grad():
        for k, name in enumerate(ada.names):
            if ".mlp." in name:
                ada.coefficients[k] = model.router(int(name.split(".")[1])).bias
    close(ada(x), model(x))
    with pytest.raises(ManyoneError, match="routers without layers"):
        WeightEnsemblingMoE(network, experts).fold()
    constant = WeightEnsemblingMoE(network, experts).fold(torch.full((N,), 0.3))
    close(constant(x), _ta(network, experts)(x))


def _ta(network: Toy, experts: list[dict[str, Tensor]]) -> Toy:
    merged = Toy()
    base = network.state_dict()
    merged.load_state_dict({k: v + 0.3 * sum(e[k] - v for e in experts) for k, v in base.items()})
    return merged


def test_batch_and_sample_routing(network: Toy, experts: list[dict[str, Tensor]], x: Tensor) -> None:
    model = moved(WeightEnsemblingMoE(network, experts))

    def run(inputs: Tensor, routing: str) -> Tensor:
        model.routing = routing  # type: ignore[assignment]
        with torch.no_grad():
            return model(inputs)

    close(run(x[:1], "batch"), run(x[:1], "sample"))
    same = x[:1].expand(4, -1, -1)
    close(run(same, "batch"), run(same, "sample"))
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(run(x[order], "sample"), run(x, "sample")[order])
    close(run(x[order], "batch"), run(x, "batch")[order], 1e-6)
    close(run(x, "sample")[:2], run(x[:2], "sample"))
    assert (run(x, "batch")[:2] - run(x[:2], "batch")).abs().max() > 1e-3
    model = moved(WeightEnsemblingMoE(network, experts, router_layers=0))
    close(run(x, "batch"), run(x, "sample"))
    with pytest.raises(ManyoneError, match="'token'"):
        model.routing = "token"  # type: ignore[assignment]


def test_nothing_but_routers_is_trained_and_inputs_are_never_changed(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    before = digest(network.state_dict()), [digest(e) for e in experts]
    model = WeightEnsemblingMoE(network, experts)
    frozen = digest(dict(model.encoder.state_dict()))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x).square().sum().backward()
    optimiser.step()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"routers.{n}" for n, _ in model.routers.named_parameters()
    }
    assert all(p.grad is not None for p in model.routers.parameters())
    assert digest(dict(model.encoder.state_dict())) == frozen
    assert (digest(network.state_dict()), [digest(e) for e in experts]) == before
    again = WeightEnsemblingMoE(network, experts)  # a second construction from the same objects
    assert digest(dict(again.encoder.state_dict())) == frozen
    assert not any(p.data_ptr() == q.data_ptr() for p in again.parameters() for q in network.parameters())


def test_a_shared_router_is_one_object_whose_gradient_sums_over_blocks(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor
) -> None:
    shared = moved(WeightEnsemblingMoE(network, experts, shared_router=True), 0.1)
    apart = WeightEnsemblingMoE(network, experts)
    for router in apart.routers:
        router.load_state_dict(shared.routers[0].state_dict())
    assert len(shared.routers) == 1
    shared(x).square().sum().backward()
    apart(x).square().sum().backward()
    for name, p in shared.routers[0].named_parameters():
        total = sum(dict(r.named_parameters())[name].grad for r in apart.routers)  # type: ignore[misc]
        close(p.grad, total, 1e-4)  # type: ignore[arg-type]


def test_routers_start_as_specified() -> None:
    router = Router(400, 5, layers=2, scale=0.3, generator=generator_for(0, "router", 0))
    assert router.hidden_weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert router.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not router.hidden_bias.any()
    assert torch.equal(router.bias, torch.full((5,), 0.3))
    again = Router(400, 5, layers=2, scale=0.3, generator=generator_for(0, "router", 0))
    assert torch.equal(again.hidden_weight, router.hidden_weight)


@pytest.mark.parametrize(
    ("layers", "width", "count"), [(2, 768, 596_744), (1, 768, 6_152), (2, 1024, 1_057_800), (0, 768, 8)]
)
def test_router_sizes(layers: int, width: int, count: int) -> None:
    router = Router(width, 8, layers=layers, scale=0.3, generator=generator_for(0))
    assert sum(p.numel() for p in router.parameters()) == count


def test_padding_is_left_out_of_the_token_mean_and_gates_apply_per_token() -> None:
    router = Router(6, 3, layers=2, scale=0.3, generator=generator_for(1))
    with torch.no_grad():
        for p in router.parameters():
            p.copy_(torch.randn(p.shape, generator=generator_for("p", p.numel())))
    tokens = torch.randn(2, 5, 6, generator=generator_for(2))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    parameters = dict(router.named_parameters())
    close(router(tokens, mask), plain.gate(tokens, parameters, mask))
    close(router(tokens), plain.gate(tokens, parameters))
    assert (router(tokens) - router(tokens.mean(1, keepdim=True))).abs().max() > 1e-3
    spoiled = tokens.clone()
    spoiled[0, 3:] = 1e3
    assert torch.equal(router(spoiled, mask), router(tokens, mask))


def test_position_codes_tell_blocks_apart(network: Toy, experts: list[dict[str, Tensor]], x: Tensor) -> None:
    code = position_code(3)
    assert code.shape == (8,)
    close(code[0], torch.sin(torch.tensor(3.0)))
    close(code[5], torch.cos(torch.tensor(3.0 * 10000 ** (-2 / 8))))
    model = moved(WeightEnsemblingMoE(network, experts, shared_router=True, position_code=True))
    assert model.routers[0].hidden_weight.shape == (16, 16)
    r = model.routing_weights(x)
    assert (r[:, 0] - r[:, 1]).abs().max() > 1e-3


def test_pruned_routers_lose_small_weights_only(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    model = WeightEnsemblingMoE(network, experts)
    kept = model.routers[0].bias.clone()
    model.prune_routers(0.5)
    assert int((model.routers[0].hidden_weight == 0).sum()) == 32
    assert torch.equal(model.routers[0].bias, kept)  # type: ignore[arg-type]


def test_parameter_counts_include_every_stored_number(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    total = sum(v.numel() for v in network.state_dict().values())
    critical = sum(v.numel() for k, v in network.state_dict().items() if ".mlp." in k)
    router = 8 * 8 + 8 + 8 * N + N
    counts = WeightEnsemblingMoE(network, experts).parameter_counts()
    assert counts == {
        "trainable": M * router,
        "stored": total + N * critical + M * router,
        "non_zero": counts["stored"],
    }
    for strategy in ("tiled", "sparse"):
        pruned = WeightEnsemblingMoE(network, experts, prune_ratio=0.9, shared_router=True, strategy=strategy)  # type: ignore[arg-type]
        sizes = [v.numel() for k, v in network.state_dict().items() if ".mlp." in k]
        survivors = N * sum(n - 1 - int(0.9 * (n - 1)) for n in sizes)
        assert pruned.parameter_counts() == {
            "trainable": router,
            "stored": total + N * critical + router,
            "non_zero": total + survivors + router,
        }


def test_published_sizes_of_vit_b_32() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        tower = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32
            )
        )
    assert sum(p.numel() for p in tower.parameters()) == 87_456_000
    experts = [tower.state_dict()] * 8
    counts = WeightEnsemblingMoE(tower, experts).parameter_counts()
    assert (counts["trainable"], counts["stored"]) == (7_160_928, 547_970_400)
    counts = WeightEnsemblingMoE(tower, experts, shared_router=True).parameter_counts()
    assert (counts["trainable"], counts["stored"]) == (596_744, 541_406_216)


@pytest.mark.parametrize(
    "options", [{}, {"prune_ratio": 0.9}, {"prune_ratio": 0.9, "strategy": "sparse", "shared_router": True}]
)
def test_artefacts_rebuild_the_model(
    network: Toy, experts: list[dict[str, Tensor]], x: Tensor, options: dict[str, object]
) -> None:
    model = moved(WeightEnsemblingMoE(network, experts, routing="batch", **options))  # type: ignore[arg-type]
    tensors, config = model.state_for_artefact()
    config = json.loads(json.dumps(config))
    rebuilt = WeightEnsemblingMoE.from_artefact(Toy(seed=99), tensors, config)
    assert rebuilt.routing == "batch"
    assert torch.equal(rebuilt(x), model(x))
    assert rebuilt.parameter_counts() == model.parameter_counts()
    if "prune_ratio" in options:
        stored = sum(
            v.numel() * v.element_size() for k, v in tensors.items() if k.startswith("stack.") and "weight.1" in k
        )
        dense = sum(v.numel() * 4 for k, v in network.state_dict().items() if ".mlp." in k and k.endswith("weight"))
        assert stored < 0.25 * dense
    missing = {k: v for k, v in tensors.items() if "fc2" not in k}
    with pytest.raises(ManyoneError, match="fc2"):
        WeightEnsemblingMoE.from_artefact(Toy(), missing, config)


def test_copies_and_state_dicts_are_independent(network: Toy, experts: list[dict[str, Tensor]], x: Tensor) -> None:
    model = moved(WeightEnsemblingMoE(network, experts))
    twin = copy.deepcopy(model)
    twin.routing = "batch"
    assert model.routing == "sample"
    fresh = WeightEnsemblingMoE(network, experts, seed=5)
    assert (fresh(x) - model(x)).abs().max() > 1e-3
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))
    nn.init.zeros_(twin.routers[0].bias)
    assert model.routers[0].bias.abs().sum() > 0
    twin.routing = "sample"
    assert (twin(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(5, 6), (5, 2, 6), (2, 33, 6), (20, 6)])
def test_inputs_with_and_without_a_token_axis(
    network: Toy, experts: list[dict[str, Tensor]], shape: tuple[int, ...]
) -> None:
    model = moved(WeightEnsemblingMoE(network, experts), 0.1)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    tokens = inputs if inputs.ndim == 3 else inputs.unsqueeze(1)
    wanted = plain.features(tokens, network.state_dict(), experts, routers_of(model), scale=0.3, depth=M)
    close(model(inputs), wanted)


def test_bad_arguments_say_what_to_do(network: Toy, experts: list[dict[str, Tensor]]) -> None:
    with pytest.raises(ManyoneError, match="names no linear layer"):
        WeightEnsemblingMoE(network, experts, critical=r"nowhere\.")
    with pytest.raises(ManyoneError, match=r"blocks\.0\.mlp\.fc1\.weight"):
        WeightEnsemblingMoE(network, [{k: v for k, v in experts[0].items() if k != "blocks.0.mlp.fc1.weight"}])
    spoiled = dict(experts[0])
    spoiled["norm"] = torch.ones(1)
    with pytest.raises(ManyoneError, match="'norm'"):
        WeightEnsemblingMoE(network, [spoiled])
    broken = {k: v.clone() for k, v in experts[0].items()}
    broken["stem.bias"][0] = float("nan")
    with pytest.raises(ManyoneError, match=r"stem\.bias"):
        WeightEnsemblingMoE(network, [broken])
    for options in ({"router_layers": 3}, {"prune_ratio": 1.2}, {"strategy": "fast"}, {"routing": "token"}):
        with pytest.raises(ManyoneError):
            WeightEnsemblingMoE(network, experts, **options)  # type: ignore[arg-type]
    with pytest.raises(ManyoneError, match="at least one expert"):
        WeightEnsemblingMoE(network, [])


def test_a_mask_longer_than_the_tokens_gives_its_last_columns() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1]])
    found = Pass(masks=masks_of({"attention_mask": mask})).mask_for("layers.0", torch.zeros(2, 2, 6))
    assert found is not None
    assert found.tolist() == [[1, 0], [0, 1]]


def test_keyword_inputs_without_an_attention_mask_have_no_padding() -> None:
    assert masks_of({"input_ids": torch.ones(2, 3)}) == {}
    assert Pass(masks=masks_of({"input_ids": torch.ones(2, 3)})).mask_for("layers.0", torch.zeros(2, 3, 6)) is None
    decoder = masks_of({"input_ids": torch.ones(2, 3), "decoder_attention_mask": torch.ones(2, 4)})
    assert list(decoder) == ["decoder"]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_row_of_padding_alone_is_routed_by_the_bias(layers: int) -> None:
    router = Router(6, 3, layers=layers, scale=0.3, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(2, 4, 6)
    weights = router(tokens, torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]]))
    assert torch.equal(weights[0], router.bias)
    assert not torch.equal(weights[1], router.bias)
