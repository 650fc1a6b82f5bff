"""Encoders: parameter names, shapes, strict loads, scaling of images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyone.errors import ManyoneError
from manyone.nets import EfficientNetLite0, ResMLP, ViT, build_encoder, call
from manyone.nets.images import normalised, scaled

VIT = {"kind": "vit", "size": 16, "patch": 8, "width": 32, "depth": 2, "heads": 4}
BERT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "model_type": "bert",
    "hidden_dropout_prob": 0.1,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 24,
}


def test_resmlp_is_the_formula_with_the_promised_names():
    torch.manual_seed(0)
    net = ResMLP(inputs=12, width=8, hidden=16, depth=2)
    expected = {"stem.weight", "stem.bias", "norm.weight", "norm.bias"}
    for n in range(2):
        expected |= {
            f"blocks.{n}.{part}.{kind}" for part in ("norm", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")
        }
    assert set(net.state_dict()) == expected
    x = torch.rand(5, 12)
    h = torch.nn.functional.gelu(x @ net.stem.weight.T + net.stem.bias)
    for block in net.blocks:
        u = torch.nn.functional.layer_norm(h, (8,), block.norm.weight, block.norm.bias)
        inner = torch.nn.functional.gelu(u @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        h = h + inner @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(net(x), net.norm(h))


def test_resmlp_of_the_published_size_has_half_a_million_block_parameters():
    net = build_encoder({"kind": "resmlp"})
    assert sum(p.numel() for p in net.blocks.parameters()) == 4 * (2 * 128 * 512 + 512 + 128 + 2 * 128)
    assert call(net, torch.zeros(3, 1, 28, 28, dtype=torch.uint8)).shape == (3, 128)


def test_vit_names_are_timms_and_shapes_hold():
    net = build_encoder(VIT)
    names = set(net.state_dict())
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight"} <= names
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        assert {f"blocks.1.{part}.weight", f"blocks.1.{part}.bias"} <= names
    assert net.pos_embed.shape == (1, 5, 32)
    assert call(net, torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 32)


def test_vit_patches_equal_the_strided_convolution():
    net = build_encoder(VIT)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(net.patch_embed(x), net.patch_embed.proj(x).flatten(2).transpose(1, 2))


def test_vit_attention_equals_softmax_attention():
    net = build_encoder(VIT)
    x = torch.randn(2, 5, 32)
    attention = net.blocks[0].attn
    q, k, v = (attention.qkv(x).view(2, 5, 3, 4, 8)[:, :, i].transpose(1, 2) for i in range(3))
    mixed = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(attention(x), attention.proj(mixed.transpose(1, 2).reshape(2, 5, 32)))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_vit_pools(pool):
    net = build_encoder({**VIT, "pool": pool})
    x = torch.rand(2, 3, 16, 16)
    tokens = net.tokens(x)
    torch.testing.assert_close(net(x), tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1))


@pytest.mark.parametrize("spec", [VIT, {"kind": "resmlp", "inputs": 3 * 16 * 16}], ids=["vit", "resmlp"])
def test_bytes_and_fractions_are_the_same_image(spec):
    net = build_encoder(spec)
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(net(x), net(x.float() / 255))


@pytest.mark.parametrize("spec", [VIT, {"kind": "resmlp"}], ids=["vit", "resmlp"])
def test_perceptrons_are_plain_linear_layers(spec):
    layers = [m for name, m in build_encoder(spec).named_modules() if name.endswith(("mlp.fc1", "mlp.fc2"))]
    assert len(layers) >= 4
    assert all(type(m) is nn.Linear for m in layers)


def test_normalised_is_per_channel():
    x = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    out = normalised(x, (0.5, 0.0), (0.5, 2.0), torch.float32)
    assert out.flatten().tolist() == [1.0, 0.5]
    assert scaled(x).max() == 1.0


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_encoder(VIT, seed=3)
    state = torch.get_rng_state()
    second = build_encoder(VIT, seed=3)
    assert torch.equal(torch.get_rng_state(), state), "building must not touch the global generator"
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    other = build_encoder(VIT, seed=4)
    assert not torch.equal(first.pos_embed, other.pos_embed)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"kind": "resnet"}, "unknown encoder kind 'resnet'"),
        ({}, "unknown encoder kind None"),
        ({"kind": "vit", "colour": 3}, "colour"),
        ({"kind": "vit", "size": 30, "patch": 8}, "size % patch == 0"),
        ({"kind": "vit", "pool": "max"}, "unknown pool 'max'"),
        ({"kind": "hf", "config": {}}, "model_type"),
    ],
)
def test_bad_specifications_are_one_clear_line(spec, problem):
    with pytest.raises(ManyoneError, match=problem) as caught:
        build_encoder(spec)
    assert "\n" not in str(caught.value)


def test_wrong_image_size_is_named():
    with pytest.raises(ManyoneError, match=r"reads images \[n, 3, 16, 16\], got \[1, 1, 28, 28\]"):
        build_encoder(VIT)(torch.zeros(1, 1, 28, 28))


def test_efficientnet_lite0_has_the_published_size_and_checkpoint_names():
    net = EfficientNetLite0().eval()
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    assert sum(v.numel() for v in state.values()) == 4_694_073
    assert "_blocks.0._expand_conv.weight" not in state
    assert state["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert {"_conv_stem.weight", "_bn0.running_var", "_conv_head.weight", "_bn1.bias", "_fc.bias"} <= set(state)
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    assert net.features(image).shape == (1, 1280)
    torch.testing.assert_close(net(image), net(image / 255), rtol=1e-4, atol=1e-4)


def test_same_padding_puts_the_odd_pixel_to_the_right():
    from manyone.nets.efficientnet import SameConv2d

    conv = SameConv2d(1, 1, 3, stride=2)
    nn.init.ones_(conv.weight)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(image).flatten().tolist() == [45.0, 39.0, 66.0, 50.0]


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _needs_transformers(self):
        pytest.importorskip("transformers")

    def test_sentence_encoder_is_berts_masked_mean(self):
        import transformers

        net = build_encoder({"kind": "sentence", "config": BERT})
        bert = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
        bert.load_state_dict(net.state_dict())
        ids = torch.randint(1, 50, (3, 7))
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[0, 4:] = 0
        states = bert(ids, attention_mask=mask).last_hidden_state
        expected = torch.stack([states[0, :4].mean(0), states[1].mean(0), states[2].mean(0)])
        torch.testing.assert_close(
            call(net, {"input_ids": ids, "attention_mask": mask}), expected, rtol=1e-4, atol=1e-5
        )

    def test_padding_changes_no_feature_and_training_mode_drops_nothing(self):
        net = build_encoder({"kind": "sentence", "config": BERT}).train()
        ids = torch.randint(1, 50, (2, 5))
        mask = torch.ones_like(ids)
        longer = torch.nn.functional.pad(ids, (0, 4))
        padded = net(longer, torch.nn.functional.pad(mask, (0, 4)))
        torch.testing.assert_close(net(ids, mask), padded, rtol=1e-4, atol=1e-5)

    def test_old_checkpoints_with_position_ids_load_strictly(self):
        net = build_encoder({"kind": "sentence", "config": BERT})
        state = dict(net.state_dict())
        assert "encoder.layer.1.intermediate.dense.weight" in state
        assert "embeddings.word_embeddings.weight" in state
        assert "pooler.dense.weight" in state
        net.load_state_dict(state | {"embeddings.position_ids": torch.arange(16)[None]}, strict=True)

    def test_saved_encoder_opens_as_a_hugging_face_folder(self, tmp_path):
        import transformers

        net = build_encoder({"kind": "sentence", "config": BERT})
        net.save_pretrained(tmp_path)
        opened = transformers.AutoModel.from_pretrained(tmp_path)
        assert all(torch.equal(v, opened.state_dict()[k]) for k, v in net.state_dict().items())

    def test_clip_vision_projects_and_scales(self):
        net = build_encoder({"kind": "clip-vision", "config": CLIP})
        image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        assert net(image).shape == (2, 24)
        torch.testing.assert_close(net(image), net(image / 255))
        assert "visual_projection.weight" in net.state_dict()
        assert "vision_model.encoder.layers.0.mlp.fc1.weight" in net.state_dict()

    @pytest.mark.parametrize("pool", ["mean", "token"])
    def test_any_auto_model_text(self, pool):
        config = {k: v for k, v in BERT.items() if k != "model_type"} | {"model_type": "roberta"}
        net = build_encoder({"kind": "hf", "config": config, "pool": pool})
        assert call(net, {"input_ids": torch.randint(3, 50, (2, 6))}).shape == (2, 32)

    def test_any_auto_model_images(self):
        config = {k: v for k, v in CLIP.items() if k != "projection_dim"} | {"model_type": "vit"}
        net = build_encoder({"kind": "hf", "config": config, "pool": "token"})
        assert call(net, torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 32)


def test_vit_gradients_reach_every_parameter():
    net = ViT(size=16, patch=8, width=16, depth=1, heads=2)
    net(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
