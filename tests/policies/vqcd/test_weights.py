"""Masks that divide a network among tasks: their shares, isolation, assembly, and what breaks it."""

from __future__ import annotations

import math

import pytest
import torch
from tests.policies.vqcd.small import Small, adam, batches, learn, output
from tests.reference import vqcd as plain

from manyone.errors import ManyoneError
from manyone.policies.masks import TaskMasks
from manyone.policies.vqcd.weights import MaskedWeights, assemble, draw_masks, weight_shapes

SHAPES = {"a": (7, 5), "b": (4, 3, 5), "c": (3, 1)}


@pytest.fixture
def small() -> Small:
    return Small()


def masked(tasks: int, seed: int = 0, **more) -> MaskedWeights:
    network = Small()
    return MaskedWeights(network, draw_masks(weight_shapes(network), tasks, seed), **more)


# --- the masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 10])
def test_masks_share_every_entry_out_once(tasks):
    masks = draw_masks(SHAPES, tasks, 0)
    together = torch.stack([masks.flat(task) for task in range(tasks)]).int().sum(0)
    assert bool((together == 1).all())
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        for task in range(tasks):
            assert int(masks.unpack(task)[name].sum()) in (size // tasks, -(-size // tasks))
    assert masks.bits.shape == (tasks, math.ceil(sum(map(math.prod, SHAPES.values())) / 8))


def test_masks_are_random_and_depend_on_the_seed_alone():
    first, again, other = draw_masks(SHAPES, 3, 0), draw_masks(SHAPES, 3, 0), draw_masks(SHAPES, 3, 1)
    assert torch.equal(first.bits, again.bits)
    assert not torch.equal(first.bits, other.bits)
    assert 0 < int(first.unpack(0)["b"].flatten()[:20].sum()) < 20, "not the first third"


def test_overlapping_masks_have_the_same_shares_and_entries_in_common():
    masks = draw_masks(SHAPES, 2, 0, draw="overlapping")
    assert [int(masks.unpack(task)["b"].sum()) for task in range(2)] == [30, 30]
    assert bool((masks.flat(0) & masks.flat(1)).any())
    assert not bool((masks.flat(0) | masks.flat(1)).all())


def test_masks_by_magnitude_give_the_first_task_the_largest_weights(small):
    weights = dict(small.named_parameters())
    masks = draw_masks(weight_shapes(small), 3, 0, draw="magnitude", weights=weights)
    first = weights["first.weight"].detach()
    size = {task: first[masks.unpack(task)["first.weight"]].abs() for task in range(3)}
    assert float(size[0].min()) >= float(size[1].max()) >= float(size[1].min()) >= float(size[2].max())
    with pytest.raises(ManyoneError, match="masks by magnitude need the weights"):
        draw_masks(SHAPES, 2, 0, draw="magnitude")


def test_weights_of_two_or_more_dimensions_are_divided(small):
    assert set(weight_shapes(small)) == {"first.weight", "last.weight"}


# --- isolation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_dimensional", ["bank", "frozen"])
def test_what_task_1_does_stays_bit_for_bit_while_others_are_learned(one_dimensional):
    weights = masked(3, one_dimensional=one_dimensional)
    start = output_of_first = None
    for task in range(3):
        learn(weights, task)
        if task == 0:
            start, output_of_first = weights.weights(0), output(weights, 0)
    assert all(torch.equal(weights.weights(0)[name], value) for name, value in start.items())
    assert torch.equal(output(weights, 0), output_of_first)
    assert not torch.equal(output(weights, 1), output_of_first)


def test_shared_biases_forget():
    weights = masked(2, one_dimensional="shared")
    learn(weights, 0)
    before = output(weights, 0)
    learn(weights, 1)
    assert not torch.equal(output(weights, 0), before)


def test_overlapping_masks_forget():
    network = Small()
    weights = MaskedWeights(network, draw_masks(weight_shapes(network), 2, 0, draw="overlapping"))
    learn(weights, 0)
    before = output(weights, 0)
    learn(weights, 1)
    assert not torch.equal(output(weights, 0), before)


def test_frozen_biases_are_the_first_tasks():
    weights = masked(2, one_dimensional="frozen")
    learn(weights, 0)
    learn(weights, 1)
    assert torch.equal(weights.weights(1)["first.bias"], weights.weights(0)["first.bias"])
    own = masked(2)
    learn(own, 0)
    learn(own, 1)
    assert not torch.equal(own.weights(1)["first.bias"], own.weights(0)["first.bias"])


def test_gradients_and_weights_are_0_outside_the_active_mask_and_untrained_weights_stay_at_their_start():
    weights = masked(3)
    start = {name: value.clone() for name, value in weights.full.items()}
    unfiltered = []

    def watch(weights):
        for name, mask in weights.masks.unpack(weights.active).items():
            value = weights.network.get_parameter(name)
            assert not value.grad[~mask].any()
            assert not value[~mask].any()
            assert bool(value.grad[mask].any())
        unfiltered.append(True)

    learn(weights, 0, watch=watch)
    learn(weights, 1, watch=watch)
    assert unfiltered
    never = weights.masks.unpack(2)
    for name, value in weights.full.items():
        assert torch.equal(value[never[name]], start[name][never[name]])
        assert not torch.equal(value[~never[name]], start[name][~never[name]])


@pytest.mark.parametrize("kind", ["momentum", "decay"])
def test_a_kept_momentum_or_weight_decay_moves_what_is_outside_unless_it_is_put_back(kind):
    def outside(put_back: bool) -> bool:
        weights = masked(2)
        optimiser = adam(weights.network.parameters())
        learn(weights, 0, optimiser)
        if kind == "decay":  # of what an earlier task left in the network
            optimiser = adam(weights.network.parameters(), torch.optim.AdamW, weight_decay=0.1)
        weights.begin(1)
        mask = weights.masks.unpack(1)["first.weight"]
        value = weights.network.first.weight
        if kind == "decay":
            with torch.no_grad():
                value.copy_(torch.where(mask, value, weights.full["first.weight"]))
            before = value.detach().clone()
        else:
            before = torch.where(mask, value.detach(), 0)
        x, y = batches(1)[0]
        optimiser.zero_grad(set_to_none=False)
        torch.nn.functional.mse_loss(weights.network(x), y).backward()
        weights.filter_gradients()
        optimiser.step()
        if put_back:
            weights.after_step()
            return bool(value[~mask].any())
        return not torch.equal(value[~mask], before[~mask])

    assert outside(put_back=False)
    assert not outside(put_back=True)


# --- against the plain formulation ------------------------------------------------------------------------------------


def plainly(masks: TaskMasks, optimiser, *, fresh: bool):
    network = Small()
    dense = {n: p.detach().clone() for n, p in network.named_parameters() if p.ndim > 1}
    first = {n: p.detach().clone() for n, p in network.named_parameters() if p.ndim == 1}
    rows = [masks.unpack(task) for task in range(len(masks))]
    tasks = [batches(task) for task in range(len(masks))]
    snapshots = plain.learn(dense, rows, tasks, optimiser=optimiser, forward=plain.perceptron, fresh=fresh, bank=True,
                            first=first)  # fmt: skip
    return dense, rows, snapshots


@pytest.mark.parametrize("fresh", [True, False])
def test_each_task_gets_what_a_dense_network_with_a_product_in_its_forward_pass_gets(fresh):
    weights = masked(3)
    kept = None if fresh else adam(weights.network.parameters())
    for task in range(3):
        learn(weights, task, kept, put_back=not fresh)
    _, rows, snapshots = plainly(weights.masks, adam, fresh=fresh)
    for task, (mask, snapshot) in enumerate(zip(rows, snapshots, strict=True)):
        for name, value in weights.weights(task).items():
            expected = snapshot[name] * mask[name] if name in mask else snapshot[name]
            assert torch.allclose(value, expected, atol=1e-5), name


def test_with_a_new_optimiser_each_task_the_live_weights_are_the_assembled_ones():
    weights = masked(3)
    dense, _, snapshots = plainly(weights.masks, adam, fresh=True)
    whole = assemble(dense, dict(enumerate(snapshots)), weights.masks)
    assert all(torch.equal(whole[name], dense[name]) for name in whole)


@pytest.mark.parametrize("decay", [False, True])
def test_with_a_kept_or_decaying_one_they_are_not_and_assembling_gives_the_snapshots(decay):
    weights = masked(3)

    def optimiser(parameters):
        return adam(parameters, torch.optim.AdamW, weight_decay=0.1) if decay else adam(parameters)

    dense, rows, snapshots = plainly(weights.masks, optimiser, fresh=decay)
    whole = assemble(dense, dict(enumerate(snapshots)), weights.masks)
    assert not torch.equal(whole["first.weight"], dense["first.weight"])
    for mask, snapshot in zip(rows, snapshots, strict=True):
        for name, value in whole.items():
            assert torch.equal(value * mask[name], snapshot[name] * mask[name])


def test_assembling_keeps_the_base_where_no_snapshot_has_a_mask(small):
    shapes = weight_shapes(small)
    masks = draw_masks(shapes, 3, 0)
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    whole = assemble(base, {1: {name: torch.ones(shape) for name, shape in shapes.items()}}, masks)
    assert all(torch.equal(whole[name], mask.float()) for name, mask in masks.unpack(1).items())
    assert not any(value.any() for value in base.values())


def alone() -> Small:
    network = Small()
    optimiser = adam(network.parameters())
    for x, y in batches(0):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(network(x), y).backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("tasks", [1, 2])
def test_one_task_is_the_network_without_masks(tasks):
    weights = masked(tasks)
    learn(weights, 0)
    same = [torch.equal(weights.weights(0)[name], value) for name, value in alone().named_parameters()]
    assert all(same) == (tasks == 1)


# --- begin and end ----------------------------------------------------------------------------------------------------


def test_first_weights_are_scaled_to_what_is_left_of_the_fan_in():
    weights = masked(4)
    start = weights.full["first.weight"].clone()
    weights.begin(2)
    mask = weights.masks.unpack(2)["first.weight"]
    assert torch.allclose(weights.network.first.weight[mask], 2 * start[mask])  # sqrt(4)
    assert not weights.network.first.weight[~mask].any()
    assert torch.equal(weights.network.first.bias, Small().first.bias), "biases know no fan-in"


def test_every_task_starts_with_the_first_biases_and_a_learned_one_with_its_own():
    weights = masked(2)
    learn(weights, 0)
    weights.begin(1)
    assert torch.equal(weights.network.norm.weight, Small().norm.weight)
    weights.end()
    learned = {name: value.clone() for name, value in weights.weights(0).items()}
    weights.begin(0)
    assert all(torch.equal(value, learned[name]) for name, value in weights.network.named_parameters())


def test_averaged_weights_are_kept_if_they_are_given():
    weights = masked(2)
    weights.begin(0)
    averages = {name: torch.full_like(value, 0.5) for name, value in weights.network.named_parameters()}
    weights.end(averages)
    mask = weights.masks.unpack(0)["last.weight"]
    assert torch.equal(weights.weights(0)["last.weight"], 0.5 * mask)
    assert torch.equal(weights.weights(0)["last.bias"], averages["last.bias"])


def test_the_active_task_acts_with_the_network_as_it_is():
    weights = masked(2)
    weights.begin(0)
    with torch.no_grad():
        weights.network.last.bias.fill_(4.0)
    assert torch.equal(weights.weights(0)["last.bias"], torch.full((3,), 4.0))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_saved_state_goes_on_in_the_same_bits(stage):
    whole, first = masked(3), masked(3)
    for task in range(3):
        learn(whole, task)
    for task in range(stage):
        learn(first, task)
    first.begin(stage)
    optimiser = adam(first.network.parameters())

    def steps(weights, optimiser, part):
        for x, y in batches(stage)[part]:
            optimiser.zero_grad(set_to_none=False)
            torch.nn.functional.mse_loss(weights.network(x), y).backward()
            weights.filter_gradients()
            optimiser.step()

    steps(first, optimiser, slice(0, 5))
    second = masked(3, seed=1)  # other masks, which the state replaces
    second.network.load_state_dict(first.network.state_dict())
    second.load_state_dict(first.state_dict())
    resumed = adam(second.network.parameters())
    resumed.load_state_dict(optimiser.state_dict())
    steps(second, resumed, slice(5, None))
    second.end()
    for task in range(stage + 1, 3):
        learn(second, task)
    for task in range(3):
        assert torch.equal(output(second, task), output(whole, task))


def test_a_task_adds_its_bits_and_its_biases():
    weights = masked(4)
    assert weights.sizes() == {"bank_bytes": 4.0 * (12 * 3 + 3), "mask_bytes": 12.0, "weights": 96.0}


def test_what_cannot_be_is_refused(small):
    masks = draw_masks(weight_shapes(small), 2, 0)
    for words, call in (
        ("masks of 0 tasks: there must be at least one", lambda: draw_masks(SHAPES, 0, 0)),
        ("mask draw 'some': must be disjoint, overlapping, magnitude", lambda: draw_masks(SHAPES, 2, 0, draw="some")),
        ("the masks are not of this network", lambda: MaskedWeights(Small(width=8), masks)),
        ("one_dimensional 'own': must be bank, frozen", lambda: MaskedWeights(small, masks, one_dimensional="own")),
        ("task 1 has not been learned: there are none", lambda: MaskedWeights(small, masks).weights(1)),
        ("no task is being learned: begin one", lambda: MaskedWeights(small, masks).end()),
    ):  # fmt: skip
        with pytest.raises(ManyoneError, match=words):
            call()
    weights = MaskedWeights(small, masks)
    weights.begin(0)
    with pytest.raises(ManyoneError, match="task 1 cannot begin: task 0 has not ended"):
        weights.begin(1)
