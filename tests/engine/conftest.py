import random

import numpy as np
import pytest
import torch
from tests.engine.toy import seed_all


@pytest.fixture(autouse=True)
def _random_state():
    """Each test starts from the same global random state and leaves none behind."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
