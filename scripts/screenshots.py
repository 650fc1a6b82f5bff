"""Pictures of report pages, and what must hold of them in a browser.

python scripts/screenshots.py runs/reproduce-smoke [PAGE.html ...] --out docs/pictures

A folder of ``manyone reproduce`` stands for its page, made anew. A page is opened wide and on a phone, light and dark,
and printed. Nothing may be requested, the console must stay silent, no text may be cut or lie over another, and
axe-core must find no barrier. The exit code says it. The browser is the system's Chromium: none is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
LAYOUT = Path(__file__).with_name("screenshots.js")
"""Finds what is wrong with how a page is laid out; gives a list of sentences."""


@dataclass(frozen=True)
class Look:
    """One way to see a page."""

    width: int
    height: int
    scheme: str
    axe: str
    """axe-core's rules that this look needs, as its options: colours are the same at every width."""

    def __str__(self) -> str:
        return f"{self.width}-{self.scheme}"


_COLOURS = "color-contrast"
LOOKS = [
    Look(1400, 900, "light", "{}"),
    Look(1400, 900, "dark", f"{{runOnly: ['{_COLOURS}']}}"),
    Look(390, 844, "light", f"{{rules: {{'{_COLOURS}': {{enabled: false}}}}}}"),
    Look(390, 844, "dark", ""),
]


def find_browser() -> str | None:
    """The system's Chromium, or a browser made of it."""
    return next((place for name in BROWSERS if (place := shutil.which(name))), None)


@contextmanager
def opened(program: str) -> Iterator[Browser]:
    """The browser at ``program``, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # whom Chromium's sandbox does not serve
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        try:
            yield browser
        finally:
            browser.close()


def check(browser: Browser, path: Path, out: Path | None = None) -> list[str]:
    """What is wrong with the page at ``path``, a sentence each; its pictures and its print go to ``out``."""
    problems = [f"{look}: {problem}" for look in LOOKS for problem in _look(browser, path, look, out)]
    return problems + [f"print: {problem}" for problem in _print(browser, path, out)]


def _look(browser: Browser, path: Path, look: Look, out: Path | None) -> list[str]:
    problems: list[str] = []
    size: Any = {"width": look.width, "height": look.height}
    context = browser.new_context(viewport=size, color_scheme=look.scheme)  # type: ignore[arg-type]
    page = _open(context, path, problems)
    if out:
        page.screenshot(path=out / f"{path.stem}-{look}.png")
    problems += page.evaluate(LAYOUT.read_text(encoding="utf-8"))
    page.evaluate("document.querySelectorAll('main details').forEach(one => one.open = true)")
    problems += page.evaluate(LAYOUT.read_text(encoding="utf-8"))
    problems += _barriers(page, look.axe)
    context.close()
    return list(dict.fromkeys(problems))


def _open(context: BrowserContext, path: Path, problems: list[str]) -> Page:
    """The page, with every request but its own refused and noted, and every word of the console noted."""
    address = path.resolve().as_uri()

    def route(route: Route) -> None:
        if route.request.url == address:
            route.continue_()
        else:
            problems.append(f"it requests {route.request.url}")
            route.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"the console says {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"its script failed: {error}"))
    page.goto(address)
    return page


def _barriers(page: Page, options: str) -> list[str]:
    """What axe-core finds, with the first place of each."""
    from axe_playwright_python.sync_playwright import Axe

    if not options:
        return []
    axe = Axe()
    page.evaluate(axe.axe_script)
    found = page.evaluate(f"axe.run(document, {{resultTypes: ['violations'], ...{options}}})")["violations"]
    return [
        f"axe-core: {rule['id']} ({rule['help']}), {len(rule['nodes'])} times, as in {rule['nodes'][0]['html']:.160}"
        for rule in found
    ]


def _print(browser: Browser, path: Path, out: Path | None) -> list[str]:
    """Without the script, as a browser that blocks it would: links still open chapters, and print shows all of them."""
    problems: list[str] = []
    context = browser.new_context(java_script_enabled=False)
    page = _open(context, path, problems)
    inside = page.locator("main details [id]")
    names = [name for name in inside.evaluate_all("all => all.map(one => one.id)") if "claim-" in name]
    page.emulate_media(media="print", color_scheme="light")
    problems += [f"#{name} is not printed" for name in names if not page.locator(f"[id='{name}']").is_visible()]
    if out:
        page.pdf(path=out / f"{path.stem}.pdf", prefer_css_page_size=True, print_background=False)
    page.emulate_media(media="screen")
    for name in names[:1]:
        page.goto(f"{path.resolve().as_uri()}#{name}")
        if not page.locator(f"[id='{name}']").is_visible():
            problems.append(f"a link to #{name} does not open its chapter")
    context.close()
    return problems


def page_of(place: Path, folder: Path) -> Path:
    """``place`` itself, or the page of what the folder ``place`` holds, written to ``folder``."""
    from manyone.report.html import run_report

    return run_report([place], folder / f"{place.resolve().name}.html") if place.is_dir() else place


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks and pictures the pages named; 0 when all is well, 1 when not, 2 when there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+", type=Path, metavar="PAGE", help="a page, or a folder of manyone reproduce")
    parser.add_argument("--out", type=Path, help="folder for the pictures; without it the pages are only checked")
    chosen = parser.parse_args(arguments)
    if missing := [str(place) for place in chosen.places if not place.exists()]:
        parser.error(f"{', '.join(missing)}: not there (make demo makes runs/reproduce-smoke)")
    program = find_browser()
    if program is None:
        print(f"no browser found: install Chromium (looked for {', '.join(BROWSERS)})", file=sys.stderr)
        return 2
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    with tempfile.TemporaryDirectory() as folder, opened(program) as browser:
        for place in chosen.places:
            problems = check(browser, page_of(place, Path(folder)), chosen.out)
            print(f"{place}: {f'{len(problems)} problems' if problems else 'sound'}")
            for problem in problems:
                print(f"  {problem}")
            bad += bool(problems)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
