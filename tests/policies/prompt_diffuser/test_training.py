"""Steps of the training: what is combined, that members do not meet, that the policy stays as it is."""

from __future__ import annotations

import hashlib

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.harmodt.layout import Layout
from manyone.policies.prompt_diffuser.model import Limits
from manyone.policies.prompt_diffuser.projection import without_direction
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.prompt_diffuser.training import DiffuserTraining, Recipe

SMALL = {"batch_size": 6, "guidance_batch": 3}


def begin(own, shots: FewShots, members: int = 1, **changes) -> DiffuserTraining:
    start = Layout(own, ()).pack(dict(own.named_parameters())).repeat(members, 1)
    limits = own.fitted if members == 1 else own.limits([shots.pool.task(i) for i in range(members)])
    return DiffuserTraining(own, shots, Recipe(**{**SMALL, **changes}), start, limits)


def digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


def test_the_policy_never_changes_and_only_phi_is_trained(shots, diffuser):
    before = digest(shots.model)
    training = begin(diffuser(shots), shots, 2)
    for _ in range(3):
        training.step()
    assert digest(shots.model) == before
    assert not shots.model.training
    assert all(value.grad is None and not value.requires_grad for value in shots.model.parameters())
    assert training.point.shape == (2, sum(v.numel() for v in training.diffuser.parameters()))
    assert float((training.point - begin(diffuser(shots), shots, 2).point).detach().abs().max()) > 1e-4


def test_a_step_is_adam_on_the_denoising_gradient_and_the_projected_imitation_gradient(precise, diffuser):
    training = begin(diffuser(precise), precise, 2, lr=1e-2, weight=0.7)
    d, v, losses = training.gradients([0, 1], 0)
    direction = d + 0.7 * without_direction(v, d)
    before = training.point.detach().clone()
    metrics = training.step()
    # Adam's first step: the gradient divided by its own size
    expected = before - 1e-2 * direction / (direction.abs() + 1e-8)
    torch.testing.assert_close(training.point.detach(), expected, atol=1e-6, rtol=0)
    assert metrics["loss"] == pytest.approx(losses["denoising"] + 0.7 * losses["imitation"])
    cosine = torch.nn.functional.cosine_similarity(d, v)
    assert metrics["cosine"] == pytest.approx(float(cosine.mean()))
    assert metrics["conflict"] == float((cosine < 0).double().mean())
    average = torch.lerp(before, training.point.detach(), 0.005)
    torch.testing.assert_close(training.average.values[0], average)


def test_single_losses_and_a_guidance_without_weight(shots, diffuser):
    def after(**changes) -> torch.Tensor:
        training = begin(diffuser(shots), shots, **changes)
        for _ in range(3):
            training.step([0])
        return training.point.detach()

    denoising, imitation = after(losses="denoising"), after(losses="imitation")
    assert torch.equal(after(weight=0.0), denoising)
    both = {kind: after(projection={"kind": kind}) for kind in ("vector", "none", "one-sided", "subspace")}
    found = [denoising, imitation, *both.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i] if a is not both["one-sided"])
    training = begin(diffuser(shots), shots, losses="imitation", guidance_every=4)
    assert set(training.step([0])) == set(training.step([0])) == {"imitation", "loss"}


def test_guidance_every_few_steps_denoises_between_them(shots, diffuser):
    training = begin(diffuser(shots), shots, guidance_every=3)
    guided = ["imitation" in training.step([0]) for _ in range(7)]
    assert guided == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("changes", [{}, {"guidance": "one-step"}, {"projection": {"kind": "subspace", "history": 2}}])
@pytest.mark.parametrize("context", [0, 4])
def test_members_side_by_side_do_as_each_would_alone(precise, diffuser, changes, context):
    own = diffuser(precise, context=context)
    both = begin(own, precise, 2, **changes)
    with torch.no_grad():
        both.point[1] += 0.1
    both.average.reset()
    start = both.point.detach().clone()
    for _ in range(3):
        both.step()
    for member in range(2):
        limits = Limits(both.limits.low[member : member + 1], both.limits.high[member : member + 1])
        alone = DiffuserTraining(own, precise, both.recipe, start[member : member + 1], limits)
        for _ in range(3):
            alone.step([member])
        torch.testing.assert_close(alone.point[0], both.point[member], atol=1e-8, rtol=0)
        torch.testing.assert_close(alone.average.values[0][0], both.average.values[0][member], atol=1e-8, rtol=0)


def test_a_restored_training_goes_on_as_the_uninterrupted_one(shots, diffuser):
    recipe = {"projection": {"kind": "subspace", "history": 2, "refresh": 3}}
    whole, first, second = (begin(diffuser(shots), shots, 2, **recipe) for _ in range(3))
    for _ in range(2):
        whole.step()
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        assert whole.step() == second.step()
    assert torch.equal(whole.point, second.point)
    assert torch.equal(whole.average.values[0], second.average.values[0])
    with pytest.raises(ManyoneError, match="the saved diffuser has"):
        begin(diffuser(shots), shots).load_state_dict(first.state_dict())


def test_without_prompts_there_is_nothing_to_generate(tasks, policy, shots, diffuser):
    own = diffuser(shots)
    point = Layout(own, ()).pack(dict(own.named_parameters())).repeat(3, 1)
    with pytest.raises(ManyoneError, match="3 members for 2 tasks"):
        DiffuserTraining(own, shots, Recipe(**SMALL), point, own.fitted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": "all"}, "losses = all: must be both, denoising or imitation"),
        ({"guidance": "half"}, "guidance = half"),
        ({"weight": -1.0}, "weight = -1.0: must be 0 or more"),
        ({"guidance_every": 0}, "guidance_every = 0"),
        ({"guidance_batch": 64}, "guidance_batch = 64: must be 1 to batch_size = 48"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ManyoneError, match=message):
        Recipe(**changes)
