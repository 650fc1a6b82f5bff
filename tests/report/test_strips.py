"""Strips: what shares an axis, what an axis holds, and what of a finding is drawn."""

import math

import pytest

from manyone.claims.claims import Finding
from manyone.claims.file import parse_claims
from manyone.claims.study import Study
from manyone.evaluation.intervals import Interval
from manyone.report.sections_claims import axes, panels
from manyone.report.strips import Axis, Measured, axis_for, measured, published_differences, strip

HEAD = """
field = "toys"
[metrics.seconds]
label = "time"
[papers]
[methods.a]
label = "A"
[methods.b]
label = "B"
"""
CLAIM = """
[[claims]]
id = "{id}"
short = "{id}"
statement = "A and B."
comparison = "{comparison}"
metric = "{metric}"
{more}
left = {{ method = "a" }}
right = {{ method = "b" }}
tests = {{ smoke = ["s"] }}
published = [{{ setting = "x", source = "y", {published} }}]
"""


def study_of(*claims: dict[str, str]) -> Study:
    filled = ({"metric": "accuracy", "more": "", "published": 'text = "z"'} | c for c in claims)
    return Study("T", "smoke", [], claims_text=HEAD + "".join(CLAIM.format(**c) for c in filled), field="toys")


def finding(study: Study, name: str, value: float, low: float = math.nan, high: float = math.nan) -> Finding:
    claim = next(c for c in parse_claims(study.claims_text, "f").claims if c.id == name)
    return Finding(claim, "s", "holds", "", Interval(value, low, high, 3))


def test_shares_have_one_axis_and_other_units_one_for_each_claim():
    study = study_of(
        {"id": "p", "comparison": "greater"},
        {"id": "q", "comparison": "within", "more": "margin = 0.2"},
        {"id": "s", "comparison": "less", "metric": "seconds"},
        {"id": "r", "comparison": "at_most_ratio", "metric": "seconds", "more": "ratio = 0.5"},
    )
    found = [
        finding(study, "p", 0.1, 0.05, 0.15),
        finding(study, "q", 0.0),
        finding(study, "s", -300.0, -400, -200),
        finding(study, "r", 0.25, 0.2, 0.3),
    ]
    of_claim = axes(study, found)
    assert of_claim["p"] == of_claim["q"]
    assert of_claim["p"].low < -20 < 20 <= of_claim["p"].high
    assert of_claim["p"].marks
    assert of_claim["s"].low == -of_claim["s"].high
    assert of_claim["s"].low < -400
    assert of_claim["r"].at(1.0) == "50.00%", "a ratio of one is no difference"
    points, others = panels(study, found)
    assert [c["id"] for c in points["claims"]] == ["p", "q"]
    assert [c["id"] for c in others["claims"]] == ["s", "r"]
    assert "".join(c["rows"][0]["text"] for c in points["claims"]) == "+10.0 (+5.0 to +15.0)0.0 (one seed)"
    assert [c["rows"][0]["text"] for c in others["claims"]] == ["time −300 (−400 to −200)", "ratio 0.250, at most 0.5"]


@pytest.mark.parametrize(
    ("comparison", "metric", "figures", "drawn"),
    [
        ("greater", "accuracy", "left = 80.0, right = 70.0", [10.0]),
        ("greater", "accuracy", "left = 80.0, right = 70.0, verified = false", []),
        ("greater", "accuracy", 'left = 80.0, right = 70.0, unit = "return"', []),
        ("greater", "accuracy", "left = 80.0", []),
        ("greater", "seconds", 'left = 3.0, right = 1.0, unit = ""', [2.0]),
        ("greater", "seconds", "left = 3.0, right = 1.0", []),
        ("at_most_ratio", "seconds", 'left = 1.0, right = 4.0, unit = "hours"', [0.25]),
        ("at_most_ratio", "seconds", "left = 1.0, right = 0.0", []),
    ],
)
def test_published_differences_of_the_same_unit_are_drawn(comparison, metric, figures, drawn):
    more = "ratio = 0.5" if comparison == "at_most_ratio" else ""
    study = study_of({"id": "c", "comparison": comparison, "metric": metric, "more": more, "published": figures})
    assert published_differences(study, study.claims.claims[0]) == drawn
    shown = measured(study, finding(study, "c", 0.1, 0.05, 0.2))
    assert shown is not None
    assert strip(shown, axis_for([shown])).count("diamond") == len(drawn)


def test_an_axis_holds_what_counts_and_cuts_wide_intervals():
    shown = Measured(1.0, -50.0, 60.0, (0.0, math.inf), published=(4.0,))
    axis = axis_for([shown])
    assert -9 < axis.low < -8
    assert 8 < axis.high < 9
    text = strip(shown, axis)
    assert text.count("tip") == 2, "both ends go on"
    assert 'x1="0.00%" x2="100.00%"' in text
    narrow = Measured(1.0, 0.5, 1.5, (0.0, math.inf))
    assert "tip" not in strip(narrow, axis)


def test_one_seed_nothing_and_no_rows():
    shown = Measured(0.0, math.nan, math.nan, (-math.inf, 0.0))
    text = strip(shown, axis_for([shown]))
    assert "span" not in text
    assert "nan" not in text
    assert axis_for([]) == axis_for([])
    assert Axis(-1.0, 1.0).at(5.0) == "100.00%"
    study = study_of({"id": "c", "comparison": "greater"})
    (claim,) = study.claims.claims
    missing = Finding(claim, "s", "not tested", "no rows")
    assert measured(study, missing) is None
    (panel,) = panels(study, [missing])
    assert panel["claims"][0]["rows"][0]["strip"] == ""
    assert panel["claims"][0]["rows"][0]["text"] == "not measured"
