"""Test-time adaptation: objective limits, reproducibility, resume, guards, fallback, loaders, export."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.reference.toy import Toy, digest, perturbed
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.merging.adaptation import learner as adaptation
from manyone.merging.adaptation.adamerging import AdaMerging
from manyone.merging.adaptation.concrete import ConcreteMerging
from manyone.merging.adaptation.learner import AdaptationLearner
from manyone.merging.adaptation.objectives import entropy, expert_kl, information_maximisation, marginal_entropy
from manyone.merging.heads import Head
from manyone.merging.moe.wemoe import WeightEnsemblingMoE

TASKS = ("a", "b", "c")
NETWORK = Toy(hidden=20)
EXPERTS = perturbed(NETWORK, 3)
HEADS = {t: Head(torch.randn(5, 8, generator=torch.Generator().manual_seed(i)), scale=4.0) for i, t in enumerate(TASKS)}
INPUTS = {t: torch.randn(40, 3, 6, generator=torch.Generator().manual_seed(10 + i)) for i, t in enumerate(TASKS)}
EXPERT_LOGITS = {t: torch.randn(40, 5, generator=torch.Generator().manual_seed(20 + i)) for i, t in enumerate(TASKS)}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "wemoe": lambda: WeightEnsemblingMoE(NETWORK, EXPERTS),
    "e-wemoe": lambda: WeightEnsemblingMoE(NETWORK, EXPERTS, prune_ratio=0.9, shared_router=True, strategy="sparse"),
    "wemoe-0": lambda: WeightEnsemblingMoE(NETWORK, EXPERTS, router_layers=0),
    "adamerging": lambda: AdaMerging(NETWORK, EXPERTS),
    "concrete": lambda: ConcreteMerging(NETWORK, EXPERTS, adamerging=True),
}


def learner_of(model: nn.Module, **options: Any) -> AdaptationLearner:
    settings: dict[str, Any] = {"lr": 3e-3, "steps": 12, "batch_size": 8, "schedule": "cosine"}
    return AdaptationLearner(model, HEADS, INPUTS, **(settings | options))


def test_entropy_is_exact_at_its_limits() -> None:
    for scale in (1e4, -1e4):
        logits = torch.zeros(3, 5)
        logits[:, 1] = scale
        logits.requires_grad_()
        value = entropy(logits)
        value.backward()
        assert value.item() == pytest.approx(0.0 if scale > 0 else math.log(4), abs=1e-5)
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
    assert entropy(torch.full((2, 7), 3.0)).item() == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objective", ["entropy", "information-maximisation", "expert-kl"])
def test_the_objective_falls(name: str, objective: str) -> None:
    logits = EXPERT_LOGITS if objective == "expert-kl" else None
    learner = learner_of(MODELS[name](), objective=objective, expert_logits=logits, steps=25, fallback=False)

    def value() -> float:
        found = learner.evaluate()
        entropies = [v for k, v in found.items() if k.startswith("monitor/entropy/")]
        return sum(entropies) if objective == "entropy" else found["criterion"]

    before = value()
    for _ in range(25):
        learner.step()
    assert value() < before


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_give_equal_bits_and_other_seeds_others(name: str) -> None:
    def run(seed: int) -> tuple[dict[str, bytes], list[dict[str, float]]]:
        torch.manual_seed(torch.seed())  # the global stream must not matter
        model = MODELS[name]()
        learner = learner_of(model, seed=seed)
        metrics = [learner.step() for _ in range(6)]
        return digest({n: p for n, p in model.named_parameters() if p.requires_grad}), metrics

    first, second, other = run(0), run(0), run(1)
    assert first == second
    assert first != other


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resuming_equals_never_having_stopped(name: str, stop: int) -> None:
    def result(learner: AdaptationLearner, steps: int) -> Any:
        metrics = [learner.step() for _ in range(steps)]
        return metrics, learner.evaluate(), digest(learner.state_dict()["trainable"])

    whole = learner_of(MODELS[name](), steps=12)
    for _ in range(stop):
        whole.step()
    wanted = result(whole, 12 - stop)
    first = learner_of(MODELS[name](), steps=12)
    for _ in range(stop):
        first.step()
    tensors: dict[str, Tensor] = {}
    saved = json.loads(json.dumps(_without_tensors(first.state_dict(), tensors)))
    second = learner_of(MODELS[name](), steps=12)
    second.load_state_dict(_with_tensors(saved, tensors))
    assert result(second, 12 - stop) == wanted


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What a checkpoint does to a state: tensors aside, the rest as JSON."""
    if isinstance(value, Tensor):
        tensors[key := f"#{len(tensors)}"] = value.clone()
        return key
    if isinstance(value, dict):
        assert all(isinstance(k, str) for k in value)
        return {k: _without_tensors(v, tensors) for k, v in value.items()}
    return [_without_tensors(v, tensors) for v in value] if isinstance(value, list) else value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, str) and value in tensors:
        return tensors[value]
    if isinstance(value, dict):
        return {k: _with_tensors(v, tensors) for k, v in value.items()}
    return [_with_tensors(v, tensors) for v in value] if isinstance(value, list) else value


