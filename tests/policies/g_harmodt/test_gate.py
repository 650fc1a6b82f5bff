"""The gate: group logits from an agent's own last steps."""

from __future__ import annotations

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.g_harmodt.gate import Belief, Gate, GateTrainer, confusion_by_phase, previous_actions
from manyone.randomness import generator_for


def windows(batch: int, k: int, lengths, *, seed: str = "w", s: int = 6, a: int = 2) -> dict[str, torch.Tensor]:
    draws = generator_for(seed, batch, k)
    valid = torch.arange(k) >= k - torch.as_tensor(lengths)[:, None]
    mask = valid[..., None]
    return {
        "observations": torch.randn(batch, k, s, generator=draws) * mask,
        "actions": torch.randn(batch, k, a, generator=draws) * mask,
        "returns_to_go": torch.rand(batch, k, 1, generator=draws) * mask,
        "valid": valid,
    }


def test_previous_actions_are_shifted_and_zero_where_nothing_came_before():
    b = windows(2, 4, [4, 2])
    earlier = previous_actions(b["actions"], b["valid"])
    assert torch.equal(earlier[0, 1:], b["actions"][0, :3])
    assert torch.equal(earlier[0, 0], torch.zeros(2))
    assert torch.equal(earlier[1, 2], torch.zeros(2))  # the first step of a shorter window
    assert torch.equal(earlier[1, 3], b["actions"][1, 2])


def test_masks_of_padded_steps_do_not_change_the_logits():
    gate, b = Gate(6, 2, 3, context=8, width=16), windows(3, 8, [8, 3, 1])
    previous = previous_actions(b["actions"], b["valid"])
    logits = gate(b["observations"], previous, b["valid"])
    padded = ~b["valid"][..., None]
    spoilt = torch.where(padded, torch.nan, b["observations"]), torch.where(padded, torch.inf, previous)
    assert torch.equal(gate(*spoilt, b["valid"]), logits)
    short = gate(b["observations"][1:2, -3:], previous[1:2, -3:], b["valid"][1:2, -3:])
    assert torch.allclose(short, logits[1:2], atol=1e-6)  # nor does the amount of padding


@pytest.mark.parametrize("use_returns", [False, True])
def test_logits_at_every_step_equal_those_of_the_shorter_windows(use_returns):
    gate, b = Gate(6, 2, 4, context=5, width=32, use_returns=use_returns), windows(4, 9, [9, 6, 2, 1])
    draws = generator_for("lengths")
    lengths = torch.randint(1, 6, (4, 9), generator=draws)
    previous = previous_actions(b["actions"], b["valid"])
    every = gate.at_every_step(b["observations"], previous, b["valid"], lengths, b["returns_to_go"])
    for i in range(4):
        for end in range(1, 10):
            if not b["valid"][i, end - 1]:
                continue
            span = slice(max(0, end - int(lengths[i, end - 1])), end)
            one = gate(b["observations"][i, span], previous[i, span], b["valid"][i, span], b["returns_to_go"][i, span])
            assert torch.allclose(every[i, end - 1], one, atol=1e-5)


def test_gate_reads_only_its_context_and_its_inputs():
    b = windows(2, 12, [12, 12])
    gate = Gate(6, 2, 3, context=4, width=16)
    previous = previous_actions(b["actions"], b["valid"])
    logits = gate(b["observations"], previous, b["valid"], b["returns_to_go"])
    assert torch.equal(gate(b["observations"][:, -4:], previous[:, -4:], b["valid"][:, -4:]), logits)
    assert torch.equal(gate(b["observations"], previous, b["valid"], b["returns_to_go"] + 1), logits)
    states_only = Gate(6, 2, 3, context=4, width=16, use_actions=False)
    assert torch.equal(
        states_only(b["observations"], previous, b["valid"]), states_only(b["observations"], -previous, b["valid"])
    )
    assert not torch.equal(gate(b["observations"], -previous, b["valid"]), logits)
    with pytest.raises(ValueError, match="returns"):
        Gate(6, 2, 3, use_returns=True)(b["observations"], previous, b["valid"])
    with pytest.raises(ManyoneError, match="must be 1 or more"):
        Gate(6, 2, 0)


def test_no_gradient_of_the_gate_reaches_the_policys_weights():
    b = windows(4, 6, [6, 6, 3, 2])
    theta = torch.nn.Parameter(torch.ones(6))
    b["observations"] = b["observations"] * theta  # as if an embedding of the policy came before the gate
    trainer = GateTrainer(Gate(6, 2, 2, width=16))
    trainer.step(b, torch.tensor([0, 1, 0, 1]))
    assert theta.grad is None
    assert all(p.grad is not None for p in trainer.gate.parameters())


