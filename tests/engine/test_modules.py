"""Files beside the user stand in for nothing, in no process that we start; a module that the user names is found."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import manyone
from manyone.engine.modules import import_named, isolated, python

SOURCE = Path(manyone.__file__).parent
PROGRAM = """
import functools
from pathlib import Path

HERE = Path(__file__).parent

class Simulator:
    def double(self, x): return 2 * x
    def close(self): pass

def noted(): (HERE / "task").touch()

if __name__ == "__main__":
    import torch
    from manyone.envs.single.pieces import runner
    from manyone.envs.teams.types import TeamSpec
    from manyone.envs.workers import Workers
    from manyone.reproduce.processes import Task, task_runner
    from manyone.teams import CommFormer, Decentralised, fixed_graph, save_team

    workers = Workers("test", Simulator, [()], processes=True)
    assert workers.ask("double", {0: 1}) == [2]
    workers.close()
    with runner(2) as run:
        assert dict(run({"a": functools.partial(abs, -1)})) == {"a": 1}
    with task_runner(HERE, 1) as tasks:
        tasks.run([Task("t", HERE / "t.log", "program:noted", ())], "tasks", 1, lambda: 0)
    assert (HERE / "task").exists()
    spec = TeamSpec("drawn", 2, 3, actions=2)
    save_team(HERE / "team", CommFormer(spec, width=4, heads=1), fixed_graph("full", 2), spec, program=False)
    with Decentralised(HERE / "team") as team:
        assert team.act(torch.zeros(2, 3).numpy()).shape == (2,)
"""


@pytest.fixture
def evil(tmp_path):
    """A folder in which every module of the standard library, and some of ours, has a double that says that it ran."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in sys.stdlib_module_names | {
        "numpy",
        "torch",
        "yaml",
        "joblib",
        "safetensors",
        "filelock",
        "lazy_loader",
    }:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    return folder


def run_in(folder, *words, path=()):
    """``words`` as a process in ``folder``, whose folders on PYTHONPATH are whole."""
    paths = [str(SOURCE.parent), *map(str, path), *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ran = folder / "ran"
    assert not ran.exists(), f"{ran.read_text()} ran instead of the library's own"
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "manyone", "ls", "recipes"],
        ["-mmanyone", "ls", "recipes"],
        ["-m", "manyone.minimax.launch", "--ranks", "1", "-m", "manyone", "ls", "recipes"],
        [Path(sys.executable).parent / "manyone", "ls", "recipes"],
    ],
)
def test_the_command_line_runs_nothing_that_lies_in_the_current_folder(evil, words):
    if str(words[0]).startswith("-m"):  # what Python itself imports, before any code of the package, for its option -m
        code = "import runpy, sys; print(*sys.modules)"
        before = subprocess.run(python("-c", code), capture_output=True, text=True, check=True).stdout.split()
        for name in before:
            (evil / f"{name}.py").unlink(missing_ok=True)
    assert (evil / "selectors.py").exists()
    assert "commformer" in run_in(evil, sys.executable, *words)


def test_no_kind_of_process_runs_what_lies_in_the_current_folder(evil, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/program.py").write_text(PROGRAM)
    run_in(evil, sys.executable, tmp_path / "own/program.py", path=[tmp_path / "own"])


def test_every_process_of_this_python_is_started_isolated():
    """Those that run what the user names as a file are the exception: its folder is Python's own rule.

    So is the SQL sandbox, whose processes see no packages at all (``-I -S``).
    """
    allowed = {"engine/modules.py", "minimax/ranks/launch.py", "cli/bench_command.py", "data/sql/sandbox/process.py"}
    for path in SOURCE.rglob("*.py"):
        name, tree = path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        words = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}
        assert "sys.executable" not in words or name in allowed, f"{name}: use engine.modules.python"
        starts = words & {
            "context.Process",
            "_CONTEXT.Process",
            "ProcessPoolExecutor",
            "distributed.Client",
            "ray.init",
        }
        assert not starts or "isolated" in words, f"{name}: {starts} must stand inside of engine.modules.isolated()"


def test_isolation_is_for_the_processes_that_start_inside_alone(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    shown = "import sys, os, manyone.engine.modules; print(sys.flags.safe_path, 'PYTHONSAFEPATH' in os.environ)"
    with isolated():
        inside = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout
    assert inside.split() == ["True", "False"], "a process that a worker starts is none of our business"
    assert "PYTHONSAFEPATH" not in os.environ
    monkeypatch.setenv("PYTHONSAFEPATH", "yes")
    with isolated():
        pass
    assert os.environ["PYTHONSAFEPATH"] == "yes"
    assert subprocess.run(python("-c", "import sys; sys.exit(not sys.flags.safe_path)")).returncode == 0


def test_a_named_module_of_the_current_folder_comes_last(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_here.py").write_text("import named_neighbour, colorsys\n")
    (tmp_path / "named_neighbour.py").write_text("")
    (tmp_path / "colorsys.py").write_text("raise AssertionError('a file stood in for the library')")
    assert import_named("colorsys").hls_to_rgb, "the library's"
    assert str(tmp_path) not in sys.path, "for an installed module the current folder is none of the places"
    assert Path(import_named("named_here").__file__).parent == tmp_path
    assert sys.path[-1] == str(tmp_path)
    for name in ("no_such_module_here", "", ".named_here", "a b"):
        with pytest.raises(ModuleNotFoundError):
            import_named(name)
