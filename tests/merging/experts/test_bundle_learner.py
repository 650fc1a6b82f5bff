"""Experts and bundles: determinism, what is frozen, resume, the cache, and that fine-tuning helps."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from torch import Tensor

from manyone.data.suites import load_suite
from manyone.data.tasks import Split, Suite, Task
from manyone.errors import ManyoneError
from manyone.merging.experts import cache
from manyone.merging.experts.bundle import Bundle
from manyone.merging.experts.bundle_learner import ExpertsLearner, bundle, bundle_accuracy, make_bundle
from manyone.merging.experts.protocol import (
    PROTOCOLS,
    DistilledPretraining,
    FineTuning,
    JointPretraining,
    LogisticHeads,
    Protocol,
    protocol_for,
)

TINY = dataclasses.replace(
    PROTOCOLS["fixture"],
    encoder={"kind": "resmlp", "inputs": 784, "width": 16, "hidden": 32, "depth": 2},
    base=JointPretraining(samples_per_task=20, epochs=2),
    fine_tuning=FineTuning(lr=1e-3, batch_size=16, steps=4, frozen=("stem.",)),
)


@pytest.fixture(scope="module")
def suite() -> Suite:
    whole = load_suite("fixture")
    return dataclasses.replace(whole, tasks=whole.tasks[:2])


def equal(first: Bundle, second: Bundle) -> bool:
    def same(a, b):
        return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

    heads = all(torch.equal(first.heads[t].weight, second.heads[t].weight) for t in first.heads)
    experts = all(same(first.experts[t], second.experts[t]) for t in first.tasks)
    return same(first.base, second.base) and first.tasks == second.tasks and heads and experts


def test_experts_beat_the_base_on_their_own_task(fixture_bundle):
    suite, found = fixture_bundle
    scores = bundle_accuracy(found, suite)
    for task in suite.tasks:
        assert scores[f"experts/{task.name}"] > scores[f"base/{task.name}"], task.name
    assert scores["experts/average"] > scores["base/average"] + 0.1


def test_bundle_names_the_suites_tasks_and_classes(fixture_bundle):
    suite, found = fixture_bundle
    assert found.tasks == tuple(t.name for t in suite.tasks)
    assert all(len(found.heads[t.name].weight) == len(t.classes) for t in suite.tasks)
    assert all(list(w) == list(found.base) for w in found.experts.values())
    assert found.info["accuracy"]["experts"].keys() == set(found.tasks)


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(suite):
    first, second = (make_bundle(suite, seed=5, protocol=TINY) for _ in range(2))
    assert equal(first, second)
    assert not equal(first, make_bundle(suite, seed=6, protocol=TINY))


def test_training_ignores_and_spares_the_global_generator(suite):
    torch.manual_seed(1)
    first = make_bundle(suite, seed=5, protocol=TINY)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert equal(first, make_bundle(suite, seed=5, protocol=TINY))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_stem_is_frozen_and_the_rest_moves(suite):
    found = make_bundle(suite, seed=0, protocol=TINY)
    for weights in found.experts.values():
        for name, value in weights.items():
            assert torch.equal(value, found.base[name]) == name.startswith("stem."), name


def test_heads_stay_at_the_joint_rows(suite):
    learner = ExpertsLearner(suite, TINY, seed=0)
    while learner.base is None:
        learner.step()
    before = {t: h.weight.clone() for t, h in learner.heads.items()}
    while learner.stage != "done":
        learner.step()
    after = learner.bundle().heads
    assert all(torch.equal(before[t], after[t].weight) for t in before)
    assert all(torch.allclose(w.norm(dim=1), torch.ones(len(w))) for w in before.values())


def test_an_expert_does_not_depend_on_the_other_tasks_order(suite):
    learner = ExpertsLearner(suite, TINY, seed=0)
    while learner.stage != "done":
        learner.step()
    found = learner.bundle()
    other = ExpertsLearner(suite, TINY, seed=0)
    while other.base is None:
        other.step()
    other.suite = dataclasses.replace(suite, tasks=suite.tasks[::-1])
    while other.stage != "done":
        other.step()
    for name in found.tasks:
        assert all(torch.equal(v, other.bundle().experts[name][k]) for k, v in found.experts[name].items())


@pytest.mark.parametrize("stop", [1, 3, 5, 8, 9])
def test_resume_at_any_step_equals_the_uninterrupted_training(suite, stop):
    whole = ExpertsLearner(suite, TINY, seed=0)
    losses = [whole.step()["loss"] for _ in range(whole.steps)]
    first = ExpertsLearner(suite, TINY, seed=0)
    for _ in range(stop):
        first.step()
    resumed = ExpertsLearner(suite, TINY, seed=0)
    resumed.load_state_dict(first.state_dict())
    assert resumed.position == stop
    assert [resumed.step()["loss"] for _ in range(whole.steps - stop)] == losses[stop:]
    assert equal(whole.bundle(), resumed.bundle())


def test_bundle_round_trip(fixture_bundle, tmp_path):
    _, found = fixture_bundle
    found.save(str(tmp_path))
    again = Bundle.load(str(tmp_path))
    assert equal(found, again)
    assert again.info == found.info
    assert again.encoder == found.encoder


def test_cached_bundle_is_the_trained_one_and_is_not_trained_again(suite, tmp_path, monkeypatch):
    trained = bundle(suite, 0, protocol=TINY, cache_folder=tmp_path)
    monkeypatch.setattr(ExpertsLearner, "step", lambda self: pytest.fail("trained again"))
    assert equal(trained, bundle(suite, 0, protocol=TINY, cache_folder=tmp_path))
    assert equal(trained, cache.load(cache.bundle_folder(suite, TINY, 0, tmp_path)))


def test_cache_entries_differ_by_data_protocol_and_seed(suite, tmp_path):
    task = suite.tasks[0]
    fewer = dataclasses.replace(task, train=task.train.take(slice(0, 50)))
    entries = {
        cache.bundle_folder(suite, TINY, 0, tmp_path),
        cache.bundle_folder(suite, TINY, 1, tmp_path),
        cache.bundle_folder(suite, dataclasses.replace(TINY, fine_tuning=FineTuning(lr=2e-3)), 0, tmp_path),
        cache.bundle_folder(dataclasses.replace(suite, tasks=(fewer, *suite.tasks[1:])), TINY, 0, tmp_path),
    }
    assert len(entries) == 4


def test_interrupted_training_keeps_what_was_finished(suite, tmp_path):
    learner = ExpertsLearner(suite, TINY, seed=0, parts=tmp_path)
    while len(learner.experts) < 1:
        learner.step()
    again = ExpertsLearner(suite, TINY, seed=0, parts=tmp_path)
    assert again.position == learner.position > 0
    assert again.stage == suite.tasks[1].name
    while again.stage != "done":
        again.step()
    assert equal(again.bundle(), make_bundle(suite, seed=0, protocol=TINY))


def test_processes_that_ask_at_once_train_once(suite, tmp_path, monkeypatch):
    steps = []
    step = ExpertsLearner.step
    monkeypatch.setattr(ExpertsLearner, "step", lambda self: (steps.append(1), step(self))[1])
    results: list[Bundle] = []
    threads = [
        threading.Thread(target=lambda: results.append(bundle(suite, 0, protocol=TINY, cache_folder=tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert equal(*results)
    assert len(steps) == ExpertsLearner(suite, TINY, seed=0).steps


def test_damaged_cache_is_named(suite, tmp_path):
    bundle(suite, 0, protocol=TINY, cache_folder=tmp_path)
    folder = cache.bundle_folder(suite, TINY, 0, tmp_path)
    (folder / "base.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ManyoneError, match=r"damaged cached bundle.*delete the folder"):
        bundle(suite, 0, protocol=TINY, cache_folder=tmp_path)


def test_protocol_for_an_unnamed_suite_follows_its_kind(suite):
    named = dataclasses.replace(suite, name="mine")
    assert protocol_for(named).encoder["inputs"] == 784
    text = protocol_for(dataclasses.replace(named, kind="text"))
    assert (text.base, text.fine_tuning) == (PROTOCOLS["text"].base, PROTOCOLS["text"].fine_tuning)
    assert isinstance(text.heads, LogisticHeads), "texts of a user have no descriptions"
    with pytest.raises(ManyoneError, match="'sound'"):
        protocol_for(dataclasses.replace(named, kind="sound"))


def test_a_suite_without_tasks_is_named(suite):
    with pytest.raises(ManyoneError, match="has no tasks"):
        make_bundle(dataclasses.replace(suite, tasks=()), seed=0, protocol=TINY)


class TestDistilledBase:
    """A distilled base with a stand-in for the teacher, so that no network is needed."""

    PROTOCOL = Protocol(
        encoder={"kind": "vit", "size": 28, "patch": 14, "channels": 1, "width": 16, "depth": 1, "heads": 2,
                 "mean": [0.5], "std": [0.5]},
        base=DistilledPretraining(steps=3, batch_size=8),
        heads=LogisticHeads(samples=40),
        fine_tuning=FineTuning(lr=1e-3, batch_size=16, steps=2, warm_up=1),
    )  # fmt: skip

    @pytest.fixture(autouse=True)
    def _teacher(self, monkeypatch):
        def teacher(images: Tensor, settings: DistilledPretraining) -> Tensor:
            flat = torch.nn.functional.pad(images.flatten(1).float(), (0, 1280 - 784))
            return torch.nn.functional.normalize(flat - flat.mean(0), dim=-1)

        monkeypatch.setattr("manyone.merging.experts.distil.teacher_features", teacher)

    @pytest.fixture
    def held_out(self, suite):
        whole = load_suite("fixture")
        return dataclasses.replace(suite, pretraining=whole.tasks[2:4])

    def test_all_seeds_share_the_base_and_nothing_else(self, held_out):
        first, second = (make_bundle(held_out, seed=s, protocol=self.PROTOCOL) for s in (0, 1))
        assert all(torch.equal(v, second.base[k]) for k, v in first.base.items())
        for name in first.tasks:
            assert not torch.equal(first.experts[name]["norm.weight"], second.experts[name]["norm.weight"])
            assert not torch.equal(first.heads[name].weight, second.heads[name].weight)

    def test_the_base_is_trained_once_for_two_seeds(self, held_out, tmp_path, monkeypatch):
        bundle(held_out, 0, protocol=self.PROTOCOL, cache_folder=tmp_path)
        monkeypatch.setattr("manyone.merging.experts.distil.DistilledBase.step", lambda self: pytest.fail("again"))
        bundle(held_out, 1, protocol=self.PROTOCOL, cache_folder=tmp_path)

    def test_resume_within_the_base(self, held_out):
        whole = make_bundle(held_out, seed=0, protocol=self.PROTOCOL)
        first = ExpertsLearner(held_out, self.PROTOCOL, seed=0)
        first.step()
        resumed = ExpertsLearner(held_out, self.PROTOCOL, seed=0)
        resumed.load_state_dict(first.state_dict())
        while resumed.stage != "done":
            resumed.step()
        assert equal(whole, resumed.bundle())

    def test_a_suite_without_pretraining_tasks_is_named(self, suite):
        with pytest.raises(ManyoneError, match="no pre-training tasks"):
            make_bundle(suite, seed=0, protocol=self.PROTOCOL)


def text_suite(n: int = 60) -> Suite:
    """Two tasks of token sequences whose class is the most frequent of a few tokens; lengths vary."""

    def task(name: str, shift: int) -> Task:
        generator = torch.Generator().manual_seed(shift)
        labels = torch.arange(n) % 3
        lengths = torch.randint(2, 9, (n,), generator=generator)
        mask = (torch.arange(8)[None] < lengths[:, None]).long()
        ids = (5 + shift + labels[:, None] + 10 * torch.randint(0, 2, (n, 8), generator=generator)) * mask
        split = Split({"input_ids": ids, "attention_mask": mask}, labels)
        return Task(
            name, ("a", "b", "c"), split.take(slice(0, 40)), split.take(slice(40, 50)), split.take(slice(50, n))
        )

    return Suite("words", "text", (task("one", 0), task("two", 3)))


def test_text_experts_from_public_weights(monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    from manyone.nets import build_encoder

    config = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
    }
    spec = {"kind": "sentence", "config": config}
    weights = dict(build_encoder(spec, seed=9).state_dict())
    monkeypatch.setattr("manyone.merging.experts.bundle_learner.pretrained_text", lambda asset: (spec, weights))
    tuning = FineTuning(lr=1e-2, schedule="linear", warm_up=2, batch_size=4, steps=6, frozen=("embeddings.",))
    protocol = dataclasses.replace(PROTOCOLS["text"], fine_tuning=tuning, heads=LogisticHeads(samples=20))
    suite = text_suite()
    found = bundle(suite, 0, protocol=protocol, cache_folder=tmp_path)
    assert found.encoder == spec
    for expert in found.experts.values():
        assert torch.equal(expert["embeddings.word_embeddings.weight"], weights["embeddings.word_embeddings.weight"])
        name = "encoder.layer.0.intermediate.dense.weight"
        assert not torch.equal(expert[name], weights[name])
    assert equal(found, bundle(suite, 0, protocol=protocol, cache_folder=tmp_path))
    first = ExpertsLearner(suite, protocol, seed=0)
    for _ in range(8):
        first.step()
    resumed = ExpertsLearner(suite, protocol, seed=0)
    resumed.load_state_dict(first.state_dict())
    while resumed.stage != "done":
        resumed.step()
    assert equal(found, resumed.bundle())
