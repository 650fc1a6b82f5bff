"""The encoder: kinds of columns, missing cells, words of labels; new rows are read as the training rows were."""

import json
import time

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from manyone.data.tables.encoder import TableEncoder, canonical_word, learn_encoder
from manyone.data.tables.files import from_columns, read_frame
from manyone.data.tables.tables import load_table, split_table
from manyone.errors import ManyoneError

PEOPLE = "age,city,smoker,died\n40,Rome,True,yes\n50,Oslo,false,no\n60,Rome,TRUE,no\n"


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(PEOPLE)
    return load_table(path, label="died", categories="one-hot", dtype=torch.float64)


def test_new_rows_are_encoded_as_the_training_rows_whatever_the_order_of_their_columns(people, tmp_path):
    encoder = people.encoding
    assert encoder.names == people.columns == ("age", "city=Oslo", "city=Rome", "smoker")
    assert encoder.labels == {"no": 0, "yes": 1}
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder
    file, other = tmp_path / "people.csv", tmp_path / "other.csv"
    other.write_text("smoker;more;city;age\nTrue;7;Rome;40\n0;8;Oslo;50.0\n1;9;Rome;60\n")  # no label here
    columns = {"city": ["Rome", "Oslo", "Rome"], "smoker": [True, False, True], "age": [40, 50, 60]}
    dictionary = pa.table(columns | {"city": pa.array(columns["city"]).dictionary_encode()})
    for rows in (file, str(other), columns, dictionary, from_columns(columns)):
        assert torch.equal(again.features(rows), people.features)
    assert again.codes(file).tolist() == people.labels.tolist()
    assert again.codes(other) is None


def test_what_new_rows_lack_is_named(people):
    encoder, rows = people.encoding, {"age": [1], "city": ["Rome"], "smoker": [True]}
    with pytest.raises(ManyoneError, match="no column 'smoker'; the columns are age, city"):
        encoder.features({"age": [1], "city": ["Rome"]})
    with pytest.raises(
        ManyoneError, match=r"column 'city', row 1: 'Paris' is none of the words .*\(Oslo, Rome\).*zeros"
    ):
        encoder.features(rows | {"city": ["Paris"]})
    assert encoder.features(rows | {"city": ["Paris"]}, unknown="zeros").tolist() == [[1, 0, 0, 1]]
    with pytest.raises(ManyoneError, match="column 'age', row 1: 'old' is not a number"):
        encoder.features(rows | {"age": ["old"]})
    for empty in (None, "", "NA"):
        with pytest.raises(ManyoneError, match="column 'city', row 1 is empty"):
            encoder.features(rows | {"city": [empty]})
    with pytest.raises(ManyoneError, match="column 'died', row 1: 'maybe' is none of the classes no, yes"):
        encoder.codes({"died": ["maybe"]})


def test_fills_are_those_of_the_training_rows_and_stay_with_the_encoder(tmp_path, capsys):
    path = tmp_path / "t.csv"
    rows = [f"{i if i % 3 else 'NA'},{'' if i % 4 == 0 else 'ab'[i % 2]},{i % 2}" for i in range(40)]
    path.write_text("\n".join(["x,word,y", *rows]))
    table = load_table(path, label="y", categories="one-hot", missing="median", dtype=torch.float64)
    assert capsys.readouterr().err == (
        "t.csv: 24 missing cells (x 14, word 10) will be filled in with the median of the training rows\n"
    )
    assert table.columns == ("x", "word=a", "word=b")
    raw = dict(zip(range(40), table.features, strict=True))
    train, test = split_table(table, seed=1)
    known = [float(r[0]) for r in train.features if float(r[0]) in range(40)]
    fill = train.encoding.columns[0].fill
    real = [i for i in range(40) if i % 3 and any(torch.equal(raw[i][0], r[0]) for r in train.features)]
    assert fill == torch.tensor(sorted(real), dtype=torch.float64).quantile(0.5)
    assert len(known) == len(train) or fill % 1  # every cell of a training row is a number of the file or the fill
    assert not test.features.isnan().any()
    assert (test.features[:, 1:].sum(1) == 1).all()
    encoder = TableEncoder.from_dict(json.loads(json.dumps(train.encoding.to_dict())))
    word = encoder.columns[1].fill
    assert encoder.features({"x": ["?", "2"], "word": ["", word]}).tolist() == [
        [fill, word == "a", word == "b"],
        [2, word == "a", word == "b"],
    ]


