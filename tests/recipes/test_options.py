"""Ranges, presets and words: what every recipe's options stand on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from manyone.cli.options import parse_options
from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, Places, Range, With, check_places, with_preset
from manyone.recipes.words import typed, words_of


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Trains something."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "laptop": {},
        "paper": {"steps": 1_000_000, "width": 256, "absent": 1},
    }

    preset: str = "laptop"
    """Where values come from that nobody gave."""
    steps: Annotated[int, Range(1)] = 3000
    """Training steps."""
    width: int = 64
    """Width."""
    share: Annotated[float, Range(0, 1, closed="left")] = 0.2
    """Share that is left out."""
    workers: Annotated[int | None, Range(0)] = None
    """Processes; default: one a processor."""
    rates: Annotated[tuple[float, ...], Range(0, closed="neither")] = (0.1, 0.2)
    """Step sizes."""
    film: bool = True
    """Draw."""
    files: tuple[Path, ...] = ()
    """Files."""


@pytest.mark.parametrize(
    ("range_", "words", "inside", "outside"),
    [
        (Range(0), "0 or more", (0, 1e9), (-1e-9, float("nan"), float("inf"))),
        (Range(0, closed="neither"), "above 0", (1e-9,), (0, -1)),
        (Range(0, 1), "from 0 to 1", (0, 1), (-0.1, 1.1)),
        (Range(0, 1, closed="left"), "from 0 to below 1", (0, 0.999), (1,)),
        (Range(0, 1, closed="right"), "above 0, at most 1", (1e-9, 1), (0, 1.1)),
        (Range(0, 1, closed="neither"), "above 0, below 1", (0.5,), (0, 1)),
        (Range(high=5), "at most 5", (-9, 5), (6,)),
        (Range(high=5, closed="left"), "below 5", (4,), (5,)),
    ],
)
def test_a_range_says_and_holds_the_same(range_, words, inside, outside):
    assert str(range_) == words
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "--steps 0: must be 1 or more"),
        ({"share": 1.0}, "--share 1.0: must be from 0 to below 1"),
        ({"workers": -1}, "--workers -1: must be 0 or more"),
        ({"rates": (0.1, 0.0)}, "--rates 0.0: must be above 0"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"preset": "papre"}, "--preset papre: must be one of laptop, paper"),
    ],
)
def test_what_is_out_of_range_is_named(given, message):
    with pytest.raises(ManyoneError, match=re.escape(message)):
        with_preset(Options, given)


def test_a_preset_fills_what_is_not_given():
    assert with_preset(Options, {}) == Options()
    paper = with_preset(Options, {"preset": "paper", "width": 64})
    assert (paper.steps, paper.width, paper.share) == (1_000_000, 64, 0.2), "given, though it is the default"
    assert parse_options(Options, "x", ["--preset", "paper", "--width=64"]) == paper


def test_a_preset_on_the_command_line_wins_over_a_file(tmp_path):
    file = tmp_path / "earlier.yaml"
    file.write_text("preset: laptop\nsteps: 7\nwidth: 9\nshare: 0.5\n")
    assert parse_options(Options, "x", ["--config", str(file)]).steps == 7
    paper = parse_options(Options, "x", ["--config", str(file), "--preset", "paper", "--width", "10"])
    assert (paper.preset, paper.steps, paper.width, paper.share) == ("paper", 1_000_000, 10, 0.5)
    file.write_text("preset: paper\nsteps: 7\n")
    assert parse_options(Options, "x", ["--config", str(file), "--preset=laptop"]).steps == 3000


def test_the_help_shows_range_and_the_preset_s_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_options(Options, "x", ["--preset", "paper", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Training steps (1 or more; default: 1000000)" in text
    assert "Share that is left out (from 0 to below 1; default: 0.2)" in text


def test_words_give_the_same_options():
    given = {"steps": 5, "film": False, "rates": [0.5], "workers": None, "files": ["a b", "c"], "share": 1e-05}
    words = words_of(given, Options, "test")
    assert typed(words, Options) == set(given)
    made = with_preset(Options, given | {"rates": (0.5,), "files": (Path("a b"), Path("c"))})
    assert parse_options(Options, "x", words) == made
    with pytest.raises(ManyoneError, match=r"test: unknown option 'stepz'; did you mean '--steps'\?"):
        words_of({"stepz": 1}, Options, "test")


@dataclass(kw_only=True)
class PlaceOptions(CommonOptions):
    """Reads something."""

    base: Annotated[Path | None, Places()] = None
    """A folder."""
    data: Annotated[tuple[str, ...], Places()] = ()
    """NAME=PLACE."""
    on: Annotated[str, Places(names=True)] = "ring"
    """A name or a file."""
    kept: Annotated[str, Places(new=True)] = ""
    """A folder that is made."""


def test_places_that_exist_become_absolute_and_other_words_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "door.hdf5", "ring", "a=b.csv"):
        Path(name).touch()
    options = PlaceOptions(
        base=Path("base"), data=("door=door.hdf5", "door.hdf5", "a=b.csv", "cheetah=D4RL/halfcheetah")
    )
    assert options.base == tmp_path / "base"
    assert options.data == (
        f"door={tmp_path / 'door.hdf5'}", str(tmp_path / "door.hdf5"), str(tmp_path / "a=b.csv"),
        "cheetah=D4RL/halfcheetah",
    )  # fmt: skip
    data = ("gym:X-v0?keys=base,ring=door.hdf5", "door=base,door.hdf5", "gym:X-v0?keys=base,ring=D4RL/x")
    door = tmp_path / "door.hdf5"
    assert PlaceOptions(data=data).data == (
        f"gym:X-v0?keys=base,ring={door}", f"door={tmp_path / 'base'},{door}", data[2]
    )  # fmt: skip
    assert PlaceOptions(on="ring").on == "ring"
    assert PlaceOptions(on="./ring").on == str(tmp_path / "ring")
    assert PlaceOptions(base=Path("org/model")).base == Path("org/model")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"data": ("door=door.hdf5", "shop=pairs/")}, "--data: there is no pairs/"),
        ({"data": ("door=door.hdf5,hammer.hdf5",)}, "--data: there is no hammer.hdf5"),
        ({"on": "./circle"}, r"--on: there is no \./circle"),
        ({"base": Path("/nowhere/model")}, "--base: there is no /nowhere/model"),
        (
            {"data": ("cheetah=D4RL/halfcheetah/medium-v2", "breast-cancer", "org/model"), "on": "Qwen/Qwen2.5-0.5B"},
            None,
        ),
        ({"kept": "./later/"}, None),
    ],
)
def test_a_dry_run_looks_for_what_can_only_be_a_place(tmp_path, monkeypatch, given, missing):
    monkeypatch.chdir(tmp_path)
    Path("door.hdf5").touch()
    options = PlaceOptions(**given)
    if missing is None:
        check_places(options)
        return
    with pytest.raises(ManyoneError, match=missing):
        check_places(options)


@dataclass(kw_only=True)
class SwitchOptions(CommonOptions):
    """Does something."""

    gate: bool = False
    """Use a gate."""
    mode: str = "plain"
    """How."""
    target: Annotated[float, Range(0, 1), With("gate", "mode=gated")] = 0.5
    """The gate's target."""
    scale: float = 1.0
    """Any finite number."""


def test_an_option_without_its_switch_is_refused_and_with_it_taken():
    for words in (["--target", "0.3", "--gate"], ["--target", "0.3", "--mode", "gated"], ["--target", "0.5"]):
        assert parse_options(SwitchOptions, "toy", words).target == float(words[1])
    with pytest.raises(ManyoneError, match=r"--target 0\.3: does nothing without --gate or --mode gated: add it"):
        parse_options(SwitchOptions, "toy", ["--target", "0.3"])


def test_numbers_are_finite_also_without_a_range():
    for value in ("nan", "inf", "-inf"):
        with pytest.raises(ManyoneError, match=rf"--scale {value}: must be a finite number"):
            parse_options(SwitchOptions, "toy", [f"--scale={value}"])
    with pytest.raises(ManyoneError, match="--scale nan"):
        SwitchOptions(scale=float("nan"))
