from dataclasses import replace

import pytest

from manyone.data.sql.pairs import load_pairs
from manyone.data.sql.splits import SPLITS
from manyone.data.sql.suites import SUITES, load_sql_robust, load_sql_suite, real_pairs
from manyone.errors import ManyoneError


@pytest.fixture
def small(sql_packages, monkeypatch):
    """The small package has two databases, of which one is Spider's development set."""
    monkeypatch.setitem(SUITES, "schemas3", replace(SUITES["schemas3"], databases=("shop",)))
    monkeypatch.setitem(SUITES, "spider14", replace(SUITES["spider14"], unseen=("shop",)))
    return sql_packages


def _sql(found, split, source):
    return {p.sql for p in found.splits[split] if p.source == source}


def test_one_databases_pairs_are_split_by_sql(small):
    found = load_sql_suite("schemas3", pairs=300)
    assert set(found.schemas) == {"shop"}
    for source in ("generated", "spider-dev"):
        train, test = _sql(found, "train", source), _sql(found, "test", source)
        assert train
        assert test
        assert not train & test
    assert {p.source for s in SPLITS for p in found.splits[s]} == {"generated", "spider-dev"}
    assert {p.sql for p in real_pairs(found)} == _sql(found, "test", "spider-dev")
    assert load_sql_suite("schemas3", pairs=300) == found
    assert load_pairs("schemas3", pairs=300) == found
    assert load_sql_suite("schemas3", pairs=300, seed=1).splits != found.splits


def test_a_generated_sql_that_is_real_too_is_in_one_split(small):
    found = load_sql_suite("schemas3", pairs=1500)
    keys = [{"".join(p.sql.lower().split()) for p in found.splits[s]} for s in SPLITS]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_across_databases(small):
    found = load_sql_suite("schemas146", pairs=200)
    assert set(found.schemas) == {"shop", "stall"}
    assert {p.db_id for s in ("train", "val") for p in found.splits[s]} == {"stall"}
    assert {p.db_id for p in found.splits["test"]} == {"shop"}
    assert len(real_pairs(found)) == 30
    assert _sql(found, "test", "generated")
    assert load_sql_suite("spider14", pairs=50).splits["train"] == []  # its one database is held out


def test_test_questions_in_other_words(small):
    found = load_sql_robust("schemas3", pairs=300)
    test = _sql(load_sql_suite("schemas3", pairs=300), "test", "generated")
    assert set(found) == {"synonyms", "dropped", "domain"}
    for mode, pairs in found.items():
        assert {p.source for p in pairs} <= {f"generated, {mode}"}
        assert {p.sql for p in pairs} <= test
    assert found["synonyms"]


def test_an_unknown_suite_is_one_line():
    with pytest.raises(ManyoneError, match="did you mean 'schemas"):
        load_sql_suite("schemas4")
    with pytest.raises(ManyoneError, match="pairs 0"):
        load_sql_suite("schemas20", pairs=0)
    assert all(suite.pairs >= 3000 for suite in SUITES.values())
