"""The house keeps its rules: no import circles, few imports inside functions, public names that are really there."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import manyone
from manyone.fields import FIELDS

SOURCE = Path(manyone.__file__).parent


def test_no_two_files_import_each_other():
    """Neither at run time nor for the type checker, neither at the top of a file nor inside its functions."""
    graph = grimp.build_graph("manyone")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def functions_imports(path: Path) -> int:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {id(n) for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)}
    return len(found)


def test_imports_stand_at_the_top():
    """What stands inside functions is optional, or would slow the command line or a merge of files down."""
    counts = {path.relative_to(SOURCE).as_posix(): functions_imports(path) for path in SOURCE.rglob("*.py")}
    assert sum(counts.values()) <= 100, {k: v for k, v in counts.items() if v}
    assert not {k: v for k, v in counts.items() if v and k.split("/")[-1] in ("options.py", "build.py")}


_BY_NAME = {"cli/completion.py", "cli/main.py", "cli/studies.py", "claims/study.py", "engine/extras.py",
            "engine/modules.py", "envs/teams/tuple.py", "merging/static/methods.py", "policies/vqcd/strategy.py",
            "recipes/table.py", "reproduce/processes.py", "reproduce/reproduce.py"}  # fmt: skip
"""Files that import by a name in a table of ours; ``engine/modules.py`` by one that the user gives."""


def test_no_reader_runs_what_a_file_says():
    """A file of somebody else is data: what could run code from it is not called, or called with that turned off."""
    never = {"eval", "exec", "__import__", "sympify", "unsafe_load", "full_load", "run_path", "exec_module"}
    off = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "AutoConfig": "trust_remote_code=False",
           "AutoTokenizer": "trust_remote_code=False"}  # fmt: skip
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, text, where = ast.unparse(node.func), ast.unparse(node), f"{name}:{node.lineno}"
            last = called.rpartition(".")[2]
            assert called not in never, where
            assert last not in never - {"eval"}, where  # `module.eval()` is PyTorch's
            assert not (called.startswith(("torch.export.", "torch.jit.", "pickle.", "joblib.", "yaml.")) and
                        last in ("load", "loads")), where  # fmt: skip
            for what, word in off.items():
                if called == what or (last == "from_pretrained" and what in called):
                    assert word in text, where
            if last == "import_module" and not isinstance(node.args[0], ast.Constant):
                assert name in _BY_NAME or "__package__" in text, where


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_s_public_names_are_there_lazily(field):
    code = f"""
import sys
import manyone
assert {{"__version__", {field!r}}} <= set(dir(manyone))
package = manyone.{field}
assert "torch" not in sys.modules, "importing the package must cost nothing"
assert package.__all__, "no public names"
assert set(package.__all__) <= set(dir(package))
for name in package.__all__:
    assert getattr(package, name) is not None, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_s_public_names_have_types(field):
    """The stub beside the package names the same, each from the module that defines it."""
    package = getattr(manyone, field)
    stub = ast.parse((SOURCE / field / "__init__.pyi").read_text(encoding="utf-8"))
    names = {a.asname or a.name for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert names == set(package.__all__)


def test_the_package_s_stub_names_every_field():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    assert {a.name for node in stub.body if isinstance(node, ast.ImportFrom) for a in node.names} == set(FIELDS)
