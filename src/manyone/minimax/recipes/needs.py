"""What minimax recipes ask for: the package that carries a named table."""

from __future__ import annotations

from manyone.data.tables.names import is_file, table_asset
from manyone.minimax.recipes.options import TableOptions
from manyone.recipes.needs import Needs


def needs(options: TableOptions) -> Needs:
    """Nothing for a file and for what scikit-learn brings."""
    if is_file(options.data):
        return Needs()
    asset = table_asset(options.data.partition(":")[0])
    return Needs((asset,) if asset else ())
