"""The verdict rule, the reading of claims files, and the claims that the project ships."""

import itertools
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.claims.claims import allowed, assess, passages, verdict
from manyone.claims.file import load_claims, parse_claims
from manyone.claims.rows import Results, Row
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, t_interval

FILE = Path(__file__).parents[2] / "src" / "manyone" / "merging" / "study" / "claims.toml"
HEAD = """
field = "merging"
families = "checkpoints"
[papers.p]
title = "T"
venue = "ICML"
year = 2024
[methods.a]
label = "A"
[methods.b]
label = "B"
[methods.c]
label = "C"
[methods.e]
label = "E"
role = "bound"
"""
CLAIM = """
[[claims]]
id = "a-above-b"
short = "a > b"
paper = "p"
statement = "A beats B."
comparison = "greater"
left = { method = "a" }
right = { method = "b" }
tests = { smoke = ["s"] }
"""


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 3)


@pytest.mark.parametrize(
    ("comparison", "bounds", "options", "expected"),
    [
        ("greater", (0.001, 0.02), {}, "holds"),
        ("greater", (0.0, 0.02), {}, "within noise"),
        ("greater", (-0.01, 0.02), {}, "within noise"),
        ("greater", (-0.02, 0.0), {}, "does not hold"),
        ("greater", (-0.02, -0.01), {}, "does not hold"),
        ("greater", (0.0, 0.0), {}, "does not hold"),
        ("less", (-0.02, -0.01), {}, "holds"),
        ("less", (0.01, 0.02), {}, "does not hold"),
        ("less", (-0.01, 0.02), {}, "within noise"),
        ("at_least", (-0.01, 0.02), {"margin": 0.01}, "holds"),
        ("at_least", (-0.011, 0.02), {"margin": 0.01}, "within noise"),
        ("at_least", (-0.03, -0.02), {"margin": 0.01}, "does not hold"),
        ("at_least", (-0.03, -0.01), {"margin": 0.01}, "within noise"),
        ("at_least", (0.0, 0.0), {}, "holds"),
        ("within", (-0.01, 0.01), {"margin": 0.01}, "holds"),
        ("within", (-0.02, 0.005), {"margin": 0.01}, "within noise"),
        ("within", (-0.02, 0.02), {"margin": 0.01}, "within noise"),
        ("within", (0.011, 0.02), {"margin": 0.01}, "does not hold"),
        ("within", (-0.02, -0.011), {"margin": 0.01}, "does not hold"),
        ("at_most_ratio", (0.1, 0.1), {"ratio": 0.105}, "holds"),
        ("at_most_ratio", (0.1, 0.11), {"ratio": 0.105}, "within noise"),
        ("at_most_ratio", (0.106, 0.11), {"ratio": 0.105}, "does not hold"),
    ],
)
def test_verdict(comparison, bounds, options, expected):
    assert verdict(comparison, [interval(*bounds)], **options) == expected


def test_closest_to_needs_every_competitor_beaten():
    good, unsure, bad = interval(0.01, 0.02), interval(-0.01, 0.02), interval(-0.02, -0.01)
    assert verdict("closest_to", [good, good]) == "holds"
    assert verdict("closest_to", [good, unsure]) == "within noise"
    assert verdict("closest_to", [good, unsure, bad]) == "does not hold"


def test_no_rows_and_one_seed():
    assert verdict("greater", []) == "not tested"
    assert verdict("greater", [t_interval([0.5])]) == "within noise"
    assert verdict("within", [t_interval([0.0])], margin=0.01) == "within noise"


def test_unknown_comparison_names_the_choices():
    with pytest.raises(ValueError, match="closest_to"):
        allowed("bigger")  # type: ignore[arg-type]


NUMBERS = st.floats(-1, 1, allow_nan=False)


