"""One grammar for settings after a name."""

from __future__ import annotations

import pytest

from manyone.engine.words import check_keywords, parse_settings, suggestion, write_settings
from manyone.errors import ManyoneError


def test_values_are_what_they_look_like() -> None:
    text = "a=10, b = 0.5,c=1e-3,d=true,e=False,f=None,g='10',h=mixed,i=-3,j=3m vs 3m,k=x=y,"
    assert parse_settings(text, "toy") == {
        "a": 10, "b": 0.5, "c": 1e-3, "d": True, "e": False, "f": None, "g": "10", "h": "mixed", "i": -3,
        "j": "3m vs 3m", "k": "x=y",
    }  # fmt: skip
    assert parse_settings("", "toy") == {}
    assert parse_settings("a=1", "toy", {"b": [2]}) == {"a": 1, "b": [2]}


def test_what_is_written_is_read_again() -> None:
    settings = {"size": 10, "half": 0.5, "on": True, "nothing": None, "reward": "mixed"}
    assert write_settings(settings) == "half=0.5,nothing=None,on=True,reward=mixed,size=10"
    assert parse_settings(write_settings(settings), "toy") == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size", "toy: 'size' is not a setting: write NAME:key=value,key=value"),
        ("a=1, 2x=3", "toy: '2x=3' is not a setting"),
        ("a=", "toy: 'a=' is not a setting"),
        ("=1", "toy: '=1' is not a setting"),
        ("a=1,a=2", "toy: a is set twice: give it once"),
        ("b=1", r"toy: b is set in the name and as an option \(5\): give it once"),
    ],
)
def test_what_is_no_setting_is_named(text: str, words: str) -> None:
    with pytest.raises(ManyoneError, match=words):
        parse_settings(text, "toy", {"b": 5})


def test_suggestions() -> None:
    assert suggestion("stpes", ["steps", "seed"]) == "did you mean 'steps'?"
    assert suggestion("zzz", ["b", "a"]) == "known: a, b"
    assert suggestion("zzz", []) == "there is none"


def test_keywords_that_are_passed_on():
    def inner(count, *, scale=0.3, density=0.2, _own=None):
        """Takes two options."""

    check_keywords("merge('x')", ["scale", "density"], inner)
    with pytest.raises(ManyoneError, match=r"^merge\('x'\): there is no option 'lam'; did you mean 'scale'\?$"):
        check_keywords("merge('x')", {"lam": 0.3}, inner)
    with pytest.raises(ManyoneError, match="there is no option '_own'"):
        check_keywords("merge('x')", {"_own": 1}, inner)


@pytest.mark.parametrize(("word", "choices", "meant"), [
    ("--lr", ["--eta-x", "--eta-y", "--rho"], "'--eta-x' or '--eta-y'"), ("random_state", ["seed", "rank"], "'seed'"),
    ("--max-steps", ["--steps", "--horizon", "--width"], "'--steps' or '--horizon'"),
    ("stpes", ["steps", "epochs"], "'steps'"),
])  # fmt: skip
def test_a_name_of_another_tool_is_answered_by_its_meaning(word, choices, meant):
    assert suggestion(word, choices) == f"did you mean {meant}?"


def test_a_known_word_without_an_option_of_its_kind_is_not_answered_by_letters():
    assert suggestion("--lr", ["--logger", "--scale"]) == "there is nothing of that kind here"
    assert suggestion("target", ["targets", "rows"]) == "did you mean 'targets'?"
    assert suggestion("dare_ties", ["ties", "dare"]) == "did you mean 'dare'?"
    many = [f"name-{n}" for n in range(100)]
    assert suggestion("zzzzzz", many).endswith("... (100 in all)")
