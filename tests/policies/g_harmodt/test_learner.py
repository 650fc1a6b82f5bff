"""Training in groups: warm-up, clustering, group masks, gate, as one learner."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.policies.g_harmodt.learner import GroupedLearner, matched
from manyone.policies.harmodt.harmony import agreement, exchange, harmony
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.mask_updates import exchange_masks
from manyone.policies.harmodt.variants import build_model
from manyone.policies.loading import load_policy
from manyone.policies.tasks import PolicyData

SHAPE = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.1}
COMMON = {"steps": 12, "lr": 3e-3, "warmup": 3, "mask_every": 4, "eta_max": 9, "eta_min": 2, "batch_size": 4}
POOLED = {"normalisation": "pooled", "scale": "pooled", "target": "pooled"}


def mirrored(count: int = 4, episodes: int = 6, steps: int = 12) -> list[Trajectories]:
    """Tasks 0, 2, .. follow one linear law, tasks 1, 3, .. its opposite; the last state feature tells which."""
    law = np.random.Generator(np.random.Philox(5)).normal(size=(4, 2))
    found = []
    for task in range(count):
        draw, sign = np.random.Generator(np.random.Philox(100 + task)), 1 - 2 * (task % 2)
        each = []
        for _ in range(episodes):
            seen = draw.normal(size=(steps, 5))
            seen[:, 4] = 0.1 * sign + 0.01 * seen[:, 4]
            acted = np.tanh(sign * seen[:, :4] @ law)
            each.append({"observations": seen, "actions": acted, "rewards": np.ones(steps)})
        found.append(Trajectories.from_episodes(f"mirror-{task}", each))
    return found


@pytest.fixture(scope="module")
def data() -> PolicyData:
    return PolicyData(mirrored(), 6, **POOLED)


def grouped(data: PolicyData, **options) -> GroupedLearner:
    made = {**COMMON, "groups": 2, "group_after": 5, "gate_width": 16, "gate_context": 4, "gate_lr": 3e-3, **options}
    name = "prompt-dt" if data.prompt_steps else "mt-dt"
    return GroupedLearner(build_model(name, data, seed=1, **SHAPE), data, **made)


def run(learner, steps: int):
    metrics = {}
    while learner.iteration < steps:
        metrics = learner.step()
    return metrics


def same_weights(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("together", [1, 3])
def test_as_many_groups_as_tasks_reproduces_harmodt_exactly(tasks, together):
    data = PolicyData(tasks(3), 6, 3)
    plain = build_model("harmodt", data, seed=1, **SHAPE)
    harmodt = PolicyLearner(plain, data, method="harmodt", seed=4, tasks_per_step=together, **COMMON)
    learner = grouped(data, groups=3, group_after=0, gate=False, seed=4, tasks_per_step=together)
    run(harmodt, 12)
    run(learner, 12)
    assert torch.equal(learner.learner.masks[0].bits, harmodt.masks[0].bits)
    assert same_weights(learner.model, plain)


@pytest.mark.parametrize(("method", "prompt"), [("mt-dt", 0), ("prompt-dt", 3)])
def test_one_group_without_sparsity_reproduces_the_dense_method_exactly(tasks, method, prompt):
    data = PolicyData(tasks(3), 6, prompt, **POOLED)
    plain = build_model(method, data, seed=1, **SHAPE)
    dense = PolicyLearner(plain, data, method=method, seed=4, **COMMON)
    learner = grouped(data, groups=1, group_after=5, sparsity=0.0, seed=4)
    run(dense, 12)
    run(learner, 12)
    assert same_weights(learner.model, plain)


def test_warm_up_is_dense_or_under_frozen_random_masks(data):
    plain = build_model("mt-dt", data, seed=1, **SHAPE)
    dense = PolicyLearner(plain, data, method="mt-dt", seed=4, **COMMON)
    learner = grouped(data, group_after=8, seed=4)
    run(dense, 8)
    run(learner, 8)
    assert learner.phase == "first"
    assert learner.gate is None
    assert same_weights(learner.model, plain)
    random_plain = build_model("mt-dt", data, seed=1, **SHAPE)
    frozen = PolicyLearner(random_plain, data, method="harmodt-r", seed=4, **COMMON)
    learner = grouped(data, group_after=8, seed=4, first_phase="random-masks")
    run(frozen, 8)
    run(learner, 8)
    assert same_weights(learner.model, random_plain)


def test_opposed_tasks_are_found_and_share_a_mask_with_their_kind(data):
    learner = grouped(data, groups="auto", group_after=8, mask_every=100)
    run(learner, 8)
    metrics = learner.step()
    assert learner.phase == "grouped"
    assert learner.grouping.assignment == (0, 1, 0, 1)
    assert metrics["groups"] == 2
    assert metrics["group/mirror-3"] == 1
    assert metrics["silhouette"] > 0.3
    assert learner.learner.assignment == [0, 1, 0, 1]
    assert len(learner.learner.masks[0]) == 2
    assert learner.grouping.cosines[0, 2] > 0.1 > -0.1 > learner.grouping.cosines[0, 1]


def test_group_masks_are_scored_by_group_means_against_the_task_mean(data):
    """The mask update of groups (0, 1, 1, 1): u_g is the group's mean, U the mean over all tasks."""
    learner = grouped(data, group_after=0, mask_every=100)
    run(learner, 3)
    inner = learner.learner
    inner.regroup([0, 1, 1, 1], inner.masks)
    before = inner.masks[0].clone()
    learner.step()
    gradients = inner.task_gradients()
    means = torch.stack([gradients[0], gradients[1:].mean(0)])
    overall = gradients.mean(0)
    swaps = int(exchange_masks(inner.point, inner.losses, inner.update, inner.iteration, inner.clip)["swaps"])
    assert swaps > 0
    for group in range(2):
        score = agreement(means[group], overall)
        mask = before.flat(group)
        prune, recover = exchange(mask, harmony(score, means[group].square()), score, swaps)
        mask[prune], mask[recover] = False, True
        assert (mask != inner.masks[0].flat(group)).sum() <= 2  # means that are rounded otherwise may break a near-tie


