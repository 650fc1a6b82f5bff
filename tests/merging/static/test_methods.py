"""The static methods: agreement with plain dense formulations, and the properties that define them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.reference import static as dense

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static
from manyone.merging.static import plan as static_plan
from manyone.merging.static import stream as static_stream
from manyone.merging.static.elementwise import SignElection, drop_at_random
from manyone.merging.static.plan import make_plan
from manyone.weights.checkpoint import as_checkpoint
from manyone.weights.open import open_checkpoint

LINEAR = {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "head.weight"}
seeds = st.integers(0, 2**31 - 1)
counts = st.integers(1, 4)


def model(seed: int, like=None, drift: float = 0.1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "embed.word_embeddings.weight": (13, 8),
        "blocks.0.norm.weight": (8,),
        "blocks.0.mlp.fc1.weight": (24, 8),
        "blocks.0.mlp.fc1.bias": (24,),
        "blocks.0.mlp.fc2.weight": (8, 24),
        "logit_scale": (),
        "head.weight": (12, 8),
    }
    tensors = {n: torch.randn(s, generator=g).to(dtype) for n, s in shapes.items()}
    if like is not None:
        tensors = {n: (like[n].float() + drift * t.float()).to(dtype) for n, t in tensors.items()}
    tensors["position_ids"] = torch.arange(6) if like is None else torch.arange(6) + seed % 7
    tensors["mask"] = torch.tensor([True, False])
    return tensors


def family(seed: int, count: int, dtype=torch.float32):
    base = model(seed, dtype=dtype)
    return base, [model(seed + i + 1, base, dtype=dtype) for i in range(count)]


def close(a, b, rtol=1e-5, atol=1e-6):
    assert list(a) == list(b)
    for n in a:
        assert a[n].dtype == b[n].dtype
        torch.testing.assert_close(a[n], b[n], rtol=rtol, atol=atol, msg=lambda m, n=n: f"{n}: {m}")


def same(a, b):
    assert list(a) == list(b)
    for n in a:
        assert a[n].dtype == b[n].dtype, n
        assert torch.equal(a[n], b[n]), n


def run_all(base, experts, **common):
    """Every method with its defaults, for properties that all share."""
    g = torch.Generator().manual_seed(5)
    shapes = {n: base[n].shape for n in LINEAR}
    grams = [{n: (x := torch.randn(40, s[1], generator=g)).T @ x for n, s in shapes.items()} for _ in experts]
    fishers = [{n: torch.rand(base[n].shape, generator=g) for n in dense.floats(base)} for _ in experts]
    extra = {"fisher": {"fishers": fishers}, "regmean": {"grams": grams}}
    return {name: static.merge(name, base, experts, **extra.get(name, {}), **common) for name in static.METHODS}


# -- agreement with the dense formulations --------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seeds, counts, st.floats(-1, 2))
def test_average_and_task_arithmetic_equal_dense(seed, count, scale):
    base, experts = family(seed, count)
    close(static.average(base, experts), dense.average(base, experts))
    close(static.task_arithmetic(base, experts, scale), dense.task_arithmetic(base, experts, scale))


@settings(max_examples=25, deadline=None)
@given(seeds, counts, st.floats(0.02, 1), st.sampled_from(["sum", "mean"]))
def test_ties_equals_dense(seed, count, density, merge):
    base, experts = family(seed, count)
    close(static.ties(base, experts, density, 0.7, merge), dense.ties(base, experts, density, 0.7, merge))


@pytest.mark.parametrize("space", ["weights", "task-vectors"])
@pytest.mark.parametrize("count", [2, 3])
def test_slerp_equals_dense(space, count):
    base, experts = family(3, count)
    close(static.slerp(base, experts, 0.3, space=space), dense.slerp_all(base, experts, 0.3, space), 1e-4, 1e-5)


def test_slerp_ends_are_the_experts():
    base, experts = family(4, 2)
    for t, expert in ((0.0, experts[0]), (1.0, experts[1])):
        for space in ("weights", "task-vectors"):
            merged = static.slerp(base, experts, t, space=space)
            close({n: merged[n] for n in dense.floats(base)}, {n: expert[n] for n in dense.floats(base)})


def test_model_stock_equals_dense():
    base, experts = family(6, 3)
    drift = model(99)
    for e in experts:  # a common direction, so that the angle matters
        for n in dense.floats(base):
            e[n] += 0.1 * drift[n]
    close(static.model_stock(base, experts), dense.model_stock(base, experts))


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.0])
def test_regmean_equals_dense(ratio):
    base, experts = family(7, 3)
    g = torch.Generator().manual_seed(1)
    shapes = {n: base[n].shape for n in LINEAR}
    grams = [{n: (x := torch.randn(50, s[1], generator=g)).T @ x for n, s in shapes.items()} for _ in experts]
    close(static.regmean(base, experts, grams, ratio=ratio), dense.regmean(base, experts, grams, ratio), 1e-4, 1e-5)


def test_regmean_of_conv1d_weights_stored_in_out():
    """GPT-2 stores [in, out]: transposing everything in the ordinary case must give the same result."""
    g = torch.Generator().manual_seed(2)
    names = {"h.0.mlp.c_fc.weight": (16, 8), "h.0.mlp.c_proj.weight": (8, 16), "h.0.attn.c_proj.weight": (8, 8)}
    plain = [{n.replace(".weight", k): torch.randn(s if k == ".weight" else s[:1], generator=g)
              for n, s in names.items() for k in (".weight", ".bias")} for _ in range(3)]  # fmt: skip
    turned = [{n: v.T.contiguous() if v.ndim == 2 else v for n, v in m.items()} for m in plain]
    grams = [{n: (x := torch.randn(30, s[1], generator=g)).T @ x for n, s in names.items()} for _ in range(2)]
    a = static.regmean(plain[0], plain[1:], grams)
    b = static.regmean(turned[0], turned[1:], grams)
    for n in names:
        torch.testing.assert_close(a[n], b[n].T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_singular_value_methods_equal_dense(count):
    base, experts = family(8, count)
    close(static.tsv_m(base, experts, 0.8), dense.tsv_m(base, experts, LINEAR, 0.8), 1e-3, 1e-4)
    close(static.iso_c(base, experts, 0.8), dense.iso_c(base, experts, LINEAR, 0.8), 1e-3, 1e-4)
    close(static.iso_cts(base, experts, 1.2, 0.5), dense.iso_cts(base, experts, LINEAR, 1.2, 0.5), 1e-3, 1e-4)


def test_fisher_equals_dense_and_averages_what_has_no_fisher():
    base, experts = family(9, 3)
    g = torch.Generator().manual_seed(3)
    names = [n for n in dense.floats(base) if "norm" not in n]
    fishers = [{n: torch.rand(base[n].shape, generator=g) * (i + 1) for n in names} for i in range(3)]
    close(static.fisher(base, experts, fishers, floor=1e-3), dense.fisher(base, experts, fishers, 1e-3))


# -- properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seeds, counts)
def test_scale_zero_is_the_base_exactly(seed, count):
    base, experts = family(seed, count)
    same(static.task_arithmetic(base, experts, 0.0), base)
    same(static.ties(base, experts, 0.2, 0.0), base)
    same(static.dare(base, experts, 0.5, 0.0), base)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_one_expert_with_scale_one_is_that_expert(seed):
    base, (expert,) = family(seed, 1)
    merged = static.task_arithmetic(base, [expert], 1.0)
    for n in dense.floats(base):
        torch.testing.assert_close(merged[n], expert[n], rtol=1e-6, atol=0)
    assert torch.equal(merged["position_ids"], base["position_ids"])  # buffers stay the base's


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 4), st.permutations(range(4)))
def test_experts_may_be_permuted(seed, count, order):
    base, experts = family(seed, count)
    turned = [experts[i] for i in order if i < count]
    close(static.task_arithmetic(base, experts), static.task_arithmetic(base, turned))
    close(static.ties(base, experts), static.ties(base, turned))
    close(static.average(base, experts), static.task_arithmetic(base, turned, 1 / count))
    close(static.iso_c(base, experts), static.iso_c(base, turned), 1e-3, 1e-4)


@settings(max_examples=10, deadline=None)
@given(seeds, counts, st.floats(-1, 1), st.floats(-1, 1))
def test_task_arithmetic_is_linear_in_scale(seed, count, a, b):
    base, experts = family(seed, count)
    one, two = static.task_arithmetic(base, experts, a), static.task_arithmetic(base, experts, b)
    both = static.task_arithmetic(base, experts, a + b)
    for n in dense.floats(base):
        torch.testing.assert_close(both[n] - base[n], one[n] + two[n] - 2 * base[n], rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seeds, counts)
def test_ties_of_equal_experts(seed, count):
    base, (expert,) = family(seed, 1)
    experts = [expert] * count
    mean = static.ties(base, experts, 1.0, 1.0, "mean")
    total = static.ties(base, experts, 1.0, 1.0, "sum")
    for n in dense.floats(base):
        torch.testing.assert_close(mean[n], expert[n], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(total[n], base[n] + count * (expert[n] - base[n]), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 4), st.floats(0.05, 1))
def test_ties_moves_along_the_elected_sign(seed, count, density):
    base, experts = family(seed, count)
    taus = torch.stack([dense.flatten(dense.trim(t, density)) for t in dense.vectors(base, experts)])
    merged = static.ties(base, experts, density, 1.0)
    moved = dense.flatten({n: merged[n].double() - base[n].double() for n in dense.floats(base)}).sign()
    assert torch.all((moved == 0) | (moved == taus.sum(0).sign()))


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(0.01, 0.99))
def test_ties_thresholds_are_the_dense_ones_bit_for_bit(seed, density):
    base, experts = family(seed, 2)
    method = SignElection(lambda name: 1.0, density=lambda name: [density] * 2)
    method.prepare(make_plan(as_checkpoint(base), [as_checkpoint(e) for e in experts]), threads=1)
    for i, tau in enumerate(dense.vectors(base, experts)):
        flat = dense.flatten({n: t.float() for n, t in tau.items()})
        limit = dense.threshold(flat, density)
        assert method.thresholds[i, ""] == float(limit)
        kept = int((flat.abs() >= limit).sum())
        if len(flat.abs().unique()) == len(flat):
            assert kept == min(int(density * len(flat)) + 1, len(flat))


def test_exact_cancellation_follows_the_majority_of_signs():
    base = {"w": torch.zeros(6)}
    down = [{"w": torch.tensor([1.0, -1, -1, -1, 0, 0])}, {"w": torch.tensor([-1.0, -1, -1, -1, 0, 0])}]
    assert static.ties(base, down, 1.0, 1.0)["w"].tolist() == [-1, -2, -2, -2, 0, 0]
    up = [{"w": -e["w"]} for e in down]
    assert static.ties(base, up, 1.0, 1.0)["w"].tolist() == [1, 2, 2, 2, 0, 0]


def test_ties_scope_tensor_trims_each_tensor():
    base = {"a": torch.zeros(10), "b": torch.zeros(10)}
    expert = {"a": torch.arange(1.0, 11), "b": torch.arange(1.0, 11) * 100}
    whole = static.ties(base, [expert], 0.45, 1.0)
    each = static.ties(base, [expert], 0.5, 1.0, scope="tensor")
    assert [int((whole[n] != 0).sum()) for n in "ab"] == [0, 10]
    assert [int((each[n] != 0).sum()) for n in "ab"] == [5, 5]


@settings(max_examples=10, deadline=None)
@given(seeds, counts)
def test_dare_without_drops_is_task_arithmetic(seed, count):
    base, experts = family(seed, count)
    close(static.dare(base, experts, 0.0, 0.4), static.task_arithmetic(base, experts, 0.4))
    close(static.dare(base, experts, 0.0, 0.4, then="ties", density=0.3), static.ties(base, experts, 0.3, 0.4))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dare_is_unbiased(p):
    """The mean over seeds lies within 4 standard errors: Var = tau^2 p / (1 - p) per seed."""
    draws = 400
    total = torch.zeros(50)
    tau = torch.linspace(-2, 3, 50)
    for seed in range(draws):
        piece = tau.clone()
        drop_at_random(piece, p, seed, 0, "w", 0)
        total += piece
        assert torch.all((piece == 0) | torch.isclose(piece, tau / (1 - p), rtol=1e-4))
    error = (total / draws - tau).abs()
    assert torch.all(error <= 4.5 * tau.abs() * (p / (1 - p) / draws) ** 0.5 + 1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(1, 70000), st.integers(0, 200000))
def test_dare_mask_depends_on_the_element_alone(expert, length, start):
    whole = torch.ones(start + length)
    drop_at_random(whole, 0.5, 7, expert, "w", 0)
    piece = torch.ones(length)
    drop_at_random(piece, 0.5, 7, expert, "w", start)
    assert torch.equal(whole[start:], piece)


def test_dare_seeds():
    base, experts = family(1, 2)
    same(static.dare(base, experts, seed=1), static.dare(base, experts, seed=1))
    assert not torch.equal(
        static.dare(base, experts, seed=1)["blocks.0.mlp.fc1.weight"],
        static.dare(base, experts, seed=2)["blocks.0.mlp.fc1.weight"],
    )


def test_tsv_m_of_one_expert_is_that_expert():
    base, (expert,) = family(2, 1)
    merged = static.tsv_m(base, [expert])
    for n in dense.floats(base):
        torch.testing.assert_close(merged[n], expert[n], rtol=1e-4, atol=1e-4)


def test_iso_c_flattens_the_spectrum_and_keeps_its_sum():
    base, experts = family(2, 3)
    merged = static.iso_c(base, experts)
    for n in LINEAR:
        total = sum(e[n].double() - base[n].double() for e in experts)
        values = torch.linalg.svdvals(merged[n].double() - base[n].double())
        torch.testing.assert_close(values, values.mean().expand_as(values), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values.sum(), torch.linalg.svdvals(total).sum(), rtol=1e-5, atol=1e-5)


def test_equal_statistics_give_the_average():
    base, experts = family(5, 3)
    g = torch.Generator().manual_seed(4)
    gram = {n: (x := torch.randn(40, base[n].shape[1], generator=g)).T @ x for n in LINEAR}
    fish = {n: torch.rand(base[n].shape, generator=g) + 0.1 for n in dense.floats(base)}
    close(static.regmean(base, experts, [gram] * 3, ratio=1.0), static.average(base, experts))
    close(static.fisher(base, experts, [fish] * 3), static.average(base, experts))


def test_regmean_of_one_expert_is_that_expert_even_with_unseen_inputs():
    base, (expert,) = family(5, 1)
    gram = {n: torch.zeros(base[n].shape[1], base[n].shape[1]) for n in LINEAR}
    for g in gram.values():
        g[0, 0] = 2.0  # one input feature was ever active
    merged = static.regmean(base, [expert], [gram])
    for n in dense.floats(base):
        torch.testing.assert_close(merged[n], expert[n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_method_keeps_dtypes_buffers_and_inputs(dtype):
    base, experts = family(11, 2, dtype)
    before = [{n: v.clone() for n, v in m.items()} for m in (base, *experts)]
    for name, merged in run_all(base, experts).items():
        assert list(merged) == list(base), name
        assert [v.dtype for v in merged.values()] == [v.dtype for v in base.values()], name
        assert torch.equal(merged["position_ids"], base["position_ids"]), name
        assert torch.equal(merged["mask"], base["mask"]), name
        assert all(torch.isfinite(v.float()).all() for v in merged.values()), name
    for now, then in zip((base, *experts), before):
        same(now, then)


def test_half_precision_is_accumulated_in_float32():
    """tau of 2^-9 relative is lost one by one in bfloat16 and not when it is summed in float32."""
    base = {"w": torch.ones(4, dtype=torch.bfloat16)}
    experts = [{"w": torch.full((4,), 1 + 2**-7, dtype=torch.bfloat16)} for _ in range(8)]
    merged = static.task_arithmetic(base, experts, 0.25)["w"]
    assert merged.tolist() == [1 + 2 * 2**-7] * 4


def test_expert_precision_may_differ_from_the_base():
    base, experts = family(12, 2)
    experts[0] = {n: v.bfloat16() if v.dtype == torch.float32 else v for n, v in experts[0].items()}
    close(static.task_arithmetic(base, experts), dense.task_arithmetic(base, experts, 0.3))


def test_excluded_tensors_are_the_base_s():
    base, experts = family(13, 2)
    for name, merged in run_all(base, experts, exclude=("logit_scale$", "norm")).items():
        for n in ("logit_scale", "blocks.0.norm.weight"):
            assert torch.equal(merged[n], base[n]), (name, n)
        if name != "model-stock":  # which keeps the base where experts disagree
            assert not torch.equal(merged["blocks.0.mlp.fc1.bias"], base["blocks.0.mlp.fc1.bias"]), name


def test_chunks_threads_and_files_change_nothing(tmp_path, monkeypatch):
    base, experts = family(14, 3)
    expected = run_all(base, experts)
    monkeypatch.setattr(static_plan, "CHUNK", 7)
    monkeypatch.setattr(static_stream, "CHUNK", 7)
    monkeypatch.setattr(static_stream, "_PER_TASK", 2)
    for i, tensors in enumerate((base, *experts)):
        save_file(tensors, tmp_path / f"{i}.safetensors")
    paths = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for name, merged in run_all(base, experts, threads=3).items():
        close(merged, expected[name], 1e-6, 1e-7)
    for name in ("task-arithmetic", "ties", "dare", "slerp", "iso-c"):
        static.merge(name, paths[0], paths[1:], out=tmp_path / name)
        written = load_file(tmp_path / name / "model.safetensors")
        close({n: written[n] for n in base}, expected[name], 1e-6, 1e-7)
    static.merge("ties", paths[0], paths[1:], out=tmp_path / "shards", max_shard_size=500)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    opened = open_checkpoint(tmp_path / "shards")
    close({n: opened[n] for n in base}, expected["ties"], 1e-6, 1e-7)


def test_same_seed_same_bytes(tmp_path):
    base, experts = family(15, 2)
    for i, threads in enumerate((1, 2)):
        static.merge("dare", base, experts, out=tmp_path / str(i), seed=3, then="ties", threads=threads)
    assert (tmp_path / "0" / "model.safetensors").read_bytes() == (tmp_path / "1" / "model.safetensors").read_bytes()


def test_tied_tensors_are_merged_once():
    base, experts = family(16, 2)
    tied = [{**m, "lm_head.weight": m["embed.word_embeddings.weight"]} for m in (base, *experts)]
    merged = static.ties(tied[0], tied[1:])
    assert merged["lm_head.weight"] is merged["embed.word_embeddings.weight"]
    close({n: merged[n] for n in base}, static.ties(base, experts))  # and they count once for the threshold
    close({n: static.ties(tied[0], experts)[n] for n in base}, static.ties(base, experts))
    close(static.ties(base, tied[1:]), static.ties(base, experts))


# -- what does not fit ---------------------------------------------------------------------------------------------


def refused(method, base, experts, match, **options):
    with pytest.raises(ManyoneError, match=match) as caught:
        static.merge(method, base, experts, **options)
    assert "\n" not in str(caught.value)


def test_mismatches_name_the_key():
    base, (good, bad) = family(17, 2)
    missing = {n: v for n, v in bad.items() if n != "blocks.0.mlp.fc1.bias"}
    refused("average", base, [good, missing], r"expert 2.*blocks\.0\.mlp\.fc1\.bias is missing")
    refused(
        "average", base, [{**bad, "extra.weight": torch.ones(2)}, good], r"expert 1.*extra\.weight is not in the base"
    )
    refused("ties", base, [good, {**bad, "logit_scale": torch.ones(2)}], r"logit_scale has shape \[2\]")
    refused("average", base, [{**bad, "mask": torch.ones(2)}], r"mask is float")
    refused("average", base, [{**bad, "logit_scale": torch.tensor(1)}], r"logit_scale is integer")
    refused("average", base, [], "at least one expert")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_method_lets_nan_or_inf_pass(value):
    base, (good, bad) = family(18, 2)
    for name in ("blocks.0.mlp.fc1.weight", "blocks.0.norm.weight"):
        broken = {**bad, name: bad[name].clone()}
        broken[name].view(-1)[3] = value
        for method in static.METHODS:
            extra = {
                "fisher": {"fishers": [{name: torch.ones_like(base[name])}] * 2},
                "regmean": {"grams": [{n: torch.eye(base[n].shape[1]) for n in LINEAR}] * 2},
            }.get(method, {})
            refused(method, base, [good, broken], rf"expert 2: NaN or Inf in tensor '{name}'", **extra)
        refused("ties", base, [good, broken], "expert 2: NaN or Inf", density=1.0)
        refused("task-arithmetic", broken, [good, bad], "base: NaN or Inf")


def test_overflow_of_the_output_is_an_error():
    base, experts = {"w": torch.ones(3, dtype=torch.float16)}, [{"w": torch.full((3,), 6e4, dtype=torch.float16)}] * 2
    refused("task-arithmetic", base, experts, r"'w'.*overflow", scale=1.0)


def test_different_heads_are_named_with_the_option_that_leaves_them():
    base, experts = family(19, 2)
    base["classifier.weight"], base["classifier.bias"] = torch.zeros(2, 8), torch.zeros(2)
    for i, e in enumerate(experts):
        e["score.weight"] = torch.zeros(3 + i, 8)
    with pytest.raises(ManyoneError) as caught:
        static.average(base, experts)
    text = str(caught.value)
    assert "classifier.weight is missing" in text
    assert "score.weight is not in the base" in text
    pattern = text.split("--exclude '")[1].rstrip("'")
    merged = static.average(base, experts, exclude=[pattern])
    assert list(merged) == list(base)
    assert torch.equal(merged["classifier.weight"], base["classifier.weight"])
    experts[0]["head.weight"] = torch.zeros(99, 8)
    with pytest.raises(ManyoneError, match=r"head\.weight has shape \[99, 8\]"):
        static.average(base, experts, exclude=[pattern])


def test_a_prefix_between_bare_and_wrapped_models_is_bridged():
    base, experts = family(20, 2)
    wrapped = [{f"model.{n}": v for n, v in e.items()} for e in experts]
    close(static.average(base, wrapped), static.average(base, experts))
    base2 = {f"model.{n}": v for n, v in base.items()}
    assert list(static.average(base2, experts)) == list(base2)


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("ties", {"density": 0}, "density = 0"),
        ("ties", {"density": 1.5}, "density = 1.5"),
        ("ties", {"merge": "max"}, "merge = max"),
        ("dare", {"drop": 1.0}, "drop = 1.0"),
        ("iso-cts", {"common": 0.0}, "common = 0.0"),
        ("slerp", {"space": "here"}, "space = here"),
        ("emr", {}, "unknown method 'emr'"),
        ("average", {"exclude": ["("]}, "not a regular expression"),
        ("fisher", {"fishers": []}, "0 Fishers for 2 experts"),
    ],
)
def test_bad_options_name_themselves(method, options, match):
    base, experts = family(21, 2)
    refused(method, base, experts, match, **options)


def test_order_of_numpy_bits_assumed_by_the_mask():
    """The mask reads 16-bit numbers out of 64-bit draws; that is the same bytes only on little-endian machines."""
    assert np.array([1], np.int64).view(np.int16)[0] == 1


def test_regmean_keeps_the_average_of_inputs_that_no_expert_ever_used():
    base, experts = family(6, 2)
    g = torch.Generator().manual_seed(3)
    grams = []
    for _ in experts:
        grams.append({})
        for n in LINEAR:
            x = torch.randn(40, base[n].shape[1], generator=g)
            x[:, :3] = 0
            grams[-1][n] = x.T @ x
    merged = static.regmean(base, experts, grams, ratio=1.0)
    for n in LINEAR:
        mean = (experts[0][n] + experts[1][n]) / 2
        torch.testing.assert_close(merged[n][:, :3], mean[:, :3], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(merged[n][:, 3:], mean[:, 3:], atol=1e-3)


def test_tsv_m_keeps_a_triple_of_every_expert_when_there_are_more_experts_than_directions():
    g = torch.Generator().manual_seed(6)
    base = {"fc.weight": torch.zeros(4, 4)}
    experts = [{"fc.weight": torch.randn(4, 4, generator=g)} for _ in range(5)]
    left, values, right = [], [], []
    for expert in experts:
        u, s, v = np.linalg.svd(expert["fc.weight"].numpy())
        left.append(u[:, 0])
        values.append(s[0])
        right.append(v[0])

    def polar(matrix):
        p, _, q = np.linalg.svd(matrix, full_matrices=False)
        return p @ q

    expected = (polar(np.stack(left, 1)) * np.array(values)) @ polar(np.stack(right))
    np.testing.assert_allclose(static.tsv_m(base, experts)["fc.weight"].numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("then", ["task-arithmetic", "ties"])
def test_dare_refuses_a_nan_wherever_the_mask_falls(then):
    base, experts = family(3, 2)
    experts[1]["blocks.0.mlp.fc1.weight"][5, 3] = float("nan")
    for seed in range(8):  # nearly every mask drops the entry
        with pytest.raises(ManyoneError, match=r"NaN or Inf in tensor 'blocks\.0\.mlp\.fc1\.weight'"):
            static.dare(base, experts, drop=0.9, then=then, seed=seed)


def test_an_exclusion_that_names_nothing_is_refused():
    base, experts = family(4, 2)
    with pytest.raises(ManyoneError, match=r"--exclude '\^heed': no tensor has such a name; they begin with embed, "):
        static.average(base, experts, exclude=["^head", "^heed"])
