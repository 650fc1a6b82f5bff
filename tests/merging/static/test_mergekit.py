"""mergekit's recipes: each method against the formula that it stands for, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.merging.static.mergekit import prepare_recipe

SHAPES = {
    "model.embed_tokens.weight": (10, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.up_proj.weight": (16, 8),
    "model.layers.2.mlp.up_proj.weight": (16, 8),
    "model.norm.weight": (8,),
}
UP = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]


@pytest.fixture
def models(tmp_path):
    """base, a, b as folders; returns their tensors in float64 by name."""
    tensors = {}
    for i, name in enumerate(("base", "a", "b")):
        g = torch.Generator().manual_seed(i)
        values = {n: torch.randn(s, generator=g) for n, s in SHAPES.items()}
        if i:
            values = {n: tensors["base"][n].float() + 0.3 * v for n, v in values.items()}
        (tmp_path / name).mkdir()
        save_file(values, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "float32"}))
        tensors[name] = {n: v.double() for n, v in values.items()}
    return tensors


def write(folder, recipe):
    path = folder / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    return path


def run(folder, recipe, **options):
    plan, method, _ = prepare_recipe(write(folder, recipe), **options)
    return static.execute(plan, method)


def check(merged, expected):
    for n, value in merged.items():
        torch.testing.assert_close(value.double(), expected(n), rtol=1e-4, atol=1e-5, msg=lambda m, n=n: f"{n}: {m}")


def trimmed(delta, density):
    keep = int(density * delta.numel())
    limit = delta.abs().reshape(-1).sort(descending=True).values[keep - 1]
    return torch.where(delta.abs() >= limit, delta, 0.0)


def test_linear(tmp_path, models):
    recipe = """
merge_method: linear
models:
  - model: a
    parameters: {weight: 1.0}
  - model: b
    parameters: {weight: 3.0}
"""
    merged = run(tmp_path, recipe)
    check(merged, lambda n: 0.25 * models["a"][n] + 0.75 * models["b"][n])
    merged = run(tmp_path, recipe + "parameters: {normalize: false}\n")
    check(merged, lambda n: models["a"][n] + 3 * models["b"][n])


def test_task_arithmetic(tmp_path, models):
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "a", "parameters": {"weight": 0.4}}, {"model": "b"}],
        "parameters": {"weight": 0.7, "lambda": 0.5, "int8_mask": True},
    }
    m = models
    merged = run(tmp_path, recipe)
    check(merged, lambda n: m["base"][n] + 0.5 * (0.4 * (m["a"][n] - m["base"][n]) + 0.7 * (m["b"][n] - m["base"][n])))
    recipe["parameters"] = {"weight": 0.6, "normalize": True}
    merged = run(tmp_path, recipe)
    check(merged, lambda n: m["base"][n] + 0.4 * (m["a"][n] - m["base"][n]) + 0.6 * (m["b"][n] - m["base"][n]))


@pytest.mark.parametrize("normalize", [None, True, False])
def test_ties_trims_per_tensor_and_normalises_by_weights(tmp_path, models, normalize):
    recipe = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": 0.4, "density": 0.5}},
            {"model": "b", "parameters": {"weight": 0.8, "density": 0.25}},
        ],
        "parameters": {"lambda": 0.9} | ({} if normalize is None else {"normalize": normalize}),
    }

    def expected(n):
        base = models["base"][n].float()
        deltas = [
            w * trimmed(models[k][n].float() - base, d).double() for k, w, d in (("a", 0.4, 0.5), ("b", 0.8, 0.25))
        ]
        sign = (sum(deltas) >= 0) * 2.0 - 1
        agree = [d.sign() == sign for d in deltas]
        merged = sum(d * a for d, a in zip(deltas, agree))
        share = 0.4 * agree[0] + 0.8 * agree[1]
        if normalize is not False:
            merged = merged / torch.where(share == 0, 1.0, share)
        return base.double() + 0.9 * merged

    check(run(tmp_path, recipe), expected)


def test_slerp_with_filters_and_gradients(tmp_path, models):
    recipe = """
merge_method: slerp
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 3]}
      - {model: b, layer_range: [0, 3]}
parameters:
  t:
    - {filter: self_attn, value: 1}
    - {filter: mlp, value: [0, 0.5, 0.75]}
    - value: 0
