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
    for name, value in defaults(cls, {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            entry = re.search(rf"^  --{name.replace('_', '-')} .*?(?=^  --|^$)", whole, re.M | re.S)
            assert entry is not None
            assert f"default: {value:g}" in " ".join(entry[0].split()) or f"default: {value}" in entry[0]
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


WORDS = {
    "steps": "iterations env_steps updates num_steps max_steps n_steps train_steps",
    "lr": "learning_rate step_size alpha_lr",
    "batch_size": "batch bs minibatch_size",
    "data": "tasks env dataset datasets data_dir",
    "suite": "env benchmark",
    "device": "gpu gpus accelerator cuda",
    "precision": "dtype amp half",
    "preset": "setting defaults",
    "seed": "random_state random_seed",
    "out": "output_dir out_dir save_dir log_dir",
    "workers": "num_workers n_workers n_jobs jobs processes",
    "overwrite": "force",
}
"""The word for an idea in every field, and what others call it."""
OWN = {"steps": ("iterations", "env_steps"), "data": ("tasks", "env"), "suite": ("env",)}
"""Terms of a field that are options beside or instead of the word, which then names them as well."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_vocabulary(recipe):
    """An idea has its word, or a term of the field's own that the word names too."""
    cls = options_class(recipe)
    names = {f.name for f in dataclasses.fields(cls)}
    assert {"out", "seed", "device", "precision", "overwrite", "dry_run"} <= names
    for word, others in WORDS.items():
        for other in names & set(others.split()):
            assert other in OWN.get(word, ()), f"{recipe} has --{other} for --{word}"
            assert word in names or option_of(word, cls) in OWN[word]
    assert ("rounds" in names) == ("local_steps" in names) == (cls.AMBIGUOUS.get("steps") == ("rounds", "local_steps"))
    assert not names & set(cls.AMBIGUOUS)
    assert set(cls.RENAMED.values()) <= names
    assert not names & set(cls.RENAMED)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if options_class(name).AMBIGUOUS])
def test_a_word_with_two_meanings_is_asked_back(recipe, tmp_path):
    cls = options_class(recipe)
    (tmp_path / "c.yaml").write_text("steps: 10\n")
    for words in (("--steps", "10"), ("--steps=10",), ("--config", str(tmp_path / "c.yaml"))):
        with pytest.raises(ManyoneError) as caught:
            parse_options(cls, recipe, words)
        said = str(caught.value)
        assert "\n" not in said
        assert "--rounds 10 (communication rounds T; default 100) or --local-steps 10 (local updates K" in said


def test_the_common_word_sets_the_option_of_the_field(tmp_path):
    teams = parse_options(options_class("mat"), "mat", ("--steps", "64000", "--suite=relay"))
    same = parse_options(options_class("mat"), "mat", ("--env-steps", "64000", "--env=relay"))
    assert (teams.iterations, teams.env) == (same.iterations, "relay")
    assert teams.iterations != parse_options(options_class("mat"), "mat", ()).iterations
    assert parse_options(options_class("local-sgda"), "local-sgda", ("--batch", "3")).batch_size == 3
    assert parse_options(options_class("surgery"), "surgery", ("--suite", "mini6", "--iterations", "7")).steps == 7
    (tmp_path / "c.yaml").write_text("batch: 4\nlocal-steps: 6\n")
    options = parse_options(options_class("local-dsgda"), "local-dsgda", ("--config", str(tmp_path / "c.yaml")))
    assert (options.batch_size, options.local_steps) == (4, 6)


def test_a_repetition_of_an_earlier_run_finds_what_was_renamed(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: local-sgda\noptions: {steps: 7, batch: 3, rounds: 2}\n")
    options = parse_options(options_class("local-sgda"), "local-sgda", ("--config", str(tmp_path / "config.yaml")))
    assert (options.local_steps, options.batch_size, options.rounds) == (7, 3, 2)


def test_a_word_that_is_an_option_already_is_that_option():
    assert option_of("clip", options_class("mat")) is None  # PPO's clipping; that of gradients is grad_clip
    assert option_of("steps", options_class("local-sgda")) is None
    assert option_of("steps", CommonOptions) is None


@pytest.mark.parametrize(("recipe", "word", "meant"), [
    ("local-sgda", "--lr", "'--eta-x' or '--eta-y'"), ("local-sgda", "--iterations", "'--rounds' or '--local-steps'"),
    ("wemoe", "--learning-rate", "'--lr'"),
    ("wemoe", "--output_dir", "'--out'"), ("commformer", "--num-envs", "'--envs'"),
    ("kid", "--num-train-epochs", "'--steps' or '--epochs'"),
    ("harmodt", "--n-jobs", "'--workers'"), ("ties", "--lambda", "'--scale'"), ("mtbc", "--bs", "'--batch-size'"),
    ("wemoe", "--routting", "'--routing'"), ("ties", "--models", "'--experts'"),
])  # fmt: skip
def test_a_wrong_name_is_answered_by_what_it_means(recipe, word, meant):
    with pytest.raises(ManyoneError) as caught:
        parse_options(options_class(recipe), recipe, (word, "1"))
    assert f"did you mean {meant}?" in str(caught.value)
