"""Pairs about a database of singers, and a database of one's own."""

import shutil
from pathlib import Path

from tests.sql.small_pairs import write_pairs

write_pairs(Path.cwd())
shutil.copy("database/band/band.sqlite", "shop.sqlite")
