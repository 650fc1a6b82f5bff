"""The example that corrects stored features brings them nearer to the expert's on tiles that it has not seen."""

import numpy as np
import pytest
from examples.earth_surgery import correct


def test_a_correction_that_can_be_learned_is():
    draws = np.random.default_rng(0)
    expert = draws.standard_normal((400, 24)).astype(np.float32)
    bias = np.maximum(expert @ draws.standard_normal((24, 2)), 0) @ draws.standard_normal((2, 24)) / 6
    found, apart = correct((expert + bias).astype(np.float32), expert, rank=4, steps=300)
    assert found.shape == expert.shape
    assert apart["after"] < 0.75 * apart["before"]


def test_other_tiles_are_refused():
    with pytest.raises(SystemExit, match="same tiles"):
        correct(np.zeros((4, 3)), np.zeros((5, 3)))
