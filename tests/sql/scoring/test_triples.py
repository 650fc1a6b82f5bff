"""Gold, prediction, and under which presets the prediction is right: each line of ``triples.jsonl`` is one rule.

The verdicts are what the official programs' rules give (reading them with the departures that are named in
``presets.DEVIATIONS``); the plain formulation in tests/reference gives those of execution once more.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.reference import sql_scoring as plain

from manyone.data.sql.records import Pair
from manyone.sql.scoring.evaluate import evaluate

TRIPLES = [json.loads(line) for line in Path(__file__).with_name("triples.jsonl").read_text().splitlines()]
PAIRS = [Pair("library", "", triple["gold"]) for triple in TRIPLES]
PREDICTIONS = [triple["predicted"] for triple in TRIPLES]


def named(triples):
    return [f"{t['rule']}: {t['gold']} | {t['predicted']}" for t in triples]


@pytest.mark.parametrize("preset", ["spider-ex", "spider-ts", "spider-em", "bird-ex", "bird-ves"])
def test_verdicts(preset, library, schema, sandbox):
    scores = evaluate(PAIRS, PREDICTIONS, {"library": library}, preset, sandbox, schemas={"library": schema}, repeats=1)
    right = [t for t, v in zip(TRIPLES, scores.verdicts) if v.correct]
    expected = [t for t in TRIPLES if preset.replace("ves", "ex") in t["right"]]
    assert named(right) == named(expected)
    assert scores.gold_check.correct == len(TRIPLES)
    assert all((v.value > 0) == v.correct == (not v.reason) for v in scores.verdicts)


@pytest.mark.parametrize("preset", ["spider-ex", "spider-ts", "bird-ex"])
def test_the_plain_formulation_says_the_same(preset, library):
    files = library if preset == "spider-ts" else library[:1]
    rule = preset.partition("-")[0]
    found = [t for t in TRIPLES if plain.execution(rule, files, t["gold"], t["predicted"])]
    assert named(found) == named(t for t in TRIPLES if preset in t["right"])


def test_there_are_many_and_the_presets_differ():
    assert len(TRIPLES) >= 200
    assert len({(t["gold"], t["predicted"]) for t in TRIPLES}) == len(TRIPLES)
    kinds = Counter(tuple(t["right"]) for t in TRIPLES)
    assert len(kinds) >= 9, kinds  # which presets agree differs
    assert all("spider-ex" in t["right"] for t in TRIPLES if "spider-ts" in t["right"])
