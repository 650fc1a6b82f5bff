"""What is measured while models are merged: norms, angles, movement by layer, against a plain formulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manyone.merging.static import methods as static
from manyone.merging.static.movement import Measure, Movement, names_of
from manyone.merging.static.plan import CHUNK
from manyone.weights.checkpoint import Checkpoint


def models(count: int, width: int = 16, dtype=torch.float32, layers: int = 3):
    g = torch.Generator().manual_seed(3)
    shapes = {"embed.weight": (20, width), "head.weight": (5, width), "ids": ()}
    shapes |= {f"layers.{k}.{part}.weight": (width, width) for k in range(layers) for part in ("attn", "mlp")}
    base = {n: torch.randn(s, generator=g).to(dtype) for n, s in shapes.items() if n != "ids"}
    base["ids"] = torch.arange(3)
    return base, [
        {n: v + (0.1 * torch.randn(v.shape, generator=g)).to(dtype) if n != "ids" else v for n, v in base.items()}
        for _ in range(count)
    ]


def flat(weights, names):
    return torch.cat([weights[n].double().reshape(-1) for n in names])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["average", "ties", "tsv-m", "slerp"])
def test_norms_cosines_and_movement_are_those_of_the_task_vectors(method, dtype):
    base, experts = models(3, dtype=dtype)
    measure = Measure(["a", "b", "c"])
    merged = static.merge(method, base, experts, measure=measure)
    found = measure.result()
    assert found.names == ("a", "b", "c", "merged")
    assert found.layers == ("embedding", "layers.0", "layers.1", "layers.2", "head")
    assert not found.sampled
    names = [n for n in base if n != "ids"]
    taus = [flat(m, names) - flat(base, names) for m in (*experts, merged)]
    close = {"rel": 2e-2 if dtype == torch.bfloat16 else 1e-4, "abs": 1e-2 if dtype == torch.bfloat16 else 1e-5}
    assert found.norms() == pytest.approx([float(t.norm()) for t in taus], **close)
    wanted = [[float(a @ b / a.norm() / b.norm()) for b in taus] for a in taus]
    assert np.array(found.cosines()) == pytest.approx(np.array(wanted), **close)
    for k, layer in enumerate(found.layers):
        own = [n for n in names if n.startswith(layer + ".") or (layer == "embedding" and n.startswith("embed."))]
        moved = (flat(merged, own) - flat(base, own)).norm() / flat(base, own).norm()
        assert found.relative()[k] == pytest.approx(float(moved), **close)


def test_the_merge_is_the_same_with_and_without():
    base, experts = models(2)
    plain = static.merge("ties", base, experts)
    for name, value in static.merge("ties", base, experts, measure=Measure()).items():
        assert torch.equal(value, plain[name])


def test_large_tensors_are_measured_in_part_and_well():
    g = torch.Generator().manual_seed(0)
    rows = torch.linspace(0.5, 1.5, 20 * CHUNK // 512).unsqueeze(1)  # later rows move more
    base = {"layers.0.mlp.weight": torch.randn(len(rows), 512, generator=g)}
    experts = [{n: v + 0.1 * rows * torch.randn(v.shape, generator=g) for n, v in base.items()} for _ in range(2)]
    measure = Measure()
    merged = static.merge("task-arithmetic", base, experts, scale=0.5, measure=measure)
    found, (name,) = measure.result(), base
    assert found.sampled
    assert found.base_norm() == pytest.approx(float(base[name].norm()), rel=0.01)
    exact = [float((m[name] - base[name]).norm()) for m in (*experts, merged)]
    assert found.norms() == pytest.approx(exact, rel=0.05)
    assert found.cosines()[0][2] == pytest.approx(math.sqrt(0.5), abs=0.01)


def test_an_expert_that_does_not_move_has_no_angle():
    base, (expert,) = models(1)
    measure = Measure(["same", "moved"])
    static.merge("average", base, [{n: v.clone() for n, v in base.items()}, expert], measure=measure)
    found = measure.result()
    assert found.norms()[0] == 0
    assert found.cosines()[0] == [None, None, None]
    assert found.cosines()[1][2] == pytest.approx(1)


def test_layers_are_grouped_with_their_neighbours():
    layers = (
        "embedding",
        *(f"encoder.layers.{k}" for k in range(5)),
        *(f"decoder.layers.{k}" for k in range(2)),
        "head",
    )
    gram = np.arange(1.0, 10.0).reshape(9, 1, 1)
    found = Movement((), layers, np.ones(9), gram).grouped(6)
    assert found.layers == ("embedding", "encoder.layers.0 to 1", "encoder.layers.2 to 3", "encoder.layers.4",
                            "decoder.layers.0 to 1", "head")  # fmt: skip
    assert found.relative() == pytest.approx(
        [1, math.sqrt(5 / 2), math.sqrt(9 / 2), math.sqrt(6), math.sqrt(15 / 2), 3]
    )
    assert Movement((), layers, np.ones(9), gram).grouped(1).layers == (
        "embedding", "encoder.layers.0 to 4", "decoder.layers.0 to 1", "head")  # fmt: skip


def test_names_tell_models_apart():
    labels = [
        "x/a/model.safetensors",
        "x/b.safetensors",
        "y/b.safetensors",
        "models--org--m/snapshots/0f",
        "expert 1",
    ]
    names = names_of([Checkpoint({}, label=label) for label in labels])
    assert names == ["a", "b (1)", "b (2)", "org/m", "expert 1"]
