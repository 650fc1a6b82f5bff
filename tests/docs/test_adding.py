"""docs/adding-a-method.md works as it is written: its blocks add a method and a field, and no other file changes."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs/adding-a-method.md"
KEPT = ("src", "docs", "tests", "pyproject.toml")
PLACE = re.compile(r"(?:# |<!-- )(?P<file>[\w./-]+\.\w+)(?:, (?P<where>.+?))?(?: -->)?\n+")
PROGRAM = """
import json, sys
import pytest
from manyone.cli.main import run
for words in json.loads(sys.argv[1]):
    assert run(words) == 0, words
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def put(house: Path, text: str) -> str:
    """Puts a block where its first line says; the file's name."""
    place = PLACE.match(text)
    assert place, text
    path, text = house / place["file"], text[place.end() :]
    if place["where"] is None:
        assert not path.exists(), f"{place['file']} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return place["file"]
    before = path.read_text()
    if place["where"] == "at the end":
        path.write_text(f"{before}\n\n{text}")
    elif place["where"] == "among the imports":
        path.write_text(re.sub(r"^from manyone", f"{text}from manyone", before, count=1, flags=re.M))
    else:
        how, _, name = place["where"].partition(" ")
        name = re.escape(name.strip('"'))
        found = re.search({"in": rf"^{name}\b.*= ?[\[({{]", "below": rf"{name}.*\n", "behind": name}[how], before, re.M)
        assert found, f"{place['file']} has nothing to put a line {place['where']}"
        added = {"in": f"\n{text}", "below": text, "behind": text.rstrip("\n")}[how]
        path.write_text(before[: found.end()] + added + before[found.end() :])
    return place["file"]


def tree(folder: Path) -> set[str]:
    found = (path for name in KEPT for path in [folder / name, *(folder / name).rglob("*")])
    return {str(p.relative_to(folder)) for p in found if p.is_file() and "__pycache__" not in p.parts}


def in_house(folder: Path, command: list[str], **more: str) -> str:
    """What ``command`` prints in ``folder``, with its package."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")} | more
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the repository with the page's blocks in it, and the names of their files."""
    folder = tmp_path_factory.mktemp("house")
    for name in KEPT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder, {put(folder, block.text) for block in blocks(PAGE) if block.language}


def test_the_page_s_method_and_field_run_and_nothing_else_changes(house, shared_cache):
    folder, named = house
    commands = [words[1:] for block in blocks(PAGE) if not block.language for _, words in block.commands()]
    listed = [["ls", "recipes"], ["ls", "claims"], *commands]
    tests = [name for name in named if name.startswith("tests/") and "/test_" in name]
    cached = {"MANYONE_CACHE": str(shared_cache), "MANYONE_OFFLINE": "1"}
    done = in_house(folder, [sys.executable, "-c", PROGRAM, json.dumps(listed), *tests], **cached)
    for name in ("percentile-bc", "inverse-variance", "percentile-bc-above-mtbc", "weights-help", "weighted < plain"):
        assert name in done
    new = tree(folder)
    assert new - tree(ROOT) | {n for n in tree(ROOT) if not filecmp.cmp(ROOT / n, folder / n, shallow=False)} == named


def test_the_house_with_them_keeps_the_import_contract(house):
    folder, _ = house
    in_house(folder, [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"])


def test_the_folders_that_the_page_names_are_there():
    table = PAGE.read_text().split("## A new method")[0]
    for folder in set(re.findall(r"`(\w[\w/]*)/`", table)) - {"tests", "src/manyone"}:
        assert (ROOT / "src/manyone" / folder).is_dir() or (ROOT / folder).is_dir(), folder
