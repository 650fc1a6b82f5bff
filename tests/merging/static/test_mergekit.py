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
from manyone.weights.open import open_checkpoint

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


def test_model_stock_is_the_method_where_task_vectors_point_the_same_way(tmp_path, models):
    recipe = {"merge_method": "model_stock", "base_model": "base", "models": [{"model": "a"}, {"model": "b"}]}
    expected = static.model_stock(tmp_path / "base", [tmp_path / "a", tmp_path / "b"])
    found = run(tmp_path, recipe)
    cosines = {}
    for n in SHAPES:
        a, b = ((models[k][n] - models["base"][n]).reshape(-1) for k in "ab")
        cosines[n] = float(a @ b / a.norm() / b.norm())
        t = 2 * cosines[n] / (1 + cosines[n])
        mean = models["base"][n] + t * (a + b).view(SHAPES[n]) / 2
        torch.testing.assert_close(found[n].double(), mean, rtol=1e-4, atol=1e-5)
        wanted = expected[n] if cosines[n] > 0 else models["base"][n].float()
        torch.testing.assert_close(expected[n], wanted)
        if cosines[n] > 0:
            torch.testing.assert_close(found[n], expected[n], rtol=1e-5, atol=1e-6)
    assert min(cosines.values()) < 0 < max(cosines.values()), "both signs are tested"


def test_tensors_outside_the_layers_take_the_first_value_of_a_gradient(tmp_path, models):
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a"}],
        "parameters": {"weight": [0, 0.3, 0.7, 1]},
    }
    merged = run(tmp_path, recipe)
    for n in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(merged[n], models["base"][n].float())
    at = {UP[0]: 0.0, UP[1]: 0.5, UP[2]: 1.0}
    for n, t in at.items():
        torch.testing.assert_close(merged[n].double(), (1 - t) * models["base"][n] + t * models["a"][n])


def test_dtype_is_written_and_noted_in_the_configuration(tmp_path, models):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 1}}],
        "dtype": "bfloat16",
    }
    plan, method, companions = prepare_recipe(write(tmp_path, recipe))
    static.execute(plan, method, out=tmp_path / "out", companions=companions)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {v.dtype for v in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"merge_method": "task_arithmatic"}, "merge_method 'task_arithmatic' is not supported; supported are linear"),
        ({"merge_method": ["ties"]}, r"merge_method \['ties'\]: must be the name of a method"),
        ({"tokeniser": "union"}, "tokeniser is not supported; remove it, known are merge_method"),
        ({"modules": {}, "models": None}, "needs exactly one of models, slices and modules; it has none"),
        ({"modules": {"a": {}, "b": {}}, "models": None}, "only one module is supported; merge the models as a whole"),
        ({"slices": [{"sources": []}]}, "it has models and slices"),
        ({"chat_template": "vicuna"}, "chat_template 'vicuna': must be auto, chatml, or the text"),
        ({"tokenizer": {"tokens": {"x": {"source": {"kind": "one"}}}}}, "tokens.x.source.kind 'one': must be zero or"),
        ({"tokenizer": {"tokens": {"x": {"force": True}}}}, "tokens.x.source None: a forced token needs one"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "pad_to_multiple_of 0: must be a positive number"),
        ({"tokenizer": {"source": "union"}, "tokenizer_source": "base"}, "tokenizer_source 'base': leave it out"),
        ({"tokenizer_source": "base"}, "has no tokeniser, and the recipe's tokenizer needs the base's"),
        ({"parameters": {"weight": 1, "gamma": 0.1}}, "parameters.gamma 0.1: ties has no such parameter; remove it"),
        ({"parameters": {"density": 0.5}}, r"parameter 'weight' is missing for .*; write it under models\[0\]"),
        (
            {"parameters": {"weight": "much"}},
            "parameters.weight 'much': has a value that is not supported: write a num",
        ),
        ({"parameters": {"weight": ".nan"}}, "parameters.weight '.nan': has a value that is not supported"),
        ({"parameters": {"weight": 1, "normalize": 2}}, "parameters.normalize 2: .* write true or false"),
        ({"parameters": {"weight": [{"filter": 3, "value": 1}]}}, r"weight\[0\].filter 3: must be part of a tensor"),
        ({"parameters": {"weight": [{"value": [[1]]}]}}, r"weight\[0\].value \[\[1\]\]: must be a number"),
        ({"parameters": {"weight": [{"values": 1}]}}, r"weight\[0\].values is not supported; remove it"),
        ({"dtype": "int4"}, "dtype 'int4': is not supported; use float32"),
        ({"base_model": None}, "needs a base_model; name one"),
        ({"models": None}, "needs exactly one of models, slices and modules"),
        ({"models": 3}, "models 3: must be a list"),
        ({"models": [{"model": "a", "layer_range": [0, 1]}]}, r"models\[0\].layer_range is not supported; remove it"),
        ({"models": [{"parameters": {}}]}, r"models\[0\] .*: has no model; write model: and a folder"),
        ({"models": [{"model": "a+b+c"}]}, r"models\[0\].model 'a\+b\+c': must be a folder, or folder\+adapter"),
        ({"models": [{"model": {"model": {"path": "a", "revision": "x"}}}]}, "revision 'x': download that revision"),
        ({"models": [{"model": "c"}]}, "c: no such file or folder"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "models 'a': is named twice; name every model once"),
        ({"models": [{"model": "base"}]}, "models has 0 models besides the base_model .*; ties takes 1 or more"),
        ({"merge_method": "slerp", "parameters": {"t": 0.5}}, r"models has 3 models \(a, b, base\); slerp takes 2"),
        (
            {"merge_method": "model_stock", "models": [{"model": "a"}], "parameters": None},
            "has 1 models besides the base_model .*; model_stock takes 2 or more",
        ),
        (
            {"merge_method": "della", "parameters": {"weight": 1, "density": 0.1}},
            "density 0.1 and epsilon 0.15 of .*: density - epsilon and density .* make epsilon smaller",
        ),
        (
            {"merge_method": "linear", "models": [{"model": "a"}], "parameters": {"weight": [0, 1]}},
            "the weights of model.embed_tokens.weight sum to zero and cannot be normalised; change a weight",
        ),
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
        prepare_recipe(write(tmp_path, {k: v for k, v in recipe.items() if v is not None}))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value) or "no such file" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"), [("a: [", "not YAML"), ("- 1", "not a mergekit recipe"), ("a: 1", "no merge_method; write")]
)
def test_files_that_are_no_recipe(tmp_path, text, match):
    with pytest.raises(ManyoneError, match=match) as caught:
        prepare_recipe(write(tmp_path, text))
    assert "recipe.yaml" in str(caught.value)
    with pytest.raises(ManyoneError, match="cannot be read"):
        prepare_recipe(tmp_path / "none.yaml")


