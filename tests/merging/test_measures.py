"""Measurements against hand counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from manyone.data.tasks import Split
from manyone.errors import ManyoneError
from manyone.merging import measures
from manyone.merging.heads import Head
from manyone.merging.surgery.model import Surgery, SurgeryV2

HEAD = Head(torch.eye(3), None, 1.0, normalise=False)


class Identity(nn.Module):
    """Returns its input and records the batch sizes and modes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(len(x))
        return x * self.scale


def labelled(n: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.nn.functional.one_hot(labels, 3).float()
    x[::4] = -x[::4]
    return Split(x, labels)


def test_accuracy_in_batches() -> None:
    model, split = Identity(), labelled(10)
    assert measures.accuracy(model, HEAD, split, batch_size=4) == pytest.approx(0.7)
    assert model.seen == [4, 4, 2]
    assert model.training
    assert model.scale.requires_grad
    with pytest.raises(ManyoneError, match="empty"):
        measures.accuracy(model, HEAD, split.take(slice(0, 0)))


def test_text_is_batched_by_length_and_put_back() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widths: list[int] = []

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            self.widths.append(input_ids.shape[1])
            return (input_ids * attention_mask).sum(1, keepdim=True).float()

    lengths = torch.tensor([5, 1, 4, 2, 5, 1])
    mask = (torch.arange(6) < lengths[:, None]).long()
    model = Ends()
    got = measures.features(model, {"input_ids": torch.full((6, 6), 2), "attention_mask": mask}, batch_size=2)
    assert got.flatten().tolist() == (2.0 * lengths).tolist()
    assert model.widths == [1, 4, 5]


def test_tasks_are_passed_to_models_that_need_them() -> None:
    splits = {"a": labelled(8, 1), "b": labelled(12, 2)}
    heads = dict.fromkeys(splits, HEAD)
    plain = measures.accuracies(Identity(), heads, splits)
    assert measures.accuracies(Surgery(Identity(), 3, ("a", "b")), heads, splits) == plain
    asked = []

    def function(x: Tensor, task: str) -> Tensor:
        asked.append(task)
        return x

    assert measures.accuracies(function, heads, splits, batch_size=6) == plain
    assert asked == ["a", "a", "b", "b"]
    with pytest.raises(ManyoneError, match="no head for task 'b'"):
        measures.accuracies(Identity(), {"a": HEAD}, splits)


@pytest.mark.parametrize("surgery", [False, True])
def test_mixed_batches_score_every_sample_once(surgery: bool) -> None:
    splits = {"a": labelled(9, 1), "b": labelled(14, 2), "c": labelled(1, 3)}
    heads = {t: Head(torch.eye(3).roll(i, 0), None, 1.0, normalise=False) for i, t in enumerate(splits)}
    model = Identity()
    shared = Surgery(model, 3, tuple(splits)) if surgery else model
    assert measures.mixed_accuracies(shared, heads, splits, batch_size=5) == measures.accuracies(shared, heads, splits)
    assert model.seen[:5] == [5, 5, 5, 5, 4]
    first = [tasks for _, tasks, _ in measures.mixed_batches(splits, 8)]
    assert len(set(first[0])) > 1
    assert sum(t == "b" for tasks in first for t in tasks) == 14


def test_mixed_text_is_padded() -> None:
    splits = {}
    for task, width in (("a", 3), ("b", 5)):
        ids = torch.ones(4, width, dtype=torch.int64)
        splits[task] = Split({"input_ids": ids, "attention_mask": ids}, torch.zeros(4, dtype=torch.int64))
    for inputs, tasks, _ in measures.mixed_batches(splits, 4):
        assert inputs["attention_mask"].sum(1).tolist() == [3 if t == "a" else 5 for t in tasks]


def test_prediction_metrics() -> None:
    uniform = measures.prediction_metrics(torch.zeros(4, 5))
    assert uniform == pytest.approx({"entropy": math.log(5), "marginal_entropy": math.log(5)})
    scores = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    got = measures.prediction_metrics(scores, torch.tensor([0, 0]))
    assert got["entropy"] == pytest.approx(0, abs=1e-9)
    assert got["marginal_entropy"] == pytest.approx(math.log(2), abs=1e-6)
    assert got["accuracy"] == 0.5
    assert got["calibration_error"] == pytest.approx(0.5)


def test_calibration_error_by_hand() -> None:
    p = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    scores = torch.stack([p, 1 - p], 1).log()
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    assert measures.calibration_error(scores, labels, 10) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6, abs=1e-6)


def test_parameter_counts() -> None:
    layer = nn.Linear(4, 3)
    tied = nn.ModuleDict({"first": layer, "second": layer})
    tied.register_buffer("mask", torch.tensor([1.0, 0.0]))
    tied.register_buffer("steps", torch.tensor([1, 2]))
    layer.bias.data.zero_()
    layer.bias.requires_grad_(False)
    assert measures.parameter_counts(tied) == {"trainable": 12, "stored": 17, "nonzero": 13}


def test_cost_and_bias() -> None:
    got = measures.cost(SurgeryV2(Identity(), 3, 3, ("a",)), torch.zeros(5, 3), "a", batch_size=2)
    assert set(got) == {"ms_per_sample", "cpu_s"}
    assert got["ms_per_sample"] > 0
    assert measures.feature_bias(torch.zeros(2, 2), torch.tensor([[1.0, -1.0], [2.0, 0.0]])) == 1.0


def test_evaluate_tasks() -> None:
    splits = {"a": labelled(8, 1)}
    got = measures.evaluate_tasks(Identity(), {"a": HEAD}, splits)
    assert set(got["a"]) == {"accuracy", "entropy", "marginal_entropy", "calibration_error"}
