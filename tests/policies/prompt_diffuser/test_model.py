"""The diffusion model of prompts: its sizes, its chain against the plain one, what it learns, what it conditions on."""

from __future__ import annotations

import pytest
import torch
from tests.reference.prompt_diffuser import alpha_bars, reverse_chain

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.nets.diffusion.sampling import sample
from manyone.policies.harmodt.layout import Layout
from manyone.policies.prompt_diffuser.model import Limits, PromptDiffuser, chain_noise
from manyone.policies.prompt_diffuser.training import DiffuserTraining, Recipe


def weights_of(diffuser: PromptDiffuser) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in diffuser.named_parameters()}


def test_the_sizes_are_those_of_the_specification():
    def count(module: torch.nn.Module) -> int:
        return sum(value.numel() for value in module.parameters())

    assert count(PromptDiffuser(39, 4, 5, 500, layout="per_step", embedding=32)) == 167_308
    assert count(PromptDiffuser(2, 2, 5, 20)) == 152_393
    # 13,706,796 with what the published network has and never uses: heads of states and returns, a table of one token
    unused = (39 + 1) * (512 + 1) + 512
    assert count(DecisionTransformer(39, 4, width=512, layers=4, heads=8, prompt=5)) == 13_706_796 - unused


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_the_schedule_ends_where_it_does_for_any_number_of_steps(steps):
    found = PromptDiffuser(5, 2, 3, 14, steps=steps).schedule.alpha_bar
    torch.testing.assert_close(found, torch.tensor(alpha_bars(steps), dtype=torch.float64))
    assert bool((found.diff() < 0).all())
    assert float(found[-1]) == pytest.approx(torch.tensor(-0.1 - 9.9 / 2).exp().item(), rel=1e-6)