SLICES = {"merge_method": "slerp", "base_model": "base", "parameters": {"t": 0.5}}


@pytest.mark.parametrize(
    ("sources", "match"),
    [
        ([("base", [0, 2]), ("a", [0, 4])], r"all layer_range of one slice must have the same length"),
        ([("base", [0, 2]), ("a", [2, 4])], r"sources\[1\].layer_range \[2, 4\]: a has 3 layers: use at most \[0, 3\]"),
        ([("base", [0, 2]), ("a", [2, 1])], r"layer_range \[2, 1\]: must be \[first, last \+ 1\]"),
        ([("base", [0, 2]), ("a", None)], r"layer_range None: must be \[first, last \+ 1\]"),
        ([("b", [0, 2]), ("a", [0, 2])], r"slices\[0\] 'base': the base_model must be one of the sources; add it"),
    ],
)
def test_slices_that_are_refused(tmp_path, models, sources, match):
    listed = [{"model": m, "layer_range": span} for m, span in sources]
    with pytest.raises(ManyoneError, match=match) as caught:
        prepare_recipe(write(tmp_path, {**SLICES, "slices": [{"sources": listed}]}))
    assert str(caught.value).startswith(str(tmp_path / "recipe.yaml"))


def test_restacked_layers_and_the_configuration(tmp_path, models):
    for name in ("a", "b"):
        config = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["x", "y", "z"], "dtype": "float32"}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    parts = [("a", [0, 2], 1), ("b", [0, 1], 2), ("a", [0, 2], 1)]
    slices = [
        {"sources": [{"model": m, "layer_range": span, "parameters": {"scale": scale}}]} for m, span, scale in parts
    ]
    recipe = write(tmp_path, {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"})
    plan, method, companions = prepare_recipe(recipe)
    static.execute(plan, method, out=tmp_path / "out", companions=companions, max_shard_size="1KB")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 5
    assert config["layer_types"] == ["x", "y", "x", "x", "y"]
    assert config["dtype"] == "bfloat16"
    merged = open_checkpoint(tmp_path / "out")
    where = [("a", 0, 1), ("a", 1, 1), ("b", 0, 2), ("a", 0, 1), ("a", 1, 1)]
    for k, (m, layer, scale) in enumerate(where):
        for rest in ("self_attn.q_proj.weight", "mlp.up_proj.weight"):
            expected = scale * models[m][f"model.layers.{layer}.{rest}"]
            assert torch.equal(merged[f"model.layers.{k}.{rest}"], expected.bfloat16())
    assert not any("layers.5" in name for name in merged)
    assert torch.equal(merged["model.embed_tokens.weight"], models["a"]["model.embed_tokens.weight"].bfloat16())


def test_tables_of_different_length_are_named(tmp_path, models):
    longer = {n: v.float() for n, v in models["a"].items()}
    longer["model.embed_tokens.weight"] = torch.zeros(12, 8)
    save_file(longer, tmp_path / "a" / "model.safetensors")
    recipe = {"merge_method": "linear", "models": [{"model": "b"}, {"model": "a"}], "parameters": {"weight": 1}}
    with pytest.raises(
        ManyoneError, match=r"embed_tokens.weight has 10, 12 rows; align the tokens with tokenizer_source: union"
    ):
        prepare_recipe(write(tmp_path, recipe))


@pytest.mark.parametrize("method", ["breadcrumbs", "della", "sce", "arcee_fusion", "ram", "nearswap", "karcher"])
def test_nan_is_named(tmp_path, models, method):
    broken = {n: v.float() for n, v in models["a"].items()}
    broken[UP[1]][3, 3] = float("nan")
    save_file(broken, tmp_path / "a" / "model.safetensors")
    needs = {"breadcrumbs": {"weight": 1, "density": 0.5}, "della": {"weight": 1, "density": 0.5}, "nearswap": {"t": 1}}
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a"}],
        "parameters": needs.get(method, {}),
    }
    with pytest.raises(ManyoneError, match=rf"model.safetensors: NaN or Inf in tensor '{UP[1]}'"):
        run(tmp_path, recipe)


def test_mixed_precisions_keep_the_wider(tmp_path, models):
    save_file({n: v.bfloat16() for n, v in models["base"].items()}, tmp_path / "base" / "model.safetensors")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a"}],
        "parameters": {"weight": 1},
    }
    for n, value in run(tmp_path, recipe).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), models["a"][n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("template", ["auto", "chatml", "{% for m in messages %}{{ m }}{% endfor %}"])
def test_chat_template(tmp_path, models, template):
    frequent = "{{ the_most_frequent }}"
    for name, text in (("base", "{{ other }}"), ("a", frequent), ("b", [{"name": "default", "template": frequent}])):
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    recipe = {
        "merge_method": "linear",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 1},
        "chat_template": template,
    }
    plan, method, companions = prepare_recipe(write(tmp_path, recipe))
    static.execute(plan, method, out=tmp_path / "out", companions=companions)
    written = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert written == json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"]
    if template == "auto":
        assert written == frequent
    elif template == "chatml":
        assert written.startswith("{% for message in messages %}<|im_start|>")
    else:
        assert written == template


def test_random_drops_are_a_function_of_the_seed(tmp_path, models):
    recipe = {
        "merge_method": "della_linear",
        "base_model": "base",
        "models": [{"model": "a"}],
        "parameters": {"weight": 1, "density": 0.6, "epsilon": 0.3, "rescale": False},
    }
    first, again, other = run(tmp_path, recipe, seed=1), run(tmp_path, recipe, seed=1), run(tmp_path, recipe, seed=2)
    for n in UP:
        assert torch.equal(first[n], again[n])
        assert not torch.equal(first[n], other[n])
    kept = [(first[n].double() - models["base"][n]).abs() > 1e-7 for n in UP]
    large = [(models["a"][n] - models["base"][n]).abs() for n in UP]
    assert 0.45 < float(torch.cat(kept).double().mean()) < 0.75
    above = [k[x >= x.median(dim=1, keepdim=True).values].double().mean() for k, x in zip(kept, large)]
    below = [k[x < x.median(dim=1, keepdim=True).values].double().mean() for k, x in zip(kept, large)]
    assert sum(above) > sum(below) + 0.3, "large entries are kept more often"
