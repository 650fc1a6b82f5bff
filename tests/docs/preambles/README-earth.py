"""An image and labelled points."""

from pathlib import Path

from tests.earth.small_scenes import write_files

write_files(Path())
