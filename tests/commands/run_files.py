"""What a run leaves, compared: its records, and those of a run that was killed and resumed."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

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


def final_of(run):
    """The last record of kind "final" of the run."""
    return next(r for r in reversed(lines(run / "metrics.jsonl")) if r["kind"] == "final")


def started(*words, folder):
    """``manyone WORDS`` in a process of its own, in ``folder``, where what it says is in the file "said".

    It is forked from a process that has imported what is slow to import: a second instead of five or more.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["manyone.reproduce.warm"])
    command = context.Process(target=_command, args=(list(map(str, words)), folder, dict(os.environ)))
    command.start()
    return command


def _command(words, folder, environment):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        with Path("said").open("ab") as said:
            os.dup2(said.fileno(), stream)
    from manyone.cli.main import run

    sys.exit(run(words))


def assert_kill_9_changes_nothing(manyone, folder, words, *, after, records=(), files=FILES,
                                  watched="metrics.jsonl"):  # fmt: skip
    """Runs ``words`` whole into ``whole``; and into ``cut``, killed once ``after`` training records are there, resumed.

    ``watched``: the file of these records, that of a stage where it is killed in it.

    ``files`` must then be the same bytes, ``records`` and the metrics the same lines.
    """
    assert manyone("run", *words, "--out", "whole")[0] == 0
    victim = started("run", *words, "--out", "cut", folder=folder)
    deadline = time.time() + 120
    metrics = folder / "cut" / watched
    while time.time() < deadline and not (metrics.exists() and metrics.read_bytes().count(b'"train"') >= after):
        assert victim.exitcode is None, (folder / "said").read_text()
        time.sleep(0.002)
    victim.kill()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert metrics.read_bytes().count(b'"train"') >= after, "too slow: killed before it had come that far"
    assert not (folder / "cut/model").exists(), "it was not killed in the middle"

    resumed = started("resume", "cut", folder=folder)
    resumed.join()
    assert resumed.exitcode == 0, (folder / "said").read_text()
    for name in files:
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    for name in ("metrics.jsonl", *records):
        assert lines(folder / "cut" / name) == lines(folder / "whole" / name), name
