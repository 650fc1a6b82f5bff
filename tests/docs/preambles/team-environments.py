"""An environment of one's own."""

import shutil

from tests.docs.pages import ROOT

shutil.copy(ROOT / "examples/teams.py", "my_module.py")
