"""The launcher's public name, which is in users' job scripts."""

import subprocess
import sys

from manyone.minimax.launch import launch, main


def test_the_launcher_keeps_its_public_name():
    assert launch.__module__ == main.__module__ == "manyone.minimax.ranks.launch"
    words = [sys.executable, "-m", "manyone.minimax.launch", "--help"]
    assert "survivors go on" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
