"""A reader's shop, and the gold queries, predictions and databases of the page on scoring."""

from pathlib import Path

from tests.data.sql.small_sql import make_shop
from tests.docs.pages import HERE

make_shop(Path("shop.sqlite"))
scoring = HERE / "preambles" / "sql-evaluation.py"
exec(compile(scoring.read_text(), str(scoring), "exec"))
