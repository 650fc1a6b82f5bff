import pytest
from tests.data.sql import small_sql_packages as small
from tests.data.sql.small_sql import TABLES

from manyone.assets.fetch import Unavailable
from manyone.data.sql.schema import schemas_from_tables
from manyone.data.sql.synonyms import read_synonyms, synonyms, wordnet


def test_the_other_words_of_the_first_sense():
    files = small.wordnet()
    index, data = files["usr/share/wordnet/index.noun"], files["usr/share/wordnet/data.noun"]
    found = read_synonyms(index, data, ["city", "customer", "product", "unheard", "1"])
    # a name is no noun; a word of many senses has none, since nobody knows which is meant
    assert found == {"city": ("metropolis", "urban center"), "customer": ("client",)}


def test_words_of_a_schema(sql_packages):
    assert synonyms(schemas_from_tables(TABLES, "t").values()) == {"customer": ("client",)}


def test_without_the_dictionary_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    wordnet.cache_clear()
    with pytest.raises(Unavailable, match="wordnet-base is not in the cache"):
        synonyms([])
