"""Every Python block and every command of README and docs runs."""

from __future__ import annotations

import subprocess

import pytest
from tests.docs.pages import HERE, NOT_HERE, PAGES, SHRUNK, blocks, programs

ALL = [block for page in PAGES for block in blocks(page)]
PROGRAMS = programs()
LANGUAGES = {"python", "", "toml", "markdown", "bibtex"}
PROCESSES = {"python": (), "torchrun": ("-m", "torch.distributed.run", "--standalone")}
"""Commands that get a process of their own; torchrun without a fixed port, so that several can run at a time."""


LONG = ("minimax-distributed", "teams")
"""Pages whose programs take a minute; ``make test-long`` runs them."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in PROGRAMS])
def test_a_page_runs_from_top_to_bottom(name, manyone, process, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    space = {"__name__": "__main__"}
    preamble = HERE / "preambles" / f"{name}.py"
    if preamble.exists():
        exec(compile(preamble.read_text(), str(preamble), "exec"), space)
    for block in PROGRAMS[name]:
        if block.file:
            (tmp_path / block.file).write_text(block.small())
        elif block.language == "python":  # as many empty lines above it as on the page: tracebacks name the page's line
            exec(compile("\n" * (block.line - 1) + block.small(), f"{block.page}.md", "exec"), space)
        else:
            _run(block, manyone, process)


def _run(block, manyone, process):
    """The commands of a block, one after another; one that ends in & beside those that follow it."""
    started = []
    for line, words in block.commands():
        where = f"{block.page}.md:{line}: {' '.join(words)}"
        if words[0] == "manyone":
            code, _, err = manyone(*words[1:])
            assert code == 0, f"{where}\n{err}"
        elif words[0] not in NOT_HERE:
            assert words[0] in PROCESSES, f"{where}: not a command"
            beside = words[-1] == "&"
            command = (*PROCESSES[words[0]], *(words[1:-1] if beside else words[1:]))
            started.append((where, process(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
            while started and not beside:
                where, one = started.pop()
                output, _ = one.communicate(timeout=240)
                assert one.returncode == 0, f"{where}\n{output}"


def test_fences_say_what_they_hold():
    for block in ALL:
        assert block.language in LANGUAGES, f"{block.page}.md:{block.line}: ```{block.language}"


def test_substitutions_and_preambles_are_all_used():
    for page, table in SHRUNK.items():
        text = "".join(b.text for b in ALL if b.page == page and not b.not_run and b.language in ("python", ""))
        for words in table:
            assert text.count(words) == 1, f"shrunk.toml, {page}: {words!r} must stand on the page once"
    assert {path.stem for path in (HERE / "preambles").glob("*.py")} <= set(PROGRAMS)


def test_blocks_that_do_not_run_are_few():
    left_out = [f"{b.page}.md:{b.line}: {b.not_run}" for b in ALL if b.not_run]
    assert len(left_out) <= 3, left_out
