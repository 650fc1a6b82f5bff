"""The parts of expert training: schedules, batch orders, shifts, heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.data.tasks import Split, Task
from manyone.errors import ManyoneError
from manyone.merging.experts import base
from manyone.merging.experts.base import described_heads, logistic_heads
from manyone.merging.experts.protocol import FineTuning, JointPretraining, LogisticHeads, ZeroShotHeads
from manyone.merging.experts.training import (
    BucketOrder,
    ExpertTraining,
    JointBase,
    accuracy,
    features,
    learning_rate,
    principal_stem,
    shifted,
)
from manyone.merging.heads import Head
from manyone.nets import build_encoder
from manyone.randomness import BatchOrder

RESMLP = {"kind": "resmlp", "inputs": 16, "width": 8, "hidden": 16, "depth": 1}


def test_one_cycle_is_torchs():
    p = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([p], lr=1.0)
    steps = 50
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2.0, total_steps=steps)
    for step in range(steps - 1):
        ours = learning_rate("one-cycle", 2.0, step, steps)
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], abs=0.12)
        optimiser.step()
        theirs.step()


@given(st.sampled_from(["constant", "cosine", "linear", "one-cycle"]), st.integers(2, 400), st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_rates_stay_between_zero_and_the_peak(schedule, steps, warm_up):
    rates = [learning_rate(schedule, 3.0, k, steps, min(warm_up, steps - 1)) for k in range(steps)]
    assert all(0 <= r <= 3.0 + 1e-12 for r in rates)
    assert max(rates) > 0


def test_warm_up_rises_to_the_peak():
    rates = [learning_rate("linear", 1.0, k, 14, warm_up=4) for k in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)


@given(st.integers(1, 80), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_buckets_hold_the_same_samples_as_plain_batches(n, size, epoch):
    lengths = torch.arange(n) * 7 % 11
    buckets, plain = BucketOrder(lengths, size, "x", pool=3), BatchOrder(n, size, "x")
    assert buckets.per_epoch == plain.per_epoch
    ks = range(epoch * plain.per_epoch, (epoch + 1) * plain.per_epoch)
    together = [torch.cat([o.batch(k) for k in ks]).sort().values for o in (buckets, plain)]
    assert torch.equal(*together)


def test_buckets_pad_less():
    lengths = torch.randint(2, 33, (800,), generator=torch.Generator().manual_seed(0))
    padded = [
        sum(int(lengths[order.batch(k)].max()) for k in range(50))
        for order in (BucketOrder(lengths, 16, 0), BatchOrder(800, 16, 0))
    ]
    assert padded[0] < 0.65 * padded[1]


def test_shifts_move_whole_images():
    x = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    assert torch.equal(shifted(x, 0, "a"), x)
    y = shifted(x, 2, "a")
    assert torch.equal(y, shifted(x, 2, "a"))
    for before, after in zip(x, y):
        moved = (after[0, 2, 2] - before[0, 2, 2]).item()
        dy, dx = next((i, j) for i in range(-2, 3) for j in range(-2, 3) if 5 * i + j == moved)
        rows, columns = (torch.arange(5) + dy).clamp(0, 4), (torch.arange(5) + dx).clamp(0, 4)
        assert torch.equal(after, before[:, rows][:, :, columns])


def task(labels: torch.Tensor, classes: int = 3) -> Task:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(len(labels), 1, 4, 4, generator=generator) + labels[:, None, None, None]
    split = Split(images / 4, labels)
    return Task("t", tuple(map(str, range(classes))), split, split, split)


def test_logistic_heads_classify_and_are_deterministic():
    encoder = build_encoder(RESMLP)
    given_task = task(torch.arange(90) % 3)
    first, second = (
        logistic_heads(encoder, dict(encoder.state_dict()), [given_task], LogisticHeads(samples=60), 0)["t"]
        for _ in range(2)
    )
    assert torch.equal(first.weight, second.weight)
    assert accuracy(encoder, first, given_task.test) > 0.9


def test_logistic_heads_of_two_classes_and_of_a_missing_class():
    encoder = build_encoder(RESMLP)
    base = dict(encoder.state_dict())
    two = task(torch.arange(60) % 2, classes=2)
    head = logistic_heads(encoder, base, [two], LogisticHeads(), 0)["t"]
    assert head.weight.shape == (2, 8)
    assert accuracy(encoder, head, two.test) > 0.9
    missing = task(torch.arange(60) % 2 * 2, classes=3)
    head = logistic_heads(encoder, base, [missing], LogisticHeads(), 0)["t"]
    assert head.weight.shape == (3, 8)
    assert not (head(features(encoder, missing.test.inputs)).argmax(1) == 1).any()


def test_features_come_back_in_order_whatever_the_batches():
    encoder = build_encoder(RESMLP)
    x = torch.rand(23, 1, 4, 4)
    torch.testing.assert_close(features(encoder, x, batch_size=5), encoder(x).detach())


def test_everything_frozen_is_an_error():
    encoder = build_encoder(RESMLP)
    settings_ = FineTuning(lr=1e-3, frozen=("stem", "blocks", "norm"))
    with pytest.raises(ManyoneError, match="every parameter is frozen"):
        ExpertTraining(task(torch.arange(9) % 3), encoder, encoder.state_dict(), Head(torch.eye(3, 8)), settings_, 0)


def test_length_of_training():
    tuning = FineTuning(lr=1e-3, batch_size=100, epochs=10, small=2000, small_epochs=20)
    assert tuning.length(4500) == 450
    assert tuning.length(1213) == 240
    assert tuning.length(30) == 20
    assert FineTuning(lr=1e-3, steps=7).length(5000) == 7


def pictures(name="one", n=60, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    split = Split(inputs, torch.arange(n) % classes)
    return Task(name, tuple("abc"[:classes]), split, split, split)


def test_a_joint_base_takes_the_samples_of_every_class_that_its_settings_name():
    tasks = [pictures("one"), pictures("two", seed=1)]
    settings = JointPretraining(samples_per_class=2, samples_per_class_of={"two": 5}, epochs=1, batch_size=8)
    base_training = JointBase(tasks, RESMLP, settings, seed=3)
    counts = base_training.labels.bincount()
    assert counts.tolist() == [2, 2, 2, 5, 5, 5]
    again = JointBase(tasks, RESMLP, settings, seed=3)
    assert torch.equal(base_training.inputs, again.inputs)


def test_a_smoothed_base_is_less_sure_than_a_plain_one():
    tasks = [pictures("one"), pictures("two", seed=1)]
    sureness = []
    for smoothing in (0.0, 0.3):
        trained = JointBase(tasks, RESMLP, JointPretraining(epochs=150, lr=3e-2, label_smoothing=smoothing), seed=0)
        while trained.position < trained.steps:
            trained.step()
        logits = trained.heads()["one"](features(trained.encoder, tasks[0].train.inputs))
        sureness.append(float(logits.softmax(1).max(1).values.mean()))
    assert sureness[1] < sureness[0] - 0.05


def test_a_principal_stem_has_the_components_and_their_negatives_and_does_not_train():
    task = pictures(n=200)
    encoder = build_encoder({**RESMLP, "width": 6}, seed=0)
    principal_stem(encoder, [task.train.inputs])
    flat = task.train.inputs.flatten(1).double() / 255
    outputs = encoder.stem(flat.float()).double()
    assert torch.allclose(outputs[:, :3], -outputs[:, 3:], atol=1e-5)
    assert outputs.mean(0).abs().max() < 1e-5
    deviation = torch.linalg.svdvals(flat - flat.mean(0))[:3] / len(flat) ** 0.5
    # half-way whitened: a component of standard deviation s has outputs of variance s / mean of all s
    assert torch.allclose(outputs.var(0, correction=0)[:3], deviation / deviation.mean(), rtol=1e-3)
    settings = JointPretraining(epochs=2, principal_stem=True)
    training = JointBase([task], {**RESMLP, "width": 6}, settings, seed=0)
    before = training.encoder.stem.weight.clone()
    while training.position < training.steps:
        training.step()
    assert torch.equal(training.encoder.stem.weight, before)


def test_described_heads_are_the_embeddings_of_the_descriptions(monkeypatch):
    encoder = build_encoder(RESMLP, seed=0)
    phrases = torch.rand(3, 1, 4, 4)
    monkeypatch.setattr(base, "tokenise", lambda descriptions: phrases[: len(descriptions)])
    task = Task("one", ("a", "b", "c"), *[pictures().train] * 3, descriptions=("an a", "a b", "a c"))
    head = described_heads(encoder, encoder.state_dict(), [task], ZeroShotHeads(scale=7.0))["one"]
    assert torch.allclose(head.weight, torch.nn.functional.normalize(features(encoder, phrases), dim=-1))
    assert (head.scale, head.bias) == (7.0, None)
    with pytest.raises(ManyoneError, match="0 descriptions of 3 classes"):
        described_heads(encoder, encoder.state_dict(), [pictures()], ZeroShotHeads())
