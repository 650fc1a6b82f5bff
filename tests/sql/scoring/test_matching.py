"""Exact match: what it does not see, what it does, and the plain formulation."""

import random

import pytest
from tests.reference import sql_scoring as plain
from tests.sql.scoring.plainly import plainly
from tests.sql.scoring.test_hardness import readable

from manyone.sql.scoring.matching import CLAUSES, Matcher, tied_columns
from manyone.sql.scoring.structure import Query, read_query

GOLD = (
    "SELECT T1.country, count(*) FROM author AS T1 JOIN book AS T2 ON T1.id = T2.author_id WHERE T2.price > 10 "
    "AND T1.name LIKE 'A%' GROUP BY T1.country HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 3"
)


def differs(schema, predicted, gold=GOLD):
    match = Matcher(schema)(read_query(predicted, schema), read_query(gold, schema))
    return {name for name, score in match.clauses.items() if not score.match}, match


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 10", "> 99"),
        ("'A%'", '"B"'),
        ("> 1 ", "> 7 "),
        ("LIMIT 3", "LIMIT 5"),
        ("T1.country, count(*)", "count(*), T1.country"),
        ("T1", "writer"),
        ("T2", "T7"),
        ("SELECT", "select"),
        (" ", "  \n"),
        ("FROM author AS T1 JOIN book AS T2 ON", "FROM book AS T2 JOIN author AS T1 ON"),
        ("ON T1.id = T2.author_id", "ON T2.author_id = T1.id"),
        ("T2.price > 10 AND T1.name LIKE 'A%'", "T1.name LIKE 'A%' AND T2.price > 10"),
        ("SELECT T1.country", "SELECT DISTINCT T1.country"),
    ],
)
def test_it_does_not_see(schema, old, new):
    changed = GOLD.replace(old, new)
    assert changed != GOLD
    names, match = differs(schema, changed)
    assert match.exact, names


@pytest.mark.parametrize(
    ("old", "new", "clauses"),
    [
        ("count(*) FROM", "max(T2.price) FROM", {"select", "select(no AGG)"}),
        ("count(*) FROM", "sum(*) FROM", {"select"}),
        ("SELECT T1.country", "SELECT T1.born", {"select", "select(no AGG)"}),
        ("DESC", "ASC", {"order", "keywords"}),
        (" LIMIT 3", "", {"order", "keywords"}),
        ("ORDER BY count(*)", "ORDER BY max(T2.price)", {"order"}),
        ("price > 10", "price >= 10", {"where"}),
        ("price > 10", "year > 10", {"where", "where(no OP)"}),
        ("AND T1.name LIKE 'A%'", "OR T1.name LIKE 'A%'", {"and/or", "keywords"}),
        ("AND T1.name LIKE 'A%'", "", {"where", "where(no OP)", "and/or", "keywords"}),
        ("LIKE", "NOT LIKE", {"where", "keywords"}),
        ("GROUP BY T1.country", "GROUP BY T1.born", {"group", "group(no Having)"}),
        ("HAVING count(*) > 1 ", "", {"group", "keywords"}),
        ("HAVING count(*) >", "HAVING count(*) <", {"group"}),
        ("LIMIT 3", "LIMIT 3 UNION SELECT name, born FROM author", {"IUEN", "keywords"}),
        (" JOIN book AS T2 ON T1.id = T2.author_id", " JOIN book AS T2 JOIN loan AS T3", set()),
    ],
)
def test_it_sees(schema, old, new, clauses):
    names, match = differs(schema, GOLD.replace(old, new, 1))
    assert not match.exact
    assert names == clauses


@pytest.mark.parametrize("operator", ["UNION", "INTERSECT", "EXCEPT"])
def test_it_sees_the_set_operator(schema, operator):
    sides = "SELECT born FROM author {} SELECT year FROM book WHERE price > 1"
    for other in ("UNION", "INTERSECT", "EXCEPT"):
        match = Matcher(schema)(read_query(sides.format(other), schema), read_query(sides.format(operator), schema))
        assert match.exact == (other == operator)
    values = sides.format(operator).replace("> 1", "> 2")
    assert Matcher(schema)(read_query(values, schema), read_query(sides.format(operator), schema)).exact


def test_columns_that_a_foreign_key_ties_are_one_where_the_table_is_there(schema):
    assert tied_columns(schema)["book.author_id"] == tied_columns(schema)["author.id"] == "author.id"
    both = "SELECT {} FROM author AS T1 JOIN book AS T2 ON T1.id = T2.author_id"
    assert differs(schema, both.format("T1.id"), both.format("T2.author_id"))[1].exact
    assert not differs(schema, "SELECT id FROM author", "SELECT author_id FROM book")[1].exact


def test_inside_of_conditions_it_compares_as_written(schema):
    gold = "SELECT name FROM author WHERE id IN (SELECT author_id FROM book WHERE price > 1)"
    assert differs(schema, gold.replace("> 1", "> 2"), gold)[1].exact
    assert not differs(schema, gold.replace("SELECT author_id", "SELECT DISTINCT author_id"), gold)[1].exact


def test_an_unread_prediction_matches_nothing(schema):
    match = Matcher(schema)(Query(), read_query("SELECT name FROM author", schema))
    assert not match.exact
    assert list(match.clauses) == list(CLAUSES)
    assert match.clauses["where"].match  # neither has one


def test_the_plain_formulation_says_the_same(schema):
    """On pairs of all queries of the triples, those of one gold query among them."""
    queries = [query for _, query in readable(schema)]
    draw = random.Random(0)
    pairs = [(draw.choice(queries), draw.choice(queries)) for _ in range(3000)]
    near = [(queries[k], queries[j]) for k in range(len(queries)) for j in range(max(0, k - 12), k + 1)]
    matcher, same = Matcher(schema), tied_columns(schema)
    plains = {id(query): plainly(query) for query in queries}
    found = [(matcher(p, g).exact, plain.exact(plains[id(p)], plains[id(g)], same)) for p, g in pairs + near]
    assert all(ours == theirs for ours, theirs in found)
    assert sum(ours for ours, _ in found) > 300
