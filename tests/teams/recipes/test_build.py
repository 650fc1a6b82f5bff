"""Every method with the smallest team: one agent, which has nobody to hear."""

from __future__ import annotations

import math

import pytest
import torch

from manyone.recipes.options import with_preset
from manyone.recipes.table import builder, options_class
from manyone.teams.artefact import load_team
from manyone.teams.network.graph import links_for
from manyone.teams.play import play
from manyone.teams.recipes import RECIPES
from manyone.teams.recipes.build import team

VARIANTS = [(name, {}) for name in RECIPES] + [
    ("commformer", given)
    for given in (
        {"graph": "dynamic"}, {"graph": "none"}, {"graph": "random"}, {"graph": "ring"}, {"graph": "star"},
        {"graph": "nearest"}, {"density": 1.0}, {"gate": True, "gate_open": 0.0}, {"send_gate": True, "gate_open": 0.0},
        {"official": True, "warmup": 1}, {"upper_data": "heldout"}, {"commit": 0.0},
    )
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "given"), VARIANTS, ids=str)
def test_one_agent_trains_plays_and_is_saved_by_every_method(recipe, given, tmp_path, monkeypatch):
    monkeypatch.setattr("manyone.teams.artefact.export_policy", lambda path, *rest, **words: path.write_bytes(b""))
    words = {"env": "predator-prey:predators=1,limit=4", "envs": 5, "length": 4, "iterations": 4, "width": 8}
    options = with_preset(options_class(recipe), {**words, "epochs": 5, **given})
    made = team(options, builder(recipe))
    for _ in range(4):
        metrics = made.learner.step()
    assert math.isfinite(metrics["loss"])
    assert (metrics["links"], metrics["receive_rate"], metrics["upper_steps"]) == (0, 0, 0)
    found = play(made.env, made.policy, made.learner.exact_graph(), episodes=5, seed=0, gate="open")
    assert found.figures()["links"] == 0
    assert found.link_use.tolist() == [[0.0]]
    made.learner.export(tmp_path)
    saved = load_team(tmp_path)
    assert saved.act(torch.zeros(1, made.env.spec.observation_dim)).shape == (1,)
    made.env.close()


def test_a_team_of_one_has_no_links():
    assert links_for(1, 0.4) == links_for(1, 1.0) == 0
