"""WEMoE on tiny random networks of every supported architecture, by names alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.reference.toy import perturbed
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.moe.mixed_linear import MixedLinear
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.nets import build_encoder, call

SIZES = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"vocab_size": 30, "pad_token_id": 0}
SPECS: dict[str, dict[str, Any]] = {
    "clip": {"kind": "clip-vision", "config": {**SIZES, "image_size": 16, "patch_size": 8, "projection_dim": 6}},
    "vit": {"kind": "hf", "config": {"model_type": "vit", **SIZES, "image_size": 16, "patch_size": 8}},
    "bert": {"kind": "sentence", "config": {**SIZES, **TEXT, "max_position_embeddings": 40}},
    "roberta": {"kind": "hf", "config": {"model_type": "roberta", **SIZES, **TEXT, "max_position_embeddings": 40}},
    "gpt2": {
        "kind": "hf",
        "config": {
            "model_type": "gpt2",
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 40,
            "vocab_size": 30,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    },
    "llama": {"kind": "hf", "config": {"model_type": "llama", **SIZES, **TEXT}},
    "resmlp": {"kind": "resmlp", "inputs": 48, "width": 16, "hidden": 40, "depth": 2},
    "own-vit": {"kind": "vit", "size": 16, "patch": 8, "width": 16, "depth": 2, "heads": 2},
}
LAYERS = {"clip": 2, "vit": 2, "bert": 2, "roberta": 2, "gpt2": 2, "llama": 3, "resmlp": 2, "own-vit": 2, "t5": 3}
TEXTS = ("bert", "roberta", "gpt2", "llama", "t5")


class T5Encoder(nn.Module):
    """Hugging Face's T5 encoder (gated MLP) with a masked mean."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import T5Config, T5EncoderModel

        config = T5Config(
            d_model=16,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=2,
            vocab_size=30,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
        self.t5 = T5EncoderModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.t5(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden)
        return (hidden * weight).sum(1) / weight.sum(1)


def encoder_of(name: str) -> nn.Module:
    pytest.importorskip("transformers")
    if name == "t5":
        torch.manual_seed(0)
        return T5Encoder().eval()
    return build_encoder(SPECS[name])


def inputs_of(name: str, count: int = 3) -> Any:
    g = torch.Generator().manual_seed(4)
    if name in TEXTS:
        mask = torch.ones(count, 7, dtype=torch.long)
        mask[0, 5:] = 0
        mask[1, 3:] = 0
        return {"input_ids": torch.randint(2, 30, (count, 7), generator=g) * mask, "attention_mask": mask}
    channels = 1 if name == "resmlp" else 3
    size = (count, channels, 4, 12) if name == "resmlp" else (count, channels, 16, 16)
    return torch.rand(size, generator=g)


@pytest.mark.parametrize("name", [*SPECS, "t5"])
def test_an_architecture_is_routed_by_names_alone(name: str) -> None:
    encoder = encoder_of(name)
    experts = perturbed(encoder, 2, 0.02)
    inputs = inputs_of(name)
    with torch.no_grad():
        original = call(encoder, inputs)
    model = WeightEnsemblingMoE(encoder, experts, seed=3)
    layers = [m for m in model.modules() if isinstance(m, MixedLinear)]
    assert len(model.blocks) == 2
    assert len(layers) == 2 * LAYERS[name]
    assert not any("attn" in m.name or "attention" in m.name.lower() for m in layers)

    # one expert, full scale, full routing: the expert itself (transposed layers, tied weights and all)
    expert = copy.deepcopy(encoder)
    expert.load_state_dict(experts[0])
    single = WeightEnsemblingMoE(encoder, experts[:1], scale=1.0)
    with torch.no_grad(), single.given(torch.ones(1)):
        torch.testing.assert_close(single(inputs), call(expert, inputs), rtol=1e-4, atol=1e-5)

    # at its initialisation: task arithmetic (the routers' output differs from the scale by little)
    arithmetic = copy.deepcopy(encoder)
    base = encoder.state_dict()
    arithmetic.load_state_dict(
        {k: v + 0.3 * sum(e[k] - v for e in experts) if v.is_floating_point() else v for k, v in base.items()}
    )
    with torch.no_grad():
        for name_, p in model.routers.named_parameters():
            if name_.endswith("weight"):
                nn.init.zeros_(p)
        torch.testing.assert_close(model(inputs), call(arithmetic, inputs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(call(model.fold(torch.full((2,), 0.3)), inputs), model(inputs), rtol=1e-4, atol=1e-5)

    # routers learn, and the caller's encoder is what it was
    model = WeightEnsemblingMoE(encoder, experts, seed=3)
    model(inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.routers.parameters())
    assert all(r.bias.grad.abs().sum() > 0 for r in model.routers)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert torch.equal(call(encoder, inputs), original)


@pytest.mark.parametrize("name", TEXTS)
def test_padding_changes_neither_routing_nor_features(name: str) -> None:
    encoder = encoder_of(name)
    model = WeightEnsemblingMoE(encoder, perturbed(encoder, 2, 0.02))
    with torch.no_grad():
        for p in model.routers.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    inputs = inputs_of(name)
    for row, length in ((0, 5), (1, 3), (2, 7)):
        alone = {k: v[row : row + 1, :length] for k, v in inputs.items()}
        with torch.no_grad():
            torch.testing.assert_close(model(alone)[0], model(inputs)[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.routing_weights(alone)[0], model.routing_weights(inputs)[row], rtol=1e-4, atol=1e-5
        )
    assert model.routing_weights(inputs).std(0).max() > 1e-4


def test_t5_decoder_blocks_use_the_decoders_mask() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=40, num_layers=1, num_heads=2, vocab_size=30, decoder_start_token_id=0
    )
    network = transformers.T5Model(config).eval()
    model = WeightEnsemblingMoE(network, perturbed(network, 2, 0.02))
    assert [b.split(".")[0] for b in model.blocks] == ["encoder", "decoder"]
    inputs = inputs_of("t5")
    decoder = torch.tensor([[2, 3, 0, 0], [4, 5, 6, 0], [7, 8, 9, 10]])
    full = {**inputs, "decoder_input_ids": decoder, "decoder_attention_mask": (decoder != 0).long()}
    short = {k: v[:1, :2] if k.startswith("decoder") else v[:1] for k, v in full.items()}
    torch.testing.assert_close(model.routing_weights(full)[:1], model.routing_weights(short), rtol=1e-4, atol=1e-6)
    unmasked = {k: v for k, v in full.items() if k != "decoder_attention_mask"}
    assert model.routing_weights(unmasked).shape == (3, 2, 2)


def test_attention_can_be_critical_instead() -> None:
    encoder = encoder_of("bert")
    experts = perturbed(encoder, 2, 0.02)
    model = WeightEnsemblingMoE(encoder, experts, critical="attention")
    assert {m.name.split(".")[-1] for m in model.modules() if isinstance(m, MixedLinear)} == {
        "query",
        "key",
        "value",
        "dense",
    }
    model(inputs_of("bert")).sum().backward()
    both = WeightEnsemblingMoE(encoder, experts, critical=["attention", "mlp"])
    assert sum(isinstance(m, MixedLinear) for m in both.modules()) == 12
    assert len(both.blocks) == 2
    both(inputs_of("bert"))


def test_layers_outside_blocks_can_be_named() -> None:
    encoder = encoder_of("resmlp")
    model = WeightEnsemblingMoE(encoder, perturbed(encoder, 2, 0.02), critical=["mlp", r"^stem$"])
    assert model.blocks == ["blocks.0", "blocks.1", "stem"]
    assert model.routing_weights(inputs_of("resmlp")).shape == (3, 3, 2)


def test_torchs_fused_transformer_layer_is_not_bypassed() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    network = nn.TransformerEncoder(layer, 2).eval()
    experts = perturbed(network, 2, 0.05)
    model = WeightEnsemblingMoE(network, experts)
    x = torch.randn(3, 4, 16)
    with torch.no_grad():
        for one in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])):
            with model.given(one):
                torch.testing.assert_close(model(x), model.fold(one)(x), rtol=1e-4, atol=1e-5)
        with model.given(torch.tensor([5.0, 0.0])):
            far = model(x)
        with model.given(torch.zeros(2)):
            assert (far - model(x)).abs().max() > 0.01
    with pytest.raises(ManyoneError, match="MultiheadAttention"):
        WeightEnsemblingMoE(network, experts, critical="attention")


def test_half_precision_encoders_route_in_single_precision() -> None:
    encoder = encoder_of("own-vit").to(torch.bfloat16)
    experts = perturbed(encoder, 2, 0.02)
    model = WeightEnsemblingMoE(encoder, experts)
    assert all(p.dtype == torch.float32 for p in model.routers.parameters())
    features = model(inputs_of("own-vit"))
    assert features.dtype == torch.bfloat16
    features.float().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        whole = WeightEnsemblingMoE(encoder_of("own-vit"), perturbed(encoder_of("own-vit"), 2, 0.02))
        whole(inputs_of("own-vit")).float().sum().backward()
    assert all(p.grad is not None for p in whole.routers.parameters())
