"""Values that a question names: the index finds what comparing everything with everything finds."""

import random
import string
from contextlib import closing
from pathlib import Path

import pytest
from tests.reference.value_match import named

from manyone.data.sql.records import Column, Schema, Table
from manyone.errors import ManyoneError
from manyone.sql.databases import open_database
from manyone.sql.retrieval import _STOP, ValueIndex, ngrams


class Memory:
    """A database of one table whose columns are given."""

    path = Path("memory.sqlite")

    def __init__(self, columns, fingerprint="0" * 64):
        self.columns, self.fingerprint = columns, fingerprint
        self.reads = 0

    def schema(self):
        return Schema("memory", (Table("t", tuple(Column(c) for c in self.columns)),))

    def texts(self, table, column, *, longest, most, seconds):
        self.reads += 1
        values = [v for v in self.columns[column] if 1 <= len(v) <= longest]
        return values[:most], len(values) <= most


def test_the_values_that_a_question_names(music):
    with closing(open_database(music)) as database, ValueIndex.open(database) as index:
        assert index.match("Which albums of Sigur Ros came out in iceland?") == {
            ("artist", "name"): ["Sigur Rós"], ("artist", "country"): ["Iceland"]}  # fmt: skip
        assert index.match("Albums by ac/dc from the United States of America") == {
            ("artist", "name"): ["AC/DC"], ("artist", "country"): ["United States"]}  # fmt: skip
        assert index.match("the price of 'back in black'") == {("album", "title"): ["Back in Black"]}
        assert index.match("How much is Lemonnade?") == {("album", "title"): ["Lemonade"]}
        assert index.match("How many albums are there?") == {}


def test_it_finds_what_comparing_all_finds():
    rng = random.Random(7)
    syllables = ["ba", "ke", "lo", "mi", "nu", "ra", "sto", "tri", "van", "zel"]

    def name(n):
        return " ".join("".join(rng.choices(syllables, k=rng.randint(2, 4))).title() for _ in range(n))

    columns = {f"c{i}": sorted({name(rng.randint(1, 4)) for _ in range(30)}) for i in range(4)}
    found = 0
    with ValueIndex.open(Memory(columns)) as index:
        for _ in range(12):
            values = [rng.choice(columns[rng.choice(list(columns))]) for _ in range(2)]
            if rng.random() < 0.5:  # a slip inside the last word
                at = len(values[0]) - 2
                values[0] = values[0][:at] + rng.choice(string.ascii_lowercase) + values[0][at:]
            question = f"how many {name(1)} of {values[0]} are there with {values[1]}?"
            expected = named(question, {("t", c): v for c, v in columns.items()}, _STOP)
            assert {k: set(v) for k, v in index.match(question).items()} == expected
            found += len(expected)
    assert found > 12


def test_the_index_is_made_once_for_each_content(tmp_path):
    first = Memory({"a": ["Paris"]}, "1" * 64)
    with ValueIndex.open(first) as one, ValueIndex.open(first) as two:
        assert one.match("paris") == two.match("paris") == {("t", "a"): ["Paris"]}
    assert first.reads == 1
    other = Memory({"a": ["Rome"]}, "2" * 64)
    with ValueIndex.open(other) as index:
        assert index.match("paris or rome") == {("t", "a"): ["Rome"]}


def test_a_damaged_index_is_made_again(tmp_path):
    source = Memory({"a": ["Paris"]})
    ValueIndex.open(source).close()
    (file,) = (tmp_path / "cache" / "sql-values").glob("*.sqlite")
    file.write_bytes(b"SQLite format 3\0" + b"x" * 500)
    with ValueIndex.open(source) as index:
        assert index.match("paris") == {("t", "a"): ["Paris"]}
    assert source.reads == 2


def test_at_most_25_values_a_column_the_nearest_first():
    values = [f"Alexandria {letter}" for letter in string.ascii_lowercase] + ["Alexandria"]
    with ValueIndex.open(Memory({"city": values})) as index:
        found = index.match("people of Alexandria")["t", "city"]
    assert len(found) == 25
    assert found[0] == "Alexandria"


def test_too_many_values_are_cut_and_said():
    columns = {"long": [f"value {i}" for i in range(50)], "short": ["Oslo"]}
    with ValueIndex.open(Memory(columns), values=20) as index:
        assert index.partial == [("t", "long")]
        assert index.values == 11
        assert index.match("in oslo") == {("t", "short"): ["Oslo"]}


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ManyoneError, match="set MANYONE_CACHE"):
        ValueIndex.open(Memory({"a": ["b"]}))


def test_ngrams_are_as_they_stand_in_the_question():
    assert ngrams("Who is AC/DC?")[:3] == ["who is ac/dc", "who is ac", "is ac/dc"]
    assert "is" not in ngrams("Who is AC/DC?")
    assert ngrams('the song "A very long title of a song"')[0] == "a very long title of a song"
    assert max(len(g.split()) for g in ngrams("one two three four five six")) == 4
