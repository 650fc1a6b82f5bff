"""An environment of one's own; what a team of two sees; which of its copies have ended."""

import shutil

from tests.docs.pages import ROOT

from manyone.envs.teams.make import make_team

shutil.copy(ROOT / "examples/teams.py", "my_module.py")
observations = make_team("predator-prey:size=3,predators=2", 1).reset(seed=0).observations.numpy()
ended = [0]
