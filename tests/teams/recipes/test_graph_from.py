"""``--graph-from``: the links of a trained team, or of a file, for a new one."""

from __future__ import annotations

import json

import pytest
import torch

from manyone.cli.options import parse_options
from manyone.envs.teams.make import make_team
from manyone.errors import ManyoneError
from manyone.teams.artefact import read_graph, save_team
from manyone.teams.network.commformer import CommFormer
from manyone.teams.recipes.build import commformer
from manyone.teams.recipes.options import CommFormerOptions

RING = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def options(*words):
    return parse_options(CommFormerOptions, "commformer", ["--env", "predator-prey:predators=3,vision=0", *words])


def test_links_of_a_team_of_a_run_and_of_files(tmp_path):
    env = make_team("predator-prey:predators=3,vision=0", 2)
    save_team(tmp_path / "run" / "model", CommFormer(env.spec, width=8, heads=1), torch.tensor(RING), env.spec)
    (tmp_path / "links.json").write_text(json.dumps(RING))
    (tmp_path / "links.csv").write_text("0,1,0\n0, 0, 1\n\n1,0,0\n")
    for place in ("run", "run/model", "links.json", "links.csv"):
        assert read_graph(tmp_path / place, 3).tolist() == RING
        parts = commformer(options("--graph-from", str(tmp_path / place), "--width", "8", "--heads", "1"), env.spec)
        assert parts.graph.tolist() == RING


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "[[0, 1], [1, 0]]", r"\[2, 2\]: must be \[3, 3\]"),
        ("a.json", "[[0, 2, 0], [0, 0, 1], [1, 0, 0]]", "neither 0 nor 1"),
        ("a.json", "[[1, 0, 0], [0, 0, 1], [1, 0, 0]]", "hears itself"),
        ("a.json", "[[0, 1, 0], [0, 0], [1, 0, 0]]", "no graph"),
        ("a.json", '{"graph": 3}', "no graph"),
        ("a.json", "7", "no graph"),
        ("a.json", "[[" + "9" * 400 + ", 0, 0]]", "no graph"),
        ("a.json", "{", "not JSON"),
        ("a.csv", "0;1;0\n0;0;1\n1;0;0\n", "no graph"),
        ("a.txt", "0 1", "neither a trained team's folder"),
    ],
)
def test_a_file_that_holds_no_graph_is_said(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ManyoneError, match=words) as caught:
        read_graph(tmp_path / name, 3)
    assert name in str(caught.value)


@pytest.mark.parametrize("words", [("--graph", "ring"), ("--search", "0.5")])
def test_a_given_graph_is_neither_chosen_nor_learned(tmp_path, words):
    (tmp_path / "links.json").write_text(json.dumps(RING))
    with pytest.raises(ManyoneError, match="--graph-from"):
        options("--graph-from", str(tmp_path / "links.json"), *words)
