"""mergekit's recorded outputs of the recipes in ``parity.py``: what ``make parity`` compares with mergekit itself."""

from __future__ import annotations

import pytest
from tests.merging.static.parity import CASES, RECORDED, difference, load, make_models, run_ours, write_recipes


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    make_models(folder)
    return write_recipes(folder)


@pytest.fixture(scope="module")
def recorded():
    return load(RECORDED)


@pytest.mark.parametrize("name", CASES)
def test_equals_mergekit(name, recipes, recorded, tmp_path):
    if "tokenizer" in CASES[name].recipe or "tokenizer_source" in CASES[name].recipe:
        pytest.importorskip("transformers")
    found = difference(run_ours(recipes[name], tmp_path / "out"), recorded[name])
    assert found <= CASES[name].bound, f"{found:.2e} from mergekit"


def test_what_is_compared(recorded):
    assert len(CASES) >= 40
    assert RECORDED.stat().st_size < 500_000
    methods = {case.recipe["merge_method"] for case in CASES.values()}
    from manyone.merging.static.mergekit.methods import RECIPES

    assert methods == set(RECIPES), "every method of recipes is compared"
    beyond_rounding = [case for case in CASES.values() if case.bound > 3e-6]
    assert all(case.why for case in beyond_rounding), "a difference on purpose says why"
    assert set(recorded) == set(CASES)
