"""A query of the package as the nested dictionaries of tests/reference/sql_scoring.py."""

from manyone.sql.scoring.structure import ColumnUnit, Query


def plainly(query):
    """``query`` in Spider's own format, or None."""
    if query is None:
        return None
    return {
        "select": (query.distinct, [(item.aggregate, unit(item.unit)) for item in query.select]),
        "from": {"tables": [plainly(t) if isinstance(t, Query) else t for t in query.tables], "conds": conds(query.on)},
        "where": conds(query.where),
        "group": [column(found) for found in query.group],
        "having": conds(query.having),
        "order": (query.direction, [unit(found) for found in query.order]) if query.direction else None,
        "limit": 1 if query.limited else None,
        "intersect": plainly(query.intersect),
        "union": plainly(query.union),
        "except": plainly(query.otherwise),
    }


def column(found):
    return found and (found.aggregate, found.column, found.distinct)


def unit(found):
    return (found.sign, column(found.left), column(found.right))


def value(found):
    return plainly(found) if isinstance(found, Query) else column(found) if isinstance(found, ColumnUnit) else found


def conds(found):
    items = [(c.negated, c.operator, unit(c.unit), value(c.first), value(c.second)) for c in found.items]
    joined = [part for pair in zip(items, found.connectors) for part in pair]
    return joined + items[len(found.connectors) :]
