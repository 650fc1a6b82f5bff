"""Files of tables as frames: delimiters, comments, quotes, indices of rows, and bounds on what is read."""

import gzip

import pyarrow as pa
import pytest
from pyarrow import parquet

from manyone.data.tables.files import from_columns, read_frame
from manyone.errors import ManyoneError


def _read(tmp_path, text, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_frame(path, **options)


def _cells(frame):
    return {name: frame.column(name).to_pylist() for name in frame.names}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a,b\n1,x\n2,y\n", {}),
        ("a;b\n1;x\n2;y\n", {}),
        ("a|b\n1|x\n2|y\n", {}),
        ("a\tb\n1\tx\n2\ty\n", {}),
        ("a~b\n1~x\n2~y\n", {"delimiter": "~"}),
        ("a\tb\n1\tx\n2\ty\n", {"delimiter": "tab"}),
        ("\ufeffa,b\r\n1,x\r\n2,y\r\n", {}),
        ("\n\na,b\n1,x\n\n2,y\n,\n , \n", {}),
        ("# made by hand\n# twice\na,b\n1,x\n#3,z\n2,y\n# end", {}),
    ],
)
def test_delimiters_line_ends_comments_and_blank_rows(tmp_path, text, options):
    assert _cells(_read(tmp_path, text, **options)) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_a_delimiter_or_a_hash_inside_quotes_is_text(tmp_path):
    frame = _read(tmp_path, '"a, b, c";d\n"1, 2, 3";"x\n# no comment\ny"\n"4, ""5""";z\n')
    assert _cells(frame) == {"a, b, c": ["1, 2, 3", '4, "5"'], "d": ["x\n# no comment\ny", "z"]}
    assert not frame.notes


def test_space_before_a_quote_is_no_part_of_a_cell(tmp_path):
    frame = _read(tmp_path, 'a, b\n1, "x, ""y"""\n2, "z"\n# c\n\n3, w\n')
    assert _cells(frame) == {"a": ["1", "2", "3"], "b": ['x, "y"', "z", "w"]}
    with pytest.raises(ManyoneError, match="row 2 has 3 cells"):
        _read(tmp_path, 'a, b\n1, "x"\n2, "z", 3\n')


def test_comment_lines_are_counted_and_rows_are_counted_without_them(tmp_path):
    assert _read(tmp_path, "a,b\n#x\n1,2\n").notes == ("1 comment lines (#)",)
    with pytest.raises(ManyoneError, match=r"t\.csv: row 3 has 3 cells but the first line has 2.*--delimiter"):
        _read(tmp_path, "# c\na,b\n1,2\n  \n3,4\n#\n5,6,7\n")
    with pytest.raises(ManyoneError, match="row 2 has 1 cells but the first line has 2"):
        _read(tmp_path, "1,2\n3\n")


def test_an_index_of_rows_is_no_column(tmp_path):
    frame = _read(tmp_path, ",a,b,\n0,1,2,\n1,3,4,\n")
    assert frame.names == ("a", "b")
    assert frame.notes == ("column 1, which has no name (a row index)", "column 4, which has no name")
    table = pa.table({"a": [1, 2], "id": [7, 8], "__index_level_0__": [0, 1]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert read_frame(tmp_path / "t.parquet").names == ("a", "id")
    described = table.replace_schema_metadata({"pandas": '{"index_columns": ["id"], "columns": []}'})
    parquet.write_table(described, tmp_path / "t.parquet")
    assert read_frame(tmp_path / "t.parquet").names == ("a",)


def test_what_is_read_is_bounded_also_when_it_is_compressed(tmp_path):
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 500_000))
    with pytest.raises(ManyoneError, match=r"bomb\.csv\.gz: more than 0\.0 GB of text"):
        read_frame(tmp_path / "bomb.csv.gz", max_bytes=1 << 20)
    assert len(read_frame(tmp_path / "bomb.csv.gz")) == 500_000
    (tmp_path / "bomb.svm.gz").write_bytes(gzip.compress(b"1 1:2\n" * 500_000))
    with pytest.raises(ManyoneError, match=r"bomb\.svm\.gz: more than"):
        read_frame(tmp_path / "bomb.svm.gz", max_bytes=1 << 20)
    parquet.write_table(pa.table({"a": [1] * 500_000}), tmp_path / "bomb.parquet")
    with pytest.raises(ManyoneError, match=r"bomb\.parquet: 500000 x 1 values need"):
        read_frame(tmp_path / "bomb.parquet", max_bytes=1 << 20)
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "bomb.csv.gz").read_bytes()[:-20])
    with pytest.raises(ManyoneError, match=r"cut\.csv\.gz: cannot be read"):
        read_frame(tmp_path / "cut.csv.gz")