@settings(deadline=None)
@given(a=NUMBERS, b=NUMBERS, margin=st.floats(0.001, 0.5))
def test_rule_is_consistent(a, b, margin):
    low, high = min(a, b), max(a, b)
    mirrored = Interval(-(a + b) / 2, -high, -low, 3)
    here = interval(low, high)
    assert verdict("greater", [here]) == verdict("less", [mirrored])
    assert verdict("within", [here], margin=margin) == verdict("within", [mirrored], margin=margin)
    # What is inside [-margin, margin] is also at least -margin; a failed lower bound fails the two-sided claim too.
    if verdict("within", [here], margin=margin) == "holds":
        assert verdict("at_least", [here], margin=margin) == "holds"
    if verdict("at_least", [here], margin=margin) == "does not hold":
        assert verdict("within", [here], margin=margin) == "does not hold"
    # A claim and its opposite never both hold.
    assert {verdict("greater", [here]), verdict("less", [here])} != {"holds"}


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.floats(0, 1))
def test_raising_the_left_side_never_weakens_greater(values, lift):
    order = ["does not hold", "within noise", "holds"]
    before = verdict("greater", [t_interval(values)])
    after = verdict("greater", [t_interval([v + lift for v in values])])
    if max(values) - min(values) > 1e-6:  # equal values: rounding decides whether the spread is exactly 0
        assert order.index(after) >= order.index(before)


def rows(method, values, suite="s", **options):
    return [Row(suite, seed, method, task={"t": v}, **options) for seed, v in enumerate(values)]


def find(claims_text, result_rows):
    return assess(parse_claims(HEAD + claims_text, "f.toml"), Results(result_rows), "smoke")


def test_pairing_by_seed_decides():
    # Unpaired the two overlap widely; paired the difference is always 0.01.
    a, b = [0.51, 0.71, 0.91], [0.50, 0.70, 0.90]
    (found,) = find(CLAIM, rows("a", a) + rows("b", b))
    assert found.verdict == "holds"
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.01)
    (found,) = find(CLAIM, rows("a", a) + rows("b", [b[1], b[2], b[0]]))
    assert found.verdict == "within noise"


def test_missing_rows_are_named():
    (found,) = find(CLAIM, rows("a", [0.5, 0.6]))
    assert found.verdict == "not tested"
    assert "B" in found.reason
    assert "s" in found.reason


def test_seeds_without_a_partner_are_left_out_and_said():
    (found,) = find(CLAIM, rows("a", [0.6, 0.7, 0.9]) + rows("b", [0.5, 0.6]))
    assert found.estimate is not None
    assert found.estimate.n == 2
    assert "2 of 3 seeds" in found.reason
    (found,) = find(CLAIM, [*rows("a", [0.6]), Row("s", 7, "b", task={"t": 0.5})])
    assert found.verdict == "not tested"
    assert "no seed in common" in found.reason


def test_one_seed_is_never_decided():
    (found,) = find(CLAIM, rows("a", [0.9]) + rows("b", [0.1]))
    assert found.verdict == "within noise"
    assert "one seed" in found.reason


def test_metric_and_condition_of_a_side():
    text = CLAIM.replace('right = { method = "b" }', 'right = { method = "a", condition = "contrast" }')
    (found,) = find(text, rows("a", [0.6, 0.7]) + rows("a", [0.5, 0.6], condition="contrast"))
    assert found.verdict == "holds"
    text = CLAIM.replace('comparison = "greater"', 'comparison = "less"\nmetric = "bias.after"').replace(
        'right = { method = "b" }', 'right = { method = "a", metric = "bias.before" }'
    )
    made = [
        Row("s", k, "a", details={"bias": {"before": {"t": 0.5, "u": 0.7}, "after": {"t": 0.2, "u": 0.3}}})
        for k in range(2)
    ]
    (found,) = find(text, made)
    assert found.verdict == "holds"
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(-0.35)


