"""The rules of text-to-SQL scores, as plainly as they can be said; nothing here is fast or safe.

    bags, sets             when two results are the same: Spider's rule, BIRD's
    execution              a prediction judged by running it, Spider's way or BIRD's
    efficiency             BIRD's valid efficiency of one right prediction
    hardness, exact        Spider's levels and exact match, on queries as nested dictionaries of its own format

A query is {"select": (distinct, [(aggregate, unit), ...]), "from": {"tables": [...], "conds": [...]}, "where": [...],
"group": [column, ...], "having": [...], "order": None or (direction, [unit, ...]), "limit", "intersect", "union",
"except"}; a unit is (sign, column, column or None), a column (aggregate, "table.column", distinct), conditions are
[(negated, operator, unit, value, value), "and", (...), ...].
"""

import math
import re
import sqlite3
from itertools import permutations


def bags(first, second, ordered):
    """Whether some order of the second's columns makes both equal: as lists of rows, or as bags."""
    if not first and not second:
        return True
    if len(first) != len(second) or len(first[0]) != len(second[0]):
        return False
    for order in permutations(range(len(first[0]))):
        moved = [tuple(row[k] for k in order) for row in second]
        if moved == list(first) if ordered else same_counts(first, moved):
            return True
    return False


def same_counts(first, second):
    """Whether each row is as often in both."""
    left = list(second)
    for row in first:
        if row not in left:
            return False
        left.remove(row)
    return not left


def sets(first, second):
    """Whether each row of one is in the other."""
    return all(row in second for row in first) and all(row in first for row in second)


def run(path, sql):
    """The rows of a query, or None where it fails."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = lambda data: data.decode(errors="ignore")
    try:
        return connection.execute(sql).fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None
    finally:
        connection.close()


def spiders(sql):
    """A query as Spider's script runs it: some repairs, and no DISTINCT (none stands in a text here)."""
    for apart, together in (("> =", ">="), ("< =", "<="), ("! =", "!=")):
        sql = sql.replace(apart, together)
    sql = re.sub(r"\bdistinct\b", "", sql, flags=re.IGNORECASE)
    sql = re.sub(r"year\s*\(\s*curdate\s*\(\s*\)\s*\)\s*", "2020", sql, flags=re.IGNORECASE)
    return sql.strip().rstrip("; ")


def execution(rule, paths, gold, predicted):
    """Whether a prediction is right on all of ``paths``; ``rule`` is "spider" or "bird"."""
    if not predicted.strip():
        return False
    for path in paths:
        texts = [spiders(gold), spiders(predicted)] if rule == "spider" else [gold, predicted]
        wanted, found = (run(path, text) for text in texts)
        if found is None:
            return False
        if not (sets(wanted, found) if rule == "bird" else bags(wanted, found, "order by" in texts[0].lower())):
            return False
    return True


def efficiency(ratios):
    """The root of the mean of the ratios within three standard deviations of their mean."""
    mean = sum(ratios) / len(ratios)
    deviation = math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / len(ratios))
    kept = [ratio for ratio in ratios if mean - 3 * deviation < ratio < mean + 3 * deviation]
    kept = kept or ratios
    return math.sqrt(sum(kept) / len(kept))


# --- Spider's levels --------------------------------------------------------------------------------------------------


def hardness(query):
    """easy, medium, hard or extra."""
    conditions = query["from"]["conds"] + query["where"] + query["having"]
    kept = [c for c in conditions if not isinstance(c, str)]
    one = sum(bool(query[part]) for part in ("where", "group", "order")) + (query["limit"] is not None)
    one += len(query["from"]["tables"]) - 1
    one += conditions.count("or") + sum(c[1] == "like" for c in kept)
    two = sum(isinstance(value, dict) for c in kept for value in c[3:5])
    two += sum(query[part] is not None for part in ("intersect", "union", "except"))
    aggregates = sum(aggregate != "" for aggregate, _ in query["select"][1])
    aggregates += sum(c[0] for c in query["where"][::2])
    aggregates += sum(column[0] != "" for column in query["group"])
    if query["order"]:
        columns = [column for unit in query["order"][1] for column in unit[1:] if column]
        aggregates += sum(column[0] != "" for column in columns)
    aggregates += sum(bool(c[0]) for c in query["having"])  # the first letter of "and" counts as well
    three = (aggregates > 1) + (len(query["select"][1]) > 1) + (len(query["where"]) > 1) + (len(query["group"]) > 1)
    if one <= 1 and three == 0 and two == 0:
        return "easy"
    if (three <= 2 and one <= 1 and two == 0) or (one <= 2 and three < 2 and two == 0):
        return "medium"
    if (three > 2 and one <= 2 and two == 0) or (2 < one <= 3 and three <= 2 and two == 0):
        return "hard"
    if one <= 1 and three == 0 and two <= 1:
        return "hard"
    return "extra"


