"""Room for tasks beyond those that the weights were divided among."""

from __future__ import annotations

import pytest
import torch
from tests.policies.vqcd.small import Small, learn, output

from manyone.errors import ManyoneError
from manyone.policies.vqcd.capacity import release, widen
from manyone.policies.vqcd.weights import MaskedWeights, draw_masks, weight_shapes


def learned(tasks: int = 2, **more) -> MaskedWeights:
    network = Small()
    weights = MaskedWeights(network, draw_masks(weight_shapes(network), tasks, 0), **more)
    for task in range(tasks):
        learn(weights, task)
    return weights


def test_the_smallest_weights_of_each_task_are_released_and_no_others():
    weights = learned()
    before = [weights.weights(task) for task in range(2)]
    release(weights, Small(seed=1), share=0.25, seed=0)
    assert len(weights.masks) == 3
    for task in range(2):
        for name, mask in weights.masks.unpack(task).items():
            was = before[task][name]
            gone = (was != 0) & ~mask
            assert int(gone.sum()) == int(0.25 * int((was != 0).sum()))
            assert float(was[gone].abs().max()) <= float(was[mask].abs().min())
            assert torch.equal(weights.weights(task)[name], was * mask)
    together = torch.stack([weights.masks.flat(task) for task in range(3)]).int().sum(0)
    assert bool((together == 1).all()), "what is released is all the new task's"


def test_released_weights_start_anew_and_the_others_keep_what_they_are():
    weights, fresh = learned(), Small(seed=1)
    before = {name: value.clone() for name, value in weights.full.items()}
    release(weights, fresh, share=0.25, seed=0)
    for name, new in weights.masks.unpack(2).items():
        assert torch.equal(weights.full[name][new], fresh.get_parameter(name)[new])
        assert torch.equal(weights.full[name][~new], before[name][~new])


def test_a_task_beyond_is_learned_without_touching_the_others():
    weights = learned()
    release(weights, Small(seed=1), tasks=2, seed=0)
    shares = [int(weights.masks.flat(task).sum()) for task in range(4)]
    assert max(shares) - min(shares) <= 4, "by default all tasks' shares become equal"
    before = [output(weights, task) for task in range(2)]
    learn(weights, 2)
    learn(weights, 3)
    assert all(torch.equal(output(weights, task), before[task]) for task in range(2))
    assert not torch.equal(output(weights, 2), output(weights, 3))


def test_releasing_little_changes_little():
    changes = []
    for share in (0.05, 0.25, 0.75):
        weights = learned()
        before = output(weights, 0)
        release(weights, Small(seed=1), share=share, seed=0)
        changes.append(float((output(weights, 0) - before).square().mean()))
    assert changes == sorted(changes)
    assert changes[0] < 0.05 * changes[-1]


def test_tasks_from_before_a_widening_do_bit_for_bit_what_they_did():
    weights = learned()
    narrow, wide = weights.network, Small(width=20, seed=1)
    before = [output(weights, task) for task in range(2)]
    widen(weights, wide, tasks=2, seed=0)
    for task in (2, 3):
        learn(weights, task)
        assert output(weights, task).shape == (9, 3)
    assert all(torch.equal(output(weights, task, narrow), before[task]) for task in range(2))
    assert weights.weights(0)["first.weight"].shape == (12, 5)
    assert weights.weights(2)["first.weight"].shape == (20, 5)
    assert weights.full["last.weight"].shape == (3, 20)


def test_new_tasks_have_only_what_a_widening_has_added():
    weights = learned()
    before = {name: value.clone() for name, value in weights.full.items()}
    wide = Small(width=20, seed=1)
    widen(weights, wide, tasks=2, seed=0)
    for name, value in before.items():
        corner = tuple(map(slice, value.shape))
        assert torch.equal(weights.full[name][corner], value)
        new = weights.masks.unpack(2)[name] | weights.masks.unpack(3)[name]
        assert not new[corner].any()
        outside = torch.ones_like(new)
        outside[corner] = False
        assert torch.equal(new, outside)
        assert torch.equal(weights.full[name][new], wide.get_parameter(name)[new])


def test_a_network_can_be_widened_twice_saved_and_read():
    weights = learned()
    widths = {0: weights.network}
    for task, width in ((2, 20), (3, 30)):
        widen(weights, Small(width=width, seed=width), seed=0)
        widths[task] = weights.network
        learn(weights, task)
    again = MaskedWeights(Small(width=30), draw_masks(weight_shapes(Small(width=30)), 4, 3))
    again.load_state_dict(weights.state_dict())
    for task in range(4):
        network = widths[max(t for t in widths if t <= task)]
        assert torch.equal(output(again, task, network), output(weights, task, network))


def test_a_narrow_task_cannot_be_learned_on():
    weights = learned()
    widen(weights, Small(width=20), seed=0)
    with pytest.raises(ManyoneError, match="task 0 was learned before the network was widened"):
        weights.begin(0)


def test_a_release_after_a_widening_leaves_the_narrow_tasks_theirs():
    weights = learned()
    narrow = weights.network
    widen(weights, Small(width=20, seed=1), seed=0)
    learn(weights, 2)
    release(weights, Small(width=20, seed=2), share=0.2, seed=0)
    before = output(weights, 0, narrow)
    learn(weights, 3)
    assert torch.equal(output(weights, 0, narrow), before)


def test_what_cannot_be_is_refused():
    weights = learned()
    for words, call in (
        ("tasks = 0: there must be at least one new task", lambda: release(weights, Small(), tasks=0, seed=0)),
        ("share = 1.0: must be between 0 and 1", lambda: release(weights, Small(), share=1.0, seed=0)),
        (r"first.weight: \[8, 5\] does not hold the \[12, 5\]", lambda: widen(weights, Small(width=8), seed=0)),
        (r"first.weight: \[12, 5\] as before leaves nothing", lambda: widen(weights, Small(), seed=0)),
        ("other tensors than the one before", lambda: widen(weights, torch.nn.Linear(5, 3), seed=0)),
        ("biases of two widths need a bank", lambda: widen(learned(one_dimensional="frozen"), Small(width=20), seed=0)),
    ):
        with pytest.raises(ManyoneError, match=words):
            call()
    halfway = MaskedWeights(Small(), weights.masks)
    learn(halfway, 0)
    with pytest.raises(ManyoneError, match="only once all earlier ones have been learned"):
        release(halfway, Small(), seed=0)
