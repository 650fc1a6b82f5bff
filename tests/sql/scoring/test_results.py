"""When two results are the same, against trying all orders of the columns."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import sql_scoring as plain

from manyone.sql.scoring.results import same_bag, same_set

VALUES = st.sampled_from([0, 1, 1.0, "1", "a", None, b"a"])


@st.composite
def tables(draw):
    """Two tables: most often the second is the first with columns and rows moved, and now and then a value changed."""
    width, height = draw(st.integers(1, 4)), draw(st.integers(0, 5))
    row = st.tuples(*[VALUES] * width)
    first = draw(st.lists(row, min_size=height, max_size=height))
    if draw(st.booleans()) and first:
        order = draw(st.permutations(range(width)))
        second = [tuple(r[k] for k in order) for r in first]
        second = draw(st.permutations(second)) if draw(st.booleans()) else second
        if draw(st.booleans()):
            at, column = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            changed = list(second[at])
            changed[column] = draw(VALUES)
            second[at] = tuple(changed)
    else:
        second = draw(st.lists(st.tuples(*[VALUES] * draw(st.integers(1, 4))), max_size=5))
    return first, second


@settings(max_examples=400, deadline=None)
@given(tables(), st.booleans())
def test_spider_s_rule(two, ordered):
    first, second = two
    assert same_bag(first, second, ordered=ordered) is plain.bags(first, second, ordered)
    assert same_bag(second, first, ordered=ordered) is plain.bags(second, first, ordered)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_bird_s_rule(two):
    assert same_set(*two) is plain.sets(*two)


def test_numbers_texts_bytes_and_null():
    assert same_bag([(1,)], [(1.0,)], ordered=False)
    assert not same_bag([(1,)], [("1",)], ordered=False)
    assert not same_bag([("a",)], [(b"a",)], ordered=False)
    assert same_bag([(None,)], [(None,)], ordered=False)
    assert same_bag([(2, 2.5)], [(2.0, 2.5)], ordered=False)  # the script sorts their texts, and says no
    assert same_set([(1, "a"), (1, "a")], [(1.0, "a")])
    assert not same_set([(1, "a")], [("a", 1)])


def test_results_without_rows_are_equal():
    assert same_bag([], [], ordered=True)
    assert not same_bag([], [(1,)], ordered=False)


def test_many_equal_columns_are_no_matter():
    rows = [tuple([k % 2] * 30) for k in range(50)]
    assert same_bag(rows, list(reversed(rows)), ordered=False)
    assert not same_bag(rows, [*rows[:-1], (1,) * 29 + (0,)], ordered=False)


def test_a_search_without_end_is_given_up():
    """Columns with the same values each, whose rows never fit: every order would have to be tried."""
    bits = list(product((0, 1), repeat=10))
    even = [row for row in bits if sum(row) % 2 == 0]
    odd = [row for row in bits if sum(row) % 2]
    assert Counter(r[0] for r in even) == Counter(r[0] for r in odd)
    assert same_bag(even, odd, ordered=False, work=100_000) is None
    assert same_bag(even[:1], odd[:1], ordered=False) is False


@pytest.mark.parametrize("ordered", [True, False])
def test_forty_columns(ordered):
    first = [tuple(range(k, k + 40)) for k in range(3)]
    second = [tuple(reversed(row)) for row in first]
    assert same_bag(first, second, ordered=ordered)
    assert same_bag(first, second[::-1], ordered=ordered) is not ordered
