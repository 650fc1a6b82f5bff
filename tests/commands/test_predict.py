"""``manyone predict``: rows of a file in, classes and probabilities out; columns by name."""

import csv
import json

import numpy as np
import pytest

from manyone.minimax import load


@pytest.fixture
def trained(manyone, tmp_path):
    """A run on a table with a column of words, and that table's rows."""
    rng = np.random.default_rng(0)
    rows = [
        {"age": f"{rng.normal(50, 10):.3f}", "colour": str(rng.choice(["red", "green", "blau"])), "dose": str(i % 5)}
        for i in range(150)
    ]
    labels = ["ill" if (r["colour"] == "red") != (rng.random() < 0.05) else "well" for r in rows]
    write(tmp_path / "my.csv", [{**r, "state": s} for r, s in zip(rows, labels)])
    words = ("--data", "my.csv", "--label", "state", "--categories", "one-hot", "--clients", 3, "--rounds", 60)
    code, _, err = manyone("run", "local-sgda", *words, "--out", "r")
    assert code == 0, err
    return rows, labels


def write(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_file_is_scored_by_its_own_columns_in_any_order(manyone, tmp_path, trained):
    rows, labels = trained
    assert manyone("predict", "r", "my.csv", "--out", "a.csv")[0] == 0
    first = read(tmp_path / "a.csv")
    assert list(first[0]) == ["predicted", "probability ill", "probability well"] or list(first[0]) == [
        "predicted", "probability well", "probability ill"]  # fmt: skip
    assert np.mean([f["predicted"] == label for f, label in zip(first, labels)]) > 0.85
    write(
        tmp_path / "new.csv",
        [{"note": "x", "dose": r["dose"], "colour": r["colour"], "age": r["age"]} for r in rows],
        ";",
    )
    assert manyone("predict", "r/model", "new.csv", "--out", "b.csv")[0] == 0
    assert read(tmp_path / "b.csv") == first
    model = load(tmp_path / "r/model")
    columns = {name: [r[name] for r in rows] for name in ("colour", "dose", "age")}
    assert model.predict(columns).tolist() == [f["predicted"] for f in first]
    assert model.predict_proba(columns)[:, 1] == pytest.approx(
        [float(f[f"probability {model.classes_[1]}"]) for f in first])  # fmt: skip
    code, out, _ = manyone("predict", "r", "new.csv")
    assert code == 0
    assert "predicted" in out
    assert "150 rows in all" in out


def test_what_cannot_be_scored_is_one_line_and_nothing_is_written(manyone, tmp_path, trained):
    rows, _ = trained
    write(tmp_path / "short.csv", [{"age": r["age"], "dose": r["dose"]} for r in rows])
    write(tmp_path / "new.csv", [{**r, "colour": "violet"} for r in rows])
    write(tmp_path / "hole.csv", [{**r, "dose": ""} for r in rows])
    (tmp_path / "old.csv").write_text("kept")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for words, message in (
        (("r", "short.csv", "--out", "o.csv"), "colour"),
        (("r", "new.csv", "--out", "o.csv"), "--unknown zeros"),
        (("r", "hole.csv", "--out", "o.csv"), "'dose', row 1 is empty; fill it in or drop the row; a model that was"),
        (("r", "absent.csv"), "absent.csv"),
        (("r", "my.csv", "--out", "old.csv"), "--overwrite"),
        (("r", "my.csv", "--out", "empty"), "--out empty is a folder"),
        (("r", "my.csv", "--out", "old.csv/o.csv"), "old.csv is a file, not a folder"),
        (("empty", "my.csv"), "config.json is missing"),
        (("r",), "FILE"),
    ):
        code, out, err = manyone("predict", *words)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert manyone("predict", "r", "new.csv", "--unknown", "zeros", "--out", "old.csv", "--overwrite")[0] == 0
    assert len(read(tmp_path / "old.csv")) == len(rows)


def test_a_model_that_scores_no_rows_says_so(manyone, tmp_path, trained):
    code, _, err = manyone("run", "local-sgda", "--problem", "gan", "--rounds", 2, "--clients", 2, "--out", "g")
    assert code == 0, err
    for model, message in (("g", "the generator of a GAN"), ("m", "scores no rows of a file")):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m/config.json").write_text(json.dumps({"manyone_format": 1, "policy": {}}))
        code, _, err = manyone("predict", model, "my.csv")
        assert code == 2
        assert message in err


def test_many_classes_get_a_probability_each(manyone, tmp_path):
    code, _, err = manyone("run", "local-sgda", "--problem", "agnostic", "--rounds", 2, "--clients", 3, "--out", "r")
    assert code == 0, err
    write(tmp_path / "d.csv", [{f"pixel {i}": 0.5 for i in reversed(range(64))}] * 3)
    assert manyone("predict", "r", "d.csv", "--out", "p.csv")[0] == 0
    found = read(tmp_path / "p.csv")
    assert len(found) == 3
    assert sum(float(v) for k, v in found[0].items() if k.startswith("probability")) == pytest.approx(1)
