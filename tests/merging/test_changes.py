"""Roles and blocks by name; the four sensitivity measures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.toy import Toy, perturbed

from manyone.errors import ManyoneError
from manyone.merging.changes import critical_groups, sensitivity
from manyone.merging.roles import block_of, find_blocks, matches, role_of

ROLES = {
    "vision_model.encoder.layers.3.mlp.fc1.weight": "mlp",
    "vision_model.encoder.layers.3.self_attn.out_proj.bias": "attention",
    "vision_model.encoder.layers.3.layer_norm2.weight": "norm",
    "vision_model.pre_layrnorm.weight": "norm",
    "vision_model.embeddings.patch_embedding.weight": "embedding",
    "vision_model.embeddings.class_embedding": "embedding",
    "visual_projection.weight": "head",
    "bert.encoder.layer.0.intermediate.dense.weight": "mlp",
    "bert.encoder.layer.0.output.dense.weight": "mlp",
    "bert.encoder.layer.0.attention.output.dense.weight": "attention",
    "bert.encoder.layer.0.attention.output.LayerNorm.weight": "norm",
    "bert.encoder.layer.0.attention.self.query.weight": "attention",
    "bert.encoder.layer.0.output.LayerNorm.bias": "norm",
    "bert.embeddings.LayerNorm.weight": "norm",
    "bert.embeddings.word_embeddings.weight": "embedding",
    "roberta.encoder.layer.11.output.dense.bias": "mlp",
    "classifier.dense.weight": "head",
    "vit.encoder.layer.2.attention.attention.key.weight": "attention",
    "vit.encoder.layer.2.layernorm_after.weight": "norm",
    "transformer.h.4.mlp.c_fc.weight": "mlp",
    "transformer.h.4.mlp.c_proj.weight": "mlp",
    "transformer.h.4.attn.c_proj.weight": "attention",
    "transformer.h.4.ln_1.weight": "norm",
    "transformer.ln_f.weight": "norm",
    "transformer.wte.weight": "embedding",
    "model.layers.0.mlp.gate_proj.weight": "mlp",
    "model.layers.0.mlp.down_proj.weight": "mlp",
    "model.layers.0.self_attn.o_proj.weight": "attention",
    "model.layers.0.post_attention_layernorm.weight": "norm",
    "model.embed_tokens.weight": "embedding",
    "lm_head.weight": "head",
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "mlp",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "mlp",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "attention",
    "decoder.block.3.layer.1.EncDecAttention.q.weight": "attention",
    "decoder.block.3.layer.2.layer_norm.weight": "norm",
    "shared.weight": "embedding",
    "blocks.7.mlp.fc2.weight": "mlp",
    "blocks.7.attn.qkv.weight": "attention",
    "blocks.7.norm1.weight": "norm",
    "blocks.0.fc1.weight": "mlp",
    "blocks.0.norm.weight": "norm",
    "patch_embed.proj.weight": "embedding",
    "pos_embed": "embedding",
    "head.weight": "head",
    "visual.transformer.resblocks.1.mlp.c_fc.weight": "mlp",
    "visual.transformer.resblocks.1.attn.in_proj_weight": "attention",
    "visual.transformer.resblocks.1.ln_2.weight": "norm",
}


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_roles_follow_from_names(name: str, role: str) -> None:
    assert role_of(name) == role


def test_blocks_are_found_and_ordered_by_number() -> None:
    names = [f"blocks.{k}.norm.weight" for k in (10, 2, 0)] + ["stem.weight"]
    assert find_blocks(names) == ["blocks.0", "blocks.2", "blocks.10"]
    assert block_of("encoder.block.4.layer.1.DenseReluDense.wo.weight") == "encoder.block.4"
    assert block_of("layers.1.blocks.3.mlp.fc1.weight") == "layers.1.blocks.3"
    assert block_of("layernorm.weight") is None
    both = ["decoder.block.0.layer.0.q.weight", "encoder.block.1.layer.0.q.weight"]
    assert find_blocks(both) == ["encoder.block.1", "decoder.block.0"]


def test_critical_patterns_are_roles_or_regular_expressions() -> None:
    assert matches("blocks.0.mlp.fc1.weight", "mlp")
    assert not matches("blocks.0.mlp.fc1.weight", r"fc2$")
    assert matches("blocks.0.mlp.fc2.weight", ["attention", r"fc2$"])
    with pytest.raises(ManyoneError, match="regular expression"):
        matches("blocks.0.mlp.fc2.weight", "(")


def test_measures_agree_with_their_definitions() -> None:
    base = Toy().state_dict()
    experts = perturbed(Toy(), 2)
    rows = {(r.block, r.group): r for r in sensitivity(base, experts)}
    assert rows.keys() >= {("blocks.0", "mlp"), ("blocks.2", "norm"), (None, "embedding")}
    names = [n for n in base if n.startswith("blocks.1.mlp")]
    v0 = torch.cat([base[n].flatten() for n in names]).double()
    values = []
    for expert in experts:
        v1 = torch.cat([expert[n].flatten() for n in names]).double()
        d = (v1 - v0).norm()
        cosine = 1 - torch.nn.functional.cosine_similarity(v0, v1, dim=0)
        values.append([float(d), float(d) / math.sqrt(len(v0)), float(d / v0.norm()), float(cosine)])
    row = rows["blocks.1", "mlp"]
    assert row.parameters == len(v0)
    for k, measure in enumerate(("l2", "rms", "relative", "one_minus_cos")):
        assert row.mean[measure] == pytest.approx((values[0][k] + values[1][k]) / 2, rel=1e-9)
        assert row.std[measure] == pytest.approx(abs(values[0][k] - values[1][k]) / 2, rel=1e-6, abs=1e-15)


def test_nearly_equal_vectors_have_a_cosine_below_one() -> None:
    v = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)) * 0.02
    moved = v + 2.4e-4 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
    (row,) = sensitivity({"blocks.0.mlp.fc1.weight": v}, [{"blocks.0.mlp.fc1.weight": moved}])
    assert row.mean["one_minus_cos"] == pytest.approx(0.5 * (2.4e-4 / 0.02) ** 2, rel=0.01)


def test_groups_and_thresholds_choose_what_is_critical() -> None:
    base = Toy().state_dict()
    expert = {k: v + (0.5 if ".mlp." in k else 0.01) for k, v in base.items()}
    rows = sensitivity(base, [expert])
    assert critical_groups(rows, measure="rms") == ["mlp"]
    assert critical_groups(rows, measure="rms", threshold=0.001) == ["mlp", "norm"]
    own = sensitivity(base, [expert], {"first": r"fc1$", "second": r"fc2$"})
    assert {r.group for r in own} == {"first", "second"}
    with pytest.raises(ManyoneError, match="unknown measure"):
        critical_groups(rows, measure="l3")  # type: ignore[arg-type]


def test_a_missing_tensor_and_a_wrong_shape_are_named() -> None:
    base = {"blocks.0.fc1.weight": torch.ones(2, 2)}
    with pytest.raises(ManyoneError, match=r"blocks\.0\.fc1\.weight"):
        sensitivity(base, [{}])
    with pytest.raises(ManyoneError, match=r"\(2, 3\)"):
        sensitivity(base, [{"blocks.0.fc1.weight": torch.ones(2, 3)}])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_relative_measures_do_not_depend_on_the_scale_of_weights(seed: int, factor: float) -> None:
    g = torch.Generator().manual_seed(seed)
    v, d = torch.randn(50, generator=g).double(), torch.randn(50, generator=g).double()
    (one,) = sensitivity({"blocks.0.mlp.w": v}, [{"blocks.0.mlp.w": v + d}])
    (two,) = sensitivity({"blocks.0.mlp.w": v * factor}, [{"blocks.0.mlp.w": (v + d) * factor}])
    assert two.mean["relative"] == pytest.approx(one.mean["relative"], rel=1e-9)
    assert two.mean["one_minus_cos"] == pytest.approx(one.mean["one_minus_cos"], rel=1e-6)
    assert two.mean["l2"] == pytest.approx(factor * one.mean["l2"], rel=1e-9)