def test_variables_and_prompts_are_inverse_and_actions_stay_in_their_bounds(shots, diffuser):
    own = diffuser(shots)
    x = own.variables(shots.pool.steps)
    assert x.shape == (10, 3, 8)
    torch.testing.assert_close(x.flatten(0, 1).mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.flatten(0, 1).std(0, correction=0), torch.ones(8), atol=1e-4, rtol=0)
    made = own.prompts(x, shots.pool.steps)
    assert set(made) == {"observations", "actions", "returns_to_go", "timesteps", "valid"}
    for name, value in made.items():
        torch.testing.assert_close(value, shots.pool.steps[name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own.rewards(x), shots.pool.steps["rewards"])
    far = own.prompts(9 * torch.ones_like(x), shots.pool.steps)
    assert float(far["actions"].abs().max()) == 1.0
    without = diffuser(shots, reward=False)
    torch.testing.assert_close(without.variables(shots.pool.steps), x[..., 1:])
    with pytest.raises(ManyoneError, match="reward=False"):
        without.rewards(x)


@pytest.mark.parametrize("layout", ["flat", "per_step"])
def test_the_chain_is_the_plain_reverse_chain_of_each_member(precise, diffuser, layout):
    own = diffuser(precise, layout=layout, steps=5)
    layout_of = Layout(own, ())
    flat = layout_of.pack(weights_of(own)).repeat(2, 1)
    flat[1] += 0.3 * torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    limits = own.limits([precise.pool.task(0), precise.pool.task(1)])
    given = {key: value[[0, 1, 7, 8]] for key, value in precise.pool.steps.items()}
    y = own.condition(given)
    noise = chain_noise((5, 2, 3, 8), [(0, "a"), (0, "b")], own.mean)
    found = own.chain(layout_of.views(flat), y, noise, limits)
    for row in range(4):
        member = row // 2
        weights = layout_of.views(flat[member : member + 1])

        def eps(x: torch.Tensor, n: int, row: int = row, weights: dict = weights) -> torch.Tensor:
            return own.denoise(weights, x[None], torch.tensor([n]), y[row : row + 1])[0]

        plain = reverse_chain(eps, noise[:, row], limits.low[member], limits.high[member])
        torch.testing.assert_close(found[row], plain, atol=1e-9, rtol=0)


def test_a_chain_of_one_step_with_the_exact_noise_returns_the_data(precise, diffuser):
    own = diffuser(precise, steps=1, clip=50.0)
    x0 = own.variables(precise.pool.steps)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n = torch.ones(10, dtype=torch.int64)
    x = own.schedule.alpha_bar[1].sqrt() * x0 + (1 - own.schedule.alpha_bar[1]).sqrt() * noise
    limits = Limits(torch.full((1, 8), -50.0), torch.full((1, 8), 50.0))
    torch.testing.assert_close(own.one_step(x, noise, n, limits), x0)


def test_each_step_on_its_own_follows_a_permutation_of_the_steps_and_the_flat_layout_does_not(precise, diffuser):
    order = [2, 0, 1]
    given = {key: value[:2] for key, value in precise.pool.steps.items()}
    turned = {key: value[:, order] for key, value in given.items()}
    for layout, follows in (("per_step", True), ("flat", False)):
        own = diffuser(precise, layout=layout)
        noise = chain_noise((4, 2, 3, 8), [(0, "p")], own.mean)
        found = own.chain(weights_of(own), own.condition(given), noise, own.fitted)
        other = own.chain(weights_of(own), own.condition(turned), noise[:, :, order], own.fitted)
        assert bool(torch.allclose(other, found[:, order], atol=1e-9)) == follows


@pytest.mark.parametrize("layout", ["flat", "per_step"])
def test_trained_on_two_constant_prompts_it_returns_the_one_that_the_condition_asks_for(shots, diffuser, layout):
    own = diffuser(None, layout=layout, width=128, layers=3, embedding=16)
    constant = {key: value[[0, 5]].clone() for key, value in shots.pool.steps.items()}
    constant["observations"] = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2))
    constant["returns_to_go"] = torch.tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 3.0]])
    x0, y = own.variables(constant), own.condition(constant)
    weights = {name: value.requires_grad_() for name, value in own.named_parameters()}
    optimiser = torch.optim.Adam(weights.values(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 900)
    for step in range(900):
        draw = torch.Generator().manual_seed(step)
        noise, n = torch.randn(64, 3, 8, generator=draw), torch.randint(1, 5, (64,), generator=draw)
        rows = torch.arange(64) % 2
        loss = own.denoising_losses(weights, x0[rows], noise, n, y[rows], 1)[0].sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    noise = chain_noise((4, 40, 3, 8), [(0, "test")], own.mean)
    rows = torch.arange(40) % 2
    wide = Limits(torch.full((1, 8), -5.0), torch.full((1, 8), 5.0))
    with torch.no_grad():
        found = own.chain(dict(weights), y[rows], noise, wide)
    assert float((found - x0[rows]).abs().mean()) < 0.05


def test_limits_are_the_pools_range_or_a_number_and_widen(shots, diffuser):
    own = diffuser(shots)
    each = own.limits([shots.pool.task(0), shots.pool.task(1)])
    x = own.variables(shots.pool.task(1)).flatten(0, 1)
    torch.testing.assert_close(each.low[1], x.quantile(0.001, 0))
    torch.testing.assert_close(each.high[1], x.quantile(0.999, 0))
    wide = each.widened(own.fitted)
    assert bool((wide.low <= each.low).all() and (wide.high >= own.high).all())
    number = diffuser(shots, clip=2.0).limits([shots.pool.task(0)])
    assert (number.low.tolist(), number.high.tolist()) == ([[-2.0] * 8], [[2.0] * 8])


def test_the_context_tells_tasks_apart(shots, diffuser):
    own = diffuser(shots, context=6)
    weights = weights_of(own)
    seen = shots.transitions(0, count=20)
    assert seen.shape == (2, 20, 8)
    found = own.encode(weights, seen)
    assert found.shape == (2, 6)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    torch.testing.assert_close(own.encode(weights, seen[:, torch.randperm(20)]), found)
    given = {key: value[:4] for key, value in shots.pool.steps.items()}
    y = own.condition(given, found)
    assert y.shape == (4, 12)
    torch.testing.assert_close(y[:, 6:], found[[0, 0, 1, 1]])
    assert diffuser(shots, context=6, layout="per_step").condition(given, found).shape == (4, 3, 8)
    with pytest.raises(ManyoneError, match="context = 6: give a context iff it is > 0"):
        own.condition(given)


@pytest.mark.parametrize("guidance", ["chain", "one-step"])
def test_the_guidance_gradient_is_the_finite_difference_through_chain_and_policy(precise, diffuser, guidance):
    own = diffuser(precise, steps=3, width=6, context=2)
    layout = Layout(own, ())
    start = layout.pack(weights_of(own)).repeat(2, 1)
    # limits so wide that no clip hides a part of the path
    limits = Limits(torch.full((2, 8), -50.0).double(), torch.full((2, 8), 50.0).double())
    recipe = Recipe(batch_size=3, guidance_batch=2, guidance=guidance)
    training = DiffuserTraining(own, precise, recipe, start, limits)
    _, v, _ = training.gradients([0, 1], 0)
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values = []
    for sign in (1, -1):
        moved = DiffuserTraining(own, precise, recipe, start + sign * 1e-6 * direction, limits)
        values.append(2 * moved.gradients([0, 1], 0)[2]["imitation"])  # the mean over two members
    expected = (values[0] - values[1]) / 2e-6
    assert float((v * direction).sum()) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "long"}, "layout 'long'"),
        ({"clip": 0.0}, "clip = 0.0: must be quantiles or a number above 0"),
        ({"context": -1}, "context = -1"),
        ({"steps": 0}, "diffusion steps = 0"),
    ],
)
def test_wrong_options_are_named(changes, message):
    with pytest.raises(ManyoneError, match=message):
        PromptDiffuser(5, 2, 3, 14, **changes)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "per_step", "layers": 1},
        {"sampler": "ddim", "prediction": "velocity"},
        {"prediction": "data", "layers": 3},
        {"sampler": "ddim", "prediction": "noise", "steps": 1},
    ],
)
def test_the_gradient_by_hand_is_autograds(precise, diffuser, members, changes):
    own = diffuser(precise, **changes)
    layout = Layout(own, ())
    own.requires_grad_(False)
    flat = layout.pack(weights_of(own)).repeat(members, 1)
    flat = flat + 0.2 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat.requires_grad_()
    limits = own.limits([precise.pool.task(i) for i in range(members)])
    given = {key: value[: 4 * members] for key, value in precise.pool.steps.items()}
    y = own.condition(given).requires_grad_()
    names: list[tuple[str | int, ...]] = [(0, str(member)) for member in range(members)]
    noise = chain_noise((own.schedule.steps, 4, 3, 8), names, own.mean)
    by_hand = own.chain(layout.views(flat), y, noise, limits)
    plain = sample(
        lambda x, n: own.denoise(layout.views(flat), x, n, y), own.process(limits, 4 * members), noise[0],
        sampler=own.sampler, draws=lambda k: noise[k + 1],
    )  # fmt: skip
    torch.testing.assert_close(by_hand, plain, atol=1e-10, rtol=0)
    weight = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = torch.autograd.grad((by_hand * weight).sum(), [flat, y])
    for ours, theirs in zip(found, torch.autograd.grad((plain * weight).sum(), [flat, y])):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)
        assert float(theirs.abs().max()) > 1e-3