def test_closest_to_reports_the_strongest_competitor():
    text = CLAIM.replace('comparison = "greater"', 'comparison = "closest_to"\nreference = { method = "e" }').replace(
        'right = { method = "b" }', 'right = [{ method = "b" }, { method = "c" }]'
    )
    experts, left = rows("e", [0.9, 0.91, 0.9]), rows("a", [0.88, 0.89, 0.885])
    (found,) = find(text, experts + left + rows("b", [0.5, 0.5, 0.51]) + rows("c", [0.85, 0.86, 0.85]))
    assert found.verdict == "holds"
    assert found.rival is not None
    assert found.rival.method == "c"
    # Above the experts is also a distance.
    (found,) = find(text, experts + left + rows("b", [0.5, 0.5, 0.51]) + rows("c", [0.905, 0.912, 0.902]))
    assert found.verdict == "does not hold"


def test_ratio():
    text = CLAIM.replace('comparison = "greater"', 'comparison = "at_most_ratio"\nratio = 0.105\nmetric = "size"')
    small, big = (
        [Row("s", k, "a", metrics={"size": 10}) for k in (0, 1)],
        [Row("s", k, "b", metrics={"size": 100}) for k in (0, 1)],
    )
    (found,) = find(text, small + big)
    assert found.verdict == "holds"
    (found,) = find(text, small + [Row("s", k, "b", metrics={"size": 0}) for k in (0, 1)])
    assert found.verdict == "not tested"


GATES = """
[[gates]]
id = "sure"
short = "A is right in 60 to 80 %"
statement = "A's accuracy lies between 60 and 80 %."
side = { method = "a" }
low = 0.6
high = 0.8
low_on = { easy = 0.75 }
"""


def test_a_claim_is_judged_only_where_what_it_needs_holds():
    text = GATES + CLAIM.replace('comparison = "greater"', 'comparison = "greater"\nneeds = ["sure"]')
    better = rows("b", [0.5, 0.5, 0.51])
    (found,) = find(text, rows("a", [0.7, 0.72, 0.71]) + better)
    assert found.verdict == "holds"
    (found,) = find(text, rows("a", [0.85, 0.86, 0.85]) + better)
    assert found.verdict == "not in its regime"
    assert "60 to 80 %" in found.reason
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.35, abs=0.01)
    claims = parse_claims(HEAD + text, "f.toml")
    (passage,) = passages(claims, Results(rows("a", [0.85, 0.86, 0.85])), "smoke")
    assert (passage.passes, passage.gate.range_on("easy")) == (False, (0.75, 0.8))
    (passage,) = passages(claims, Results([]), "smoke")
    assert (passage.passes, passage.value) == (None, None)
    (found,) = find(text, better)
    assert found.verdict == "not tested"


def test_a_claim_may_need_another_claim():
    second = CLAIM.replace('id = "a-above-b"', 'id = "second"').replace(
        "[[claims]]", '[[claims]]\nneeds = ["a-above-b"]'
    )
    one, two = find(CLAIM + second, rows("a", [0.7, 0.72, 0.71]) + rows("b", [0.7, 0.71, 0.72]))
    assert (one.verdict, two.verdict) == ("within noise", "not in its regime")
    one, two = find(CLAIM + second, rows("a", [0.7, 0.72, 0.71]) + rows("b", [0.6, 0.61, 0.62]))
    assert (one.verdict, two.verdict) == ("holds", "holds")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("low = 0.6\nhigh = 0.8\n", "", "give 'low', 'high' or both"),
        ('side = { method = "a" }', 'side = { method = "z" }', "'z'"),
        ("low_on = { easy = 0.75 }", 'low_on = { easy = "0.75" }', "low_on"),
        ('id = "sure"', 'id = "surer"', "needs"),
    ],
)
def test_a_bad_gate_is_named(old, new, words):
    text = GATES + CLAIM.replace('comparison = "greater"', 'comparison = "greater"\nneeds = ["sure"]')
    assert old in text
    with pytest.raises(ManyoneError, match=words):
        parse_claims(HEAD + text.replace(old, new), "f.toml")


def test_unknown_scale():
    with pytest.raises(ManyoneError, match="smoke, laptop, paper"):
        assess(parse_claims(HEAD + CLAIM, "f"), Results([]), "huge")


