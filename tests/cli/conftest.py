from pathlib import Path

import pytest

from manyone.cli.main import run
from manyone.recipes import RECIPES, Recipe


@pytest.fixture
def manyone(monkeypatch, tmp_path, capsys):
    """Runs the command line in an empty folder, with the toy recipe: returns (exit code, stdout, stderr)."""
    for folder in (Path(__file__).parent, Path(__file__).parents[1] / "engine"):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(RECIPES, "toy", Recipe("toy_recipe", "tests", "linear regression with Adam"))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call
