"""Tables for terminals: nothing is lost at 80 columns."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from manyone.claims.study import Study
from manyone.report.terminal import show


def printed(study: Study, width: int) -> str:
    stream = io.StringIO()
    show(study, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_fits_and_keeps_verdicts(study, width):
    text = printed(study, width)
    assert max(len(line) for line in text.splitlines()) <= width
    found = study.findings()
    for mark, verdict in (("✓", "holds"), ("≈", "within noise"), ("✗", "does not hold")):
        count = sum(f.verdict == verdict for f in found)
        assert text.count(f"{mark} {verdict}") == count
    assert f"of {len(found)} tests" in " ".join(text.split())


def test_80_columns_keep_short_claims_on_one_line(study):
    text = printed(study, 80)
    for finding in study.findings():
        assert finding.claim.short in text
    assert "on the page: " in text
    assert "± " in text


def test_wide_terminal_shows_every_task(study):
    assert "on the page: " not in printed(study, 160)


def test_without_claims(study):
    text = printed(replace(study, claims_text=""), 80)
    assert "Claims" not in text
    assert "wemoe" in text
