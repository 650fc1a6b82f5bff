"""Optional packages: quiet when they are there, named with their install line when they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manyone.engine.extras import need
from manyone.errors import ManyoneError


def test_what_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loud_extra.py").write_text("print('hello')\nvalue = 3\n")
    (tmp_path / "lacking_extra.py").write_text("import what_it_needs\n")
    assert need("loud_extra", "a toy", "toys").value == 3
    assert capsys.readouterr().out == ""
    with pytest.raises(ManyoneError, match=r"^a toy needs no_such_extra: pip install 'manyone\[toys\]'$"):
        need("no_such_extra", "a toy", "toys")
    with pytest.raises(ManyoneError, match=r"^a toy needs what_it_needs: pip install x, and more$"):
        need("lacking_extra", "a toy", "pip install x, and more")
    monkeypatch.setitem(sys.modules, "hidden_extra", None)
    with pytest.raises(ManyoneError, match="needs hidden_extra"):
        need("hidden_extra", "a toy", "toys")
