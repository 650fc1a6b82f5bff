"""The words of SQL, and what the official scripts do to its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyone.sql.scoring.words import (
    all_words,
    current_year,
    first_statement,
    spaced_comparisons,
    without_distinct,
    words,
)


@given(st.text(alphabet="ab1.'\"`[]()-*/;= \n\té<>!,", max_size=40))
def test_no_letter_is_lost(sql):
    assert "".join(word.text for word in all_words(sql)) == sql


def test_kinds():
    found = [(w.kind, w.text) for w in words("SELECT `a b`, 'it''s', 1.5e3 FROM [t] -- end\n WHERE x1 ! =\t.5 /* c */")]
    assert found == [
        ("word", "SELECT"), ("name", "`a b`"), ("sign", ","), ("text", "'it''s'"), ("sign", ","), ("number", "1.5e3"),
        ("word", "FROM"), ("name", "[t]"), ("word", "WHERE"), ("word", "x1"), ("sign", "!="), ("number", ".5"),
    ]  # fmt: skip


def test_words_that_begin_with_a_digit_are_no_numbers():
    assert [w.kind for w in words("18_49_share 18")] == ["word", "number"]


@pytest.mark.parametrize(
    ("sql", "without"),
    [
        ("SELECT DISTINCT a FROM t", "SELECT  a FROM t"),
        ("select count(distinct a)", "select count( a)"),
        ("SELECT 'distinct', \"DISTINCT\" FROM t", "SELECT 'distinct', \"DISTINCT\" FROM t"),
        ("SELECT `distinct` FROM t -- distinct", "SELECT `distinct` FROM t -- distinct"),
        ("SELECT distinctly", "SELECT distinctly"),
        ("", ""),
    ],
)
def test_distinct_is_taken_out(sql, without):
    assert without_distinct(sql) == without


def test_repairs():
    assert spaced_comparisons("a > = 1 AND b ! = 2 AND c < = 3") == "a >= 1 AND b != 2 AND c <= 3"
    assert current_year("x > year ( CURDATE() ) - 5") == "x > 2020- 5"
    assert first_statement("SELECT ';' ; DROP TABLE t") == "SELECT ';' "
    assert first_statement(" ; SELECT 1; SELECT 2") == " ; SELECT 1"
