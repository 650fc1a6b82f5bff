"""Where models come from: folders, adapters, GGUF files, layers left out; tokenizers compared by content."""

import json

import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.sql import artefact
from manyone.sql.collate import pack
from manyone.sql.language_model import MASK, LanguageModel
from manyone.sql.models import Size, add_lora, drop_layers, dropped, new_decoder, open_model, open_tokenizer
from manyone.sql.recipes.build import Models
from manyone.sql.tokens import check_same_tokenizer, rewriting_tokens, tokenizer_digest, train_tokenizer


@pytest.fixture
def folder(student, tokenizer, tmp_path):
    artefact.save(tmp_path / "m", student.model, tokenizer, {"recipe": "kid", "scores": {"ex": 0.5}})
    return tmp_path / "m"


def logits(model, gold, pad):
    with torch.no_grad():
        return model.predictions(pack(gold, pad), pack(gold, pad).out)


def test_the_artefact_is_a_plain_folder(student, tokenizer, folder, gold, pad):
    saved = artefact.load(folder)
    assert torch.equal(logits(saved.model, gold, pad), logits(student, gold, pad))
    assert saved.info["scores"] == {"ex": 0.5}
    assert tokenizer_digest(saved.tokenizer) == tokenizer_digest(tokenizer)
    assert artefact.is_sql_model(folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.lm_head.weight, student.head.weight)
    assert AutoTokenizer.from_pretrained(folder)("SELECT name")["input_ids"] == tokenizer("SELECT name")["input_ids"]
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize(("content", "says"), [
    ("{", "damaged"), ("[]", "no JSON object"), (json.dumps({"manyone_format": 99}), "newer"),
])  # fmt: skip
def test_damaged_descriptions_are_refused(folder, content, says):
    (folder / "manyone.json").write_text(content)
    with pytest.raises(ManyoneError, match=says):
        artefact.load(folder)


def test_places_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(ManyoneError, match="no such folder"):
        artefact.load(tmp_path / "nothing")
    with pytest.raises(ManyoneError, match="no config"):
        open_model(str(tmp_path))
    with pytest.raises(ManyoneError, match="not the id of a model"):
        open_model("a/b/c")


def test_code_of_a_folder_is_never_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / "config.json").write_text(
        json.dumps(
            config | {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "evil.Own", "AutoConfig": "evil.C"}}
        )
    )
    with pytest.raises((ManyoneError, ValueError)):
        open_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_adapters_train_alone_and_merge(student, tokenizer, gold, pad, tmp_path):
    before = logits(student, gold, pad)
    adapted = LanguageModel(add_lora(student.model, 4, 8.0, seed=1))
    assert all("lora" in name for name in adapted.parameters())
    projections = {name.split(".lora")[0].rsplit(".", 1)[-1] for name in adapted.parameters()}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert torch.allclose(logits(adapted, gold, pad), before), "a fresh adapter changes nothing"
    with torch.no_grad():
        for name, value in adapted.parameters().items():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    changed = logits(adapted, gold, pad)
    assert not torch.allclose(changed, before, atol=1e-2)
    artefact.save(tmp_path / "merged", adapted.model, tokenizer, {})
    assert torch.allclose(logits(artefact.load(tmp_path / "merged").model, gold, pad), changed, atol=1e-4)
    assert torch.allclose(logits(adapted, gold, pad), changed), "merging was of a copy"
    again = add_lora(open_model(str(tmp_path / "merged")), 4, 8.0, seed=1)
    first, second = (dict(m.named_parameters()) for m in (adapted.model, again))
    assert all(torch.equal(first[n], second[n]) for n in first if "lora_A" in n), "drawn by the seed"


def test_an_adapter_folder_opens_on_its_base(folder, tokenizer, gold, pad, tmp_path):
    model = LanguageModel(add_lora(open_model(str(folder)), 2, 4.0))
    artefact.save(tmp_path / "a", model.model, tokenizer, {}, merged=False)
    assert (tmp_path / "a/adapter_model.safetensors").is_file()
    assert torch.allclose(logits(artefact.load(tmp_path / "a").model, gold, pad), logits(model, gold, pad), atol=1e-5)
    file = tmp_path / "a/adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "a")}))
    with pytest.raises(ManyoneError, match="not an adapter"):
        open_model(str(tmp_path / "a"))
    file.write_text(json.dumps(config | {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}))
    with pytest.raises(ManyoneError, match="never run"):
        open_model(str(tmp_path / "a"))


def test_left_out_layers(tokenizer, gold, pad):
    teacher = new_decoder(Size(7, 32, 2), len(tokenizer), seed=0, special=tokenizer)
    student = drop_layers(teacher, 3)
    assert student.config.num_hidden_layers == 3
    own, whole = student.state_dict(), teacher.state_dict()
    for new, old in enumerate((0, 3, 6)):
        name = "self_attn.q_proj.weight"
        assert torch.equal(own[f"model.layers.{new}.{name}"], whole[f"model.layers.{old}.{name}"])
    assert torch.equal(own["lm_head.weight"], whole["lm_head.weight"])
    own["model.norm.weight"].mul_(2)
    assert not torch.equal(student.model.norm.weight, teacher.model.norm.weight), "weights of its own"
    LanguageModel(student).check()
    assert dropped("every-third-layer") == 3
    assert dropped("scratch") is None
    with pytest.raises(ManyoneError, match="every-second-layer"):
        dropped("every-tenth-layer")
    with pytest.raises(ManyoneError, match="nothing is left out"):
        drop_layers(student, 1)


