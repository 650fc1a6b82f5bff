"""Report pages in a browser: ``scripts/screenshots.py`` on made-up studies, and what the page's script does.

Needs a Chromium of the system and the extra ``screenshots``; neither is part of the test install.
"""

import importlib.util
import random
from dataclasses import replace

import pytest
from scripts import screenshots
from tests.claims.test_figure import measures_only

from manyone.claims.rows import Row
from manyone.claims.study import Report, Study
from manyone.report import html


@pytest.fixture(scope="module")
def browser():
    for name in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'manyone[screenshots]'")
    if (program := screenshots.find_browser()) is None:
        pytest.skip("there is no Chromium on this machine")
    with screenshots.opened(program) as found:
        yield found


CLAIM = """
[[claims]]
id = "c{k}"
short = "claim number {k} of a study that has many"
statement = "Method {k} beats the first one on every suite, says a paper in one long sentence."
comparison = "greater"
left = {{ method = "m{k}" }}
right = {{ method = "m0" }}
tests = {{ smoke = [{suites}] }}
published = [{{ setting = "x", source = "arXiv 2405.18080, table 1", left = 80, right = 70, verified = {verified} }}]
"""


def many_claims(claims: int = 14, suites: int = 5) -> Study:
    """A study of as many tests as the largest field has; every number in it is invented."""
    draw = random.Random(3)
    names = [f"suite-of-tasks-{k}" for k in range(suites)]
    text = 'field = "many"\nshort = "Many"\n[papers]\n' + "".join(
        f'[methods.m{k}]\nlabel = "Method {k}"\n' for k in range(claims + 1)
    )
    listed = ", ".join(f'"{name}"' for name in names)
    text += "".join(
        CLAIM.format(k=k, suites=listed, verified="true" if k % 3 else "false") for k in range(1, claims + 1)
    )
    rows = [
        Row(name, seed, f"m{k}", task={"one": 0.5 + 0.02 * (k % 7 - 2) + draw.gauss(0, 0.02)})
        for name in names
        for k in range(claims + 1)
        for seed in range(3)
    ]
    return Study("A study with many claims, tested at scale smoke", "smoke", rows, claims_text=text, field="many")


@pytest.fixture(scope="module")
def pages(study, tmp_path_factory):
    """The page of two fields, and that of one with 70 tests."""
    folder = tmp_path_factory.mktemp("pages")
    kept = {"average", "task-arithmetic", "ties", "adamerging", "wemoe", "expert"}  # axe-core looks at every cell
    rows = [
        replace(r, task=dict(list(r.task.items())[:2])) for r in study.rows if r.suite == "images" and r.method in kept
    ]
    merging = replace(study, field="merging", figures=(), rows=rows)
    two = html.write(folder / "two.html", Report("Two fields", (merging, measures_only())))
    return two, html.write(folder / "many.html", many_claims())


def test_pages_are_sound_and_pictured(browser, pages, tmp_path):
    for path in pages:
        assert screenshots.check(browser, path, tmp_path) == []
        assert {p.name for p in tmp_path.glob(f"{path.stem}*")} == {
            f"{path.stem}.pdf",
            *(f"{path.stem}-{width}-{scheme}.png" for width in (1400, 390) for scheme in ("light", "dark")),
        }


def test_what_is_wrong_is_said(browser, tmp_path):
    path = tmp_path / "wrong.html"
    path.write_text(
        '<!doctype html><html><head><title>Wrong</title><meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="https://example.org/style.css"></head><body><main>'
        '<p style="width: 8rem; overflow: hidden; white-space: nowrap">a line that its own box cuts</p>'
        '<p style="width: 3000px">wide</p><p style="color: #eee">pale</p>'
        '<p style="position: absolute; top: 200px; left: 0">one text</p>'
        '<p style="position: absolute; top: 204px; left: 20px">another text</p>'
        '<span class="badge" style="position: absolute; left: 1390px">does not hold</span>'
        '<details><summary>more</summary><p id="claim-a">folded</p></details>'
        "<style>@media print { details { display: none } }</style>"
        "<script>throw Error('broken')</script></main></body></html>"
    )
    said = "\n".join(screenshots.check(browser, path))
    for words in (
        "requests https://example.org/style.css",
        "its script failed: broken",
        "wider than the window",
        "is cut by its own box",
        "lies over",
        "the verdict <span",
        "axe-core: html-has-lang",
        "axe-core: color-contrast",
        "#claim-a is not printed",
    ):
        assert words in said, words


def test_the_script_sorts_and_opens(browser, pages):
    page = browser.new_page()
    page.goto(pages[0].as_uri())
    assert not page.locator("#minimax-claim-x").is_visible()
    page.locator('.forest a[href="#minimax-claim-x"]').first.click()
    assert page.locator("#minimax-claim-x").is_visible()
    page.goto(f"{pages[0].as_uri()}#merging-scores")
    table = page.locator("#merging-scores table").first

    def means() -> list[str]:
        return [cell.split(" ")[0] for cell in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]

    first = means()
    button = table.locator("thead th:nth-child(2) button")
    for way, ordered in (
        ("descending", sorted(first, key=float, reverse=True)),
        ("ascending", sorted(first, key=float)),
        (None, first),
    ):
        button.click()
        assert table.locator("thead th:nth-child(2)").get_attribute("aria-sort") == way
        assert means() == ordered
    page.close()


def test_contents_stay_in_view(browser, pages):
    for width, place in ((1400, ".contents .beside"), (390, ".contents .bar")):
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.goto(pages[1].as_uri())
        page.mouse.wheel(0, 3000)
        page.wait_for_function("scrollY > 1000")
        box = page.locator(place).bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 100
        page.close()


def test_no_browser_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: None)
    (tmp_path / "page.html").touch()
    assert screenshots.main([str(tmp_path / "page.html")]) == 2
    assert "no browser found: install Chromium" in capsys.readouterr().err


def test_a_folder_stands_for_its_page(tmp_path, capsys):
    many_claims().save(tmp_path / "study")
    page = screenshots.page_of(tmp_path / "study", tmp_path)
    assert page == tmp_path / "study.html"
    assert "A study with many claims" in page.read_text(encoding="utf-8")
    assert screenshots.page_of(page, tmp_path) == page
    with pytest.raises(SystemExit):
        screenshots.main([str(tmp_path / "none.html")])
    assert "none.html: not there (make demo" in capsys.readouterr().err
