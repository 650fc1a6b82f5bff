"""Every script in examples/ runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from manyone.envs.single.make import BODIES

FOLDER = Path(__file__).parents[1] / "examples"
SAYS = {
    "merge_experts": lambda r: r["task arithmetic + Surgery"] > r["task arithmetic"] > r["base"],
    "wemoe_causal_lm": lambda r: (
        r["the same without a cache"] == 1.0
        and r["later tokens change earlier logits by"] < 1e-4
        and r["WEMoE by the prompt"] > r["base"]
    ),
    "teams": lambda r: r["right when loaded"] > 0.5 and r["links"] == 3,
    "behavior": lambda r: r["8 distilled pairs"] > 1.5 * max(r["recorded"], r["8 random pairs"]),
    "sql": lambda r: r["student"] > 0.8 and r["slips at first"] > r["at last"],
    "sql_trainer": lambda r: r["loss at first"] > r["at last"],
    "sql_trl": lambda r: r["steps"] == 4 and r["loss at first"] > 0,
    "merge_policies": lambda r: r["all goals, equal updates"] > r["ties of two goals"] > r["base"],
    "earth": lambda r: r["inputs"] == 6 and r["inputs without a band"] == 0 and r["cost of itself"] == 0,
    "minimax": lambda r: r["worst class: worst class"] > r["plain average: worst class"] > 0.5,
}
"""What the figures that a script's ``main`` returns must show (scripts that need arguments: see their field)."""
NEEDS = {"sql_trl": "trl"}
"""Scripts that show how another library works with this one, where that is installed."""


@pytest.mark.parametrize("name", SAYS)
def test_example_does_what_it_says(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    assert SAYS[name](_module(name).main())


def _module(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_alignments_lose_is_told_of_every_kind_and_body(monkeypatch, shared_cache):
    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    rows = _module("alignments").main()
    for body in ("hopper", "halfcheetah"):
        task = BODIES[body]
        assert rows["padding"][f"both/{task}"] == pytest.approx(rows["padding"][f"raw/{task}"], abs=1e-2)
        assert rows["vq"][f"raw/{task}"] == rows["padding"][f"raw/{task}"]
        assert rows["vq"][f"both/{task}"] != rows["vq"][f"raw/{task}"]
        assert rows["vq"][f"state_mse/{task}"] > 0
        assert 1 < rows["vq"][f"action_codes_used/{task}"] <= 512
    assert rows["padding"]["state_mse"] == rows["padding"]["action_mse"] == 0
    assert rows["vq"]["state_difference"] > 0
