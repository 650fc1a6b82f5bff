"""The wheel alone: builds it, installs it without extras in a fresh environment and does what a newcomer does first.

    python scripts/wheel_alone.py [--keep FOLDER]

Lists, completion, a dry run of every recipe without network, the first program of each field as far as the default
install goes (else the extra has to be named in one line), and a report. One PASS or FAIL line each; the exit code says
whether all passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("merge_experts", "merge_policies", "minimax", "teams", "behavior", "sql", "earth")
"""The example that a field begins with."""
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1",
           "NPM_CONFIG_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}  # fmt: skip
ASKS = {"sql-eval": ("--gold", "gold.txt", "--pred", "pred.txt", "--db", "db"), "mergekit": ("--recipe", "r.yaml")}
"""Options without which a recipe asks back."""
RECIPES = "from manyone.recipes.table import RECIPES; print(*RECIPES)"
COMPLETES = """
eval "$(manyone completion bash)"
COMP_LINE="manyone re"; COMP_POINT=10; COMP_TYPE=9
complete -p manyone
"""


def checks(folder: Path, python: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(what was done, what went wrong or nothing)."""
    manyone = python.with_name("manyone")

    def said(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words], cwd=folder, env={**environment, **more}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip

    def problem(done: subprocess.CompletedProcess[str], needs: bool = False) -> str:
        """Nothing where it worked, or where ``needs`` and one line says which extra is missing."""
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        if done.returncode == 0 or (needs and "pip install" in done.stderr and "Traceback" not in done.stderr):
            return ""
        return f"exit code {done.returncode}: {last}"

    yield "manyone --help", problem(said(manyone, "--help"))
    for what in ((), ("recipes",), ("data",), ("models",), ("claims",)):
        yield f"manyone {' '.join(('ls', *what))}", problem(said(manyone, "ls", *what, **OFFLINE))
    done = said("bash", "-c", COMPLETES, PATH=f"{python.parent}:{environment['PATH']}")
    yield "completion bash", problem(done) or ("" if "manyone" in done.stdout else "bash does not know manyone")
    (folder / "r.yaml").write_text("merge_method: linear\nmodels: [{model: a}, {model: b}]\n")
    for recipe in said(python, "-c", RECIPES).stdout.split():
        done = said(manyone, "run", recipe, *ASKS.get(recipe, ()), "--dry-run", **OFFLINE)
        told = done.returncode == 2 and "Traceback" not in done.stderr  # what is missing: models, files, an extra
        yield f"run {recipe} --dry-run", "" if told else problem(done)
    for name in PROGRAMS:
        yield f"examples/{name}.py", problem(said(python, ROOT / "examples" / f"{name}.py"), needs=True)
    words = ("--rounds", 5, "--clients", 4, "--out", "run")
    yield "run local-sgda", problem(said(manyone, "run", "local-sgda", *words, **OFFLINE))
    yield "report", problem(said(manyone, "report", "run", **OFFLINE))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there and leave it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (asked.keep or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
        (wheel,) = folder.glob("manyone-*.whl")
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        install = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile")
        subprocess.run([python, *install, "-c", ROOT / "constraints.txt", wheel], check=True)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"MANYONE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        failed = 0
        for what, wrong in checks(folder, python, environment):
            failed += bool(wrong)
            print(f"FAIL {what}: {wrong}" if wrong else f"PASS {what}", flush=True)
    print(f"{failed} failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
