"""The made-up study of the report's tests."""

from tests.report.conftest import study  # noqa: F401
