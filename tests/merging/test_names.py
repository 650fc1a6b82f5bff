"""The public names of merging: found lazily, listed, and none hidden by a module of the same name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import manyone.merging as merging

BEFORE = {
    "AdaMerging", "AdaptationLearner", "Bundle", "ConcreteMerging", "Head", "MergedModel", "Surgery", "SurgeryLearner",
    "SurgeryV2", "WeightEnsemblingMoE", "apply_task_vector", "average", "dare", "fisher", "iso_c", "iso_cts", "load",
    "merge", "model_stock", "regmean", "save", "sensitivity", "slerp", "task_arithmetic", "task_vector", "task_vectors",
    "ties", "tsv_m",
}  # fmt: skip


def test_every_name_is_there_and_listed():
    assert set(merging.__all__) == set(dir(merging)) >= BEFORE
    for name in merging.__all__:
        assert getattr(merging, name).__name__ == name


def test_no_module_has_the_name_of_a_public_name():
    assert not {module.name for module in pkgutil.iter_modules(merging.__path__)} & set(merging.__all__)


def test_the_stub_names_what_the_modules_have():
    stub = ast.parse(Path(merging.__file__).with_suffix(".pyi").read_text())
    for node in stub.body:
        assert isinstance(node, ast.ImportFrom)
        module = importlib.import_module(f"manyone.merging.{node.module}")
        assert all(hasattr(module, alias.name) for alias in node.names)


def test_a_file_merge_from_python_needs_no_pytorch(tmp_path):
    script = "import sys; from manyone.merging import merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