def families(batch: int, k: int, step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Groups 0 and 1 look alike in the state and differ in how it moves; group 2 stands elsewhere."""
    draws = generator_for("families", step)
    groups = torch.randint(3, (batch,), generator=draws)
    b = windows(batch, k, torch.randint(1, k + 1, (batch,), generator=draws), seed=f"families-{step}")
    b["observations"][..., 0] = torch.where(groups == 2, 2.0, 0.0)[:, None] * b["valid"]
    b["actions"][..., 0] = torch.where(groups == 1, 1.5, -1.5)[:, None] * b["valid"]
    return b, groups


def test_gate_learns_groups_from_states_and_previous_actions():
    trainer = GateTrainer(Gate(6, 2, 3, context=5, width=64), lr=3e-3)
    for step in range(150):
        metrics = trainer.step(*families(16, 8, step))
    assert metrics["gate_loss"] < 0.5
    b, groups = families(300, 8, 1000)
    logits = trainer.gate(b["observations"], previous_actions(b["actions"], b["valid"]), b["valid"])
    known = b["valid"].sum(dim=1)
    right = logits.argmax(dim=-1) == groups
    assert right[known > 1].float().mean() > 0.97
    assert right[(known == 1) & (groups == 2)].all()  # the first step shows group 2 already ...
    assert right[(known == 1) & (groups != 2)].float().mean() < 0.9  # ... and cannot show 0 from 1


def test_gate_training_resumes_exactly():
    def trained(steps, trainer):
        for step in range(trainer.steps, steps):
            trainer.step(*families(8, 6, step))
        return trainer

    straight = trained(6, GateTrainer(Gate(6, 2, 3, width=16, seed=5), seed=5))
    state = trained(3, GateTrainer(Gate(6, 2, 3, width=16, seed=5), seed=5)).state_dict()
    resumed = GateTrainer(Gate(6, 2, 3, width=16, seed=9), seed=5)
    resumed.load_state_dict(state)
    trained(6, resumed)
    for a, b in zip(straight.gate.state_dict().values(), resumed.gate.state_dict().values()):
        assert torch.equal(a, b)
    assert Gate(**straight.gate.config()).config() == straight.gate.config()


def test_belief_averages_log_probabilities_and_switches_only_for_a_clear_gain():
    belief = Belief(2, 2, decay=0.9, hysteresis=0.1)
    slot = torch.tensor([1])

    def say(p: float) -> int:
        return int(belief.update(slot, torch.tensor([[p, 1 - p]]).log()))

    assert say(0.55) == 0  # the first word counts as it is
    assert belief.probabilities(slot)[0, 0] == pytest.approx(0.55)
    assert say(0.40) == 0  # one weak contradiction changes nothing
    average = 0.9 * torch.tensor([0.55, 0.45]).log() + 0.1 * torch.tensor([0.40, 0.60]).log()
    assert torch.allclose(belief.average[1], average, atol=1e-6)
    for _ in range(200):
        held = say(0.46)
    assert held == 0  # 0.54 against 0.46 for ever: within the hysteresis
    for _ in range(200):
        held = say(0.40)
    assert held == 1
    assert belief.chosen.tolist() == [-1, 1]  # the other episode has not begun
    with pytest.raises(ManyoneError, match=r"decay 1\.5"):
        Belief(1, 2, decay=1.5)


def test_confusion_counts_steps_by_phase():
    actual = torch.tensor([0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 1, 1, 1, 0])
    timesteps = torch.tensor([0, 9, 10, 500, 0])
    counts = confusion_by_phase(predicted, actual, timesteps, 2, starts=(0, 1, 10))
    assert counts.tolist() == [[[1, 0], [1, 0]], [[0, 1], [0, 0]], [[0, 0], [0, 2]]]
    with pytest.raises(ValueError, match="increasing"):
        confusion_by_phase(predicted, actual, timesteps, 2, starts=(1, 5))


def test_a_group_as_likely_as_the_own_one_is_no_reason_to_change():
    belief = Belief(1, 2, decay=0.0, hysteresis=0.0)
    slot = torch.tensor([0])
    assert belief.update(slot, torch.tensor([[0.4, 0.6]]).log()).tolist() == [1]
    assert belief.update(slot, torch.tensor([[0.5, 0.5]]).log()).tolist() == [1]
    assert belief.update(slot, torch.tensor([[0.6, 0.4]]).log()).tolist() == [0]
