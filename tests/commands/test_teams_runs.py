"""Whole runs of the team recipes on tiny tasks: artefacts, figures, eval, kill -9 and resume, options and presets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.commands.run_files import FILES, OWN_TEAM, assert_kill_9_changes_nothing, final_of, lines

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import with_preset
from manyone.recipes.table import RECIPES, builder, options_class
from manyone.teams.artefact import load_team
from manyone.teams.recipes import build
from manyone.teams.recipes.options import CommFormerOptions
from manyone.teams.recipes.presets import OFFICIAL, PUBLISHED, SCRIPTS
from manyone.teams.recipes.problem import open_evaluator
from manyone.teams.recipes.run import plan

GRID = ("--env", "predator-prey:size=3,predators=3,limit=5")
TINY = ("--envs", 4, "--length", 5, "--width", 16, "--eval-episodes", 6, "--iterations", 4)


def options_of(**given):
    return with_preset(CommFormerOptions, given)


def team_of(options, evaluate=None):
    return build.team(options, build.commformer, evaluate)


def test_a_gated_run_leaves_artefact_episodes_figures_and_a_film(manyone, process, tmp_path):
    words = (*GRID, *TINY, "--gate", "--gate-open", 0.5, "--evaluate-every", 2, "--out", "r")
    code, out, err = manyone("run", "commformer", *words)
    assert code == 0, err
    assert "95 % interval" in out
    final = final_of(tmp_path / "r")
    assert final["return_low"] <= final["return"] <= final["return_high"]
    assert 0 <= final["links"] <= 5  # a message on each of three links, and an action on two at most
    episodes = lines(tmp_path / "r/episodes.jsonl")
    assert len(episodes) == 6
    assert np.isclose(np.mean([e["return"] for e in episodes]), final["return"])
    assert (tmp_path / "r/episode.gif").read_bytes().startswith(b"GIF8")

    script = (
        "import numpy as np, sys; from manyone.teams.artefact import load_team; team = load_team('r/model');"
        "assert team.graph.sum() == 3; assert 'manyone.engine.loop' not in sys.modules;"
        "np.save('theirs.npy', team.act(np.load('seen.npy')))"
    )
    team = load_team(tmp_path / "r/model")
    seen = np.random.default_rng(0).random((4, 3, team.spec.observation_dim), np.float32)
    np.save(tmp_path / "seen.npy", seen)
    assert process("-c", script).wait() == 0
    assert np.array_equal(np.load(tmp_path / "theirs.npy"), team.act(seen))

    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final['return']:.6g}" in out
    assert "no data to split" in manyone("eval", "r", "--split", "val")[2]
    assert manyone("report", "r")[0] == 0
    page = (tmp_path / "r/report.html").read_text()
    for title in (
        "The learned graph",
        "Who hears whom",
        "Messages against return",
        "Receive rate",
        "Return",
        "An episode",
    ):
        assert f"<b>{title}</b>" in page
    assert "image/gif" in page
    assert "<script" not in page


def test_kill_9_in_the_middle_of_training_then_resume_is_bit_identical(manyone, tmp_path):
    words = ("commformer", *GRID, *TINY, "--gate", "--gate-open", 0.2, "--no-film", "--iterations", 16)
    words = (*words, "--checkpoint-every", 3, "--upper-data", "heldout", "--minibatches", 2, "--dropout", 0.1)
    words = (*words, "--evaluate-every", 5)
    files = (*FILES, "figures.json")
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=8, records=["episodes.jsonl"], files=files)


@pytest.mark.parametrize("recipe", [name for name, r in RECIPES.items() if r.field == "teams"])
def test_every_recipe_trains_on_relay_and_counts_its_messages(recipe):
    words = {"env": "relay:agents=4,symbols=3", "envs": 8, "iterations": 2, "width": 16, "eval_episodes": 8, "seed": 3}
    learner = build.team(with_preset(options_class(recipe), words), builder(recipe)).learner
    metrics = [learner.step() for _ in range(2)][-1]
    assert np.isfinite(metrics["loss"])
    assert metrics["env_steps"] == 16
    expected = {"commformer": 4, "no-comm": 0, "mappo": 0, "ippo": 0}.get(recipe, 12)
    acted_on = learner.schedule.acting()  # the graph of the last iteration
    with_actions = int(acted_on.tril(-1).sum()) if recipe in ("commformer", "commformer-fc", "mat") else 0
    assert metrics["links"] == expected + with_actions
    assert bool(learner.exact_graph().any()) == (expected > 0)


@pytest.mark.parametrize(
    ("graph", "links"), [("full", 12), ("none", 0), ("random", 4), ("ring", 4), ("star", 6), ("nearest", 4)]
)
def test_fixed_graphs_are_those_asked_for(graph, links):
    team = team_of(options_of(env="relay:agents=4", envs=8, iterations=1, width=16, graph=graph, density=0.25))
    assert int(team.graph.sum()) == links
    assert float(team.graph.diagonal().sum()) == 0
    assert team.learner.step()["links"] == links + int(team.graph.tril(-1).sum())  # and as many actions


def test_a_dynamic_graph_and_a_send_gate_are_options_and_the_best_links_are_those_used(tmp_path):
    words = {"env": "relay:agents=4,symbols=3", "envs": 8, "iterations": 2, "width": 16, "eval_episodes": 16}
    options = options_of(**words, graph="dynamic", density=0.5, send_gate=True, gate_open=0.5)
    with open_evaluator(options) as evaluator:
        learner = team_of(options, evaluator).learner
        assert 8 <= learner.step()["links"] <= 14
        found = learner.evaluate()
        assert "send_probability" in learner.step()
        use = evaluator.played.link_use
    assert found["links"] == pytest.approx(8 + float(use.tril(-1).sum()), abs=1e-4)
    best = evaluator.env.spec.details["best_senders"]
    assert found["best_links"] == pytest.approx(float(use[range(4), best].mean()))
    assert np.allclose(use.sum(-1), 2)
    told = list(plan(options, build.commformer, RunFolder(tmp_path / "r", "commformer", {})))
    assert "4 agents" in told[0]
    assert told[1] == "graph of every step: 8 of 12 links, gated"


def test_the_seed_draws_weights_and_random_graph():
    words = {"env": "relay:agents=6", "envs": 4, "iterations": 1, "width": 16, "graph": "random"}
    first, again, other = (team_of(options_of(**words, seed=s)) for s in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in t.policy.parameters()]) for t in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(first.graph, again.graph)
    assert not torch.equal(first.graph, other.graph)


def test_official_means_the_authors_code_and_leaves_what_was_asked_for():
    options = options_of(env="relay", official=True, edge_lr=0.02)
    for name, value in OFFICIAL.items():
        assert getattr(options, name) == (0.02 if name == "edge_lr" else value), name
    small = {"env": "relay:agents=4", "envs": 8, "iterations": 3, "width": 16}
    learner = team_of(options_of(**small, official=True, warmup=1)).learner
    errors = [learner.step()["ratio_error"] for _ in range(3)]
    assert max(errors) > 1e-4  # it acts with another graph than it updates with
    assert team_of(options_of(**small)).learner.step()["ratio_error"] < 1e-6


def test_presets_fill_in_only_what_was_left_open():
    options = options_of(preset="smac:27m_vs_30m", lr=1e-3)
    assert (options.env, options.epochs, options.clip, options.commit, options.lr) == (
        "smac:27m_vs_30m", 5, 0.2, 0.5, 1e-3,
    )  # fmt: skip
    assert options.iterations * options.envs * options.length == 10_000_000
    assert (options.edge_lr, options.dropout, options.warmup) == (1e-4, 0.1, 10)
    assert options_of(preset="smac:3m", env="smax:3m").env == "smax:3m"
    assert options_of(preset="smac:1o_10b_vs_1r").edge_types is False
    assert {name for row in PUBLISHED.values() for name in row} | set(SCRIPTS) <= set(
        CommFormerOptions.__dataclass_fields__
    )
    options = options_of(env="relay", env_steps=1000)
    assert (options.iterations, options.evaluate_every) == (4, 10)  # of 256 copies, rounded up
    assert options_of(env="relay", env_steps=1000, envs=100).iterations == 10
    assert options_of(preset="smac:3m", iterations=3).iterations == 3
    assert options_of(preset="smac:3m").evaluate_every == SCRIPTS["evaluate_every"]
    assert options_of(env="relay:agents=3").evaluate_every == 10
    assert options_of(env="vmas:navigation").evaluate_every == 15
    with pytest.raises(ManyoneError, match="not both"):
        CommFormerOptions(env_steps=1000)


def test_dry_runs_tell_the_plan_and_write_nothing(manyone, tmp_path):
    code, out, err = manyone("run", "commformer", "--dry-run")
    assert code == 0, err
    assert "5 agents" in out
    assert "learned graph: 10 of 20 links" in out
    code, out, err = manyone("run", "mat", "--preset", "smac:3m", "--dry-run")
    assert code == 0, err
    assert "502,400 steps" in out or "cannot be made here" in out
    assert list(tmp_path.iterdir()) == []


def test_a_users_module_in_the_current_folder_is_an_environment(manyone, tmp_path):
    pytest.importorskip("pettingzoo")
    (tmp_path / "own_team.py").write_text(OWN_TEAM)
    code, out, err = manyone("run", "no-comm", "--env", "pettingzoo:own_team", *TINY, "--workers", 0, "--out", "r")
    assert code == 0, err
    assert "no film" in out
    assert final_of(tmp_path / "r")["return"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--env", "predator-pray"), "predator-prey"),
        (("--preset", "smac:4m"), "--preset smac:4m: unknown"),
        (("--density", 0), "--density 0.0: must be above 0, at most 1"),
        (("--width", 30, "--heads", 4), "a multiple of --heads 4"),
        (("--iterations", 3, "--env-steps", 10), "not both"),
        (("--graph", "dynamic", "--official"), "--graph dynamic: needs --relation receiver"),
        (("--epochs", 3), "fewer than --upper-every 5"),
        (("--gate-target", 1.5), "--gate-target 1.5: must be from 0 to 1"),
        (("--eval-episodes", 1), "2 or more"),
        (("--env", "pettingzoo:no_such_module_here"), "no_such_module_here"),
    ],
    ids=lambda w: w[0] if isinstance(w, tuple) else "",
)
def test_wrong_options_give_one_line_with_the_fix(manyone, words, message):
    code, _, err = manyone("run", "commformer", *words, "--out", "r")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
