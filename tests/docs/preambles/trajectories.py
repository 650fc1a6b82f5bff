"""One of D4RL's files and a Minari data set with dictionary observations."""

from tests.docs.given import d4rl, maze

d4rl("d4rl/hopper.hdf5", states=11, actions=3)
maze("D4RL/pointmaze/umaze-v2")
