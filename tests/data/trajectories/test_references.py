"""D4RL's reference returns: found by any name of an environment or data set, never guessed."""

import math

import numpy as np
import pytest

from manyone.data.trajectories.references import REFERENCES, known_reference, normalised_score, reference
from manyone.errors import ManyoneError


@pytest.mark.parametrize("body", REFERENCES)
def test_the_random_return_scores_0_and_the_expert_s_100(body):
    low, high = REFERENCES[body]
    assert normalised_score(low, body) == 0
    assert normalised_score(high, body) == pytest.approx(100)
    scores = normalised_score(np.array([[low, high], [(low + high) / 2, high + (high - low)]]), body)
    np.testing.assert_allclose(scores, [[0, 100], [50, 200]])


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gym:Hopper-v5", "hopper"),
        ("Hopper-v2", "hopper"),
        ("hopper", "hopper"),
        ("HalfCheetah-v4", "halfcheetah"),
        ("gym:Walker2d-v5", "walker2d"),
        ("hopper-medium-v2", "hopper"),
        ("walker2d_medium_expert-v2.hdf5", "walker2d"),
        ("halfcheetah-full-replay-v2", "halfcheetah"),
        ("mujoco/walker2d/simple-v0", "walker2d"),
        ("mujoco-hopper-medium-replay@20000", "hopper"),
        ("mujoco-halfcheetah-random", "halfcheetah"),
    ],
)
def test_a_body_is_known_by_every_name_of_its_environments_and_data_sets(name, body):
    assert reference(name) == REFERENCES[body]


@pytest.mark.parametrize(
    "name",
    ["gym:Ant-v5", "HopperBulletEnv-v0", "bullet-hopper-random-v0", "gym:Hopper-v5?ctrl_cost_weight=0.1",
     "gym:own.module:Hopper-v5", "cheetah-vel:3", "door-open-v3", "hopper-medium-v2-mine", "my/hopper", ""],
)  # fmt: skip
def test_what_is_not_known_is_an_error_and_never_a_number(name):
    assert known_reference(name) is None
    for call in (reference, lambda name: normalised_score(3.0, name)):
        with pytest.raises(ManyoneError, match="cannot be normalised; known are halfcheetah, hopper, walker2d") as told:
            call(name)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("pair", [(3.0, 3.0), (4.0, 3.0), (math.nan, 3.0), (0.0, math.inf)])
def test_a_pair_that_does_not_rise_is_refused(pair):
    with pytest.raises(ManyoneError, match="must be finite and rise"):
        normalised_score(1.0, pair)
