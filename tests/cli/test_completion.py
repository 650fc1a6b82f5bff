"""Completion at the tab key, driven as bash does it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVE = """
eval "$(manyone completion bash)"
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ "$1" == *" " ]] && COMP_CWORD=$((COMP_CWORD + 1))
_python_argcomplete manyone "" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path):
    """What bash offers after a line; the command is this interpreter's."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "manyone"
    program.write_text(f"#!{sys.executable}\nfrom manyone.cli.main import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "here.csv").touch()

    def call(line):
        path = f"{folder}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-c", DRIVE, "drive", line], capture_output=True, text=True, cwd=tmp_path,
            env={"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [word.strip() for word in done.stdout.splitlines() if word.strip()]

    return call


@pytest.mark.parametrize(("line", "offers"), [
    ("manyone re", ["resume", "report", "reproduce"]),
    ("manyone run we", ["wemoe"]),
    ("manyone run wemoe --rout", ["--router-layers", "--routing"]),
    ("manyone run wemoe --routing ", ["sample", "batch", "prompt"]),
    ("manyone run wemoe --suite i", ["images"]),
    ("manyone run kid --preset paper-", ["paper-qwen", "paper-codegen", "paper-llama"]),
    ("manyone run obd --suite mujoco-h", ["mujoco-hopper", "mujoco-halfcheetah"]),
    ("manyone ls mo", ["models"]),
    ("manyone data get min", ["minilm", "mini6"]),
    ("manyone reproduce wemoe-beats", None),
    ("manyone reproduce --field policies-", ["policies-conflict", "policies-continual", "policies-prompts"]),
    ("manyone predict he", ["here.csv"]),
    ("manyone completion f", ["fish"]),
])  # fmt: skip
def test_bash(complete, line, offers):
    found = complete(line)
    if offers is None:
        from manyone.reproduce.reproduce import all_claims

        start = line.split()[-1]
        offers = [c.id for claims in all_claims().values() for c in claims.claims if c.id.startswith(start)]
    assert sorted(found) == sorted(offers)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_of_each_shell(shell):
    done = subprocess.run([sys.executable, "-m", "manyone", "completion", shell], capture_output=True, text=True)
    assert done.returncode == 0
    assert "manyone" in done.stdout
    assert "_ARGCOMPLETE" in done.stdout


def test_another_shell_is_one_line():
    done = subprocess.run([sys.executable, "-m", "manyone", "completion", "ksh"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("manyone: unknown shell 'ksh'")
