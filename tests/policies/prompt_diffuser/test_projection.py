"""The projection's properties: what it removes, what it leaves, and that it disturbs the other loss at second order."""

from __future__ import annotations

import pytest
import torch
from tests.reference.prompt_diffuser import project_subspace, project_vector

from manyone.errors import ManyoneError
from manyone.policies.prompt_diffuser.projection import Projection, cosine, without_direction

SHAPES = {"a.weight": (6, 4), "a.bias": (6,), "b.weight": (3, 6), "b.bias": (3,)}
P = 51


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("granularity", ["global", "tensor"])
def test_the_vector_form_is_orthogonal_idempotent_and_leaves_what_is_orthogonal(granularity):
    project = Projection("vector", SHAPES, granularity=granularity)
    v, d = draw(3, P, seed=1), draw(3, P, seed=2)
    found = project(v, d)
    sizes = [P] if granularity == "global" else [24, 6, 18, 3]
    for own, along, before in zip(found.split(sizes, -1), d.split(sizes, -1), v.split(sizes, -1)):
        left = (own * along).sum(-1).abs() / (before.norm(dim=-1) * along.norm(dim=-1))
        assert float(left.max()) <= 1e-6
        for member in range(3):
            torch.testing.assert_close(own[member], project_vector(before[member], along[member]))
    torch.testing.assert_close(project(found, d), found)
    torch.testing.assert_close(project(2.5 * d, d), torch.zeros_like(d), atol=1e-9, rtol=0)
    assert float((v - found).abs().max()) > 0.1


def test_the_vector_form_in_single_precision_is_orthogonal_to_rounding():
    v, d = draw(2, 200_000, seed=3).float(), draw(2, 200_000, seed=4).float()
    found = without_direction(v, d)
    assert float(((found * d).sum(-1).abs() / (v.norm(dim=-1) * d.norm(dim=-1))).max()) <= 1e-6


def test_one_sided_projects_only_conflicts_and_none_nothing():
    d = draw(2, P, seed=5)
    v = torch.stack((d[0] + draw(P, seed=6), -d[1] + draw(P, seed=7)))
    found = Projection("one-sided", SHAPES)(v, d)
    torch.testing.assert_close(found[0], v[0])
    torch.testing.assert_close(found[1], project_vector(v[1], d[1]))
    assert Projection("none", SHAPES)(v, d) is v
    assert float(cosine(v, d)[0]) > 0 > float(cosine(v, d)[1])
    torch.testing.assert_close(cosine(d, 3 * d), torch.ones(2, dtype=torch.float64))


def test_without_a_denoising_direction_the_guidance_stays_whole():
    v = draw(1, P, seed=8)
    torch.testing.assert_close(Projection("vector", SHAPES)(v, torch.zeros_like(v)), v)
    project = Projection("subspace", SHAPES)
    torch.testing.assert_close(project(v, v), v, msg="nothing was remembered yet")
    project.remember(torch.zeros_like(v))
    torch.testing.assert_close(project(v, v), v)


