"""The manual as programs: the fenced Python blocks and shell commands of README and docs, page by page, in order.

A page is one program: its blocks run top to bottom in one folder and one namespace, so that what a command made is
there for the lines below it. The README's sections, each about another field, are programs of their own.

``preambles/NAME.py`` gives a program what its reader has: checkpoints, data, variables. ``shrunk.toml`` says which
words of a page are replaced to make it small. A block below ``<!-- not run: REASON -->`` is only read.
"""

from __future__ import annotations

import re
import shlex
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SHRUNK = tomllib.loads((HERE / "shrunk.toml").read_text())
WORDS = SHRUNK.pop("words") | {"free-port": str(free_port())}
NOT_HERE = {
    "make": "sets up a machine of its own; it runs these tests",
    "pip": "installs into the environment that runs the tests",
    "pre-commit": "changes the clone's git configuration",
}
"""Commands that are never run, with the reason."""
OWN_TEST = {"adding-a-method"}
"""Pages that change the package: test_adding.py runs them."""


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is that of its first line; ``language`` python or, for commands, the empty word."""

    page: str
    section: str
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def file(self) -> str:
        """Name of the file that the block is, when its first line is a comment with a name: ``# train.py``."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else ""

    def small(self) -> str:
        """The text with its marked substitutions."""
        table = SHRUNK.get(self.page, {})
        if not table:
            return self.text
        pattern = "|".join(map(re.escape, sorted(table, key=len, reverse=True)))
        text = re.sub(pattern, lambda found: table[found[0]], self.text)
        for name, value in WORDS.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def commands(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and words of every command, shrunk."""
        for number, text in enumerate(self.small().splitlines(), self.line):
            if words := shlex.split(text, comments=True):
                yield number, words


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of ``page``."""
    section, reason, start, language, body = "", "", 0, "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if start and line == "```":
            yield Block(page.stem, section, start, language, "".join(f"{one}\n" for one in body), reason)
            start, reason = 0, ""
        elif start:
            body.append(line)
        elif fence := re.match(r"```(.*)", line):
            start, language, body = number + 1, fence[1], []
        elif heading := re.match(r"## (.+)", line):
            section = heading[1]
        elif mark := re.match(r"<!-- not run: (.+) -->", line):
            reason = mark[1]


def programs() -> dict[str, list[Block]]:
    """Name -> blocks that run: ``docs/teams.md`` is ``teams``; the README's section Teams is ``README-teams``."""
    found: dict[str, list[Block]] = {}
    for block in (block for page in PAGES for block in blocks(page)):
        if not block.not_run and block.language in ("python", "") and block.page not in OWN_TEST:
            name = f"README-{block.section.lower()}" if block.page == "README" and block.section else block.page
            found.setdefault(name, []).append(block)
    return found
