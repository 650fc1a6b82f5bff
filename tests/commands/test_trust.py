"""A run folder of somebody else imports nothing until the user says so; one's own goes on as ever."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import yaml
from tests.commands.run_files import OWN_TEAM

from manyone.assets.cache import cache_folder
from manyone.engine.trust import named_modules
from manyone.errors import ManyoneError
from manyone.recipes.execution import reopen

pytest.importorskip("pettingzoo")

MODULE = f"""
from pathlib import Path
(Path(__file__).parent / "ran").touch()
{OWN_TEAM.replace("        self.agents = list", "        import neighbour; self.agents = list", 1)}
"""
TINY = ("--envs", 4, "--length", 5, "--width", 16, "--eval-episodes", 6, "--iterations", 2)


@pytest.fixture
def named(tmp_path):
    """The module ``named_team`` in the current folder, with a neighbour that it imports later."""
    (tmp_path / "named_team.py").write_text(MODULE)
    (tmp_path / "neighbour.py").write_text("")
    return tmp_path


@pytest.fixture
def made(manyone, process, named):
    """A finished run that names it, by ``python -m manyone`` with a worker, beside a foreign ``selectors``."""
    (named / "selectors.py").write_text("raise AssertionError('the library has this module')")
    words = (
        "-m",
        "manyone",
        "run",
        "no-comm",
        "--env",
        "pettingzoo:named_team",
        *TINY,
        "--workers",
        1,
        "--out",
        "mine",
    )
    assert process(*words).wait() == 0
    (named / "ran").unlink()
    return named / "mine"


def foreign(made, name="theirs"):
    """The same run, as if it came from somebody else."""
    folder = made.with_name(name)
    shutil.copytree(made, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"time": {"created": "elsewhere"}}))
    (folder / "done").unlink()
    return folder


def test_a_foreign_run_asks_for_trust_before_it_imports_a_module(manyone, made, monkeypatch):
    assert manyone("eval", made)[0] == 0, "one's own run needs no word"
    ran, theirs = made.parent / "ran", foreign(made)
    ran.unlink()
    files = sorted(p.name for p in theirs.rglob("*"))
    for verb in ("eval", "resume"):
        code, _, err = manyone(verb, theirs)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "config.yaml: imports named_team" in err
        assert "--trust" in err
        assert sorted(p.name for p in theirs.rglob("*")) == files
    with pytest.raises(ManyoneError, match="trust=True"):
        reopen(theirs)
    assert manyone("report", theirs)[0] == 0
    assert not ran.exists()
    assert manyone("resume", theirs, "--trust")[0] == 0
    assert manyone("eval", theirs)[0] == 0, "trust is given once"
    (mark, *_) = cache_folder("own-runs").iterdir()
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600

    (theirs / "elsewhere_team.py").write_text(MODULE)
    text = (theirs / "config.yaml").read_text().replace("named_team", "elsewhere_team")
    (theirs / "config.yaml").write_text(text)
    monkeypatch.chdir(theirs)
    for folder in (".", theirs):
        code, _, err = manyone("eval", folder, "--trust")
        assert code == 2
        assert "never taken from a run's own folder" in err
    assert not (theirs / "ran").exists()


def test_options_from_a_file_of_somebody_else_import_nothing(manyone, named):
    words = ("run", "no-comm", *TINY, "--dry-run", "--config")
    run = {"recipe": "no-comm", "options": {"env": "pettingzoo:named_team"}}
    for content in (run, run["options"]):
        (named / "theirs.yaml").write_text(yaml.safe_dump(content))
        code, _, err = manyone(*words, "theirs.yaml")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "theirs.yaml: imports named_team" in err
        assert not (named / "ran").exists()
    assert manyone(*words, "theirs.yaml", "--env", "pettingzoo:named_team")[0] == 0
    assert manyone("run", "no-comm", *TINY, "--env", "pettingzoo:named_team", "--out", "mine")[0] == 0
    assert manyone(*words, "mine/config.yaml")[0] == 0


def test_several_seeds_of_somebody_else_ask_as_well(manyone, named):
    options = {"env": "pettingzoo:named_team", "device": "cpu", "seed": 0}
    (named / "several").mkdir()
    seeds = named / "several/seeds.json"
    seeds.write_text(json.dumps({"recipe": "no-comm", "options": options, "seeds": [0]}))
    code, _, err = manyone("resume", "several")
    assert code == 2
    assert "seeds.json: imports named_team" in err
    seeds.write_text(json.dumps({"recipe": "no-comm", "options": {"device": "cpu"}, "seeds": ["/../../elsewhere"]}))
    code, _, err = manyone("resume", "several")
    assert code == 2
    assert "seeds.json cannot be read" in err
    assert sorted(p.name for p in named.iterdir()) == ["named_team.py", "neighbour.py", "several"]


def test_a_link_out_of_a_run_folder_is_not_followed(manyone, tmp_path):
    assert manyone("run", "no-comm", "--env", "relay", *TINY, "--out", "mine")[0] == 0
    (tmp_path / "mine/done").unlink()
    for name in ("metrics.jsonl", "checkpoints"):
        (tmp_path / "mine" / name).rename(tmp_path / f"elsewhere-{name}")
        (tmp_path / "mine" / name).symlink_to(tmp_path / f"elsewhere-{name}")
    before = (tmp_path / "elsewhere-metrics.jsonl").read_text()
    for verb in ("resume", "eval", "report"):
        code, _, err = manyone(verb, "mine")
        assert code == 2, verb
        assert "a link out of the run folder" in err
    assert (tmp_path / "elsewhere-metrics.jsonl").read_text() == before
    assert manyone("eval", "mine", "--trust")[0] == 0


def test_the_modules_that_options_name():
    options = {"data": ["gym:own.envs:Far-v0=x.h5", "gym:Hopper-v5=C:/x"], "env": "pettingzoo:own_team:size=3",
               "more": {"other": "pettingzoo:pettingzoo.sisl.pursuit_v4", "seed": 3, "none": None}}  # fmt: skip
    assert named_modules(options) == ["own.envs", "own_team"]