# --- exact match ------------------------------------------------------------------------------------------------------


def exact(predicted, gold, same):
    """Whether two queries match; ``same``: column -> the one that stands for it by foreign keys."""
    return matches(comparable(predicted, same), comparable(gold, same))


def comparable(query, same):
    """Without values, DISTINCT, and what foreign keys make equal."""
    tables = [table for table in query["from"]["tables"] if isinstance(table, str)]
    own = {column: other for column, other in same.items() if column.split(".")[0] in tables}
    return columns_of(values_out(query), own)


def values_out(query):
    if query is None:
        return None

    def conditions(found):
        return [c if isinstance(c, str) else (*c[:3], *(values_out(v) if isinstance(v, dict) else None for v in c[3:]))
                for c in found]  # fmt: skip

    new = dict(query)
    new["from"] = {"tables": query["from"]["tables"], "conds": conditions(query["from"]["conds"])}
    new["where"], new["having"] = conditions(query["where"]), conditions(query["having"])
    for part in ("intersect", "union", "except"):
        new[part] = values_out(query[part])
    return new


def columns_of(query, own):
    if query is None:
        return None

    def column(found):
        return found and (found[0], own.get(found[1], found[1]), None)

    def unit(found):
        return (found[0], column(found[1]), column(found[2]))

    def conditions(found):
        return [c if isinstance(c, str) else (c[0], c[1], unit(c[2]), c[3], c[4]) for c in found]

    new = dict(query)
    new["select"] = (None, [(aggregate, unit(found)) for aggregate, found in query["select"][1]])
    new["from"] = {"tables": query["from"]["tables"], "conds": conditions(query["from"]["conds"])}
    new["where"], new["having"] = conditions(query["where"]), conditions(query["having"])
    new["group"] = [column(found) for found in query["group"]]
    new["order"] = query["order"] and (query["order"][0], [unit(found) for found in query["order"][1]])
    for part in ("intersect", "union", "except"):
        new[part] = columns_of(query[part], own)
    return new


def matches(predicted, gold):
    """All clauses and the tables."""
    p, g = predicted, gold
    if not same_counts(p["select"][1], g["select"][1]):
        return False
    if not same_counts(p["where"][::2], g["where"][::2]) or set(p["where"][1::2]) != set(g["where"][1::2]):
        return False
    if bool(p["group"]) != bool(g["group"]):
        return False
    if p["group"] and ([c[1] for c in p["group"]] != [c[1] for c in g["group"]] or p["having"] != g["having"]):
        return False
    if bool(p["order"]) != bool(g["order"]):
        return False
    if p["order"] and (p["order"] != g["order"] or (p["limit"] is None) != (g["limit"] is None)):
        return False
    for part in ("intersect", "union", "except"):
        if (p[part] is None) != (g[part] is None) or (p[part] is not None and not matches(p[part], g[part])):
            return False
    if keywords(p) != keywords(g):
        return False
    return same_counts(p["from"]["tables"], g["from"]["tables"])


def keywords(query):
    conditions = query["from"]["conds"] + query["where"] + query["having"]
    kept = [c for c in conditions if not isinstance(c, str)]
    found = {part for part in ("where", "group", "having", "order") if query[part]}
    found |= {query["order"][0]} if query["order"] else set()
    found |= {part for part in ("limit", "except", "union", "intersect") if query[part] is not None}
    found |= {"or"} if "or" in conditions else set()
    found |= {"not"} if any(c[0] for c in kept) else set()
    return found | {word for word in ("in", "like") if any(c[1] == word for c in kept)}
