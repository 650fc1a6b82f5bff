"""One of D4RL's files, and an observation."""

import numpy as np
from tests.docs.given import d4rl

d4rl("d4rl/hopper.hdf5", states=11, actions=3)
observation = np.zeros(11)
