import importlib
import subprocess
import sys

import pytest

import manyone.minimax


def test_every_public_name_is_there():
    assert {"AUC", "ClientData", "DistributedSGDA", "Simulated", "load"} <= set(manyone.minimax.__all__)
    assert set(manyone.minimax.__all__) <= set(dir(manyone.minimax))
    for name in manyone.minimax.__all__:
        assert getattr(manyone.minimax, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        _ = manyone.minimax.Nothing


def test_importing_the_package_alone_does_not_import_torch():
    code = "import sys, manyone.minimax; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module("manyone.minimax").__all__


def test_type_checkers_see_the_public_names(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "from manyone.minimax import AUC, DistributedSGDA, Simulated\n"
        "run = Simulated(AUC(0.1, dim=3), None, DistributedSGDA(steps=5))\nreveal_type(run)\nreveal_type(run.run())\n"
    )
    words = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", str(tmp_path), "use.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'Revealed type is "manyone.minimax.simulated.Simulated"' in done.stdout, done.stdout
    assert 'Revealed type is "torch._tensor.Tensor"' in done.stdout


def test_the_launcher_keeps_its_public_name():
    from manyone.minimax.launch import launch, main

    assert launch.__module__ == main.__module__ == "manyone.minimax.ranks.launch"
    done = subprocess.run([sys.executable, "-m", "manyone.minimax.launch", "--help"], capture_output=True, text=True)
    assert "survivors go on" in done.stdout