def test_a_step_is_adam_on_the_summed_entropies() -> None:
    model, twin = MODELS["wemoe"](), MODELS["wemoe"]()
    learner = learner_of(model, schedule="constant")
    optimiser = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr=3e-3)
    for k in range(3):
        optimiser.zero_grad()
        losses = [entropy(HEADS[t](twin(INPUTS[t][learner.sources[t].order.batch(k)]))) for t in TASKS]
        torch.stack(losses).sum().backward()
        optimiser.step()
        assert learner.step()["loss"] == pytest.approx(sum(v.item() for v in losses), rel=1e-5)
    for p, q in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_cosine_schedule_ends_at_zero() -> None:
    learner = learner_of(MODELS["wemoe"](), steps=10)
    rates = [learner.step()["lr"] for _ in range(10)]
    assert rates[0] == 3e-3
    assert rates[5] == pytest.approx(1.5e-3)
    assert rates[-1] == pytest.approx(0.5 * 3e-3 * (1 + math.cos(0.9 * math.pi)))


def test_a_model_that_ends_worse_falls_back_and_says_so() -> None:
    model = MODELS["wemoe"]()
    start = digest({n: p for n, p in model.named_parameters() if p.requires_grad})
    learner = learner_of(model, lr=3.0, steps=6, schedule="constant")
    metrics = [learner.step() for _ in range(6)]
    assert "fell_back" not in metrics[4]
    assert metrics[5]["fell_back"] == 1.0
    assert digest({n: p for n, p in model.named_parameters() if p.requires_grad}) == start
    final = learner.evaluate()
    assert final["fell_back"] == 1.0
    assert final["criterion"] == final["criterion_at_start"]
    without = learner_of(MODELS["wemoe"](), lr=3.0, steps=6, schedule="constant", fallback=False)
    for _ in range(6):
        metrics.append(without.step())
    assert "fell_back" not in metrics[-1]
    assert without.evaluate()["criterion"] > final["criterion"]


def test_a_task_whose_predictions_collapse_is_paused_until_it_recovers(monkeypatch) -> None:
    monkeypatch.setattr(adaptation, "GUARD_EVERY", 1)
    learner = learner_of(MODELS["wemoe"]())
    learner.step()
    monitors = learner.monitors()
    assert learner.initial_monitors is not None
    healthy = dict(learner.initial_monitors)
    learner.pause_collapsed({**monitors, "monitor/marginal_entropy/b": 0.4 * healthy["monitor/marginal_entropy/b"]})
    assert learner.paused == {"b"}
    monkeypatch.setattr(adaptation, "GUARD_EVERY", 10**6)
    assert "entropy/b" not in learner.step()
    assert learner.state_dict()["paused"] == ["b"]
    learner.pause_collapsed(healthy)
    assert learner.paused == set()
    learner.pause_collapsed(dict.fromkeys(healthy, 0.0))
    assert learner.paused == set()  # if all collapse at once, the fallback decides


def test_the_fixed_subset_does_not_change_with_steps_or_seeds_of_torch() -> None:
    learner = learner_of(MODELS["wemoe"](), monitor_samples=7)
    first = learner.sources["a"].fixed.tolist()
    learner.step()
    assert len(first) == 7
    assert learner_of(MODELS["wemoe"](), monitor_samples=7).sources["a"].fixed.tolist() == first


def test_adapt_takes_tensors_and_loaders_of_plain_pytorch() -> None:
    model = WeightEnsemblingMoE(NETWORK, EXPERTS)
    start = digest(dict(model.routers.named_parameters()))
    loaders: dict[str, Any] = {
        "a": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS["a"], torch.zeros(40)), batch_size=8),
        "b": [INPUTS["b"][:8], INPUTS["b"][8:16]],
        "c": INPUTS["c"],
    }
    assert model.adapt(loaders, HEADS, steps=7, lr=1e-3, fallback=False) is model
    assert digest(dict(model.routers.named_parameters())) != start
    modules = {t: nn.Linear(8, 5).requires_grad_(False) for t in TASKS}
    model.adapt(INPUTS, modules, steps=2, objective="information-maximisation")


