"""A reader's shop as a SQLite file."""

from pathlib import Path

from tests.data.sql.small_sql import make_shop

make_shop(Path("shop.sqlite"))
