"""The manual names only options, names, paths and pages that exist."""

import ast
import dataclasses
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.docs.pages import OWN_TEST, PAGES, ROOT, blocks

from manyone.fields import FIELDS
from manyone.recipes.table import RECIPES, options_class

DOCS = ROOT / "docs"
OTHER_OPTIONS = {"--field", "--help", "--debug", "--config", "--split", "--scale", "--seeds", "--workers", "--out"}
OTHER_OPTIONS |= {"--select"}  # of lists of values
OTHER_OPTIONS |= {"--cluster", "--dry-run", "--episodes", "--steps", "--source"}  # of `manyone data make`
OTHER_OPTIONS |= {"--db", "--pairs", "--tables", "--instances", "--robust"}  # of `manyone data make sql-pairs`
OTHER_OPTIONS |= {"--execute", "--dialect", "--seconds"}  # of `manyone predict` where the model is text-to-SQL
OTHER_OPTIONS |= {"--help-all", "--json", "--private", "--message"}  # of any recipe, `ls` and `push`
OTHER_OPTIONS |= {"--local-steps", "--learning-rate"}  # another word for an option, and one of other tools
OTHER_OPTIONS |= {"--trust", "--store", "--host", "--target-return", "--suite"}
OTHER_OPTIONS |= {"--sensor", "--loadable", "--commercial", "--category", "--text", "--check"}  # of `ls earth-models`


def options_of(recipe: str) -> set[str]:
    """Option names of a recipe, with the --no- forms of switches."""
    names: set[str] = set()
    for field in dataclasses.fields(options_class(recipe)):
        name = field.name.replace("_", "-")
        names |= {f"--{name}", f"--no-{name}"} if field.type in ("bool", bool) else {f"--{name}"}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_pages_and_headings(page):
    def anchors(path: Path) -> set[str]:
        heads = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
        return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}

    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert name.startswith("https:") or path.is_file(), f"{page.name} links to {target}"
        assert not anchor or name.startswith("https:") or anchor in anchors(path), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    def files(entry) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        values = entry.values() if isinstance(entry, dict) else entry
        return set().union(*(files(v) for v in values))

    text = (ROOT / "mkdocs.yml").read_text()
    assert files(yaml.safe_load(text)["nav"]) == {p.name for p in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in OWN_TEST], ids=lambda p: p.name)
def test_options_exist(page):
    known = set().union(*(options_of(r) for r in RECIPES)) | OTHER_OPTIONS
    named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", page.read_text()))
    assert named <= known, f"{page.name}: {sorted(named - known)}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_names_in_the_text_exist(page):
    """Dotted names, and paths of the repository; what stands in code blocks is run by test_programs.py."""
    text = page.read_text()
    for name in re.findall(r"`(manyone(?:\.\w+)+)", text):
        assert exists(name), name
    for path in re.findall(r"`((?:src|tests|docs|scripts|examples|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_what_is_not_run_imports_what_exists():
    for block in (b for page in PAGES for b in blocks(page) if b.not_run and b.language == "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("manyone"):
                for alias in node.names:
                    assert exists(f"{node.module}.{alias.name}"), f"{block.page}.md: {node.module}.{alias.name}"


def test_every_recipe_is_documented():
    pages = [*DOCS.glob("methods-*.md"), *(DOCS / f"{field}.md" for field in FIELDS if field != "merging")]
    text = "\n".join(page.read_text() for page in pages)
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
        ("surgery", "steps"): 500,
    }
    for (recipe, option), value in stated.items():
        defaults = {f.name: f.default for f in dataclasses.fields(options_class(recipe))}
        assert defaults[option] == value, (recipe, option)


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    table = "\n".join(line for line in (DOCS / "dependencies.md").read_text().splitlines() if line.startswith("| "))
    for name in {re.split(r"[\[<>=]", requirement)[0].strip() for requirement in wanted} - {"manyone"}:
        assert re.search(rf"\b{name}\b", table, re.I), name
