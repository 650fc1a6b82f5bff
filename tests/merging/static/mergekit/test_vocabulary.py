"""Tables of tokens: rows beside a plain look-up, in pieces of any size, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.merging.static.parity import make_models, weights

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.merging.recipes.static_options import MergekitOptions
from manyone.merging.static.mergekit import prepare_recipe
from manyone.merging.static.mergekit.vocabulary import RowsEntry, is_table
from manyone.recipes.execution import execute
from manyone.weights.checkpoint import TensorEntry
from manyone.weights.tensor_info import DTYPES, TensorInfo

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("transformers")
    make_models(tmp_path)
    return tmp_path


def prepared(folder, **recipe):
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    return prepare_recipe(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_in_pieces_of_any_size(dtype):
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 3, generator=g).to(dtype) for n in (7, 5))
    which = np.array([0, 0, 0, 1, 1, -1, -2, 0, -3, 1])
    rows = np.array([2, 3, 4, 0, 1, 0, 0, 6, 0, 4])
    means = [[(0, 1), (1, 2)], [(0, 0), (0, 5), (1, 3)]]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    a, b = first.to(wide), second.to(wide)
    plain = [a[2], a[3], a[4], b[0], b[1], 0 * a[0], (a[1] + b[2]) / 2, a[6], (a[0] + a[5] + b[3]) / 3, b[4]]
    plain = torch.stack([*plain, *[torch.stack(plain).mean(0)] * 2])
    code = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}[dtype]
    info = TensorInfo(DTYPES[code], (12, 3))
    entry = RowsEntry(info, [TensorEntry(first), TensorEntry(second)], which, rows, means, 10)
    for start in range(36):
        for stop in range(start + 1, 37):
            torch.testing.assert_close(entry.flat(start, stop), plain.view(-1)[start:stop])
    assert entry.array(5, 9).dtype == (np.float64 if dtype == torch.float64 else np.float32)


def test_what_is_a_table():
    def info(*shape):
        return TensorInfo(DTYPES["F32"], shape)

    for name in (TABLE, HEAD, "transformer.wte.weight", "cls.predictions.bias", "gpt_neox.embed_out.weight"):
        assert is_table(name, info(*[20, 8][: 1 + name.endswith("weight")]), 20), name
    for name in ("bert.embeddings.position_embeddings.weight", "model.layers.0.lm_head.weight", "classifier.weight"):
        assert not is_table(name, info(20, 8), 20), name
    assert not is_table(HEAD, info(19, 8), 20)


def test_rows_of_the_base_and_of_the_only_one_that_has_a_token(folder):
    from manyone.merging.static.methods import execute

    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "more"}],
        "parameters": {"weight": 1.0},
        "tokenizer": {"source": "union", "pad_to_multiple_of": 16},
    }
    plan, method, companions = prepared(folder, **recipe)
    execute(plan, method, out=folder / "out", companions=companions)
    merged = load_file(folder / "out" / "model.safetensors")
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(merged[TABLE]) == len(merged[HEAD]) == 32
    content = json.loads((folder / "out" / "tokenizer.json").read_text())
    rows = content["model"]["vocab"] | {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    names = {n: json.loads((folder / n / "tokenizer.json").read_text())["model"]["vocab"] for n in ("base", "more")}
    assert set(rows) == set(names["base"]) | set(names["more"])
    assert all(rows[token] == row for token, row in names["base"].items()), "the base's tokens keep their numbers"
    tensors = {n: weights(n) for n in names}
    for table in (TABLE, HEAD):
        for token, row in rows.items():
            owner = "more" if token in names["more"] else "base"
            torch.testing.assert_close(merged[table][row], tensors[owner][table][names[owner][token]])
        torch.testing.assert_close(merged[table][30], merged[table][: len(rows)].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ({"x": {"source": "base", "force": True}}, "tokens.x.source 'base': has no token 'x'; name another"),
        ({"x": {"source": None}}, "tokens.x.source None: some model lacks this token: name a model"),
        ({"a": {"source": "other", "force": True}}, "tokens.a.source 'other': is none of the models merged there"),
        (
            {"a": {"source": {"kind": "model_token", "model": "more", "token_id": 99}, "force": True}},
            "tokens.a.source 'more': has no token 99; name another model or token",
        ),
    ],
)
def test_tokens_that_are_refused(folder, tokens, match):
    recipe = {"merge_method": "linear", "base_model": "base", "models": [{"model": "more"}]}
    with pytest.raises(ManyoneError, match=match):
        prepared(folder, **recipe, parameters={"weight": 1}, tokenizer={"source": "union", "tokens": tokens})


def test_tokenisers_that_are_refused(folder):
    recipe = {"merge_method": "linear", "base_model": "base", "models": [{"model": "more"}]}
    recipe |= {"parameters": {"weight": 1}}
    with pytest.raises(ManyoneError, match=r"tokenizer source 'c': must be union, base or a model of the recipe: base"):
        prepared(folder, **recipe, tokenizer_source="c")
    with pytest.raises(ManyoneError, match=r"lm_head.weight has 16, 18 rows.*tokenizer_source: union"):
        prepared(folder, **recipe)
    (folder / "more" / "tokenizer.json").write_text("{}")
    with pytest.raises(ManyoneError, match=r"more: its tokeniser cannot be read \(.*; correct its files"):
        prepared(folder, **recipe, tokenizer_source="union")
    (folder / "more" / "tokenizer.json").unlink()
    (folder / "more" / "config.json").write_text(json.dumps({"vocab_size": 40}))
    with pytest.raises(ManyoneError, match=r"more/model.safetensors: lm_head.weight has fewer rows"):
        prepared(folder, **recipe, tokenizer_source="base")
    tensors = weights("more") | {TABLE: torch.zeros(16, 6)}
    make_models(folder / "again")
    save_file(tensors, folder / "again" / "more" / "model.safetensors")
    with pytest.raises(ManyoneError, match=r"has shapes \[16, 6\] and \[18, 8\]: only the number of tokens may differ"):
        prepared(folder / "again", **recipe, tokenizer_source="base")


def test_a_dry_run_of_slices_and_tokens(folder, capsys):
    slices = [{"sources": [{"model": name, "layer_range": [0, 2]} for name in pair]} for pair in ("ab", "cb")]
    recipe = {"merge_method": "sce", "base_model": "b", "slices": slices, "tokenizer_source": "union"}
    (folder / "recipe.yml").write_text(yaml.safe_dump(recipe))
    options = MergekitOptions(recipe=folder / "recipe.yml", dry_run=True)
    execute(options, RunFolder.create(folder / "run", "mergekit", options))
    printed = capsys.readouterr().out
    assert "39 merged" in printed
    assert "39 at once" in printed
    assert not (folder / "run").exists()
