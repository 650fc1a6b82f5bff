"""Three of D4RL's files."""

from tests.docs.given import d4rl

d4rl("d4rl/hopper.hdf5", states=11, actions=3)
d4rl("d4rl/halfcheetah.hdf5", states=17, actions=6)
d4rl("d4rl/swimmer.hdf5", states=8, actions=2)
