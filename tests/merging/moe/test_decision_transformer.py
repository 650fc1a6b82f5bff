"""WEMoE and Surgery on top of decision transformers of different tasks, as their model folders have them."""

from __future__ import annotations

import pytest
import torch

from manyone.merging import Surgery, WeightEnsemblingMoE
from manyone.nets.decision import DecisionTransformer
from manyone.nets.decision_features import DecisionFeatures, decision_inputs
from manyone.policies import PolicyData, build_model, load_policy, save_policy

from tests.commands.test_merged_artefacts import episodes, moved  # isort: skip

SCALE = 0.4


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A base and two experts, loaded from their folders."""
    folder, found = tmp_path_factory.mktemp("policies"), []
    for number, names in enumerate((("a", "b"), ("a",), ("b",))):
        data = PolicyData([episodes(name) for name in names], context=4, prompt=2)
        model = moved(build_model("prompt-dt", data, width=8, layers=2, heads=2, max_timestep=12), number)
        save_policy(folder / str(number), model, data.table)
        found.append(load_policy(folder / str(number)))
    return found


@pytest.fixture(scope="module")
def batch():
    data = PolicyData([episodes("a"), episodes("b")], context=4, prompt=2)
    got = data.batch([0, 1], step=0, batch_size=3)
    return tuple({name: value.flatten(0, 1) for name, value in part.items()} for part in (got.steps, got.prompt))


def test_every_sample_acts_with_the_weights_that_its_own_routing_merges(policies, batch):
    base, *experts = (one.model for one in policies)
    encoder = DecisionFeatures(base)
    moe = WeightEnsemblingMoE(encoder, [DecisionFeatures(e).state_dict() for e in experts], scale=SCALE, seed=3)
    inputs = decision_inputs(*batch)
    r = moe.routing_weights(inputs)  # [B, M, N]
    assert r.shape == (6, 2, 2)
    found = torch.tanh(base.head(moe(inputs)))
    theta = [dict(one.named_parameters()) for one in (base, *experts)]
    for sample in range(6):
        merged = {}
        for name, value in theta[0].items():
            taus = [other[name] - value for other in theta[1:]]
            own = r[sample, int(name.split(".")[1])] if ".mlp." in name else [SCALE] * 2
            merged[name] = value if name.startswith("head.") else value + sum(w * t for w, t in zip(own, taus))
        one = [{name: value[sample : sample + 1] for name, value in part.items()} for part in batch]
        wanted = base.run(merged, *one, last_only=True)[:, -1]
        torch.testing.assert_close(found[sample : sample + 1], wanted, rtol=1e-4, atol=1e-5)


def test_routers_learn_from_recorded_actions_and_see_no_padding(policies, batch):
    base, *experts = (one.model for one in policies)
    moe = WeightEnsemblingMoE(DecisionFeatures(base), [DecisionFeatures(e).state_dict() for e in experts])
    steps, prompt = batch
    inputs, wanted = decision_inputs(steps, prompt), steps["actions"][:, -1]
    optimiser, losses = torch.optim.Adam(moe.routers.parameters(), 1e-2), []
    for _ in range(20):
        loss = (torch.tanh(base.head(moe(inputs))) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    padded = {**steps, "valid": steps["valid"].clone(), "observations": steps["observations"].clone()}
    padded["valid"][:, 0] = False
    before = moe.routing_weights(decision_inputs(padded, prompt))
    padded["observations"][:, 0] = 1e3
    torch.testing.assert_close(moe.routing_weights(decision_inputs(padded, prompt)), before)


def test_surgery_corrects_the_feature_of_a_merged_policy(policies, batch):
    base = policies[0].model
    assert isinstance(base, DecisionTransformer)
    features = DecisionFeatures(base)
    surgery = Surgery(features, 8, ["a", "b"], rank=2)
    inputs = decision_inputs(*batch)
    assert torch.equal(surgery(inputs, "a"), features(**inputs))  # corrections start at zero
    down, up = surgery.task_parameters("b")
    with torch.no_grad():
        up.fill_(0.1)
    v = features(**inputs)
    assert torch.equal(surgery(inputs, "a"), v)
    assert not torch.equal(surgery(inputs, "b"), v)
    torch.testing.assert_close(surgery(inputs, "b"), v - torch.relu(v @ down.T) @ up.T)