def test_gguf_files_open_without_a_hub(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    path = write_gguf(gguf, tmp_path / "tiny.gguf")
    model = LanguageModel(open_model(str(path)))
    model.check()
    assert model.config.num_hidden_layers == 1
    assert model.rows == 260
    tokenizer = open_tokenizer(str(path))
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids("ab")]
    (entry,) = (tmp_path / "cache/sql-models").iterdir()
    assert (entry / "model.safetensors").is_file(), "de-quantised once"
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ManyoneError, match="cannot be read as a GGUF model"):
        open_model(str(tmp_path / "bad.gguf"))


def write_gguf(gguf, path):
    """A Llama of one layer with random weights and a byte-level BPE of one merge."""
    from tokenizers.pre_tokenizers import ByteLevel

    width, vocabulary = 32, [*sorted(ByteLevel.alphabet()), "ab", "<s>", "</s>", "<pad>"]
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in (("context_length", 64), ("embedding_length", width), ("block_count", 1),
                        ("feed_forward_length", 64), ("head_count", 2), ("head_count_kv", 2),
                        ("rope_dimension_count", 16), ("vocab_size", len(vocabulary))):  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["a b"])
    for number, name in enumerate(("bos", "eos", "pad")):
        getattr(writer, f"add_{name}_token_id")(257 + number)
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(vocabulary), width), "output_norm.weight": (width,),
              "blk.0.attn_norm.weight": (width,), "blk.0.ffn_norm.weight": (width,),
              **{f"blk.0.attn_{p}.weight": (width, width) for p in ("q", "k", "v", "output")},
              "blk.0.ffn_gate.weight": (64, width), "blk.0.ffn_up.weight": (64, width),
              "blk.0.ffn_down.weight": (width, 64)}  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tokenizers_are_compared_by_content(tokenizer, folder):
    same = open_tokenizer(str(folder))
    check_same_tokenizer(tokenizer, same)
    other = train_tokenizer(["SELECT a FROM b WHERE c = d"] * 4, 290)
    with pytest.raises(ManyoneError, match="different tokenizers"):
        check_same_tokenizer(tokenizer, other)
    assert tokenizer_digest(train_tokenizer(["SELECT a FROM b WHERE c = d"] * 4, 290)) == tokenizer_digest(other)


def test_padded_vocabularies_are_cut_to_what_is_shared(tokenizer, gold, pad):
    """Equal tokenizers, embeddings of another number of rows."""
    small, large = (LanguageModel(new_decoder(Size(1, 32, 2), rows, seed=0)) for rows in (len(tokenizer), 400))
    pair = Models(tokenizer, small, large)
    assert logits(pair.teacher, gold, pad).shape == logits(pair.student, gold, pad).shape


def test_mask_tokens(tokenizer, student, gold, pad):
    assert rewriting_tokens(tokenizer).mask == tokenizer.bos_token_id
    assert rewriting_tokens(tokenizer, "eos").mask == tokenizer.eos_token_id
    assert rewriting_tokens(tokenizer, "<pad>").mask == tokenizer.pad_token_id
    without = train_tokenizer(["SELECT a FROM b"] * 4, 280)
    without.bos_token = None
    assert rewriting_tokens(without).mask == without.pad_token_id, "as Qwen, which has no begin token"
    with pytest.raises(ManyoneError, match="no such single token"):
        rewriting_tokens(tokenizer, "SELECT name")
    assert rewriting_tokens(tokenizer, "added").mask == MASK
    batch = pack(gold, pad)
    hidden = batch.with_ids(batch.ids.masked_fill(batch.out & (batch.ids != tokenizer.eos_token_id), MASK))
    student.add_mask_token(0)
    found = student.predictions(hidden, batch.out)
    assert found.isfinite().all()
    assert student.model.get_input_embeddings().weight.shape[0] == len(tokenizer), "nothing was added to the model"


def test_unlike_heads_are_refused(student):
    class Wrapped(torch.nn.Linear):
        def forward(self, states):
            return super().forward(states) * 2

    model = student.model
    model.lm_head.__class__ = Wrapped
    student.check()  # part of the head itself: fine
    original = model.forward
    model.forward = lambda **words: type("Out", (), {"logits": original(**words).logits + 1})
    with pytest.raises(ManyoneError, match="more to its logits"):
        student.check()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ManyoneError, match="259"):
        train_tokenizer(["a"], 100)
    with pytest.raises(ManyoneError, match="multiple"):
        new_decoder(Size(1, 30, 4), 300, seed=0)