@pytest.mark.parametrize("granularity", ["global", "tensor"])
def test_the_subspace_of_one_vector_is_the_vector_form(granularity):
    project = Projection("subspace", SHAPES, granularity=granularity, history=1, refresh=1)
    vector = Projection("vector", SHAPES, granularity=granularity)
    for step in range(3):
        v, d = draw(2, P, seed=10 + step), draw(2, P, seed=20 + step)
        project.remember(d)
        torch.testing.assert_close(project(v, d), vector(v, d), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("space", ["vectors", "columns", "rows"])
def test_the_subspace_is_orthonormal_and_takes_every_remembered_gradient_out(space):
    # gradients of low rank: with all of their energy nothing of them is left
    steps = [torch.cat([(draw(2, a, 1, seed=7) @ draw(2, 1, b, seed=s)).flatten(1) for a, b in ((6, 4), (6, 1), (3, 6))]
                       + [draw(2, 3, seed=8)], -1) for s in range(5)]  # fmt: skip
    assert steps[0].shape == (2, P)
    project = Projection("subspace", SHAPES, granularity="tensor", space=space, history=5, energy=1.0, refresh=5)
    for d in (*steps, steps[-1]):  # the first makes a basis, the sixth one of the last five
        project.remember(d)
    for basis in project.state_dict()["bases"]:
        gram = basis.mT @ basis
        kept = gram.diagonal(dim1=-2, dim2=-1) > 0.5
        torch.testing.assert_close(gram, torch.diag_embed(kept.double()), atol=1e-9, rtol=0)
    v = draw(2, P, seed=30)
    found = project(v, steps[0])
    for d in steps[1:]:
        left = (found * d).sum(-1).abs() / (found.norm(dim=-1) * d.norm(dim=-1)).clamp(min=1e-12)
        assert float(left.max()) <= 1e-7
    torch.testing.assert_close(project(found, v), found, atol=1e-9, rtol=0)
    for member in range(2):
        plain = project_subspace(v[member], [d[member] for d in (*steps[1:], steps[-1])], SHAPES.values(), space, 1.0)
        torch.testing.assert_close(found[member], plain, atol=1e-8, rtol=0)


@pytest.mark.parametrize("space", ["vectors", "columns", "rows"])
def test_what_is_left_of_a_remembered_gradient_is_at_most_the_discarded_energy(space):
    project = Projection("subspace", SHAPES, granularity="tensor", space=space, history=6, energy=0.8, refresh=6)
    steps = [draw(1, P, seed=40 + s) for s in range(7)]
    for d in steps:
        project.remember(d)
    for number, size in enumerate([24, 6, 18, 3]):
        first = sum([24, 6, 18, 3][:number])
        part = slice(first, first + size)
        own = [d[:, part] for d in steps[1:]]
        left = sum(float(project(d, d)[:, part].square().sum()) for d in steps[1:])
        assert left <= 0.2 * sum(float(d.square().sum()) for d in own) + 1e-9
    assert 0 < project.rank < 6


def test_a_restored_subspace_goes_on_as_the_uninterrupted_one():
    def fresh() -> Projection:
        return Projection("subspace", SHAPES, history=3, refresh=4)

    whole, first = fresh(), fresh()
    for step in range(6):
        for one in (whole, first):
            one.remember(draw(2, P, seed=step))
    second = fresh()
    second.load_state_dict(first.state_dict())
    for step in range(6, 11):
        for one in (whole, second):
            one.remember(draw(2, P, seed=step))
        v = draw(2, P, seed=100 + step)
        assert torch.equal(whole(v, v), second(v, v))


def test_a_projected_step_changes_the_denoising_loss_at_second_order_and_the_sum_at_first():
    target, other = draw(P, seed=50), draw(P, seed=51)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ((x - target).square() * (1 + torch.sin(x) ** 2)).sum()

    x = draw(P, seed=52).requires_grad_()
    (d,) = torch.autograd.grad(loss(x), x)
    (v,) = torch.autograd.grad((x - other).square().sum(), x)
    projected = Projection("vector", SHAPES)(v[None], d[None])[0]
    with torch.no_grad():
        changes = {name: [float(loss(x - eta * g) - loss(x)) for eta in (1e-3, 5e-4)]
                   for name, g in (("projected", projected), ("sum", v))}  # fmt: skip
    assert changes["projected"][0] / changes["projected"][1] == pytest.approx(4, abs=0.1)
    assert changes["sum"][0] / changes["sum"][1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "half"}, "projection = half: must be vector, subspace, one-sided or none"),
        ({"granularity": "layer"}, "granularity = layer"),
        ({"space": "planes"}, "space = planes"),
        ({"history": 0}, "history = 0: must be 1 or more"),
        ({"energy": 0.0}, "energy = 0.0: must be above 0"),
        ({"refresh": 0}, "refresh = 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ManyoneError, match=message):
        Projection(**{"kind": "subspace", "shapes": SHAPES, **options})
