"""Every script in examples/ runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SAYS = {
    "merge_experts": lambda r: r["task arithmetic + Surgery"] > r["task arithmetic"] > r["base"],
    "teams": lambda r: r["right when loaded"] > 0.5 and r["links"] == 3,
    "behavior": lambda r: r["8 distilled pairs"] > 1.5 * max(r["recorded"], r["8 random pairs"]),
    "minimax": lambda r: r["worst class: worst class"] > r["plain average: worst class"] > 0.5,
}
"""What the figures that a script's ``main`` returns must show (scripts that need arguments: see their field)."""


@pytest.mark.parametrize("name", SAYS)
def test_example_does_what_it_says(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert SAYS[name](module.main())
