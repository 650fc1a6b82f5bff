"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

# The networks of the tests are so small that threads cost more than they save; also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from manyone.data.tasks import Suite
    from manyone.merging.bundle import Bundle


@pytest.fixture(scope="session")
def fixture_bundle() -> tuple[Suite, Bundle]:
    """The fixture suite with its base, heads and experts (a small residual MLP, seed 0, trained in about two seconds).

    Shared by the whole session: tests must not change its tensors in place.
    """
    from manyone.data.suites import load_suite
    from manyone.merging.experts import make_bundle

    suite = load_suite("fixture")
    return suite, make_bundle(suite, seed=0)