def test_a_named_list_of_suites_stands_for_its_members():
    text = "[suites]\nmany = ['x', 'y']\n" + CLAIM.replace('smoke = ["s"]', 'smoke = ["s", "@many"], paper = ["@many"]')
    (claim,) = parse_claims(HEAD + text, "f.toml").claims
    assert claim.tests == {"smoke": ("s", "x", "y"), "paper": ("x", "y")}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('statement = "A beats B."', "", ["number 1", "'statement' is missing"]),
        ('comparison = "greater"', 'comparison = "bigger"', ["'a-above-b'", "'comparison'", "at_least"]),
        ('comparison = "greater"', 'comparison = "within"', ["'a-above-b'", "'margin'"]),
        ('comparison = "greater"', 'comparison = "within"\nmargin = -1', ["'a-above-b'", "'margin'"]),
        ('comparison = "greater"', 'comparison = "greater"\nmargin = 0.1', ["'a-above-b'", "'margin'", "no meaning"]),
        ('comparison = "greater"', 'comparison = "at_most_ratio"', ["'a-above-b'", "'ratio'"]),
        ('comparison = "greater"', 'comparison = "closest_to"', ["'a-above-b'", "'right'"]),
        ('comparison = "greater"', 'comparison = "at_least"\nmargin = "x"', ["'margin'", "number"]),
        ('comparison = "greater"', 'comparison = "greater"\nreference = { method = "e" }', ["'reference'"]),
        ('right = { method = "b" }', 'right = { method = "z" }', ["'a-above-b': right", "'z'"]),
        ('right = { method = "b" }', "right = { method = 3 }", ["'a-above-b': right", "'method'"]),
        ('right = { method = "b" }', 'right = { methods = "b" }', ["'method'"]),
        ('paper = "p"', 'paper = "q"', ["'a-above-b'", "'paper'", "'q'"]),
        ('tests = { smoke = ["s"] }', 'tests = { tiny = ["s"] }', ["'a-above-b': tests", "'tiny'"]),
        ('tests = { smoke = ["s"] }', "tests = { smoke = [] }", ["'tests.smoke'"]),
        ('tests = { smoke = ["s"] }', 'tests = { smoke = ["@s"] }', ["'tests.smoke'", "'@s'", "[suites]"]),
        ('tests = { smoke = ["s"] }', 'tests = { smoke = ["s"] }\nverdict = "holds"', ["unknown key 'verdict'"]),
        (
            'tests = { smoke = ["s"] }',
            'tests = { smoke = ["s"] }\npublished = [{ setting = "x", source = "y", left = 1.0, right = 2.0 }]',
            ["published", "'family'"],
        ),
        (
            'tests = { smoke = ["s"] }',
            'tests = { smoke = ["s"] }\npublished = [{ setting = "x", source = "y" }]',
            ["published", "'text'"],
        ),
        (
            'tests = { smoke = ["s"] }',
            'tests = { smoke = ["s"] }\npublished = [{ setting = "x", left = 1 }]',
            ["published", "'source' is missing"],
        ),
        (
            'tests = { smoke = ["s"] }',
            'tests = { smoke = ["s"] }\npublished = [{ setting = "x", source = "y", text = "z", verified = "no" }]',
            ["'a-above-b': published", "'verified' must be a boolean"],
        ),
        ("[[claims]]", CLAIM + "[[claims]]", ["'a-above-b'", "'id' is used twice"]),
        ("[[claims]]", "[[claims", ["not TOML"]),
    ],
)
def test_schema_errors_are_one_line_with_file_claim_and_key(old, new, names):
    assert old in CLAIM
    with pytest.raises(ManyoneError) as caught:
        parse_claims(HEAD + CLAIM.replace(old, new, 1), "some/claims.toml")
    message = str(caught.value)
    assert message.startswith("some/claims.toml: ")
    assert "\n" not in message
    for name in names:
        assert name in message


def test_unreadable_file(tmp_path):
    with pytest.raises(ManyoneError, match=r"nothing\.toml: cannot read"):
        load_claims(tmp_path / "nothing.toml")


