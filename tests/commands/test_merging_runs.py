"""Whole runs of the merging recipes on the fixture suite: artefacts, fresh processes, kill -9 and resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.assets.cache import cache_folder
from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.rasters.suite import ASSETS
from manyone.merging import load
from manyone.merging.experts.bundle import Bundle
from manyone.merging.experts.protocol import PROTOCOLS

ADAPTIVE = [
    ("wemoe", "--steps", 4),
    ("e-wemoe", "--steps", 4, "--objective", "expert-kl"),
    ("adamerging", "--steps", 4, "--plus-plus"),
    ("concrete", "--steps", 3),
    ("surgery", "--steps", 6),
    ("surgery-v2", "--steps", 3, "--on", "ties"),
]


@pytest.mark.parametrize("words", ADAPTIVE, ids=lambda w: w[0])
def test_a_fresh_process_loads_the_artefact_with_equal_logits(manyone, process, tmp_path, words):
    code, out, err = manyone("run", words[0], "--suite", "fixture", "--limit", 60, "--out", "r", *words[1:])
    assert code == 0, err
    assert "mean" in out
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import torch; from manyone.merging import load; m = load('r/model');"
        "x = torch.load('images.pt', weights_only=True);"
        "torch.save({t: m(x, t) for t in m.tasks}, 'logits.pt')"
    )
    assert process("-c", script).wait() == 0
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    mine = load(tmp_path / "r/model")
    assert set(theirs) == {"mnist", "tops", "shoes", "animal", "optdigits"}
    for task, logits in theirs.items():
        assert torch.equal(mine(images, task), logits)
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    code, out, _ = manyone("eval", "r")
    assert code == 0
    assert f"{final['accuracy']:.6g}" in out


def test_the_saved_artefact_is_the_adapted_model(manyone, tmp_path):
    """Logits of the artefact = logits of the model in memory, rebuilt from the last checkpoint."""
    from manyone.engine.checkpoint import load_newest
    from manyone.engine.options import from_plain
    from manyone.engine.run import RunFolder
    from manyone.merging.recipes.problem import load_problem
    from manyone.nets import call
    from manyone.recipes.table import builder, options_class

    assert manyone("run", "wemoe", "--suite", "fixture", "--steps", 5, "--limit", 60, "--out", "r")[0] == 0
    run = RunFolder.open(tmp_path / "r")
    options = from_plain(options_class("wemoe"), run.options)
    built = builder("wemoe")(options, load_problem(options))
    learner, model = built.learner, built.model
    images = torch.rand(7, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    saved = load(tmp_path / "r/model")
    with torch.no_grad():
        before = call(model.eval(), images)
        assert not torch.allclose(saved(images), before, atol=1e-6)
        learner.load_state_dict(load_newest(run.checkpoints)[1]["learner"])
        torch.testing.assert_close(saved(images), call(model.eval(), images), atol=1e-6, rtol=1e-6)


def test_surgery_goes_on_top_of_a_finished_wemoe_run(manyone, tmp_path):
    assert manyone("run", "wemoe", "--suite", "fixture", "--steps", 3, "--limit", 40, "--out", "moe")[0] == 0
    words = ("--suite", "fixture", "--steps", 3, "--limit", 40, "--on", "moe")
    assert manyone("run", "surgery", *words, "--out", "s")[0] == 0
    assert manyone("run", "surgery-v2", *words, "--out", "s2")[0] == 0
    model = load(tmp_path / "s2/model")
    assert model(torch.rand(2, 1, 28, 28), "mnist").shape == (2, 10)
    with pytest.raises(Exception, match="give the task"):
        model(torch.rand(2, 1, 28, 28))


def test_kill_9_in_the_middle_of_adaptation_then_resume_is_bit_identical(manyone, tmp_path):
    words = ("--suite", "fixture", "--steps", 100, "--checkpoint-every", 5, "--evaluate-every", 50, "--limit", 60)
    assert_kill_9_changes_nothing(manyone, tmp_path, ("wemoe", *words), after=12)


def test_static_merges_of_a_suite(manyone, tmp_path):
    for recipe in ("average", "task-arithmetic", "ties", "fisher", "regmean"):
        code, out, err = manyone("run", recipe, "--suite", "fixture", "--out", recipe)
        assert code == 0, err
        assert "optdigits" in out
        assert load(tmp_path / recipe / "model").tasks == ("mnist", "tops", "shoes", "animal", "optdigits")
    assert manyone("eval", "ties")[0] == 0


def test_dry_runs_write_nothing(manyone, tmp_path):
    for recipe in ("wemoe", "surgery", "task-arithmetic"):
        code, out, _ = manyone("run", recipe, "--suite", "fixture", "--dry-run")
        assert code == 0
        assert "5 experts" in out
        assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_a_report_page_of_two_runs(manyone, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        words = ("--suite", "fixture", "--steps", 3, "--limit", 40, "--out", name)
        assert manyone("run", "e-wemoe", *words, "--scale", 0.2 + seed / 10)[0] == 0
    code, out, _ = manyone("report", "a", "b", "--out", "both.html")
    assert code == 0
    assert "both.html" in out
    page = (tmp_path / "both.html").read_text()
    assert "e-wemoe" in page
    assert "optdigits" in page


@pytest.fixture
def earth_packages():
    """The packages of the earth suite, where this machine has them; asked for before a test takes another cache."""
    packages = [cached(find_asset(asset)) for asset in ASSETS]
    if None in packages:
        pytest.skip("the packages of the earth suite are not in the cache")
    return packages


def test_experts_of_several_sensors_become_one_model(earth_packages, manyone, tmp_path, monkeypatch):
    """The earth suite, a few steps: one base and one stem under all experts, then merged, then corrected."""
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    for package in earth_packages:
        (cache_folder("assets") / package.name).symlink_to(package)
    whole = PROTOCOLS["earth"]
    few = replace(whole.fine_tuning, steps=4, warm_up=0)
    small = replace(whole, base=replace(whole.base, samples_per_task=20, epochs=2), fine_tuning=few)
    monkeypatch.setitem(PROTOCOLS, "earth", small)
    for words in (("wemoe", "--steps", 2), ("surgery", "--steps", 2)):
        code, out, err = manyone("run", words[0], "--suite", "earth", "--limit", 40, "--out", words[0], *words[1:])
        assert code == 0, err
        assert "indian-pines" in out
        assert load(tmp_path / words[0] / "model").tasks == ("nc-west", "nc-east", "statlog", "indian-pines")
    (folder,) = (p.parent for p in cache_folder("experts").rglob("base.safetensors"))
    made = Bundle.load(folder)
    assert not any("running" in name for name in made.base)  # no statistics that a merge would have to estimate anew
    for task, weights in made.experts.items():
        changed = {name for name in weights if not torch.equal(weights[name], made.base[name])}
        assert "blocks.0.mlp.fc1.weight" in changed, task
        assert not any(name.startswith(("patch_embed.", "pos_embed", "cls_token")) for name in changed), task