def test_training_the_gate_leaves_the_policy_bit_for_bit_as_it_is(data):
    with_gate, without = grouped(data), grouped(data, gate=False)
    run(with_gate, 12)
    run(without, 12)
    assert with_gate.gate is not None
    assert without.gate is None
    assert same_weights(with_gate.model, without.model)
    assert torch.equal(with_gate.learner.masks[0].bits, without.learner.masks[0].bits)


@pytest.mark.parametrize("stop", [2, 5, 6, 9])
def test_resume_is_exact_at_every_phase(data, stop):
    """Before the clustering, right before it, right after it, and between two later ones with a gate in training."""
    straight = grouped(data, recluster_every=1)
    run(straight, 12)
    first = grouped(data, recluster_every=1)
    run(first, stop)
    state = copy.deepcopy(first.state_dict())
    resumed = grouped(data, recluster_every=1)
    resumed.load_state_dict(state)
    assert resumed.phase == first.phase
    run(resumed, 12)
    assert same_weights(resumed.model, straight.model)
    assert same_weights(resumed.gate.gate, straight.gate.gate)
    assert torch.equal(resumed.learner.masks[0].bits, straight.learner.masks[0].bits)
    assert resumed.grouping.assignment == straight.grouping.assignment
    assert resumed.grouping.silhouettes == straight.grouping.silhouettes
    assert torch.equal(resumed.grouping.cosines, straight.grouping.cosines)


def test_later_clusterings_keep_the_groups_and_their_masks(data):
    learner = grouped(data, recluster_every=2, group_after=3, mask_every=2, steps=40, eta_max=0, eta_min=0)
    run(learner, 4)
    bits = learner.learner.masks[0].bits.clone()
    learner.learner.regroup([1, 0, 1, 1], learner.learner.masks)  # as if the first one had been wrong
    learner.grouping = type(learner.grouping)((1, 0, 1, 1), learner.grouping.cosines, {})
    run(learner, 24)
    assert learner.learner.assignment == [1, 0, 1, 0]  # put right, under the old names
    assert torch.equal(learner.learner.masks[0].bits, bits)
    assert matched((0, 0, 1, 2), [2, 2, 0, 1]) == [2, 2, 0, 1]
    assert matched((0, 1, 1, 1), [1, 1, 0, 0]) == [1, 0, 0, 0]


def test_gate_learns_the_groups_beside_the_policy(data):
    learner = grouped(data, steps=200, group_after=8, gate_lr=1e-2, mask_every=1000)
    metrics = run(learner, 200)
    assert metrics["gate_accuracy"] > 0.95
    counts = learner.gate_confusion(batches=4, starts=(0, 1, 5))
    assert counts.shape == (3, 2, 2)
    assert (counts.diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2)) > 0.9).all()


def test_run_folder_export_and_evaluation(data, tmp_path):
    def evaluate(learner):
        return {"success": 0.5 if learner.iteration < 12 else 0.25, "grouped": float(learner.phase == "grouped")}

    final = train(
        grouped(data, evaluate=evaluate), RunFolder(tmp_path / "run", "g-harmodt", {}), steps=12, evaluate_every=6
    )
    assert (final["success"], final["success_best"], final["grouped"]) == (0.25, 0.5, 1.0)
    policy = load_policy(tmp_path / "run" / "model")
    assert policy.info["method"] == "g-harmodt"
    policy.reset()
    assert policy.act(np.zeros(5, np.float32)).shape == (2,)


def test_options_out_of_range_are_refused_by_name(data, tasks):
    for options, words in (
        ({"groups": 5}, r"groups = 5: must be auto or 1\.\.4"),
        ({"group_after": 12}, r"group_after = 12: must be 0\.\.11"),
        ({"first_phase": "sparse"}, "dense or random-masks"),
        ({"gate_context": 7}, r"gate_context = 7: must be 1\.\.6"),
    ):
        with pytest.raises(ManyoneError, match=words):
            grouped(data, **options)
    with pytest.raises(ManyoneError, match="needs pooled state statistics"):
        grouped(PolicyData(tasks(3), 6))
    with pytest.raises(ManyoneError, match="no gate yet"):
        grouped(data).gate_confusion()