def test_a_marker_of_missing_cells_does_not_make_words_of_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(50)) + "NA,1\n")
    with pytest.raises(ManyoneError, match=r"column 'x', row 51 is empty \('NA'\).*--missing median"):
        load_table(path, label="y", categories="one-hot")
    assert load_table(path, label="y", categories="one-hot", missing="mean").columns == ("x",)
    dropped = load_table(path, label="y", categories="one-hot", missing="drop")
    assert (dropped.columns, len(dropped)) == (("x",), 50)


def test_among_words_a_marker_is_a_word_unless_missing_cells_are_dealt_with(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("country,y\nNA,1\nDE,0\nDE,0\n")
    assert load_table(path, label="y", categories="one-hot").columns == ("country=DE", "country=NA")
    with pytest.raises(ManyoneError, match="one value only"):
        load_table(path, label="y", categories="one-hot", missing="drop")


def test_a_fill_needs_a_training_row_with_a_value(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,x,y\n1,,1\n2,,0\n3,,1\n4,,0\n")
    with pytest.raises(ManyoneError, match="column 'x' has no value in the training rows"):
        split_table(load_table(path, label="y", missing="mean"), test=2)


@pytest.mark.parametrize(
    ("spellings", "word"),
    [
        (("1", "+1", "1.0", " 1 ", "1e0", "01"), "1"),
        (("0", "0.0", "-0", "-0.0"), "0"),
        (("-1", "-1.0"), "-1"),
        (("True", "true", "TRUE"), "True"),
        (("0.1", "+0.10"), "0.1"),
        (("1234567", "1234567.0", "1.234567e6"), "1234567"),
        (("123456789012345678901",), "123456789012345678901"),
        (("yes",), "yes"),
        (("Yes",), "Yes"),
        (("inf",), "inf"),
    ],
)
def test_words_of_labels_that_mean_the_same_are_one(spellings, word):
    assert {canonical_word(s) for s in spellings} == {word}


@pytest.mark.parametrize("labels", [("-1", "+1", "1"), ("True", "true", "FALSE"), ("0", "0.0", "1")])
def test_two_classes_stay_two_however_they_are_spelt(tmp_path, labels):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels * 2)))
    table = load_table(path, label="y")
    assert len(table.classes) == 2
    codes = table.encoding.codes(path)
    assert torch.equal(codes, table.labels)


def test_labels_of_libsvm_files_are_not_rounded(tmp_path):
    path = tmp_path / "t.svm"
    path.write_text("12345678 1:1\n12345679 1:2\n12345679 2:3\n")
    table = load_table(path, dtype=torch.float64)
    assert table.classes == ("12345679", "12345678")  # the rarer one is positive
    assert table.encoding.features(path).tolist() == table.features.tolist()
    (tmp_path / "new.svm").write_text("0 1:5\n")  # an index that no row has is zero
    assert table.encoding.features(tmp_path / "new.svm").tolist() == [[5, 0]]


