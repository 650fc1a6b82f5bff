"""An environment of one's own, and what its team of five sees."""

import shutil

import numpy as np
from tests.docs.pages import ROOT

shutil.copy(ROOT / "examples/teams.py", "my_module.py")
observations = np.random.default_rng(0).random((5, 261), dtype=np.float32)
