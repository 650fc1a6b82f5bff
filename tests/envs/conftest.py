"""A cache folder of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Goals are drawn into a temporary cache, never into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
