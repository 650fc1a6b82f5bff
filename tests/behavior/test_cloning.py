import numpy as np
import pytest
import torch

from manyone.behavior.cloning import CloningLearner, clone
from manyone.behavior.students.network import StudentSpec
from manyone.errors import ManyoneError

SMALL = {"students": 2, "spec": StudentSpec(layers=2, width=8), "batch_size": 32, "progress": False}


def test_clones_do_what_was_recorded_and_come_out_the_same_again(data):
    policies = clone(data, steps=300, lr=0.01, **SMALL)
    seen = data.observations(data.states)
    found = torch.from_numpy(policies.actions(seen))
    assert float((found - data.own_actions(data.actions)).square().mean()) < 0.1 * float(data.actions.var())
    np.testing.assert_array_equal(found, clone(data, steps=300, lr=0.01, **SMALL).actions(seen))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": -1}, "steps -1: must be a whole number from 0"),
        ({"students": 0}, "students 0: must be a whole number from 1"),
        ({"batch_size": 0}, "batch_size 0: must be a whole number from 1"),
        ({"lr": -1.0}, "lr -1.0: must be a number above 0"),
        ({"fraction": 0.0}, "fraction 0.0: must be a number above 0, at most 1"),
        ({"fraction": 2}, "fraction 2: must be a number above 0, at most 1"),
    ],
)
def test_wrong_numbers_are_said(data, given, words):
    with pytest.raises(ManyoneError, match=words):
        clone(data, **({"steps": 1} | SMALL | given))


def test_a_restored_learner_goes_on_bit_by_bit(data):
    options = {"students": 2, "spec": SMALL["spec"], "fraction": 0.5}
    whole, half = CloningLearner(data, **options), CloningLearner(data, **options)
    for _ in range(3):
        whole.step()
    for _ in range(2):
        half.step()
    other = CloningLearner(data, **options)
    other.load_state_dict(half.state_dict())
    other.step()
    assert all(torch.equal(value, whole.weights[name]) for name, value in other.weights.items())
