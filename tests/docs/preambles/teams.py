"""An environment of one's own; what a team of two sees; which of its copies have ended."""

import shutil

import numpy as np
from tests.docs.pages import ROOT

shutil.copy(ROOT / "examples/teams.py", "my_module.py")
observations = np.random.default_rng(0).random((2, 42), dtype=np.float32)
ended = [0]
