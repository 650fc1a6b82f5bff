"""Tiny models and the recipes on which this project is compared with mergekit 0.1.5.

The models are functions of their names: every value comes from a Philox counter, so they are made where they are needed
and only mergekit's outputs are stored (``tests/fixtures/mergekit-0.1.5.npz``, float32, rows of tables in the order of
their tokens). Random methods get the same draws in both projects (:func:`draw`).
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

RECORDED = Path(__file__).parents[2] / "fixtures" / "mergekit-0.1.5.npz"
EXACT = 3e-6
"""What rounding in float32 in another order leaves, on values of about 1."""
WIDTH, INNER, HEADS = 8, 12, 2


def normal(name: str, count: int) -> np.ndarray:
    """``count`` values, nearly normal with deviation 1, that are a function of ``name``: sums of 12 uniform ones."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(12 * count).reshape(count, 12)
    return ((raw >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).sum(1)


def draw(shape: Any) -> torch.Tensor:
    """The numbers in [0, 1) that both projects draw: a function of the number of entries."""
    count = int(np.prod(tuple(shape)))
    raw = np.random.Philox(key=count).random_raw(count)
    return torch.from_numpy((raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)).view(tuple(shape))


def shapes(layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama."""
    part = {
        "input_layernorm.weight": (WIDTH,),
        "post_attention_layernorm.weight": (WIDTH,),
        "self_attn.q_proj.weight": (WIDTH, WIDTH),
        "self_attn.k_proj.weight": (WIDTH // 2, WIDTH),
        "self_attn.v_proj.weight": (WIDTH // 2, WIDTH),
        "self_attn.o_proj.weight": (WIDTH, WIDTH),
        "mlp.gate_proj.weight": (INNER, WIDTH),
        "mlp.up_proj.weight": (INNER, WIDTH),
        "mlp.down_proj.weight": (WIDTH, INNER),
    }
    inside = {f"model.layers.{k}.{name}": shape for k in range(layers) for name, shape in part.items()}
    table = (vocabulary, WIDTH)
    outside = {"model.embed_tokens.weight": table, "model.norm.weight": (WIDTH,), "lm_head.weight": table}
    return outside | inside


BASE_TOKENS = ["<s>", "</s>", *"abcdefghijklmnop"]
VOCABULARIES = {
    "base": BASE_TOKENS,
    "a": BASE_TOKENS,
    "b": BASE_TOKENS,
    "c": BASE_TOKENS,
    "against": BASE_TOKENS,
    "deep": BASE_TOKENS,
    "more": ["<s>", "</s>", *"abcdxyz", "<tool>", *"efghij"],
    "other": ["<s>", *"zyxw", "</s>", *"abc"],
}
ADDED = {"<s>", "</s>", "<tool>"}
LAYERS = {"deep": 5}
ROWS = {"other": 12}  # rows of its tables that no token uses
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a model: the base's, and for the others the base's with a change of deviation 0.3."""
    found = {}
    rows = ROWS.get(name, len(VOCABULARIES[name]))
    for key, shape in shapes(LAYERS.get(name, 3), rows).items():
        count = int(np.prod(shape))
        values = normal(f"base/{key}/{count}", count)
        if name == "against":  # the other way than the sum of a and b, so that the mean cosine is negative
            values -= 0.3 * (normal(f"a/{key}/{count}", count) + 0.9 * normal(f"b/{key}/{count}", count))
        elif name != "base":
            values += 0.3 * normal(f"{name}/{key}/{count}", count)
        found[key] = torch.from_numpy(values.astype(np.float32)).view(shape)
    return found


def make_models(folder: Path) -> None:
    """A Hugging Face folder for every model."""
    for name, tokens in VOCABULARIES.items():
        place = folder / name
        place.mkdir(parents=True)
        tensors = weights(name)
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS.get(name, 3),
            "num_attention_heads": HEADS,
            "num_key_value_heads": 1,
            "vocab_size": len(tensors["lm_head.weight"]),
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        (place / "config.json").write_text(json.dumps(config))
        _write_tokenizer(place, tokens)


def _write_tokenizer(folder: Path, tokens: list[str]) -> None:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": tokens.index(token), "content": token, **plain} for token in tokens if token in ADDED]
    model = {"type": "BPE", "vocab": {token: k for k, token in enumerate(tokens)}, "merges": []}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    content = {"version": "1.0", **empty, "added_tokens": added, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@dataclass(frozen=True)
class Case:
    """A recipe, the greatest difference that is allowed, and why it is more than rounding where it is."""

    recipe: dict[str, Any]
    bound: float = EXACT
    why: str = ""


def _models(*names: str, **parameters: Any) -> list[dict[str, Any]]:
    found = []
    for i, name in enumerate(names):
        own = {key: value[i] for key, value in parameters.items()}
        found.append({"model": name} | ({"parameters": own} if own else {}))
    return found


def _merge(method: str, *names: str, own: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    common = {key: value for key, value in rest.items() if key not in ("base_model", "dtype", "out_dtype")}
    top = {key: value for key, value in rest.items() if key in ("base_model", "dtype", "out_dtype")}
    recipe = {"merge_method": method, "models": _models(*names, **(own or {})), **top}
    return recipe | ({"parameters": common} if common else {})


def _on_base(method: str, *names: str, **rest: Any) -> dict[str, Any]:
    return _merge(method, *names, base_model="base", **rest)


def _slices(method: str, slices: list[Any], **top: Any) -> dict[str, Any]:
    """``slices`` are lists of (model, first, last, parameters)."""

    def source(model: str, first: int, last: int, own: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"model": model, "layer_range": [first, last]} | ({"parameters": own} if own else {})

    return {"merge_method": method, "slices": [{"sources": [source(*one) for one in part]} for part in slices], **top}


GRADIENT = [0, 0.3, 0.7, 1]
LAMBDA = {"lambda": 0.7}
_TOKENS = {
    "x": {"source": "more", "force": True},
    "<tool>": {"source": {"kind": "zero"}},
    "<new>": {"source": {"kind": "model_token", "model": "base", "token": "a"}},
    "q": {"source": {"kind": "model_token", "model": "more", "token_id": 3}},
}
_SHARE = "the rest divided by 1 - p, not scaled to the same sum of magnitudes"
_POLE = "t has a pole: float64 sums against float32 ones"
_ONCE = "rounded once, to the nearest"
_NARROW = "computed in float32 and rounded once, not in bfloat16"

CASES: dict[str, Case] = {
    "linear": Case(_merge("linear", "a", "b", own={"weight": [1, 3]})),
    "linear, gradient": Case(_merge("linear", "a", "b", own={"weight": [GRADIENT, 0.5]})),
    "linear, not normalised": Case(_merge("linear", "a", "b", "c", weight=0.4, normalize=False)),
    "linear, base counts": Case(_merge("linear", "a", "b", base_model="base", weight=1)),
    "slerp": Case(_on_base("slerp", "a", t=0.4)),
    "slerp, beyond 1": Case(_on_base("slerp", "a", t=[-0.3, 1.4])),
    "slerp, filters": Case(
        _on_base(
            "slerp",
            "base",
            "b",
            t=[
                {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                {"filter": "mlp", "value": ["1e-1", 1.5]},
                {"value": 0.5},
            ],
        )
    ),
    "task_arithmetic": Case(_on_base("task_arithmetic", "a", "b", own={"weight": [0.4, -0.2]})),
    "task_arithmetic, gradient": Case(_on_base("task_arithmetic", "a", "b", weight=GRADIENT)),
    "task_arithmetic, normalised": Case(_on_base("task_arithmetic", "a", "b", weight=0.6, normalize=True, **LAMBDA)),
    "ties": Case(_on_base("ties", "a", "b", "c", weight=0.5, density=0.4)),
    "ties, density 0": Case(_on_base("ties", "a", "b", own={"density": [0, 0.5]}, weight=[1, 0.5])),
    "ties, gradient from 0": Case(_on_base("ties", "a", "b", weight=1, density=[0, 0.5, 1], normalize=False)),
    "ties, word 1e-1": Case(_on_base("ties", "a", "b", weight="1e-1", density=[0, "5e-1"], normalize="yes")),
    "ties, density above 1": Case(_on_base("ties", "a", "b", weight=0.5, density=1.5, int8_mask=True)),
    "ties, rescaled": Case(_on_base("ties", "a", "b", "c", weight=0.5, density=0.3, rescale=True, **LAMBDA)),
    "ties, negative weight": Case(_on_base("ties", "a", "b", own={"weight": [1, -0.5]}, density=0.6)),
    "dare_linear, plain": Case(_on_base("dare_linear", "a", "b", weight=0.5, density=0.6, rescale=False)),
    "dare_ties, plain": Case(_on_base("dare_ties", "a", "b", "c", weight=0.5, density=0.6, rescale=False)),
    "dare_ties, density 0": Case(
        _on_base("dare_ties", "a", "b", weight=1, density=[0, 1], normalize=True, rescale=False)
    ),
    "dare_linear": Case(_on_base("dare_linear", "a", "b", weight=0.5, density=0.6), 0.4, _SHARE),
    "dare_ties": Case(_on_base("dare_ties", "a", "b", weight=0.5, density=0.6), 1.5, _SHARE + "; signs may turn"),
    "breadcrumbs": Case(_on_base("breadcrumbs", "a", "b", weight=0.5, density=0.7, gamma=0.1)),
    "breadcrumbs, no room": Case(_on_base("breadcrumbs", "a", "b", weight=0.5, density=0.9, gamma=0.4)),
    "breadcrumbs_ties": Case(_on_base("breadcrumbs_ties", "a", "b", "c", weight=0.5, density=0.6, gamma=0.05)),
    "breadcrumbs_ties, rescaled": Case(
        _on_base("breadcrumbs_ties", "a", "b", weight=1, density=0.5, gamma=[0, 0.2], rescale=True, normalize=True)
    ),
    "della": Case(_on_base("della", "a", "b", "c", weight=0.5, density=0.5, epsilon=0.2)),
    "della, density 0": Case(_on_base("della", "a", "b", own={"density": [0, 0.7]}, weight=1)),
    "della_linear": Case(_on_base("della_linear", "a", "b", weight=0.5, density=0.5, epsilon=0.1, **LAMBDA)),
    "della_linear, plain": Case(_on_base("della_linear", "a", "b", weight=0.5, density=0.5, rescale=False)),
    "sce": Case(_on_base("sce", "a", "b", "c", select_topk=0.5)),
    "sce, all": Case(_on_base("sce", "a", "b")),
    "sce, none": Case(_on_base("sce", "a", "b", select_topk=[0, 0.3])),
    "nuslerp": Case(_merge("nuslerp", "a", "b", own={"weight": [1, 3]})),
    "nuslerp, on a base": Case(_on_base("nuslerp", "a", "b", weight=GRADIENT)),
    "nuslerp, rows": Case(_merge("nuslerp", "a", "b", own={"weight": [1, 2]}, nuslerp_flatten=False)),
    "nuslerp, columns": Case(_on_base("nuslerp", "a", "b", weight=1, nuslerp_flatten=False, nuslerp_row_wise=True)),
    "multislerp": Case(_merge("multislerp", "a", "b", "c", own={"weight": [1, 2, 3]})),
    "multislerp, on a base": Case(_on_base("multislerp", "a", "b", "c", weight=0.3, normalize_weights=False)),
    "multislerp, one": Case(_on_base("multislerp", "a", weight=0.3)),
    "karcher": Case(_merge("karcher", "a", "b", "c")),
    "karcher, base counts": Case(_on_base("karcher", "a", "against", max_iter=3, tol="1e-3")),
    "model_stock": Case(_on_base("model_stock", "a", "b"), 1e-5, _POLE),
    "model_stock, negative": Case(_on_base("model_stock", "a", "b", "against"), 2e-4, _POLE),
    "model_stock, filters": Case(_on_base("model_stock", "a", "b", "c", filter_wise=True), 1e-5, _POLE),
    "arcee_fusion": Case(_on_base("arcee_fusion", "a")),
    "nearswap": Case(_on_base("nearswap", "a", t=[0.01, 0.2])),
    "ram": Case(_on_base("ram", "a", "b", "c", epsilon=0.2)),
    "ramplus_tl": Case(_on_base("ramplus_tl", "a", "b", "c", epsilon=0.2, r=0.5, alpha=0.7)),
    "passthrough": Case(_merge("passthrough", "a", scale=[{"filter": "down_proj", "value": 0.5}])),
    "passthrough, restacked": Case(
        _slices("passthrough", [[("a", 0, 2, {"scale": [1, 2]})], [("deep", 1, 4)], [("b", 2, 3)]])
    ),
    "slerp, other layers": Case(
        _slices("slerp", [[("a", 0, 3), ("deep", 2, 5)]], base_model="a", parameters={"t": [0, 0.5, 1]})
    ),
    "linear, two slices": Case(
        _slices("linear", [[("a", 0, 2), ("b", 1, 3)], [("c", 2, 3)]], parameters={"weight": GRADIENT[1:]})
    ),
    "ties, two slices": Case(
        _slices(
            "ties",
            [[("base", 0, 1), ("a", 0, 1), ("b", 1, 2)], [("base", 1, 3), ("c", 1, 3)]],
            base_model="base",
            parameters={"weight": GRADIENT[1:], "density": 0.6},
        )
    ),
    "modules": Case(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "modules": {"default": {"models": _models("a", "b"), "parameters": {"weight": 0.25}}},
            "parameters": {"weight": 9, "lambda": 2},
        }
    ),
    "tokenizer of the base": Case(_on_base("linear", "base", "more", weight=1) | {"tokenizer_source": "base"}),
    "tokenizer of a model": Case(_on_base("task_arithmetic", "more", weight=0.5) | {"tokenizer_source": "more"}),
    "tokenizer, union": Case(_on_base("task_arithmetic", "more", weight=0.5) | {"tokenizer_source": "union"}),
    "tokenizer, union of three": Case(
        _on_base("linear", "more", "other", weight=1) | {"tokenizer": {"source": "union", "pad_to_multiple_of": 8}}
    ),
    "tokenizer, overrides": Case(
        _on_base("linear", "more", weight=1) | {"tokenizer": {"source": "union", "tokens": _TOKENS}}
    ),
    "bfloat16": Case(_on_base("task_arithmetic", "a", "b", weight=0.5, dtype="bfloat16"), 0.032, _NARROW),
    "out_dtype bfloat16": Case(_on_base("ties", "a", "b", weight=0.5, density=0.5, out_dtype="bfloat16"), 0.016, _ONCE),
    "out_dtype float16": Case(_on_base("nuslerp", "a", "b", weight=0.5, out_dtype="float16"), 0.002, _ONCE),
}


def write_recipes(folder: Path) -> dict[str, Path]:
    """Every recipe as a file beside the models."""
    paths = {}
    for k, (name, case) in enumerate(CASES.items()):
        paths[name] = folder / f"{k:02d}.yml"
        paths[name].write_text(yaml.safe_dump(case.recipe, sort_keys=False))
    return paths


def read_output(folder: Path) -> dict[str, np.ndarray]:
    """A merged model in float32; tables with their rows in the order of their tokens, padding last."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    rows = vocabulary["model"]["vocab"] | {entry["content"]: entry["id"] for entry in vocabulary["added_tokens"]}
    order = [rows[token] for token in sorted(rows)]
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(path).items():
            values = value.float().numpy()
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                rest = [row for row in range(len(values)) if row not in set(order)]
                values = values[[row for row in order if row < len(values)] + rest]
            found[name] = values
    return found


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """This project's random methods with the draws of :func:`draw`."""

    def drop(tau, p, seed, expert, name, start, rescale=True):
        assert start == 0
        tau *= draw(tau.shape) < 1 - p
        if rescale and p < 1:
            tau.div_(1 - p)

    elementwise = "manyone.merging.static.elementwise.drop_at_random"
    uniform = "manyone.merging.static.whole.uniform"
    with mock.patch(elementwise, drop), mock.patch(uniform, lambda shape, seed, expert, name: draw(shape)):
        yield


def run_ours(recipe: Path, out: Path) -> dict[str, np.ndarray]:
    """This project's output."""
    from manyone.merging.static.mergekit import prepare_recipe
    from manyone.merging.static.methods import execute

    with same_draws():
        plan, method, companions = prepare_recipe(recipe)
        execute(plan, method, out=out, companions=companions)
    return read_output(out)


def store(outputs: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """One row of numbers a recipe, and their tensors' names and shapes."""
    shapes_ = {case: {name: list(value.shape) for name, value in found.items()} for case, found in outputs.items()}
    rows = {case: np.concatenate([value.reshape(-1) for value in found.values()]) for case, found in outputs.items()}
    np.savez_compressed(path, **rows, shapes=np.frombuffer(json.dumps(shapes_).encode(), np.uint8))


def load(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What :func:`store` wrote."""
    outputs: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for case, tensors in json.loads(stored["shapes"].tobytes()).items():
            row, start, outputs[case] = stored[case], 0, {}
            for name, shape in tensors.items():
                stop = start + int(np.prod(shape))
                outputs[case][name], start = row[start:stop].reshape(shape), stop
    return outputs


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The greatest difference of two outputs; infinite where tensors or shapes differ."""
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return float("inf")
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
