"""Adapters that peft wrote: merged here they equal peft's own ``PeftModel.merge_and_unload``, every kind or none."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.weights.lora.config import APPLIED, REFUSED, WITHOUT_MEANING
from manyone.weights.open import open_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
subconfigs = pytest.importorskip("peft.tuners.lora.config")
pytestmark = pytest.mark.filterwarnings("ignore")


class Layers(nn.Module):
    """One layer of every class that peft adapts, and stacks of experts as bare parameters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv1d(3, 5, 3), nn.Conv2d(3, 4, 3), nn.Conv3d(2, 3, 2)
        self.point = nn.Conv2d(3, 6, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.table, self.fc, self.head = nn.Embedding(11, 8), nn.Linear(8, 6), nn.Linear(6, 3, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.experts = nn.Module()
        self.experts.up = nn.Parameter(torch.randn(3, 8, 6))  # [experts, out, in]
        self.experts.down = nn.Parameter(torch.randn(3, 6, 7))
        self.experts.is_transposed = False
        self.mixed = nn.Module()
        self.mixed.up = nn.Parameter(torch.randn(3, 6, 8))  # [experts, in, out]
        self.mixed.is_transposed = True


def llama(tied):
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=40, max_position_embeddings=32, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


MODELS = {"tied": lambda: llama(True), "untied": lambda: llama(False), "gpt2": gpt2, "layers": Layers}


class Saved:
    """A base of one of ``MODELS`` in a folder, and how to open it again as peft does."""

    def __init__(self, name, folder):
        torch.manual_seed(0)
        self.model = MODELS[name]()
        if isinstance(self.model, Layers):
            folder.mkdir()
            save_file(self.model.state_dict(), folder / "model.safetensors")
        else:
            self.model.save_pretrained(folder)
        self.folder = folder

    def opened(self):
        if isinstance(self.model, Layers):
            return copy.deepcopy(self.model)
        return type(self.model).from_pretrained(self.folder)


def trained(model, config, seed=1):
    """The adapted model after a few steps' worth of noise on whatever it trains."""
    model = peft.get_peft_model(model, config)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=g)
    return model


def check(base, adapter):
    """Every tensor of the reference is in the checkpoint, or tied to one that is, and nothing else."""
    reference = peft.PeftModel.from_pretrained(base.opened(), adapter).merge_and_unload().state_dict()
    checkpoint = open_checkpoint(adapter, base.folder)
    names = {name: name if name in checkpoint else checkpoint.aliases[name] for name in reference}
    assert set(names.values()) == set(checkpoint)
    for name, stored in names.items():
        torch.testing.assert_close(checkpoint[stored], reference[name].detach(), rtol=1e-6, atol=1e-6, msg=name)
        numel = reference[name].numel()  # slices are those of the whole
        torch.testing.assert_close(
            checkpoint.read_flat(stored, numel // 3, numel - 1), checkpoint[stored].flatten()[numel // 3 : -1]
        )
    before = base.opened().state_dict()
    return {name for name in reference if not torch.equal(before[name], reference[name])}


QV, ALL = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA = {
    "plain": {"target_modules": ALL},
    "without init": {"target_modules": QV, "init_lora_weights": False},
    "gaussian": {"target_modules": QV, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": QV, "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": QV, "init_lora_weights": "mica"},
    "eva": {"target_modules": QV, "init_lora_weights": "eva", "eva_config": subconfigs.EvaConfig()},
    "dropout, task, exclude": {"target_modules": ALL, "lora_dropout": 0.1, "task_type": "CAUSAL_LM",
                               "exclude_modules": ["up_proj"]},
    "rslora": {"target_modules": QV, "use_rslora": True},
    "patterns": {"target_modules": ALL, "rank_pattern": {"q_proj": 2, r"layers.1.mlp.\w+": 6},
                 "alpha_pattern": {"self_attn.v_proj": 3, "^model.layers.0.mlp.up_proj": 9, "k_proj": 2}},
    "rslora and patterns": {"target_modules": QV, "use_rslora": True, "rank_pattern": {"q_proj": 3}},
    "layers": {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "layers"},
    "regular expression": {"target_modules": r".*\.1\..*_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "bias all": {"target_modules": QV, "bias": "all"},
    "bias lora_only": {"target_modules": QV, "bias": "lora_only"},
    "lora_bias": {"target_modules": QV, "lora_bias": True},
    "lora_bias and bias": {"target_modules": QV, "lora_bias": True, "bias": "lora_only"},
    "tokens": {"target_modules": QV, "trainable_token_indices": [7, 1, 39]},
    "tokens of both": {"target_modules": QV, "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [5, 3]}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "embedding, tying": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "saved modules": {"target_modules": QV, "modules_to_save": ["mlp", "norm"]},
    "saved embedding": {"target_modules": QV, "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": QV, "modules_to_save": ["lm_head"]},
    "saved both": {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved, tying": {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "dora": {"target_modules": ALL, "use_dora": True},
    "dora, rslora, biases": {"target_modules": ALL, "use_dora": True, "use_rslora": True, "bias": "all"},
    "dora of the embedding": {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
    "pissa": {"target_modules": ALL, "init_lora_weights": "pissa"},
    "pissa, rslora": {"target_modules": ALL, "init_lora_weights": "pissa", "use_rslora": True,
                      "alpha_pattern": {"q_proj": 3}},
    "pissa of the head": {"target_modules": ["lm_head", "v_proj"], "init_lora_weights": "pissa"},
    "pissa and dora": {"target_modules": QV, "init_lora_weights": "pissa", "use_dora": True},
    "olora": {"target_modules": ALL, "init_lora_weights": "olora"},
    "kasa": {"target_modules": QV, "kasa_config": subconfigs.KasaConfig()},
    "velora": {"target_modules": QV, "velora_config": subconfigs.VeloraConfig(num_groups=4)},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.gate_proj.weight", "q_proj.weight"],
                   "alpha_pattern": {"q_proj.weight": 2}},
}  # fmt: skip
GPT2 = {
    "plain": {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    "fan_in_fan_out": {"target_modules": ["c_proj"], "fan_in_fan_out": True},
    "with linear layers": {"target_modules": ["c_proj", "lm_head"]},  # leaves fan_in_fan_out as the last one had it
    "embeddings": {"target_modules": ["wte", "wpe", "c_fc"]},
    "dora": {"target_modules": ["c_attn", "c_proj"], "use_dora": True},
    "pissa": {"target_modules": ["c_attn", "c_proj", "c_fc"], "init_lora_weights": "pissa"},
    "olora": {"target_modules": ["attn.c_proj"], "init_lora_weights": "olora"},
    "bias": {"target_modules": ["c_attn"], "bias": "all", "lora_bias": True},
}
LAYERS = {
    "convolutions": {"target_modules": ["conv1", "conv2", "conv3", "point"]},
    "convolutions, dora": {"target_modules": ["conv1", "conv2", "conv3", "point"], "use_dora": True},
    "convolutions, bias": {"target_modules": ["conv2"], "lora_bias": True, "use_rslora": True},
    "attention": {"target_modules": ["attention", "fc"]},
    "embedding, dora": {"target_modules": ["table", "fc"], "use_dora": True},
    "a stack": {"target_modules": [], "target_parameters": ["experts.down"]},
    "stacks": {"target_modules": ["fc"], "target_parameters": ["experts.up", "experts.down", "mixed.up"],
               "alpha_pattern": {"experts.down": 3}},
    "saved modules": {"target_modules": ["fc"], "modules_to_save": ["head", "conv1", "norm"]},
}  # fmt: skip
TIED = ("plain", "tokens", "embedding", "head", "saved", "dora of", "pissa of")  # kinds that ties make a difference to
KINDS = [
    *(("untied", kind, LLAMA[kind]) for kind in LLAMA),
    *(("tied", kind, LLAMA[kind]) for kind in LLAMA if kind.startswith(TIED)),
    *(("gpt2", kind, GPT2[kind]) for kind in GPT2),
    *(("layers", kind, LAYERS[kind]) for kind in LAYERS),
]


@pytest.mark.parametrize(("model", "kind", "config"), KINDS, ids=[f"{m}-{k}" for m, k, _ in KINDS])
def test_the_values_are_those_of_peft(tmp_path, model, kind, config):
    base = Saved(model, tmp_path / "base")
    adapted = trained(base.opened(), peft.LoraConfig(r=4, lora_alpha=6, **config))
    adapted.save_pretrained(tmp_path / "adapter")
    assert check(base, tmp_path / "adapter")


def test_pissa_saved_as_it_is_or_converted_is_the_trained_model(tmp_path):
    base = Saved("untied", tmp_path / "base")
    adapted = peft.get_peft_model(
        base.opened(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=ALL, init_lora_weights="pissa")
    )
    adapted.peft_config["default"].init_lora_weights = True  # as peft's manual has it for the start
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape)
    adapted.save_pretrained(tmp_path / "as it is")
    adapted.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    if hasattr(adapted, "set_adapter"):
        adapted.set_adapter("default")
    wanted = adapted.merge_and_unload().state_dict()
    for name in ("as it is", "converted"):
        found = open_checkpoint(tmp_path / name, base.folder)
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key].detach(), rtol=2e-6, atol=2e-6, msg=f"{name}: {key}")


@pytest.mark.parametrize("kind", ["bias all", "tokens", "embedding", "saved embedding", "saved both", "dora", "olora"])
@pytest.mark.parametrize("model", ["tied", "untied"])
def test_the_written_folder_answers_as_the_model_that_peft_merged(tmp_path, model, kind):
    base = Saved(model, tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=6, **LLAMA[kind])
    trained(base.opened(), config).save_pretrained(tmp_path / "adapter")
    static.merge("average", base.folder, [tmp_path / "adapter"], out=tmp_path / "out")
    written, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    reference = peft.PeftModel.from_pretrained(base.opened(), tmp_path / "adapter").merge_and_unload()
    ids = torch.arange(2, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(written(ids).logits, reference(ids).logits, rtol=1e-4, atol=1e-5)
    assert written.config.tie_word_embeddings is (model == "tied" and not kind.startswith("saved"))


# -- the configuration: applied, without meaning, or refused ---------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A base and a plain adapter of it."""
    folder = tmp_path_factory.mktemp("plain")
    base = Saved("untied", folder / "base")
    trained(base.opened(), peft.LoraConfig(r=4, target_modules=QV)).save_pretrained(folder / "adapter")
    return folder


def edited(plain, folder, tensors=None, **config):
    """A copy of the plain adapter with other entries of its configuration, or other tensors."""
    folder.mkdir()
    settings = json.loads((plain / "adapter/adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stored = load_file(plain / "adapter/adapter_model.safetensors")
    save_file(stored if tensors is None else tensors(stored), folder / "adapter_model.safetensors")
    return folder


def refused(plain, adapter, *words):
    """One line that names the file and the ``words``, from opening and from merging, and nothing written."""
    before = sorted(adapter.parent.rglob("*"))
    for run in (
        lambda: open_checkpoint(adapter, plain / "base"),
        lambda: static.merge("average", plain / "base", [adapter], out=adapter.parent / "out"),
    ):
        with pytest.raises(ManyoneError) as caught:
            run()
        line = str(caught.value)
        assert "\n" not in line
        for word in (str(adapter), *words):
            assert word in line, line
    assert sorted(adapter.parent.rglob("*")) == before


def test_every_key_that_peft_writes_is_classified():
    written = set(peft.LoraConfig().to_dict())
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    groups = [set(APPLIED), set(WITHOUT_MEANING), set(REFUSED)]
    assert written | fields <= set().union(*groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


VARIANTS = {
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "monteclora_config": dataclasses.asdict(subconfigs.MontecloraConfig()),
    "layer_replication": [[0, 2], [1, 2]],
    "use_bdlora": dataclasses.asdict(subconfigs.BdLoraConfig(nblocks=2)),
    "arrow_config": dataclasses.asdict(subconfigs.ArrowConfig()),
    "megatron_config": {"hidden_size": 16},
    "of_a_later_peft": {"scale": 2},
}


@pytest.mark.parametrize("key", VARIANTS)
def test_variants_are_refused_by_their_key(plain, tmp_path, key):
    refused(plain, edited(plain, tmp_path / "a", **{key: VARIANTS[key]}), key, "merge_and_unload")
    for i, nothing in enumerate((None, False, {}, [], "")):
        assert open_checkpoint(edited(plain, tmp_path / str(i), **{key: nothing}), plain / "base")


@pytest.mark.parametrize("init", ["corda", "lora_ga", "loftq", "pissa_niter_4", "something new"])
def test_starts_that_cannot_be_repeated_are_refused(plain, tmp_path, init):
    adapter = edited(plain, tmp_path / "a", init_lora_weights=init)
    refused(plain, adapter, "init_lora_weights", init, "path_initial_model_for_weight_conversion", "merge_and_unload")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bias": "some"}, ["bias", "some"]),
        ({"use_dora": "yes"}, ["use_dora", "yes"]),
        ({"use_dora": True, "lora_bias": True}, ["lora_bias", "use_dora"]),
        ({"lora_alpha": "8"}, ["lora_alpha", "'8'"]),
        ({"lora_alpha": 10**400}, ["lora_alpha"]),
        ({"r": 7}, ["r = 7", "rank 4"]),
        ({"rank_pattern": {"q_proj": 9}}, ["r = 9", "rank 4"]),
        ({"alpha_pattern": {"(q+)+": 9}}, ["alpha_pattern", "is not run"]),
        ({"alpha_pattern": [1]}, ["alpha_pattern"]),
        ({"trainable_token_indices": {"embed_tokens": ["a"]}}, ["trainable_token_indices"]),
        ({"target_parameters": "experts"}, ["target_parameters"]),
        ({"kasa_config": {}, "use_dora": True}, ["kasa_config"]),
        ({"kasa_config": {}}, ["lora_diag"]),
        ({"use_dora": True}, ["DoRA", "lora_magnitude_vector"]),
    ],
)
def test_a_configuration_that_means_nothing(plain, tmp_path, config, words):
    refused(plain, edited(plain, tmp_path / "a", **config), *words)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[:-1], ["lora_magnitude_vector", "[15]", "16 values"]),
        (lambda m: m * float("nan"), ["NaN or Inf", "lora_magnitude_vector"]),
        (lambda m: None, ["DoRA without lora_magnitude_vector"]),
        (lambda m: m.to(torch.int8), ["int8 codes"]),
    ],
)
def test_a_damaged_magnitude(plain, tmp_path, change, words):
    base = Saved("untied", tmp_path / "base")
    config = peft.LoraConfig(r=4, target_modules=QV, use_dora=True)
    trained(base.opened(), config).save_pretrained(tmp_path / "dora")
    file = tmp_path / "dora/adapter_model.safetensors"
    tensors = load_file(file)
    new = change(tensors.pop(f"{Q}.lora_magnitude_vector"))
    save_file(tensors if new is None else {**tensors, f"{Q}.lora_magnitude_vector": new}, file)
    refused(plain, tmp_path / "dora", *words)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{Q}.lora_magnitude_vector": torch.ones(16)}, ["lora_magnitude_vector", "variant"]),
        ({f"{Q}.lora_diag": torch.ones(4)}, ["lora_diag", "variant"]),
        ({f"{Q}.lora_router.weight": torch.ones(4)}, ["lora_router", "variant"]),
        ({f"{Q}.lora_B.bias": torch.ones(3)}, ["lora_bias", "[3]"]),
        ({f"{Q}.lora_B.other.weight": torch.ones(16, 4)}, ["lora_B", "same tensor"]),
        ({f"{Q}.modules_to_save.a.bias": torch.ones(16), f"{Q}.bias": torch.ones(16)}, ["two tensors"]),
        ({"base_model.model.lm_head.lora_B.bias": torch.ones(40)}, ["lm_head", "is missing"]),
        ({"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 16)}, ["rows"]),
    ],
)
def test_tensors_that_the_configuration_does_not_explain(plain, tmp_path, tensors, words):
    refused(plain, edited(plain, tmp_path / "a", lambda stored: stored | tensors), *words)
