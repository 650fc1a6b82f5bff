"""The parts of expert training: schedules, batch orders, shifts, heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.data.tasks import Split, Task
from manyone.errors import ManyoneError
from manyone.merging.experts.base import logistic_heads
from manyone.merging.experts.protocol import FineTuning, LogisticHeads
from manyone.merging.experts.training import BucketOrder, ExpertTraining, accuracy, features, learning_rate, shifted
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
