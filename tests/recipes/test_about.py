"""What fields say of their papers and metrics: of recipes that there are, with the titles that the claims have."""

import tomllib
from pathlib import Path

import pytest

import manyone
from manyone.fields import FIELDS
from manyone.recipes.recipe import About, Label, Paper
from manyone.recipes.table import RECIPES, about

SOURCE = Path(manyone.__file__).parent
OF = {field: about(next(name for name, recipe in RECIPES.items() if recipe.field == field)) for field in FIELDS}


@pytest.mark.parametrize("field", FIELDS)
def test_papers_are_of_recipes_of_the_field(field):
    own = {name for name, recipe in RECIPES.items() if recipe.field == field}
    assert OF[field].papers.keys() <= own
    assert OF[field].papers
    assert OF[field].labels


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("claims.toml")), ids=lambda f: "-".join(f.parts[-4:-1]))
def test_a_paper_has_the_title_that_its_claims_give_it(file):
    claimed = {p["arxiv"]: p["title"] for p in tomllib.loads(file.read_text())["papers"].values() if "arxiv" in p}
    said = {paper.place: paper.title for one in OF.values() for paper in one.papers.values()}
    assert {k: v for k, v in said.items() if k in claimed} == {k: claimed[k] for k in said if k in claimed}


def test_a_paper_is_at_arxiv_or_has_a_doi():
    assert Paper("a", "2212.04089").link == "https://arxiv.org/abs/2212.04089"
    assert Paper("a", "2212.04089").cited == "arXiv 2212.04089"
    assert Paper("a", "10.1145/1").link == "https://doi.org/10.1145/1"
    assert Paper("a", "10.1145/1").cited == "doi 10.1145/1"


def test_labels_go_by_name_then_by_pattern_then_by_the_name_itself():
    one = About(labels={"accuracy": Label("accuracy", "%"), "accuracy/*": Label("accuracy on *", "%"),
                        "*/auc": Label("AUC, *")})  # fmt: skip
    assert one.label("accuracy") == Label("accuracy", "%")
    assert one.label("accuracy/pets") == Label("accuracy on pets", "%")
    assert one.label("test/auc").text == "AUC, test"
    assert one.label("grad_norm") == Label("grad norm")
    assert one.label("a/b_c/d_e").text == "d e, a, b c"
    assert one.label("accuracy/").text == ", accuracy"


def test_curves_that_a_run_draws_itself_are_told_by_pattern():
    one = About(drawn=("return", "loss/*"))
    assert [one.draws(name) for name in ("return", "returns", "loss/a", "loss")] == [True, False, True, False]


def test_a_recipe_without_a_field_has_nothing_said():
    assert about("not a recipe") == About()