def test_shipped_claims():
    claims = load_claims(FILE)
    assert len(claims.claims) >= 20
    for claim in claims.claims:
        assert claim.tests, claim.id
        assert {"paper"} <= set(claim.tests), claim.id
        assert len(claim.short) <= 25, "longer ones are folded in a terminal of 80 columns"
        assert claim.published or not claim.paper, f"{claim.id} cites a paper without saying what it published"
        for figures in claim.published:
            if figures.unit == "%":
                assert all(0 < v < 100 for v in (figures.left, figures.right) if v is not None)
            if None not in (figures.left, figures.right):
                assert figures.family in ("OpenCLIP", "Hugging Face")
    # Published figures satisfy the claim that quotes them (except the ones that the claim is honest about).
    for claim in claims.claims:
        if claim.comparison in ("greater", "at_least") and claim.metric == "accuracy":
            for p in claim.published:
                if p.left is not None and p.right is not None:
                    assert p.left - p.right >= -100 * claim.margin, claim.id


EVERY_FILE = sorted((Path(__file__).parents[2] / "src" / "manyone").glob("*/study/**/claims.toml"))


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.parent.relative_to(path.parents[3])))
def test_every_shipped_source_is_a_place_or_marked_as_not_verified(path):
    claims = load_claims(path)
    assert claims.short
    assert len(claims.short) <= 22, "longer ones are folded in the contents"
    for claim in claims.claims:
        for p in claim.published:
            assert not re.search(r"\[\w+\]|\bmem(ory)?\b", p.source + p.text), claim.id
            place = re.search(r"arXiv \d{4}\.\d{4,5}|github\.com/\w+/\w+|this project's manual", p.source)
            assert place or not p.verified, (claim.id, p.source)


def test_what_was_not_verified_decides_nothing_and_is_read_from_earlier_files_too():
    entry = '{ setting = "x", source = "%s", text = "y"%s }'
    text = (
        CLAIM
        + f"published = [{entry % ('[mem] of arXiv 2411.09365', ', from_memory = true')}, {entry % ('[pilot]', '')}]"
    )
    (claim,) = parse_claims(HEAD + text, "f").claims
    assert [(p.source, p.verified) for p in claim.published] == [("arXiv 2411.09365", False), ("this project", True)]
    doubtful = CLAIM + f"published = [{entry % ('z', ', verified = false')}]"
    assert not parse_claims(HEAD + doubtful, "f").claims[0].published[0].verified
    made = rows("a", [0.6, 0.7]) + rows("b", [0.5, 0.6])
    assert [f.verdict for f in find(doubtful, made)] == [f.verdict for f in find(CLAIM, made)] == ["holds"]


def test_chain_of_methods_is_complete():
    claims = {c.id: c for c in load_claims(FILE).claims}
    ladder = ["average", "task-arithmetic", "ties", "adamerging", "wemoe"]
    pairs = {
        (c.right[0].method, c.left.method) for c in claims.values() if c.condition == "clean" and len(c.right) == 1
    }
    assert set(itertools.pairwise(ladder)) <= pairs


def test_names():
    claims = load_claims(FILE)
    assert claims.name("wemoe", "batch") == "WEMoE batch routing"
    assert claims.name("new-method") == "new-method"
    assert claims.name("surgery", "ties+odd") == "Surgery on TIES (odd)"
    assert math.isnan(t_interval([1.0]).low)


def test_closest_to_takes_the_rival_with_the_lowest_bound():
    text = CLAIM.replace('comparison = "greater"', 'comparison = "closest_to"\nreference = { method = "e" }').replace(
        'right = { method = "b" }', 'right = [{ method = "b" }, { method = "c" }]'
    )
    same = rows("e", [1.0, 1.0, 1.0]) + rows("a", [0.99, 0.99, 0.99])
    # b is nearer on the mean of its seeds, but c scatters: only c may be as near as a
    (found,) = find(text, same + rows("b", [0.8, 0.801, 0.8]) + rows("c", [0.5, 0.75, 0.98]))
    assert found.rival is not None
    assert found.rival.method == "c"
    assert found.verdict == "within noise"
    assert found.estimate is not None
    assert found.estimate.value > 0.19
