"""What every divergence must satisfy, its gradients, and agreement with sums over the vocabulary."""

import math

import numpy as np
import pytest
import torch
from tests.reference import kid as plain

from manyone.errors import ManyoneError
from manyone.sql.divergences import DIVERGENCES, Divergence

GENERATOR = torch.Generator().manual_seed(0)
Q, P = (torch.randn(64, 7, dtype=torch.float64, generator=GENERATOR) * 3 for _ in range(2))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_values_are_those_of_the_definition(name):
    for beta, skew in ((0.5, 0.1), (0.2, 0.7)):
        found = Divergence(name, beta=beta, skew=skew)(Q, P)
        for row in range(5):
            wanted = plain.divergence(name, plain.softmax(Q[row]), plain.softmax(P[row]), beta, skew)
            assert float(found[row]) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_between_equals_and_never_below_zero(name):
    own = Divergence(name)
    assert own(P, P).abs().max() < 1e-6
    assert own(P.float(), P.float()).abs().max() < 1e-6
    assert own(Q, P).min() > 0
    assert torch.allclose(own(Q + 5, P - 3), own(Q, P), atol=1e-12), "a constant changes nothing"


def test_bounds_limits_and_relations():
    fkl, rkl, tvd, jsd = (Divergence(n)(Q, P) for n in ("fkl", "rkl", "tvd", "jsd"))
    assert jsd.max() <= math.log(2)
    assert tvd.max() <= 1
    assert (tvd <= (fkl / 2).sqrt() + 1e-12).all(), "Pinsker"
    assert torch.allclose(jsd, Divergence("jsd")(P, Q)), "symmetric at b = 1/2"
    assert torch.allclose(rkl, Divergence("fkl")(P, Q))
    near, mild, other = 1e-4, Q / 6, P / 6
    assert torch.allclose(Divergence("jsd", beta=near)(mild, other) / near, Divergence("fkl")(mild, other), atol=1e-3)
    assert torch.allclose(
        Divergence("jsd", beta=1 - near)(mild, other) / near, Divergence("rkl")(mild, other), atol=1e-3
    )
    assert torch.allclose(Divergence("skew-fkl", skew=0)(Q, P), fkl)
    assert Divergence("skew-fkl", skew=1)(Q, P).abs().max() < 1e-12
    assert torch.allclose(Divergence("skew-rkl", skew=0)(Q, P), rkl)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(name):
    own, student = Divergence(name), Q[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q: own(q, P[:6]), student, atol=1e-6)
    teacher = P[:6].clone().requires_grad_()
    own(student, teacher).sum().backward()
    assert teacher.grad is None, "the teacher's logits get no gradient"


def test_gradients_in_closed_form():
    q, p = Q.softmax(-1), P.softmax(-1)
    student = Q.clone().requires_grad_()
    Divergence("rkl")(student, P).sum().backward()
    value = Divergence("rkl")(Q, P)[:, None]
    assert torch.allclose(student.grad, q * (q.log() - p.log() - value), atol=1e-12)
    student.grad = None
    Divergence("fkl")(student, P).sum().backward()
    assert torch.allclose(student.grad, q - p, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_masked_rows_of_the_vocabulary_are_no_infinity(name):
    masked = P.clone()
    masked[:, 3] = -torch.inf
    for student, teacher in ((Q, masked), (masked, P), (masked, masked)):
        student = student.float().requires_grad_()
        value = Divergence(name)(student, teacher.float())
        value.sum().backward()
        assert value.isfinite().all()
        assert student.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    q, p = Q.bfloat16(), P.bfloat16()
    assert Divergence("rkl")(q, p).dtype == torch.float32
    assert torch.allclose(Divergence("rkl")(q, p), Divergence("rkl")(q.float(), p.float()))


def test_temperature_is_that_of_both():
    assert torch.allclose(Divergence("fkl", temperature=2.0)(Q, P), Divergence("fkl")(Q / 2, P / 2))


@pytest.mark.parametrize(("words", "says"), [
    ({"name": "kl"}, "fkl, rkl"), ({"name": "jsd", "beta": 1.5}, "from 0 to 1"),
    ({"name": "skew-fkl", "skew": -0.1}, "from 0 to 1"), ({"name": "rkl", "temperature": 0.0}, "above 0"),
])  # fmt: skip
def test_bad_values_are_refused(words, says):
    with pytest.raises(ManyoneError, match=says):
        Divergence(**words)


def test_reference_kl_is_a_sum():
    assert plain.kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )
