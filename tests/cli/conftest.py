from pathlib import Path

import pytest

from manyone.cli.main import run
from manyone.recipes.recipe import Recipe
from manyone.recipes.table import RECIPES

TOY = Recipe("toy_recipe:Options", "toy_recipe:learner", "linear regression with Adam", "toy_recipe")


@pytest.fixture
def manyone(monkeypatch, tmp_path, capsys):
    """Runs the command line in an empty folder, with the toy recipe: returns (exit code, stdout, stderr)."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(RECIPES, "toy", TOY)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call