def test_decimal_commas(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;y\n1,5;a\n-2,25;b\n")
    with pytest.raises(ManyoneError, match=r"row 1: '1,5' is not a number; decimal commas .*--decimal ,"):
        load_table(path, label="y")
    with pytest.raises(ManyoneError, match="--decimal ,"):  # not a 0/1 column for every number
        load_table(path, label="y", categories="one-hot")
    table = load_table(path, label="y", decimal=",")
    assert table.features.tolist() == [[1.5], [-2.25]]
    assert table.encoding.features(path).tolist() == [[1.5], [-2.25]]
    path.write_text("1,5;2,5;0\n3,5;4;1\n")
    assert load_table(path, label="3", decimal=",").features.tolist() == [[1.5, 2.5], [3.5, 4]]


def test_new_files_are_separated_as_the_training_file_was_said_to_be(tmp_path):
    (tmp_path / "t.csv").write_text("a~y\n1~0\n2~1\n")
    encoder = TableEncoder.from_dict(load_table(tmp_path / "t.csv", label="y", delimiter="~").encoding.to_dict())
    assert encoder.features(tmp_path / "t.csv").tolist() == [[1], [2]]
    (tmp_path / "new.csv").write_text("b,a\n7,1\n")
    assert encoder.features(encoder.frame(tmp_path / "new.csv", delimiter=",")).tolist() == [[1]]
    parquet.write_table(pa.table({"a": [5]}), tmp_path / "new.parquet")
    assert encoder.features(tmp_path / "new.parquet").tolist() == [[5]]


def test_rows_without_header_and_without_label_are_the_features_in_order(tmp_path):
    (tmp_path / "t.csv").write_text("0,1,2\n1,3,4\n")
    (tmp_path / "new.csv").write_text("1,2\n")
    encoder = load_table(tmp_path / "t.csv", label="1").encoding
    assert encoder.features(tmp_path / "t.csv").tolist() == [[1, 2], [3, 4]]
    assert encoder.features(tmp_path / "new.csv").tolist() == [[1, 2]]
    (tmp_path / "iris.csv").write_text("5.1,3.5,setosa\n7,3.2,versicolor\n")  # words, but a number is no name
    table = load_table(tmp_path / "iris.csv", label="3")
    assert (table.features.shape, table.classes) == ((2, 2), ("setosa", "versicolor"))
    again = TableEncoder.from_dict(table.encoding.to_dict())
    assert again.codes(tmp_path / "iris.csv").tolist() == [0, 1]
    (tmp_path / "named.csv").write_text("a,b,y\n1,2,0\n3,4,1\n")
    with pytest.raises(ManyoneError, match="no column '3'; the columns are a, b, y"):
        load_table(tmp_path / "named.csv", label="3")


def test_a_table_of_many_columns_takes_time_in_proportion(tmp_path):
    path = tmp_path / "wide.csv"
    path.write_text(",".join([f"c{i}" for i in range(3000)] + ["y"]) + "\n" + f"{'1,' * 3000}0\n{'2,' * 3000}1\n")
    begun = time.process_time()
    assert load_table(path, label="y").width == 3000
    assert time.process_time() - begun < 3  # 15 s where every column searches the names or copies the table


def test_a_message_about_a_long_cell_is_short(tmp_path):
    (tmp_path / "t.csv").write_text(f"a,y\n{'x' * 100_000},0\n1,1\n")
    with pytest.raises(ManyoneError, match=r"row 1: 'x{60}'\.\.\. is not a number") as problem:
        load_table(tmp_path / "t.csv", label="y")
    assert len(str(problem.value)) < 500


def test_words_that_would_not_fit_into_memory_name_their_column(tmp_path, monkeypatch):
    monkeypatch.setattr("manyone.data.tables.encoder.memory", lambda: 100_000)
    (tmp_path / "t.csv").write_text("id,x\n" + "".join(f"n{i},1\n" for i in range(100)))
    with pytest.raises(ManyoneError, match="column 'id' has 100 words: leave it out"):
        learn_encoder(read_frame(tmp_path / "t.csv"), label=None, categories="one-hot")


def test_columns_that_are_neither_numbers_nor_words_are_named():
    with pytest.raises(ManyoneError, match=r"column 'a' holds list.*--drop"):
        learn_encoder(from_columns({"a": [[1], [2]]}), label=None)
