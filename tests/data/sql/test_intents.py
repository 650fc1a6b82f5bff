import re

import pytest
from tests.data.sql.small_sql import make_shop
from tests.reference import sql_pairs as plain

from manyone.data.sql.facts import gather
from manyone.data.sql.files import QueryError, Reader
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.intents import INTENTS, draft
from manyone.data.sql.phrases import Wording
from manyone.data.sql.queries import literals
from manyone.data.sql.schema import read_schema


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = make_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    with Reader(path) as reader:
        yield reader, gather(reader, read_schema(path))


@pytest.fixture(scope="module")
def drafts(shop):
    _, facts = shop
    return [d for i in range(3000) if (d := draft(facts, Draws(i))) is not None]


def test_every_intent_finds_something_to_ask(drafts):
    made = {d.intent for d in drafts}
    assert made >= set(INTENTS) - {"join back", "join count"}  # "join back" is called a join
    assert {"join argmax", "join having"} <= made
    assert "join count" in made


def test_every_draft_runs(shop, drafts):
    reader, _ = shop
    for sql in sorted({d.sql for d in drafts} | {d.ties for d in drafts if d.ties}):
        try:
            reader.rows(sql)
        except QueryError as problem:  # pragma: no cover
            pytest.fail(str(problem))


def test_constants_are_those_of_the_rows(shop, drafts):
    """What a query compares a column with is in that column (or a part of it, where it says so)."""
    reader, facts = shop
    seen = 0
    for sql in sorted({d.sql for d in drafts})[::5]:
        for (table, column), values in literals(sql, facts.schema).items():
            held = [str(v) for (v,) in reader.rows(f'SELECT "{column}" FROM "{table}"')]
            for value in values:
                seen += 1
                exact = str(value) in held or (isinstance(value, (int, float)) and str(float(value)) in held)
                assert exact or any(str(value) in h for h in held), (sql, value)
    assert seen > 100


def test_a_question_names_the_constants_of_its_sql(shop, drafts):
    _, facts = shop
    for i, one in enumerate(drafts[::7]):
        text = one.say(Wording(facts, Draws("words", i)))
        for values in literals(one.sql, facts.schema).values():
            for value in values:
                flag = str(value) in ("0", "1") and "active" in text
                assert str(value) in text or flag, (text, one.sql)
        assert text[-1] in ".?"
        assert "None" not in text


def _rows(reader, table):
    names = [n for _, n, *_ in reader.pragma("table_xinfo", table)]
    return [dict(zip(names, row, strict=True)) for row in reader.rows(f'SELECT * FROM "{table}"')]


_TEST = re.compile(
    r"(?P<column>\w+) (?:(?P<operator>=|!=|>=|<=|>|<) (?P<value>'[^']*'|[\d.]+)|BETWEEN (?P<low>'[^']*'|[\d.]+) AND "
    r"(?P<high>'[^']*'|[\d.]+)|LIKE '(?P<pattern>[^']*)')"
)


def _read(text):
    return text[1:-1] if text.startswith("'") else float(text)


def _holds(row, match):
    value = row[match["column"]]
    if match["pattern"] is not None:
        contains = match["pattern"].startswith("%")
        return plain.holds(value, "contains" if contains else "starts", match["pattern"].strip("%"))
    if match["low"] is not None:
        return plain.holds(value, "between", _read(match["low"]), _read(match["high"]))
    return plain.holds(value, match["operator"], _read(match["value"]))


def test_counts_are_those_of_the_plain_conditions(shop, drafts):
    reader, _ = shop
    compared = 0
    for sql in sorted({d.sql for d in drafts if d.intent == "count"}):
        found = re.fullmatch(r"SELECT COUNT\(\*\) FROM (Customer|Product)(?: WHERE (.*))?", sql)
        if found is None:
            continue
        parts = list(_TEST.finditer(found[2] or ""))
        assert " AND ".join(p[0] for p in parts) == (found[2] or "")
        right = sum(all(_holds(row, p) for p in parts) for row in _rows(reader, found[1]))
        assert reader.rows(sql) == [(right,)], sql
        compared += 1
    assert compared > 50


def test_extremes_are_the_plain_ones_unless_there_is_a_tie(shop, drafts):
    reader, _ = shop
    ties, compared = 0, 0
    for one in {d.sql: d for d in drafts if d.intent == "superlative"}.values():
        found = re.fullmatch(r"SELECT (.*) FROM (Customer|Product) ORDER BY (\w+)( DESC)? LIMIT (\d)", one.sql)
        if found is None:
            continue
        keys = [row[0] for row in reader.rows(f"{one.ties} LIMIT {one.limit + 1}")]
        tied = len(keys) > one.limit and keys[one.limit - 1] == keys[one.limit]
        best = plain.top(_rows(reader, found[2]), found[3], bool(found[4]), one.limit)
        assert tied == (best is None), one.sql
        if best is not None:
            assert reader.rows(one.sql) == [tuple(row[c] for c in found[1].split(", ")) for row in best]
        ties, compared = ties + tied, compared + 1
    assert compared > 8
    assert 0 < ties < compared
