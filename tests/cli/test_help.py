"""The help of every recipe: a screen of 80 columns, grouped, complete with --help-all, with defaults and examples."""

import dataclasses
import re
import shlex

import pytest

from manyone.cli.options import parse_options
from manyone.errors import ManyoneError
from manyone.recipes.options import CommonOptions, defaults, option_of
from manyone.recipes.table import RECIPES, options_class
from manyone.recipes.words import flags


def shown(recipe, *words, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_options(options_class(recipe), recipe, words)
    assert leaving.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_screen_of_help(recipe, capsys):
    cls = options_class(recipe)
    text = shown(recipe, "--help", capsys=capsys)
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert "Run:" in lines
    assert "  --out PATH" in text
    told = set(re.findall(r"^  (--[a-z0-9-]+)", text, re.M))
    assert told <= set(flags(cls))
    assert len(told) >= min(10, len(dataclasses.fields(cls)))
    whole = shown(recipe, "--help-all", capsys=capsys)
    assert max(map(len, whole.splitlines())) <= 80
    for field in dataclasses.fields(cls):
        option = "--" + field.name.replace("_", "-")
        assert re.search(rf"^  {option}( |$)", whole, re.M), f"{option} is not in the whole help"
        assert option in told or "more options with --help-all" in text
    assert text.count(f"manyone run {recipe} ") >= 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_examples_are_options_of_the_recipe(recipe):
    cls = options_class(recipe)
    assert len(cls.EXAMPLES) == 2
    for example in cls.EXAMPLES:
        words = shlex.split(example)
        if "--seeds" in words:  # of `run`, for any recipe
            words = words[: words.index("--seeds")]
        parse_options(cls, recipe, words)


def test_defaults_are_those_of_the_preset_that_is_asked_for(capsys):
    cls = options_class("harmodt")
    paper = defaults(cls, {"preset": "paper"})
    assert paper["lr"] != defaults(cls, {})["lr"]
    text = " ".join(shown("harmodt", "--preset", "paper", "--help", capsys=capsys).split())
    assert f"default: {paper['lr']:g}" in text
    assert f"default: {paper['steps']}" in text


def test_no_clause_ends_inside_a_bracket(capsys):
    for recipe in RECIPES:
        for entry in re.split(r"\n  (?=--)|\n\n", shown(recipe, "--help", capsys=capsys)):
            assert entry.count("(") == entry.count(")"), entry


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_vocabulary(recipe):
    """What a recipe calls in its field's own term is found by the common word too."""
    cls = options_class(recipe)
    names = {f.name for f in dataclasses.fields(cls)}
    for common, own in {"steps": {"iterations", "env_steps"}, "batch_size": {"batch"}, "data": {"tasks", "env"},
                        "suite": {"env"}}.items():  # fmt: skip
        if names & own and common not in names:
            assert option_of(common, cls) in own
    assert not names & {"learning_rate", "dataset", "datasets", "output_dir", "random_state", "num_workers",
                        "n_jobs", "gpus", "dtype", "force"}  # fmt: skip


def test_the_common_word_sets_the_option_of_the_field(tmp_path):
    teams = parse_options(options_class("mat"), "mat", ("--steps", "64000", "--suite=relay"))
    same = parse_options(options_class("mat"), "mat", ("--env-steps", "64000", "--env=relay"))
    assert (teams.iterations, teams.env) == (same.iterations, "relay")
    assert teams.iterations != parse_options(options_class("mat"), "mat", ()).iterations
    assert parse_options(options_class("local-sgda"), "local-sgda", ("--local-steps", "3")).steps == 3
    assert parse_options(options_class("surgery"), "surgery", ("--suite", "mini6", "--steps", "7")).iterations == 7
    (tmp_path / "c.yaml").write_text("batch-size: 4\nlocal_steps: 6\n")
    options = parse_options(options_class("local-dsgda"), "local-dsgda", ("--config", str(tmp_path / "c.yaml")))
    assert (options.batch, options.steps) == (4, 6)


def test_a_word_that_is_an_option_already_is_that_option():
    assert option_of("clip", options_class("mat")) is None  # PPO's clipping; that of gradients is grad_clip
    assert option_of("steps", options_class("local-sgda")) is None
    assert option_of("local_steps", options_class("harmodt")) is None
    assert option_of("steps", CommonOptions) is None


@pytest.mark.parametrize(("recipe", "word", "meant"), [
    ("local-sgda", "--lr", "'--eta-x' or '--eta-y'"), ("wemoe", "--learning-rate", "'--lr'"),
    ("wemoe", "--output_dir", "'--out'"), ("commformer", "--num-envs", "'--envs'"),
    ("kid", "--num-train-epochs", "'--steps' or '--epochs'"),
    ("harmodt", "--n-jobs", "'--workers'"), ("ties", "--lambda", "'--scale'"), ("mtbc", "--bs", "'--batch-size'"),
    ("wemoe", "--routting", "'--routing'"), ("ties", "--models", "'--experts'"),
])  # fmt: skip
def test_a_wrong_name_is_answered_by_what_it_means(recipe, word, meant):
    with pytest.raises(ManyoneError) as caught:
        parse_options(options_class(recipe), recipe, (word, "1"))
    assert f"did you mean {meant}?" in str(caught.value)