def test_only_trainable_parameters_move_and_heads_stay() -> None:
    model = WeightEnsemblingMoE(NETWORK, EXPERTS)
    before = digest(dict(model.encoder.state_dict())), {t: digest({"w": h.weight}) for t, h in HEADS.items()}
    learner = learner_of(model, fallback=False)
    for _ in range(12):
        learner.step()
    after = digest(dict(model.encoder.state_dict())), {t: digest({"w": h.weight}) for t, h in HEADS.items()}
    assert after == before


def test_export_writes_what_rebuilds_the_model(tmp_path: Path) -> None:
    model = WeightEnsemblingMoE(NETWORK, EXPERTS, prune_ratio=0.9)
    learner = learner_of(model)
    learner.step()
    learner.export(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    rebuilt = WeightEnsemblingMoE.from_artefact(
        Toy(hidden=20, seed=3), load_file(tmp_path / "model" / "model.safetensors"), config
    )
    torch.testing.assert_close(rebuilt(INPUTS["a"]), model(INPUTS["a"]), rtol=1e-6, atol=1e-6)


def test_bad_arguments_are_named() -> None:
    model = MODELS["adamerging"]()
    with pytest.raises(ManyoneError, match="no head"):
        AdaptationLearner(model, {"a": HEADS["a"]}, INPUTS)
    with pytest.raises(ManyoneError, match="'entropie'"):
        learner_of(model, objective="entropie")
    with pytest.raises(ManyoneError, match="expert_logits"):
        learner_of(model, objective="expert-kl")
    with pytest.raises(ManyoneError, match="schedule"):
        learner_of(model, schedule="linear")
    with pytest.raises(ManyoneError, match="steps"):
        learner_of(model, steps=0)
    with pytest.raises(ManyoneError, match="nothing to adapt"):
        learner_of(nn.Linear(6, 8).requires_grad_(False))
    with pytest.raises(ManyoneError, match="at least one task"):
        AdaptationLearner(model, HEADS, {})
    with pytest.raises(ManyoneError, match="disagree"):
        learner_of(MODELS["wemoe"]()).load_state_dict(learner_of(model).state_dict())
    with pytest.raises(ManyoneError, match="empty"):
        AdaptationLearner(model, HEADS, {"a": []})


def test_a_single_rank_fabric_changes_nothing() -> None:
    fabric_module = pytest.importorskip("lightning_fabric")
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1, precision="32-true")
    plain, wrapped = learner_of(MODELS["wemoe"]()), learner_of(MODELS["wemoe"](), fabric=fabric)
    for _ in range(3):
        assert plain.step() == wrapped.step()


@pytest.mark.parametrize(("objective", "fell_back"), [("information-maximisation", 0.0), ("entropy", 1.0)])
def test_monitors_at_the_end_are_those_of_the_model_that_is_kept(objective: str, fell_back: float) -> None:
    """They are computed for the fallback and not again for the evaluation; after a fallback they are the first ones."""
    learner = learner_of(MODELS["adamerging"](), objective=objective)
    for _ in range(12):
        learner.step()
    found = learner.evaluate()
    assert found["fell_back"] == fell_back
    fresh = learner_of(MODELS["adamerging"](), objective=objective)
    fresh.load_state_dict(learner.state_dict())
    assert fresh.evaluate() == found


def test_objectives_have_their_values_and_signs():
    uniform, sure = torch.zeros(4, 5), 50 * torch.eye(4, 5)
    assert float(entropy(uniform)) == pytest.approx(math.log(5))
    assert float(entropy(sure)) == pytest.approx(0.0, abs=1e-6)
    assert float(marginal_entropy(uniform)) == pytest.approx(math.log(5))
    assert float(marginal_entropy(sure)) == pytest.approx(math.log(4))
    assert float(marginal_entropy(sure[:1].expand(4, 5))) == pytest.approx(0.0, abs=1e-6)
    # sure and varied predictions are best, collapsed or unsure ones have no information
    assert float(information_maximisation(sure)) == pytest.approx(-math.log(4), abs=1e-6)
    assert float(information_maximisation(uniform)) == pytest.approx(0.0, abs=1e-6)
    assert float(information_maximisation(sure[:1].expand(4, 5))) == pytest.approx(0.0, abs=1e-6)


def test_the_expert_is_a_constant_of_the_kl():
    merged, expert = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    loss = expert_kl(merged, expert)
    p, q = expert.detach().softmax(1), merged.detach().softmax(1)
    assert float(loss.detach()) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)
    loss.backward()
    assert expert.grad is None
    assert merged.grad is not None


