"""Surgery on top of the models that this package merges, on real images and on padded text."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from manyone.merging import artefact, measures
from manyone.merging.adaptation.adamerging import AdaMerging
from manyone.merging.moe.wemoe import WeightEnsemblingMoE
from manyone.merging.surgery import learner as surgery_learner
from manyone.merging.surgery.learner import SurgeryLearner
from manyone.merging.surgery.model import Surgery, SurgeryV2
from manyone.nets import build_encoder

TASKS = ("a", "b")
SPECS = {
    "vit": {
        "kind": "vit", "size": 8, "patch": 4, "channels": 1, "width": 16, "depth": 3, "heads": 2,
        "mean": [0.5], "std": [0.5],
    },
    "bert": {
        "kind": "sentence",
        "config": {
            "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 12,
        },
    },
}  # fmt: skip


def experts_of(encoder: nn.Module) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            n: v + 0.1 * torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
            for n, v in encoder.state_dict().items()
        }
        for _ in TASKS
    ]


def inputs_of(kind: str, n: int = 24) -> dict[str, Tensor | dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    if kind == "vit":
        return {t: torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator) for t in TASKS}
    result = {}
    for task in TASKS:
        mask = (torch.arange(9) < torch.randint(2, 10, (n, 1), generator=generator)).long()
        result[task] = {"input_ids": torch.randint(1, 30, (n, 9), generator=generator) * mask, "attention_mask": mask}
    return result


def merged_model(method: str, encoder: nn.Module, experts: list[dict[str, Tensor]]) -> nn.Module:
    if method == "adamerging":
        return AdaMerging(encoder, experts, scale=0.4)
    return WeightEnsemblingMoE(encoder, experts, routing=method.removeprefix("wemoe-"))


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("method", ["adamerging", "wemoe-sample", "wemoe-batch"])
@pytest.mark.parametrize("version", [1, 2])
def test_surgery_trains_on_top_of_any_merged_model(kind: str, method: str, version: int, monkeypatch) -> None:
    if kind == "bert":
        pytest.importorskip("transformers")
    encoder = build_encoder(SPECS[kind])
    experts, inputs = experts_of(encoder), inputs_of(kind)
    merged = merged_model(method, encoder, experts)
    frozen = copy.deepcopy(merged.state_dict())
    flags = [p.requires_grad for p in merged.parameters()]
    model = Surgery(merged, 16, TASKS, 4) if version == 1 else SurgeryV2(merged, 16, 16, TASKS, 4)
    assert torch.equal(model(inputs["a"], "a"), merged(inputs["a"]))
    options = {"batch_size": 8, "lr": 1e-2, "encoder": encoder, "seed": 1}
    learner = SurgeryLearner(model, dict(zip(TASKS, experts)), inputs, **options)
    first = learner.step()["loss"]
    for _ in range(12):
        last = learner.step()["loss"]
    assert last < first
    assert learner.evaluate()["bias"] < learner.bias_before["bias"]
    assert all(torch.equal(frozen[n], v) for n, v in merged.state_dict().items())
    assert [p.requires_grad for p in merged.parameters()] == flags
    if version == 2:
        assert model.blocks == [
            n for n, _ in merged.named_modules() if n.split(".")[-1].isdigit() and n in model.blocks
        ]
        assert len(model.blocks) == 3
        whole = SurgeryV2(copy.deepcopy(merged), 16, 16, TASKS, 4)
        monkeypatch.setattr(surgery_learner, "CACHE_BYTES", 0)
        plain = SurgeryLearner(whole, dict(zip(TASKS, experts)), inputs, side_by_side=False, **options)
        assert plain.cache is None
        assert plain.step()["loss"] == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_a_saved_surgery_on_wemoe_gives_equal_logits(version: int, tmp_path) -> None:
    encoder = build_encoder(SPECS["vit"])
    experts, inputs = experts_of(encoder), inputs_of("vit")
    merged = WeightEnsemblingMoE(encoder, experts)
    model = Surgery(merged, 16, TASKS, 4) if version == 1 else SurgeryV2(merged, 16, 16, TASKS, 4)
    learner = SurgeryLearner(model, dict(zip(TASKS, experts)), inputs, batch_size=8, encoder=encoder, lr=1e-2)
    for _ in range(3):
        learner.step()
    heads = {t: measures.Head(torch.randn(3, 16), normalise=False) for t in TASKS}
    artefact.save(str(tmp_path), model, SPECS["vit"], heads)
    loaded = artefact.load(str(tmp_path))
    for task in TASKS:
        wanted = heads[task](measures.features(model, inputs[task], task))
        with torch.no_grad():
            assert torch.allclose(loaded(inputs[task], task), wanted, atol=1e-6)


def test_corrections_bring_accuracy_back_on_real_images(fixture_bundle) -> None:
    suite, bundle = fixture_bundle
    encoder = build_encoder(bundle.encoder)
    merged = build_encoder(bundle.encoder)
    base, experts = bundle.base, bundle.experts
    merged.load_state_dict({n: v + 0.3 * sum(experts[t][n] - v for t in bundle.tasks) for n, v in base.items()})
    splits = {t: suite.task(t).test for t in bundle.tasks}
    inputs = {t: s.inputs for t, s in splits.items()}
    width = merged(next(iter(inputs.values()))[:1]).shape[1]
    hidden = merged.stem.out_features
    score = {"merged": measures.accuracies(merged, bundle.heads, splits)}
    for name, model in (
        ("v1", Surgery(copy.deepcopy(merged), width, bundle.tasks)),
        ("v2", SurgeryV2(copy.deepcopy(merged), width, hidden, bundle.tasks)),
    ):
        learner = SurgeryLearner(model, experts, inputs, encoder=encoder)
        for _ in range(100):
            learner.step()
        assert learner.evaluate()["bias"] < 0.8 * learner.bias_before["bias"]
        score[name] = measures.accuracies(model, bundle.heads, splits)
    mean = {name: sum(s.values()) / len(s) for name, s in score.items()}
    assert mean["v1"] > mean["merged"]
    assert mean["v2"] > mean["merged"]
