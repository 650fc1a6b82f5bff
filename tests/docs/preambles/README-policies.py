"""A D4RL file and a Minari data set."""

from tests.docs.given import d4rl, recording

from manyone.data.trajectories.files import to_minari

d4rl("d4rl/halfcheetah.hdf5", states=17, actions=6)
to_minari(recording("walker", states=17, actions=6), "mujoco/walker2d/expert-v0")
