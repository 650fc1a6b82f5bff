"""What is saved acts as what was trained, whatever strategy trained it."""

import numpy as np
import pytest
import torch
from tests.policies.vqcd.planners import learner, run

from manyone.errors import ManyoneError
from manyone.policies import load_policy
from manyone.policies.artefact import read_policy


class Episode:
    def __init__(self, task):
        self.task = task


def observations(rows):
    return np.random.Generator(np.random.Philox(0)).normal(size=(rows, 17)).astype(np.float32)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("masks", {}),
        ("masks", {"inverse": "per-task", "options": {"capacity": 5}}),
        ("masks", {"plan": "state-actions"}),
        ("masks", {"kind": "padding", "inverse": "shared"}),
        ("separate", {}),
        ("packnet", {}),
        ("lora", {"options": {"rank": 2}}),
        ("finetune", {"inverse": "per-task"}),
        ("joint", {}),
    ],
)
def test_a_saved_planner_acts_as_the_trained_one(tmp_path, strategy, words):
    one = run(learner(strategy=strategy, **words))
    one.export(tmp_path / "model")
    policy, saved = one.policy(), load_policy(tmp_path / "model")
    tasks = ["t0", "t2", "t1", "t0"]
    policy.start([Episode(t) for t in tasks])
    saved.reset(tasks)
    seen = observations(4)
    for _ in range(2):
        wanted = policy.act(range(4), seen)
        np.testing.assert_array_equal(saved.act(seen), wanted)
        policy.reward(range(4), np.zeros(4))


def test_one_task_is_acted_in_with_its_own_widths(tmp_path):
    run(learner()).export(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    policy.reset("t0")
    assert policy.act(observations(1)[0, :4]).shape == (1,)
    policy.reset(["t1", "t1"])
    first = policy.act(observations(2)[:, :11])
    assert first.shape == (2, 3)
    policy.reset(slots=[1])
    assert policy.act(observations(2)[:, :11]).shape == (2, 3)
    policy.reset("t1", target=3.0)
    policy.act(observations(1)[0, :11])


def test_masks_take_a_bit_a_weight(tmp_path):
    one = run(learner())
    one.export(tmp_path / "model")
    masks = read_policy(tmp_path / "model").masks
    weights = sum(p.numel() for p in one.live.parameters() if p.ndim > 1)
    assert masks.nbytes == 3 * -(-weights // 8)
    merged = sum(t.numel() for t in read_policy(tmp_path / "model").model.shared.parameters())
    assert merged == weights


def test_what_was_learned_so_far_can_be_saved(tmp_path):
    one = run(learner(), 10)
    one.export(tmp_path / "model")
    policy = load_policy(tmp_path / "model")
    assert policy.tasks == ("t0",)
    policy.reset("t0")
    assert policy.act(observations(1)[0, :4]).shape == (1,)


def test_weights_of_another_network_are_refused(tmp_path):
    one = run(learner())
    one.export(tmp_path / "model")
    text = (tmp_path / "model/config.json").read_text()
    (tmp_path / "model/config.json").write_text(text.replace('"layers": 2', '"layers": 3'))
    with pytest.raises(ManyoneError, match=r"do not fit|describes"):
        load_policy(tmp_path / "model")


def test_the_export_holds_no_graph(tmp_path):
    one = run(learner(), 10)
    one.export(tmp_path / "model")
    assert not any(p.requires_grad for p in read_policy(tmp_path / "model").model.parameters())
    assert torch.is_tensor(next(iter(one.strategy.weights(0).values())))