dtype: float32
"""
    merged = run(tmp_path, recipe)
    base, other = models["base"], models["b"]
    for n in merged:
        if "self_attn" in n:
            torch.testing.assert_close(merged[n].double(), other[n], rtol=1e-5, atol=1e-5)
        elif n not in UP[1:]:
            torch.testing.assert_close(merged[n].double(), base[n], rtol=1e-5, atol=1e-5)
    for n, t in zip(UP[1:], (0.5, 0.75)):
        a, b = base[n].reshape(-1), other[n].reshape(-1)
        angle = torch.arccos(a @ b / a.norm() / b.norm())
        expected = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
        torch.testing.assert_close(merged[n].double().reshape(-1), expected, rtol=1e-4, atol=1e-5)


def test_dare_linear_and_ties(tmp_path, models):
    recipe = {
        "merge_method": "dare_linear",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 0.5, "density": 1.0},
    }
    m = models
    check(run(tmp_path, recipe), lambda n: m["base"][n] + 0.5 * (m["a"][n] + m["b"][n] - 2 * m["base"][n]))
    recipe["parameters"]["density"] = 0.5
    dropped = run(tmp_path, recipe, seed=1)
    again = run(tmp_path, recipe, seed=1)
    for n, value in dropped.items():
        assert torch.equal(value, again[n])
    n = UP[0]
    single = {**recipe, "models": [{"model": "a"}], "parameters": {"weight": 1.0, "density": 0.5}}
    move = run(tmp_path, single)[n].double() - m["base"][n]
    tau = m["a"][n] - m["base"][n]
    assert torch.all((move.abs() < 1e-6) | torch.isclose(move, 2 * tau, rtol=1e-3, atol=1e-5))
    assert 0.3 < float((move.abs() > 1e-6).double().mean()) < 0.7
    plain = run(tmp_path, {**single, "parameters": {"weight": 1.0, "density": 0.5, "rescale": False}})[n].double()
    assert torch.all((plain - m["base"][n]).abs() <= tau.abs() + 1e-5)
    elected = run(tmp_path, {**recipe, "merge_method": "dare_ties", "parameters": {"weight": 1.0}})

    def expected(n):
        taus = [m[k][n] - m["base"][n] for k in "ab"]
        sign = sum(taus).sign()
        return m["base"][n] + sum(t * (t.sign() == sign) for t in taus)

    check(elected, expected)


def test_model_stock_equals_the_method(tmp_path, models):
    recipe = {"merge_method": "model_stock", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    expected = static.model_stock(tmp_path / "base", [tmp_path / "a", tmp_path / "b"])
    for n, value in run(tmp_path, recipe).items():
        assert torch.equal(value, expected[n])


def test_dtype_is_written_and_noted_in_the_configuration(tmp_path, models):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 1}}],
        "dtype": "bfloat16",
        "tokenizer_source": "base",
    }
    plan, method, config = prepare_recipe(write(tmp_path, recipe))
    static.execute(plan, method, out=tmp_path / "out", config=config)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {v.dtype for v in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"merge_method": "della"}, "merge_method 'della' is not supported; supported are linear"),
        ({"chat_template": "auto"}, "not supported: chat_template"),
        ({"tokenizer_source": "union"}, "not supported: tokenizer_source"),
        ({"modules": {}}, "not supported: modules"),
        ({"parameters": {"weight": 1, "gamma": 0.1}}, "parameter 'gamma' of ties is not supported"),
        ({"parameters": {"density": 0.5}}, "parameter 'weight' is missing"),
        ({"parameters": {"weight": 1, "density": 2}}, "density 2 is outside its range"),
        ({"parameters": {"weight": "much"}}, "'weight' has a value that is not supported: 'much'"),
        ({"dtype": "int4"}, "dtype 'int4'"),
        ({"base_model": None}, "needs a base_model"),
        ({"models": None}, "list of models is not readable"),
        ({"models": [{"model": "a", "layer_range": [0, 1]}]}, "not supported for model a: layer_range"),
        ({"models": [{"model": "c"}]}, "c: no such file or folder"),
        ({"merge_method": "slerp", "parameters": {"t": 0.5}}, "slerp takes the base_model and one other"),
    ],
)
def test_what_is_refused(tmp_path, models, change, match):
    recipe = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 1, "density": 0.5},
    } | change
    with pytest.raises(ManyoneError, match=match) as caught:
        prepare_recipe(write(tmp_path, {k: v for k, v in recipe.items() if v is not None or k == "models"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"), [("a: [", "not YAML"), ("- 1", "not a mergekit recipe"), ("a: 1", "no merge_method")]
)
def test_files_that_are_no_recipe(tmp_path, text, match):
    with pytest.raises(ManyoneError, match=match) as caught:
        prepare_recipe(write(tmp_path, text))
    assert "recipe.yaml" in str(caught.value)
    with pytest.raises(ManyoneError, match="cannot be read"):
        prepare_recipe(tmp_path / "none.yaml")


def test_partial_slices_are_refused(tmp_path, models):
    source = [{"model": m, "layer_range": [0, 2]} for m in ("base", "a")]
    recipe = {"merge_method": "slerp", "base_model": "base", "slices": [{"sources": source}], "parameters": {"t": 0.5}}
    with pytest.raises(
        ManyoneError, match=r"layer_range \[0, 2\] of base is not supported, only all layers are: \[0, 3\]"
    ):
        prepare_recipe(write(tmp_path, recipe))
