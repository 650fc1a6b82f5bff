"""Every option that a message names exists."""

import ast
import re
from pathlib import Path

from manyone.cli.main import VERBS
from manyone.recipes.table import RECIPES, options_class
from manyone.recipes.words import flags

SOURCE = Path(__file__).parents[2] / "src/manyone"
OTHER_PROGRAMS = {"assets/clients.py", "earth/encoders/libraries/adapter.py"}  # what pip and npm are called with
OPTION = re.compile(r"(?<![\\w-])--[a-z][a-z0-9-]*")


def texts(path):
    """The strings of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def test_every_option_that_a_message_names_exists(manyone):
    known = {"--help", "--help-all", "--version", "--debug", "--config"}
    for recipe in RECIPES:
        cls = options_class(recipe)
        known |= {*flags(cls), *(f"--{word.replace('_', '-')}" for word in cls.ALIASES)}
    for verb in VERBS:
        known |= set(OPTION.findall(manyone(verb, "--help")[1]))
        known |= set(OPTION.findall(manyone(verb, "ls", "--help")[1])) if verb == "data" else set()
    known |= set(OPTION.findall(manyone("ls", "earth-models", "--help")[1]))
    known |= {option for _, text in texts(SOURCE / "minimax/ranks/launch.py") for option in OPTION.findall(text)}
    found = {
        (f"{path.relative_to(SOURCE).as_posix()}:{line}", option)
        for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).as_posix() not in OTHER_PROGRAMS
        for line, text in texts(path) for option in OPTION.findall(text)
    }  # fmt: skip
    assert len(found) > 100
    assert [(where, option) for where, option in sorted(found) if option not in known] == []
