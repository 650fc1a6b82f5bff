"""Any pair of functions is a teacher; what is wrong with one is said in a line."""

import numpy as np
import pytest
import torch

from manyone.behavior.teachers.teacher import from_functions, label
from manyone.errors import ManyoneError


def policy(seen):
    return seen[:, :2].tanh()


def critic(seen, acted):
    return seen[:, 0] + acted.sum(1)


@pytest.mark.parametrize(
    ("own_policy", "own_critic"),
    [
        (lambda s: policy(s).numpy(), lambda s, a: critic(s, a).numpy()),
        (lambda s: policy(s).tolist(), lambda s, a: critic(s, a).tolist()),
        (lambda s: policy(s).double(), lambda s, a: critic(s, a)[:, None]),
        (lambda s: policy(s).requires_grad_(), critic),
    ],
)
def test_arrays_lists_other_precisions_and_columns_are_taken(data, own_policy, own_critic):
    for mine, theirs in zip(label(from_functions(own_policy, own_critic, data), data),
                            label(from_functions(policy, critic, data), data)):  # fmt: skip
        assert not mine.requires_grad
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("own_policy", "own_critic", "words"),
    [
        (lambda s: None, critic, "its actions are of type NoneType: return a tensor"),
        (lambda s: "x", critic, "its actions are of type str: return a tensor"),
        (lambda s: s, critic, r"its actions are \[108, 5\], the data need \[108, 2\]"),
        (lambda s: policy(s)[:, 0], critic, r"its actions are \[108\], the data need"),
        (lambda s: policy(s) * np.nan, critic, "some of its actions are not finite"),
        (policy, lambda s, a: None, "its values are of type NoneType: return a tensor"),
        (policy, lambda s, a: torch.tensor(1.0), r"its values are \[\], the data need \[108\]"),
        (policy, lambda s, a: a, r"its values are \[108, 2\], the data need \[108\]"),
        (policy, lambda s, a: critic(s, a) * np.inf, "some of its values are not finite"),
        (policy, None, "has no critic, which av-pbc needs"),
    ],
)
def test_what_does_not_fit_is_said(data, own_policy, own_critic, words):
    with pytest.raises(ManyoneError, match=words) as problem:
        label(from_functions(own_policy, own_critic, data), data)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("own_policy", [lambda s: s[:, :3], lambda s: s[:, :3].softmax(1) * 2])
def test_discrete_policies_give_probabilities(discrete, own_policy):
    with pytest.raises(ManyoneError, match=r"gives no probabilities.*end it in a softmax"):
        label(from_functions(own_policy, lambda s, a: s[:, :3], discrete), discrete)
