"""The scripts that no other test runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manyone.fields import FIELDS

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def test_without_a_gpu_the_check_says_so_in_one_line():
    if torch.cuda.is_available():
        return
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert done.stdout == "no CUDA device here: nothing was checked (--device cpu rehearses the checks)\n"


def loaded(path, monkeypatch):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_field_is_checked_on_a_gpu(monkeypatch):
    assert set(FIELDS) <= set(loaded(SCRIPT, monkeypatch).RUNS)


def test_shipped_experts_are_spread_over_what_a_run_has_reached(monkeypatch):
    pytest.importorskip("mujoco")
    script = loaded(SCRIPT.with_name("train_mujoco_experts.py"), monkeypatch)
    returns = [-300, 10, 400, 90, 800, 150, 3000, 700, 760, 2000]
    assert script.sound(returns) == [0, 1, 2, 4, 6, 8, 9]  # 90, 150 and 700 are below a quarter of what came before
    monkeypatch.setattr(script, "SHIPPED", 4)
    for medium in (9, 2, 1):
        chosen = script.spread(returns, medium)
        assert {0, medium, 6} <= set(chosen) <= set(script.sound(returns))
        assert chosen == sorted(chosen)
        assert 3 <= len(chosen) <= 4
    assert script.spread(returns[:2], 1) == [0, 1]


def test_the_wheel_is_tried_with_a_program_of_each_field(monkeypatch):
    programs = loaded(SCRIPT.with_name("wheel_alone.py"), monkeypatch).PROGRAMS
    assert len(programs) == len(FIELDS)
    assert all((SCRIPT.parents[1] / "examples" / f"{name}.py").is_file() for name in programs)
