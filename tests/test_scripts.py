"""The scripts that no other test runs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

from manyone.fields import FIELDS

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def test_without_a_gpu_the_check_says_so_in_one_line():
    if torch.cuda.is_available():
        return
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert done.stdout == "no CUDA device here: nothing was checked (--device cpu rehearses the checks)\n"


def test_every_field_is_checked_on_a_gpu():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.RUNS) == set(FIELDS)
