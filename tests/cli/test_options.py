"""Options of recipes from the command line: list options may be given several times."""

import pytest

from manyone.cli.options import parse_options
from manyone.sql.recipes.options import KIDOptions


@pytest.mark.parametrize("words", [
    ("--data", "a=x", "--steps", "4", "--data", "b=y"),
    ("--data=a=x", "--steps=4", "--data=b=y"),
    ("--data", "a=x", "b=y", "--steps", "4"),
])  # fmt: skip
def test_a_list_may_be_given_in_parts(words):
    options = parse_options(KIDOptions, "kid", words)
    assert options.data == ("a=x", "b=y")
    assert options.steps == 4


def test_of_one_value_the_last_counts():
    assert parse_options(KIDOptions, "kid", ("--steps", "4", "--steps", "5")).steps == 5


def test_the_command_line_replaces_the_list_of_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("data: [a=x, c=z]\n")
    options = parse_options(KIDOptions, "kid", ("--config", str(tmp_path / "c.yaml"), "--data", "b=y", "--data", "d=w"))
    assert options.data == ("b=y", "d=w")
