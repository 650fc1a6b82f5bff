"""The decision transformer by module calls gives what the network itself gives, padding and prompts included."""

from __future__ import annotations

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.nets.decision_features import DecisionFeatures, decision_inputs

SHAPE = {"state_dim": 3, "action_dim": 2, "width": 8, "layers": 2, "heads": 2, "context": 4, "max_timestep": 6}


def steps(size: int, length: int, padded: bool = True) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(length)
    valid = torch.ones(size, length, dtype=torch.bool)
    if padded:
        valid[0, :2] = False
    return {
        "observations": torch.randn(size, length, 3, generator=draw),
        "actions": torch.randn(size, length, 2, generator=draw),
        "returns_to_go": torch.randn(size, length, generator=draw),
        "timesteps": torch.randint(9, (size, length), generator=draw),  # beyond the table too
        "valid": valid,
    }


@pytest.mark.parametrize("prompt", [0, 3])
def test_features_are_those_that_the_head_reads(prompt):
    model = DecisionTransformer(**SHAPE, prompt=prompt, seed=1).eval()
    batch, front = steps(5, 4), steps(5, 3) if prompt else None
    features = DecisionFeatures(model)
    found = torch.tanh(model.head(features(**decision_inputs(batch, front))))
    torch.testing.assert_close(found, model(batch, front)[:, -1], rtol=1e-5, atol=1e-6)
    own = {name for name, _ in model.named_parameters() if not name.startswith("head.")}
    assert {name for name, _ in features.named_parameters()} == own
    changed = {**batch, "actions": batch["actions"].clone()}
    changed["actions"][:, -1] = 9  # the newest action is what is to be found
    assert torch.equal(features(**decision_inputs(batch, front)), features(**decision_inputs(changed, front)))


def test_networks_that_are_told_a_number_and_missing_prompts_are_refused():
    for more in ({"id_tokens": 2}, {"widths": [(3, 2), (2, 1)]}):
        with pytest.raises(ManyoneError, match="token or maps of each task's own"):
            DecisionFeatures(DecisionTransformer(**SHAPE, **more))
    with pytest.raises(ManyoneError, match="a prompt must be given if and only if"):
        DecisionFeatures(DecisionTransformer(**SHAPE, prompt=3))(**decision_inputs(steps(2, 4)))
