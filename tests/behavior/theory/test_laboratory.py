"""The laboratory of the theory: what it measures, and that it goes on where it was."""

import dataclasses
import json

import pytest
import torch

from manyone.behavior.theory.figures import figures_of
from manyone.behavior.theory.laboratory import BLOCK, FIELDS, Setting, TheoryLaboratory, rates, tight_rows
from manyone.errors import ManyoneError

SETTING = Setting(states=4, actions=2, gammas=(0.5, 0.9, 0.99), pairs=30, mistakes=1e-5, seed=3)


def whole(setting, after=0):
    """A laboratory that has measured everything; its state goes through another one after ``after`` steps."""
    found = TheoryLaboratory(setting)
    for step in range(found.total_steps):
        if after and step == after:
            state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in found.state_dict().items()}
            found = TheoryLaboratory(setting)
            found.load_state_dict(state)
        found.step()
    return found


def test_the_statements_hold_and_the_controls_fail():
    found = whole(SETTING).evaluate()
    assert found["pairs"] == 90
    assert found["identity_residual"] < 1e-12
    assert found["misplaced_residual"] > 1e-4
    assert found["violations"] == 0
    assert found["absolute_fails"] == 0
    assert found["signed_fails"] > 0
    assert found["cliff_rate_per_pbc"] == pytest.approx(2, abs=0.02)
    assert found["rare_rate_per_pbc"] == pytest.approx(1, abs=0.1)
    for name in ("cliff", "rare"):
        assert found[f"{name}_rate_per_av_pbc"] == pytest.approx(1, abs=1e-5)


def test_a_fault_in_a_bound_is_counted():
    laboratory = whole(SETTING)
    laboratory.measured[1, 7, FIELDS.index("corollary_1")] = 0
    assert laboratory.evaluate()["violations"] == 1


def test_the_optimal_teacher_has_no_negative_gap_and_a_random_one_has():
    gap = FIELDS.index("gap")
    assert whole(SETTING).measured[:, :, gap].min() >= -1e-12
    assert whole(dataclasses.replace(SETTING, teacher="random")).measured[:, :, gap].min() < -1e-3


def test_it_goes_on_exactly_where_it_was():
    setting = dataclasses.replace(SETTING, pairs=BLOCK + 5, states=2)
    cut, uncut = whole(setting, after=3), whole(setting)
    assert cut.total_steps == 6
    assert torch.equal(cut.measured, uncut.measured)
    assert cut.evaluate() == uncut.evaluate()


def test_half_a_laboratory_reports_the_discounts_that_are_whole():
    half = TheoryLaboratory(SETTING)
    assert half.evaluate()["pairs"] == 0
    half.step()
    assert [row["gamma"] for row in half.rows()] == [0.5]
    assert half.evaluate()["pairs"] == 30


def test_figures_and_export_hold_what_was_measured(tmp_path):
    laboratory = whole(SETTING)
    figures = {f.title: f for f in figures_of(laboratory)}
    assert sum(figures["Residuals of Theorem 2"].data["values"]) == 90
    cliff = figures["A tight case: cliff"].data["series"]
    assert cliff["gap of returns"]["y"] == [row["gap"] for row in tight_rows("cliff", SETTING)]
    assert cliff["gap of returns"]["x"] == pytest.approx([2, 10, 100])
    laboratory.export(tmp_path)
    found = json.loads((tmp_path / "theory.json").read_text())
    assert found["discounts"] == laboratory.rows()
    assert found["rates"] == rates(SETTING)


def test_a_single_discount_has_no_rate_and_a_single_action_no_laboratory():
    assert rates(Setting(gammas=(0.9,))) == {}
    with pytest.raises(ManyoneError, match="1 actions"):
        TheoryLaboratory(Setting(actions=1))


def test_many_states_are_measured_in_smaller_blocks():
    assert TheoryLaboratory(Setting(states=200, actions=100, pairs=9)).total_steps == 3
    assert TheoryLaboratory(Setting(pairs=BLOCK, gammas=(0.5, 0.9))).total_steps == 2
