"""The API pages name every public name of every field, at the place that defines it; the manual builds strictly."""

import importlib
import json
import re
import subprocess
import sys

import pytest
from tests.docs.pages import ROOT

from manyone.fields import FIELDS

SCRIPT = ROOT / "scripts" / "api_pages.py"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("api_pages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("field", FIELDS)
def test_every_public_name_is_on_the_field_s_page(pages, field):
    text = (ROOT / "docs" / f"api-{field}.md").read_text()
    assert text == pages.page(field), f"python {SCRIPT.relative_to(ROOT)} writes it anew"
    public = set(importlib.import_module(f"manyone.{field}").__all__)
    assert set(re.findall(r"^## (.+)$", text, re.M)) == public
    for name, place in pages.public_names(field).items():
        module, _, own = place.rpartition(".")
        found = getattr(importlib.import_module(module), own)
        assert found is getattr(importlib.import_module(f"manyone.{field}"), name)


@pytest.mark.long
def test_the_manual_builds_strictly_and_its_search_finds_what_people_look_for(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    pytest.importorskip("mkdocstrings", reason="make docs installs it")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    index = json.loads((tmp_path / "site/search/search_index.json").read_text())["docs"]
    for words in ("resume", "LoRA", "target return", "horizon", "own environment", "load_policy"):
        found = [d for d in index if all(w.lower() in (d["title"] + d["text"]).lower() for w in words.split())]
        assert found, words
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!manyone)', text), page
        assert not re.search(r":(?:class|func|meth):<code>", text), page
