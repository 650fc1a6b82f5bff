"""The fixture suite and the rules of the splits."""

import pytest
import torch

from manyone.data.splits import make_splits, sizes, split_order, stratified_order
from manyone.data.suites import load_suite
from manyone.errors import ManyoneError


def test_fixture_holds_five_tasks_of_small_grey_images():
    suite = load_suite("fixture")
    assert [t.name for t in suite.tasks] == ["mnist", "tops", "shoes", "animal", "optdigits"]
    for task in suite.tasks:
        for name in ("train", "val", "test"):
            split = task.split(name)
            assert split.inputs.dtype == torch.uint8
            assert split.inputs.shape[1:] == (1, 28, 28)
            assert split.labels.dtype == torch.int64
        assert task.test.labels.unique().tolist() == list(range(len(task.classes)))
        assert task.licence in ("MIT", "CC BY 4.0")


def test_fixture_is_the_same_for_the_same_seed_and_differs_for_another():
    one, same, other = load_suite("fixture", seed=3), load_suite("fixture", seed=3), load_suite("fixture", seed=4)
    assert torch.equal(one.task("tops").train.inputs, same.task("tops").train.inputs)
    assert not torch.equal(one.task("tops").train.inputs, other.task("tops").train.inputs)


def test_fixture_path_may_be_given_and_a_missing_or_damaged_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(ManyoneError, match=r"nowhere\.safetensors: no fixture file"):
        load_suite("fixture", path=tmp_path / "nowhere.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    monkeypatch.setenv("MANYONE_FIXTURE", str(tmp_path / "bad.safetensors"))
    with pytest.raises(ManyoneError, match=r"bad\.safetensors: not a readable fixture"):
        load_suite("fixture")


def test_limit_shortens_every_split_and_stays_stratified():
    suite = load_suite("fixture", limit=50)
    for task in suite.tasks:
        assert len(task.train) == 50
        assert len(task.val) == 27
        share = 50 / len(task.classes)
        assert (task.train.labels.bincount() - share).abs().max() <= 1 + share * 0.3
    with pytest.raises(ManyoneError, match="limit 0"):
        load_suite("fixture", limit=0)


def test_unknown_suite_lists_the_known_ones():
    with pytest.raises(ManyoneError, match="unknown suite 'mini7': use mini6, crisp8, images, text"):
        load_suite("mini7")


def test_stratified_order_is_a_permutation_whose_slices_keep_the_class_shares():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[
        torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    ]
    order = stratified_order(labels, 0, "x")
    assert torch.equal(order.sort().values, torch.arange(1000))
    for start in (0, 100, 450, 900):
        counts = labels[order[start : start + 100]].bincount(minlength=3)
        assert (counts - torch.tensor([60, 30, 10])).abs().max() <= 1
    assert torch.equal(order, stratified_order(labels, 0, "x"))
    assert not torch.equal(order, stratified_order(labels, 1, "x"))


def test_splits_are_disjoint_and_cover_what_they_say():
    labels = torch.arange(1000) % 7
    inputs = torch.arange(1000)
    train, val, test, rest = make_splits(inputs, labels, 0, "t", test=100, train=500)
    assert (len(train), len(val), len(test), len(rest)) == (450, 50, 100, 400)
    every = torch.cat([train.inputs, val.inputs, test.inputs, rest])
    assert torch.equal(every.sort().values, inputs)
    assert torch.equal(train.inputs % 7, train.labels)


def test_a_smaller_training_cap_never_changes_the_test_samples():
    labels = torch.arange(3000) % 10
    inputs = torch.arange(3000)
    *_, large, _ = make_splits(inputs, labels, 5, "t", test=200, train=2000)
    *_, small, _ = make_splits(inputs, labels, 5, "t", test=200, train=100)
    assert torch.equal(large.inputs, small.inputs)


def test_sizes_follow_the_rule_and_too_many_samples_are_refused():
    assert sizes(70_000) == {"test": 1000, "val": 500, "train": 4500}
    assert sizes(1797) == {"test": 449, "val": 134, "train": 1214}
    with pytest.raises(ValueError, match="cannot take"):
        split_order(torch.arange(10), test=5, val=3, train=3)
