"""Tables of scores."""

from manyone.sql.scoring.matching import CLAUSES, ClauseScore, Match
from manyone.sql.scoring.presets import PRESETS
from manyone.sql.scoring.verdicts import Verdict, clause_table, scores_of


def verdict(number, correct, level="easy", **more):
    return Verdict(number, "db", "", "", "", correct, "" if correct else "result: other values", float(correct),
                   level, **more)  # fmt: skip


def test_scores_by_level_with_wilson_s_interval():
    verdicts = [verdict(k, k % 3 == 0, ("extra", "easy", "simple", "unread")[k % 4]) for k in range(12)]
    scores = scores_of(PRESETS["spider-ex"], verdicts, None, {}, [])
    assert list(scores.levels) == ["easy", "extra", "simple", "unread"]
    assert scores.score == 4 / 12
    assert 0.13 < scores.interval.low < 0.14
    assert 0.60 < scores.interval.high < 0.62
    assert scores.reasons() == {"result": 8}
    assert scores.metrics()["score/extra"] == 1 / 3


def test_clauses_as_spider_s_script_averages_them():
    """Precision over predictions with the clause, recall over golds with it; F1 is 1 where both are 0."""

    def match(predicted, gold, right):
        return Match(False, {name: ClauseScore(predicted, gold, right) for name in CLAUSES})

    found = [verdict(0, True, match=match(1, 1, True)), verdict(1, False, match=match(2, 1, False)),
             verdict(2, False, match=match(0, 1, False)), verdict(3, True, match=match(0, 0, True))]  # fmt: skip
    precision, recall, f1 = clause_table(found)["where"]
    assert (precision, recall) == (1 / 2, 1 / 3)
    assert abs(f1 - 0.4) < 1e-12
    assert clause_table(found[3:])["where"] == (0.0, 0.0, 1.0)
    assert clause_table(found[2:3])["where"] == (0.0, 0.0, 1.0)
    scores = scores_of(PRESETS["spider-em"], found, None, {}, [])
    assert list(scores.clauses) == ["easy", "all"]


def test_one_query_has_no_spread_in_ves():
    scores = scores_of(PRESETS["bird-ves"], [verdict(0, True)], None, {}, [])
    assert scores.to_json()["low"] is None
