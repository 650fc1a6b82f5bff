"""One of D4RL's files."""

from tests.docs.given import d4rl

d4rl("d4rl/hopper.hdf5", states=11, actions=3)
