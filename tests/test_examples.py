"""Every script in examples/ runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SAYS = {
    "merge_experts": lambda r: r["task arithmetic + Surgery"] > r["task arithmetic"] > r["base"],
    "minimax": lambda r: r["worst class: worst class"] > r["plain average: worst class"] > 0.5,
}
"""What the figures that a script's ``main`` returns must show."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_example_does_what_it_says(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert SAYS[script.stem](module.main())