def text_classifier() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, vocab_size=30, num_labels=3, initializer_range=0.3)
    return transformers.BertForSequenceClassification(config).eval()


def texts(count: int = 6) -> dict[str, Tensor]:
    ids = torch.randint(3, 30, (count, 5), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def routers_of(model: WeightEnsemblingMoE) -> dict[str, bytes]:
    return digest({n: p.detach() for n, p in model.routers.named_parameters()})


def test_adapt_takes_hugging_face_classifiers_and_their_logits() -> None:
    network = text_classifier()
    experts = perturbed(network, 2, 0.1)
    own, spelt = WeightEnsemblingMoE(network, experts), WeightEnsemblingMoE(network, experts)
    assert own(texts()).logits.shape == (6, 3)
    own.adapt({"a": texts()}, steps=3, lr=1e-2, fallback=False)
    spelt.adapt({"a": texts()}, {"a": lambda logits: logits}, steps=3, lr=1e-2, fallback=False)
    assert routers_of(own) == routers_of(spelt) != routers_of(WeightEnsemblingMoE(network, experts))
    ada = AdaMerging(network, experts)
    AdaptationLearner(ada, None, {"a": texts()}, steps=1, lr=1e-2).step()
    assert float((ada.coefficients - 0.3).abs().max()) > 0


def test_adapt_takes_hidden_states_with_heads_that_pool_them() -> None:
    network = text_classifier().bert
    experts = perturbed(network, 2, 0.1)
    linear = nn.Linear(16, 3)
    model = WeightEnsemblingMoE(network, experts)
    model.adapt({"a": texts()}, {"a": lambda states: linear(states[:, 0])}, steps=2, lr=1e-2)
    for heads in ({"a": linear}, None):
        with pytest.raises(ManyoneError, match=r"'a': the head makes \[6, 5, (3|16)\].*pool tokens in the head"):
            model.adapt({"a": texts()}, heads, steps=2)

    class Odd(Toy):
        def forward(self, x: Tensor) -> Any:
            return {"features": super().forward(x)}

    with pytest.raises(ManyoneError, match=r"returns a dict .* wrap it"):
        WeightEnsemblingMoE(Odd(), EXPERTS_OF_ODD).adapt(INPUTS, HEADS, steps=1)


EXPERTS_OF_ODD = perturbed(Toy(), 2)


@pytest.mark.parametrize("kind", ["linear", "closure", "head"])
def test_adapt_leaves_no_gradient_outside_of_the_routers(kind: str) -> None:
    layers = {t: nn.Linear(8, 5) for t in TASKS}
    weights = {t: Head(torch.randn(5, 8).requires_grad_()) for t in TASKS}
    heads: dict[str, Any] = {
        "linear": layers, "closure": {t: lambda f, t=t: layers[t](f) for t in TASKS}, "head": weights,
    }[kind]  # fmt: skip
    before = {t: digest(dict(layer.state_dict())) for t, layer in layers.items()}
    model = WeightEnsemblingMoE(NETWORK, EXPERTS)
    start = routers_of(model)
    model.adapt(INPUTS, heads, steps=3, lr=1e-2, fallback=False)
    assert routers_of(model) != start
    assert all(p.grad is None for layer in layers.values() for p in layer.parameters())
    assert all(head.weight.grad is None for head in weights.values())
    assert all(p.grad is None for p in model.parameters())
    assert {t: digest(dict(layer.state_dict())) for t, layer in layers.items()} == before


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
def test_adapt_learns_whatever_mode_is_around_it(around: Any) -> None:
    wanted = WeightEnsemblingMoE(NETWORK, EXPERTS).adapt(INPUTS, HEADS, steps=3, lr=1e-2, fallback=False)
    model = WeightEnsemblingMoE(NETWORK, EXPERTS)
    with around():
        inputs = {t: x.clone() for t, x in INPUTS.items()}
        heads = {t: Head(h.weight.clone(), scale=h.scale) for t, h in HEADS.items()}
        batches: dict[str, Any] = {t: [x[:8], x[8:]] for t, x in inputs.items()}
        model.adapt(inputs, heads, steps=3, lr=1e-2, fallback=False)
        assert routers_of(model) == routers_of(wanted)
        module = nn.Linear(8, 5)
        model.adapt(batches, dict.fromkeys(TASKS, module), steps=3, lr=1e-2, fallback=False)
    assert routers_of(model) != routers_of(wanted)
    with torch.inference_mode():
        made_inside = WeightEnsemblingMoE(NETWORK, EXPERTS)
    with pytest.raises(ManyoneError, match=r"made under torch\.inference_mode"):
        made_inside.adapt(INPUTS, HEADS, steps=1)


def test_inputs_that_cannot_be_adapted_on_are_one_line() -> None:
    nan, some = torch.full((40, 3, 6), math.nan), INPUTS["a"].clone()
    some[[3, 7], 0, 0] = math.inf
    tables: tuple[tuple[Any, str], ...] = (
        (torch.empty(0, 3, 6), "'a': the inputs hold no sample"),
        ({"x": torch.empty(0, 3, 6)}, "'a': the inputs hold no sample"),
        ({}, "'a': the inputs must be a Tensor"),
        (nan, "'a': the inputs hold NaN or infinity in 40 of 40 samples"),
        (some, "'a': the inputs hold NaN or infinity in 2 of 40 samples"),
        ([], "'a': the iterable of batches is empty"),
        ([INPUTS["a"][:0]], "'a': batch 1 hold no sample"),
        ([INPUTS["a"][:8], nan[:4]], "'a': batch 2 hold NaN or infinity in 4 of 4"),
        (["text"], "'a': batch 1 must be a Tensor or a Mapping of Tensors, got str"),
        (17, "'a': inputs are a Tensor, a Mapping of Tensors or an iterable of such batches, not a int"),
        ("text", "an iterable of such batches, not a str"),
    )
    start = routers_of(WeightEnsemblingMoE(NETWORK, EXPERTS))
    for given, message in tables:
        model = WeightEnsemblingMoE(NETWORK, EXPERTS)
        with pytest.raises(ManyoneError, match=message):
            model.adapt({"a": given}, {"a": HEADS["a"]}, steps=2)
        assert routers_of(model) == start
    with pytest.raises(ManyoneError, match=r"'a': 40 inputs but expert logits of 39"):
        learner_of(
            MODELS["wemoe"](), objective="expert-kl", expert_logits={t: z[:39] for t, z in EXPERT_LOGITS.items()}
        )
    with pytest.raises(ManyoneError, match="logits do not depend on the features"):
        MODELS["wemoe"]().adapt(INPUTS, dict.fromkeys(TASKS, lambda f: f.detach()), steps=1)  # type: ignore[operator]


def test_a_generator_of_batches_is_used_whole_and_then_named() -> None:
    """It cannot begin again: the batches that were watched are trained on as well."""
    parts = INPUTS["a"].split(8)

    def model_of(given: Any, steps: int) -> WeightEnsemblingMoE:
        model = WeightEnsemblingMoE(NETWORK, EXPERTS)
        return model.adapt({"a": given}, {"a": HEADS["a"]}, steps=steps, lr=1e-2, fallback=False, monitor_samples=12)

    assert routers_of(model_of((part for part in parts), 5)) == routers_of(model_of(list(parts), 5))
    assert routers_of(model_of(list(parts), 7)) != routers_of(model_of(list(parts), 5))
    with pytest.raises(ManyoneError, match=r"'a': the iterable has no batch for step 6 and cannot begin again"):
        model_of((part for part in parts), 7)


def test_experts_may_be_modules_or_have_names() -> None:
    modules = []
    for weights in EXPERTS:
        modules.append(Toy(hidden=20))
        modules[-1].load_state_dict(weights)
    kinds: list[Any] = [WeightEnsemblingMoE, AdaMerging, ConcreteMerging]
    for kind in kinds:
        wanted = kind(NETWORK, EXPERTS)(INPUTS["a"])
        assert torch.equal(kind(NETWORK, modules)(INPUTS["a"]), wanted)
        assert torch.equal(kind(NETWORK, dict(zip(TASKS, EXPERTS)))(INPUTS["a"]), wanted)
        for odd in (EXPERTS[0], modules[0]):
            with pytest.raises(ManyoneError, match=r"a single one is written \[expert\]"):
                kind(NETWORK, odd)
        with pytest.raises(ManyoneError, match="expert 2 is a str"):
            kind(NETWORK, [EXPERTS[0], "expert.pt"])


def test_prompts_padded_on_the_left_are_trimmed_on_the_left() -> None:
    from manyone.data.tasks import take

    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    ids = torch.arange(12).view(3, 4) * mask
    part = take({"input_ids": ids, "attention_mask": mask}, slice(0, 2))
    assert isinstance(part, dict)
    assert part["input_ids"].tolist() == [[0, 2, 3], [5, 6, 7]]
    assert part["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
