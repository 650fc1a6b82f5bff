"""What a static merge decides before it begins: ties, architectures, infinite buffers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.merging.static.methods import METHODS
from manyone.weights.open import open_checkpoint

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def folder_of(place, tensors, **config):
    place.mkdir()
    save_file(tensors, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.fixture
def models(tmp_path):
    """Llama-like folders: tied without a head of their own, untied with two matrices, tied with two equal ones."""
    w = randn(4, 4, seed=1)
    e = {name: randn(10, 4, seed=2 + i) for i, name in enumerate(("tied", "expert", "untied", "head", "twice"))}
    tied, untied = {**LLAMA, "tie_word_embeddings": True}, {**LLAMA, "tie_word_embeddings": False}
    older = dict(LLAMA)  # leaves out what is the architecture's default
    folder_of(tmp_path / "tied", {EMBED: e["tied"], "w.weight": w}, **tied)
    folder_of(tmp_path / "expert", {EMBED: e["expert"], "w.weight": w + 1}, **older)
    folder_of(tmp_path / "untied", {EMBED: e["untied"], HEAD: e["head"], "w.weight": w + 2}, **untied)
    folder_of(tmp_path / "twice", {EMBED: e["twice"], HEAD: e["twice"].clone(), "w.weight": w + 3}, **tied)
    return tmp_path, e


def merged(place, base, experts):
    static.merge("average", place / base, [place / expert for expert in experts], out=place / "out")
    config = json.loads((place / "out/config.json").read_text())
    return load_file(place / "out/model.safetensors"), config.get("tie_word_embeddings")


def test_tied_models_stay_tied(models):
    place, e = models
    tensors, tie = merged(place, "tied", ["expert", "twice"])
    assert tie is True
    assert set(tensors) == {EMBED, "w.weight"}
    torch.testing.assert_close(tensors[EMBED], (e["expert"] + e["twice"]) / 2)
    assert open_checkpoint(place / "out").aliases == {HEAD: EMBED}


def test_an_untied_expert_of_a_tied_base_is_merged_under_both_names(models):
    place, e = models
    tensors, tie = merged(place, "tied", ["untied", "expert"])
    assert tie is False  # two matrices: a configuration that ties them would throw one away
    torch.testing.assert_close(tensors[EMBED], (e["untied"] + e["expert"]) / 2)
    torch.testing.assert_close(tensors[HEAD], (e["head"] + e["expert"]) / 2)


def test_the_head_of_a_tied_base_is_its_embedding(models):
    place, e = models
    static.merge("task-arithmetic", place / "tied", [place / "untied"], out=place / "out", scale=0.5)
    tensors = load_file(place / "out/model.safetensors")
    torch.testing.assert_close(tensors[HEAD], e["tied"] + 0.5 * (e["head"] - e["tied"]))


def test_an_excluded_head_stays_tied_as_in_the_base(models):
    place, e = models
    static.merge("average", place / "tied", [place / "untied"], out=place / "out", exclude=["^lm_head"])
    tensors = load_file(place / "out/model.safetensors")
    assert set(tensors) == {EMBED, "w.weight"}
    assert torch.equal(tensors[EMBED], e["untied"])


def test_a_tied_expert_of_an_untied_base_is_merged_under_both_names(models):
    place, e = models
    tensors, tie = merged(place, "untied", ["tied", "twice"])
    assert tie is False
    for name in (EMBED, HEAD):
        torch.testing.assert_close(tensors[name], (e["tied"] + e["twice"]) / 2)


def test_a_base_that_stores_a_tied_matrix_twice_does_so_again(models):
    place, e = models
    tensors, tie = merged(place, "twice", ["tied"])
    assert tie is True
    assert torch.equal(tensors[EMBED], e["tied"])
    assert torch.equal(tensors[HEAD], e["tied"])


def test_ties_in_memory():
    w = randn(6, 4)
    base = {"embed.weight": w, "head.weight": w}
    untied = {"embed.weight": w + 1, "head.weight": w + 2}
    found = static.average(base, [untied])
    assert torch.equal(found["embed.weight"], w + 1)
    assert torch.equal(found["head.weight"], w + 2)
    again = w + 3
    tied = static.average(base, [{"embed.weight": again, "head.weight": again}])
    assert torch.equal(tied["head.weight"], again)


def test_a_bare_base_has_no_head(models):
    place, _ = models
    w = randn(10, 4)
    bare = folder_of(place / "bare", {EMBED: w, "w.weight": randn(4, 4)}, **{**LLAMA, "architectures": ["LlamaModel"]})
    with pytest.raises(ManyoneError, match=r"lm_head\.weight is not in the base"):
        static.merge("average", bare, [place / "untied"], out=place / "out")
    assert not (place / "out").exists()


def test_other_architectures_of_equal_shapes_are_refused(tmp_path):
    tensors = {"w.weight": randn(4, 4)}
    base = folder_of(tmp_path / "base", tensors, model_type="llama")
    expert = folder_of(tmp_path / "expert", tensors, model_type="mistral")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManyoneError, match=r"'mistral' model and the base .*'llama'") as caught:
        static.merge("average", base, [base, expert], out=tmp_path / "out")
    assert str(expert) in str(caught.value)
    assert str(base) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    static.merge("average", base, [tensors], out=tmp_path / "out")  # of a state dict nothing is known


def mask(size=300):
    return torch.triu(torch.full((size, size), -torch.inf), 1)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"fisher", "regmean"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_infinite_buffers_that_are_equal_are_copied(method, dtype):
    """A causal mask of 90,000 entries: more than a chunk, and no method sees it."""
    weights = [{"a.weight": randn(8, 8, seed=i).to(dtype), "b": randn(8, seed=5 + i).to(dtype)} for i in range(3)]
    masked = [{**model, "attn_mask": mask().to(dtype)} for model in weights]
    found = static.merge(method, masked[0], masked[1:])
    expected = static.merge(method, weights[0], weights[1:])
    assert torch.equal(found.pop("attn_mask"), mask().to(dtype))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("name", "change"),
    [("attn_mask", 1.0), ("attn_mask", float("nan")), ("attn.weight", 0.0), ("attn.bias", 0.0)],
)
def test_other_infinities_are_errors(tmp_path, name, change):
    base, expert = ({name: mask(4), "w.weight": randn(4, 4)} for _ in range(2))
    expert[name] = expert[name].clone()
    expert[name][2, 1] += change
    with pytest.raises(ManyoneError, match=f"NaN or Inf in tensor '{name}'"):
        static.merge("average", base, [expert], out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
