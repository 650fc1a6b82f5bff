"""The manual names only commands, options, imports and pages that exist."""

import ast
import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from manyone.recipes.table import RECIPES, options_class

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FIELDS = ("policies", "minimax", "teams")
VERBS = {"ls", "run", "resume", "eval", "report", "reproduce", "data", "bench"}
OTHER_OPTIONS = {"--field", "--help", "--debug", "--config", "--split", "--scale", "--seeds", "--workers", "--out"}
OTHER_OPTIONS |= {"--episodes", "--steps", "--source"}  # of `manyone data make`


def options_of(recipe: str) -> set[str]:
    """Option names of a recipe, with the --no- forms of switches."""
    names: set[str] = set()
    for field in dataclasses.fields(options_class(recipe)):
        name = field.name.replace("_", "-")
        names |= {f"--{name}", f"--no-{name}"} if field.type == "bool" else {f"--{name}"}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_pages_and_headings(page):
    def anchors(path: Path) -> set[str]:
        heads = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
        return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}

    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = DOCS / name if name else page
        assert path.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    def files(entry) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        values = entry.values() if isinstance(entry, dict) else entry
        return set().union(*(files(v) for v in values))

    text = (DOCS.parent / "mkdocs.yml").read_text()
    assert files(yaml.safe_load(text)["nav"]) == {p.name for p in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    blocks = [body for language, body in fences if not language]
    for line in "\n".join(blocks).splitlines():
        if not line.startswith("manyone "):
            continue
        words = shlex.split(line.split("#")[0])
        assert words[1] in VERBS, line
        if words[1] == "run":
            allowed = options_of(words[2]) | {"--config"}
            assert {w for w in words if w.startswith("--")} <= allowed, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_options_exist(page):
    known = set().union(*(options_of(r) for r in RECIPES)) | OTHER_OPTIONS
    named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", page.read_text()))
    assert named <= known, f"{page.name}: {sorted(named - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_import_what_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("manyone"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert getattr(module, alias.name, None) is not None, f"{page.name}: {node.module}.{alias.name}"


def test_every_recipe_is_documented():
    text = "\n".join(p.read_text() for p in [*DOCS.glob("methods-*.md"), *(DOCS / f"{field}.md" for field in FIELDS)])
    headings = set(re.findall(r"[a-z0-9-]+", " ".join(re.findall(r"^## (.+)$", text, re.M))))
    assert set(RECIPES) - {"experts"} <= headings


def test_defaults_named_in_the_manual():
    """The pages state some defaults in brackets; they are those of the options."""
    stated = {
        ("task-arithmetic", "scale"): 0.3,
        ("ties", "density"): 0.2,
        ("ties", "scale"): 0.3,
        ("dare", "drop"): 0.5,
        ("regmean", "ratio"): 0.95,
        ("tsv-m", "scale"): 1.0,
        ("iso-cts", "common"): 0.8,
        ("e-wemoe", "prune_ratio"): 0.9,
        ("wemoe", "routing"): "sample",
        ("wemoe", "adapt_split"): "test",
        ("surgery", "rank"): 16,
        ("surgery", "iterations"): 500,
    }
    for (recipe, option), value in stated.items():
        defaults = {f.name: f.default for f in dataclasses.fields(options_class(recipe))}
        assert defaults[option] == value, (recipe, option)
