"""The command that repeats a run gives its options again, and says no more than is needed."""

import contextlib
import shlex

import pytest

from manyone.cli.options import parse_options
from manyone.engine.options import to_plain
from manyone.errors import ManyoneError
from manyone.recipes.repeat import command_of
from manyone.recipes.table import RECIPES, options_class

WORDS = {
    "task-arithmetic": "--suite mini6 --scale 0.5",
    "ties": "--base a --experts b c --exclude '^head' 'x y' --density 0.1",
    "wemoe": "--suite mini6 --critical mlp attention --objective expert-kl",
    "mt-dt": "--suite mujoco-hopper --quality medium --preset paper --lr 0.01",
    "commformer": "--preset smac:3m --seed 3 --iterations 2",
    "local-sgda": "--problem gan --local-steps 3 --data digits:8",
    "kid": "--preset smollm2 --data band=pairs.jsonl",
    "obd": "--data hopper=x.hdf5 --objective pbc --no-baselines",
    "earth-bench": "--models raw rcf --no-maps",
    "slerp": "--base a --experts b c --t -0.5",
}


@pytest.mark.parametrize("recipe", WORDS)
def test_the_command_gives_the_options_again(recipe):
    cls = options_class(recipe)
    options = parse_options(cls, recipe, shlex.split(WORDS[recipe]))
    command = command_of(recipe, {**to_plain(options), "out": "runs/first", "overwrite": True})
    assert command is not None
    words = shlex.split(command)
    assert words[:3] == ["manyone", "run", recipe]
    assert parse_options(cls, recipe, words[3:]) == options
    assert len(words) <= len(shlex.split(WORDS[recipe])) + 3, command


def without_words():
    """The recipes that have something to do when nothing is said."""
    for recipe in RECIPES:
        with contextlib.suppress(ManyoneError):
            yield recipe, to_plain(options_class(recipe)())


@pytest.mark.parametrize(
    ("recipe", "plain"), without_words(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_options_by_default_need_no_words(recipe, plain):
    command = command_of(recipe, plain)
    assert command is not None
    assert to_plain(parse_options(options_class(recipe), recipe, shlex.split(command)[3:])) == plain


def test_what_this_version_does_not_take_has_no_command():
    assert command_of("of-tomorrow", {}) is None
    assert command_of("ties", {"what": 1}) is None
    assert command_of("ties", {"density": 5}) is None
