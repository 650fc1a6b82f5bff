"""What a run leaves, compared: its records, and those of a run that was killed and resumed."""

import json
import signal
import subprocess
import time

OWN_TEAM = """
from pettingzoo import ParallelEnv
from gymnasium.spaces import Box, Discrete
import numpy as np
class Own(ParallelEnv):
    possible_agents = ("a", "b")
    def observation_space(self, agent): return Box(0, 1, (2,))
    def action_space(self, agent): return Discrete(2)
    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.see(), {a: {} for a in self.agents}
    def see(self): return {a: np.zeros(2, np.float32) for a in self.possible_agents}
    def step(self, actions):
        names, self.agents = self.agents, []
        return self.see(), {a: 1.0 for a in names}, {a: True for a in names}, {a: False for a in names}, {}
parallel_env = Own
"""
"""A team environment of a user's own, as a module."""
FILES = ("model/model.safetensors", "model/config.json")


def lines(path):
    """The records of a metrics file without the wall-clock values."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "time"} for r in records]


def assert_kill_9_changes_nothing(manyone, process, folder, words, *, after, records=(), files=FILES,
                                  watched="metrics.jsonl"):  # fmt: skip
    """Runs ``words`` whole into ``whole``; and into ``cut``, killed once ``after`` training records are there, resumed.

    ``watched``: the file of these records, that of a stage where it is killed in it.

    ``files`` must then be the same bytes, ``records`` and the metrics the same lines.
    """
    assert manyone("run", *words, "--out", "whole")[0] == 0
    victim = process("-m", "manyone", "run", *words, "--out", "cut", stderr=subprocess.PIPE)
    deadline = time.time() + 120
    metrics = folder / "cut" / watched
    while time.time() < deadline and not (metrics.exists() and metrics.read_bytes().count(b'"train"') >= after):
        assert victim.poll() is None, victim.stderr.read()
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert metrics.read_bytes().count(b'"train"') >= after, "too slow: killed before it had come that far"
    assert not (folder / "cut/model").exists(), "it was not killed in the middle"

    resumed = process("-m", "manyone", "resume", "cut", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    for name in files:
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    for name in ("metrics.jsonl", *records):
        assert lines(folder / "cut" / name) == lines(folder / "whole" / name), name