def test_one_long_cell_costs_its_length_once(tmp_path):
    """Where all cells have the width of the longest this one makes 80 GB of 1 MB."""
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "1,x\n" * 20_000 + "1," + "y" * 1_000_000 + "\n")
    assert read_frame(path).table.nbytes < 3 * path.stat().st_size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the file is empty"),
        (b"# only\n", "the file is empty"),
        (b"a,b\n", "a header but no row"),
        (b"a,b", "a header but no row"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"a,b\n1,\xe4\n", "not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_no_csv_is_said_in_one_line(tmp_path, text, words):
    with pytest.raises(ManyoneError, match=rf"t\.csv: .*{words}"):
        _read(tmp_path, text)


def test_names_that_do_not_say_what_they_are_get_a_way_out(tmp_path):
    (tmp_path / "people.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ManyoneError, match=r"people: no such file; did you mean people\.csv\?"):
        read_frame(tmp_path / "people")
    with pytest.raises(ManyoneError, match=r"rename a text with delimiters to notes\.csv"):
        _read(tmp_path, "hello world\n", "notes.txt")
    with pytest.raises(ManyoneError, match="delimiter 'ab': must be one character, or tab"):
        read_frame(tmp_path / "people.csv", delimiter="ab")


def test_named_columns_in_memory_are_frames_too():
    frame = from_columns({"a": [1, 2], "b": ["x", None]})
    assert _cells(frame) == {"a": [1, 2], "b": ["x", None]}

    class Stream:  # what pandas, polars and others offer
        def __arrow_c_stream__(self, schema=None):
            return frame.table.__arrow_c_stream__(schema)

    assert _cells(from_columns(Stream())) == _cells(frame)
    with pytest.raises(ManyoneError, match="give a DataFrame"):
        from_columns([[1, 2], [3, 4]])


def test_a_keel_table_has_the_names_of_its_attributes(tmp_path):
    """As KEEL writes them: names with quotes, ranges behind them, lower and upper case, comments."""
    (tmp_path / "leaf.dat").write_text(
        "% made here\n@relation leaf\n@attribute Width real[0.0,9.5]\n@ATTRIBUTE 'kind of leaf' {a, b}\n"
        "@inputs Width\n@outputs kind of leaf\n@data\n1.5, a\n2.5, b\n"
    )
    frame = read_frame(tmp_path / "leaf.dat")
    assert frame.names == ("Width", "kind of leaf")
    assert frame.column("Width").to_pylist() == ["1.5", "2.5"]
    assert [cell.strip() for cell in frame.column("kind of leaf").to_pylist()] == ["a", "b"]
    for text, match in [
        ("@attribute a real\n@data\n1, 2\n", "1 lines @attribute for rows of 2 cells"),
        ("@attribute a real\n1\n", "'1' stands before @data"),
        ("@relation a\n", "no line @data"),
        ("@attribute a real\n@attribute a real\n@data\n1,2\n", "a"),
    ]:
        (tmp_path / "wrong.dat").write_text(text)
        with pytest.raises(ManyoneError, match=match):
            read_frame(tmp_path / "wrong.dat")
