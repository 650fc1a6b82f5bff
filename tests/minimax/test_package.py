import importlib
import subprocess
import sys

import pytest

import manyone.minimax


def test_every_public_name_is_there():
    for name in manyone.minimax.__all__:
        assert getattr(manyone.minimax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = manyone.minimax.Nothing


def test_importing_the_package_alone_does_not_import_torch():
    code = "import sys, manyone.minimax; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module("manyone.minimax").__all__
