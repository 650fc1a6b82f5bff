"""ExAccErr: nothing where both models are one, nothing at the first token, the same with the same seed."""

import math

import pytest
from tests.reference import kid as plain

from manyone.errors import ManyoneError
from manyone.sql.exposure import excess_error
from manyone.sql.generation import Decoding


@pytest.fixture
def how(tokens, pad):
    return Decoding(tokens.end, pad, most=8)


def test_equal_models_have_none(student, gold, how):
    found = excess_error(student, student, [e.prompt for e in gold[:3]], how, samples=2)
    assert max(map(abs, found.accumulated)) < 1e-4
    assert all(math.isnan(p) or abs(p) < 1 for p in found.percent)


def test_the_first_token_has_no_sampled_prefix(student, teacher, gold, how):
    prompts = [e.prompt for e in gold[:3]]
    found = excess_error(student, teacher, prompts, how, samples=3)
    assert found.percent[0] == 0
    q, p = (plain.as_function(m.model) for m in (student, teacher))
    wanted = sum(plain.kl(plain.softmax(p(list(x))[-1]), plain.softmax(q(list(x))[-1])) for x in prompts) / 3
    assert found.accumulated[0] == found.expected[0] == pytest.approx(wanted, abs=1e-4)
    assert all(math.isfinite(value) for value in found.percent)
    assert found == excess_error(student, teacher, prompts, how, samples=3)
    assert found != excess_error(student, teacher, prompts, how, samples=3, seed=1)


def test_sums_grow_and_nothing_follows_the_end(student, teacher, gold, how):
    found = excess_error(student, teacher, [gold[0].prompt], how, samples=4)
    assert list(found.accumulated) == sorted(found.accumulated)
    with pytest.raises(ManyoneError, match="one at least"):
        excess_error(student, teacher, [], how)
