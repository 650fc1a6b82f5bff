"""Adapters out: what PEFT makes of them, the truncation beside a plain decomposition, sums beside sums of models."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.merging.static.lora import combine, extract, plan_extraction
from manyone.weights.open import open_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}


def llama():
    config = transformers.LlamaConfig(**SIZE, num_key_value_heads=1, tie_word_embeddings=False)
    return transformers.LlamaForCausalLM(config)


def tied():
    config = transformers.LlamaConfig(**SIZE, num_key_value_heads=1, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, max_position_embeddings=12))


def gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20))


def pair(tmp_path, make, rank, change):
    """A base, and a copy whose linear layers moved by a change of ``rank`` (None: full) and, with ``change``, whose
    other tensors moved too; both saved."""
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, value in model.named_parameters():
            table = "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name
            if value.dim() == 2 and not table:
                rows, columns = value.shape
                r = min(rank or rows, rows, columns)
                value += 0.1 * torch.randn(rows, r) @ torch.randn(r, columns)
            elif change:
                value += 0.1 * torch.randn(value.shape)
    model.save_pretrained(tmp_path / "tuned")
    return model


def opened(tmp_path, make):
    """The base with the adapter, opened and merged by PEFT."""
    base = type(make()).from_pretrained(tmp_path / "base")
    with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    return with_adapter.merge_and_unload().state_dict()


@pytest.mark.parametrize("make", [llama, tied, bert, gpt2])
def test_what_fits_the_rank_is_exact_in_peft(tmp_path, make):
    tuned = pair(tmp_path, make, rank=3, change=True).state_dict()
    plan = plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=3)
    found = extract(plan, tmp_path / "adapter")
    assert found.error < 1e-5
    merged = opened(tmp_path, make)
    assert not plan.left
    for name, value in tuned.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert bool(plan.biases) == (make in (bert, gpt2))
    assert sum(v.nbytes for v in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()) == found.size


def test_the_error_is_that_of_the_nearest_matrix(tmp_path):
    pair(tmp_path, llama, rank=None, change=True)
    plan = plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=4, others="drop")
    found = extract(plan, tmp_path / "adapter")
    base, tuned = (open_checkpoint(tmp_path / n) for n in ("base", "tuned"))
    merged = opened(tmp_path, llama)
    lost = moved = 0.0
    for name in tuned:
        change, left = tuned[name].double() - base[name].double(), tuned[name].double() - merged[name].double()
        lost, moved = lost + float(left.square().sum()), moved + float(change.square().sum())
        if name in plan.layers:
            values = torch.linalg.svdvals(change)
            nearest = float(values[4:].norm() / values.norm())
            assert found.errors[name] == pytest.approx(nearest, rel=1e-4)
            assert float(left.norm() / change.norm()) == pytest.approx(nearest, rel=1e-3)
    assert found.error == pytest.approx((lost / moved) ** 0.5, rel=1e-3)
    assert set(plan.left) == {n for n in tuned if n not in plan.layers}
    narrow = "model.layers.0.self_attn.k_proj"
    wide = plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=12)
    extract(wide, tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "adapter_config.json").read_text())
    assert config["r"] == 12
    assert config["rank_pattern"][narrow] == config["alpha_pattern"][narrow] == 8


def test_this_project_reads_what_it_writes(tmp_path):
    tuned = pair(tmp_path, llama, rank=2, change=True).state_dict()
    extract(plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=2), tmp_path / "adapter")
    merged = open_checkpoint(tmp_path / "adapter", tmp_path / "base")
    for name, value in tuned.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-4, atol=1e-5)


def test_what_did_not_move_and_what_is_excluded_is_left_out(tmp_path):
    pair(tmp_path, llama, rank=2, change=False)
    plan = plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=2, exclude=["layers.0", "k_proj"])
    assert not plan.saved
    assert not plan.left
    assert all("layers.1" in name and "k_proj" not in name for name in plan.layers)
    with pytest.raises(ManyoneError, match=r"no linear layer differs from .*; there is nothing to extract"):
        plan_extraction(tmp_path / "base", tmp_path / "base", rank=2)
    with pytest.raises(ManyoneError, match=r"rank = 0: must be 1 or more"):
        plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=0)


def test_nothing_is_left_of_a_failure(tmp_path):
    pair(tmp_path, llama, rank=2, change=False)
    tensors = load_file(tmp_path / "tuned" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "tuned" / "model.safetensors")
    with pytest.raises(ManyoneError, match=r"NaN or Inf in tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        extract(plan_extraction(tmp_path / "base", tmp_path / "tuned", rank=2), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


# --- sums of adapters -------------------------------------------------------------------------------------------------


def adapter(tmp_path, name, seed, **config):
    """An adapter that PEFT makes on the Llama in ``base``, with random factors."""
    torch.manual_seed(0)
    model = llama()
    if not (tmp_path / "base").exists():
        model.save_pretrained(tmp_path / "base")
    torch.manual_seed(seed)
    with_adapter = peft.get_peft_model(model, peft.LoraConfig(**config))
    with torch.no_grad():
        for key, value in with_adapter.named_parameters():
            if "lora_" in key:
                value.normal_(0, 0.3)
    with_adapter.save_pretrained(tmp_path / name)
    return tmp_path / name


def test_a_sum_of_adapters_is_the_sum_of_their_changes(tmp_path):
    kinds = [
        {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "use_rslora": True},
        {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj"], "alpha_pattern": {"v_proj": 2}},
    ]
    places = [adapter(tmp_path, f"a{i}", i + 1, **kind) for i, kind in enumerate(kinds)]
    weights = [0.7, -0.4, 1.5]
    ranks = combine(places, tmp_path / "adapter", weights=weights)
    base = open_checkpoint(tmp_path / "base")
    single = [
        peft.PeftModel.from_pretrained(llama().from_pretrained(tmp_path / "base"), place)
        .merge_and_unload()
        .state_dict()
        for place in places
    ]
    merged, ours = opened(tmp_path, llama), open_checkpoint(tmp_path / "adapter", tmp_path / "base")
    for name in base:
        wanted = base[name] + sum(w * (model[name] - base[name]) for w, model in zip(weights, single))
        torch.testing.assert_close(merged[name], wanted, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(ours[name], wanted, rtol=1e-4, atol=1e-5)
    assert ranks["model.layers.0.self_attn.q_proj"] == 6
    assert ranks["model.layers.0.self_attn.v_proj"] == 5
    assert ranks["model.layers.1.mlp.up_proj"] == 4
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None or isinstance(config["base_model_name_or_path"], str)


def test_adapters_that_do_not_add_up(tmp_path):
    plain = adapter(tmp_path, "plain", 1, r=2, target_modules=["q_proj"])
    whole = adapter(tmp_path, "whole", 2, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ManyoneError, match=r"whole: 'base_model.model.lm_head.weight' is no factor of a plain LoRA"):
        combine([plain, whole], tmp_path / "adapter", weights=[1, 1])
    with pytest.raises(ManyoneError, match="1 weights for 2 adapters; give one each"):
        combine([plain, plain], tmp_path / "adapter", weights=[1])
    with pytest.raises(ManyoneError, match=r"base: no adapter folder \(it has no adapter_config.json\)"):
        combine([plain, tmp_path / "base"], tmp_path / "adapter", weights=[1, 1])
    config = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"(q+)+": 3}}))
    with pytest.raises(ManyoneError, match=r"alpha_pattern '\(q\+\)\+' is not run"):
        combine([plain, plain], tmp_path / "adapter", weights=[1, 1])
    (plain / "adapter_config.json").write_text(json.dumps(config | {"fan_in_fan_out": True}))
    other = adapter(tmp_path, "other", 3, r=2, target_modules=["q_proj"])
    with pytest.raises(ManyoneError, match="other: its fan_in_fan_out differs"):
        combine([plain, other], tmp_path / "adapter", weights=[1, 1])
    dora = adapter(tmp_path, "dora", 4, r=2, target_modules=["q_proj"], use_dora=True)
    pissa = adapter(tmp_path, "pissa", 5, r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    for place, key in [(dora, "use_dora"), (pissa, "init_lora_weights 'pissa'")]:
        with pytest.raises(ManyoneError, match=rf"adapter_config.json: {key}: its change depends on the base"):
            combine([other, place], tmp_path / "adapter", weights=[1, 1])
    assert not (tmp_path / "adapter").exists()
