"""Queries in Spider's terms."""

import pytest

from manyone.sql.scoring.structure import (
    ColumnUnit,
    Condition,
    Conditions,
    Query,
    Selected,
    Unreadable,
    ValueUnit,
    read_query,
)


def column(name, aggregate="", distinct=False):
    return ColumnUnit(aggregate, name, distinct)


def unit(name, aggregate="", distinct=False):
    return ValueUnit("", column(name, aggregate, distinct))


def test_every_clause(schema):
    query = read_query(
        "SELECT DISTINCT T1.country, count(DISTINCT T2.title) FROM author AS T1 JOIN book AS T2 ON "
        "T1.id = T2.author_id WHERE T2.year - T2.id > 1990 AND T1.name NOT LIKE '%x' OR "
        "T2.price BETWEEN 1 AND -2.5 GROUP BY T1.country "
        "HAVING max(T2.price) >= 3 ORDER BY count(*) DESC, T1.country LIMIT 5 UNION SELECT name FROM author",
        schema,
    )
    assert query == Query(
        distinct=True,
        select=(Selected("", unit("author.country")), Selected("count", unit("book.title", distinct=True))),
        tables=("author", "book"),
        on=Conditions((Condition(False, "=", unit("author.id"), column("book.author_id")),)),
        where=Conditions(
            (
                Condition(False, ">", ValueUnit("-", column("book.year"), column("book.id")), 1990.0),
                Condition(True, "like", unit("author.name"), "%x"),
                Condition(False, "between", unit("book.price"), 1.0, -2.5),
            ),
            ("and", "or"),
        ),
        group=(column("author.country"),),
        having=Conditions((Condition(False, ">=", unit("book.price", "max"), 3.0),)),
        direction="desc",
        order=(unit("*", "count"), unit("author.country")),
        limited=True,
        union=Query(select=(Selected("", unit("author.name")),), tables=("author",)),
    )


def test_queries_inside(schema):
    query = read_query(
        "SELECT name FROM author WHERE id NOT IN (SELECT author_id FROM book) AND born > "
        "(SELECT avg(born) FROM author)",
        schema,
    )
    inner = [condition.first for condition in query.where.items]
    assert inner[0] == read_query("SELECT author_id FROM book", schema)
    assert inner[1].select[0].aggregate == "avg"
    derived = read_query("SELECT count(*) FROM (SELECT country FROM author GROUP BY country)", schema)
    assert isinstance(derived.tables[0], Query)


def test_an_alias_means_what_it_does_where_it_stands(schema):
    sql = "SELECT T1.name FROM author AS T1 WHERE T1.id IN (SELECT T1.author_id FROM book AS T1)"
    assert read_query(sql, schema).select[0].unit == unit("author.name")
    with pytest.raises(Unreadable, match="no such column"):
        read_query(sql, schema, scoped=False)  # the last one of a name wins: author has become book
    outer = "SELECT T1.name FROM author AS T1 WHERE T1.id IN (SELECT T2.author_id FROM book AS T2 WHERE T2.id = T1.id)"
    inner = read_query(outer, schema).where.items[0].first
    assert inner.where.items[0].first == column("author.id")
    union = "SELECT T1.name FROM author AS T1 UNION SELECT T1.title FROM book AS T1"
    assert read_query(union, schema).union.select[0].unit == unit("book.title")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT",
        "SELECT 1",
        "SELECT name FROM author a",
        "SELECT name AS n FROM author",
        "SELECT name FROM author, book",
        "SELECT name FROM author LEFT JOIN book ON author.id = book.author_id",
        "SELECT name FROM author INNER JOIN book ON author.id = book.author_id",
        "SELECT name FROM author WHERE id IN (1, 2)",
        "SELECT name FROM author WHERE country IN ('a', 'b')",
        "SELECT name FROM author WHERE (id = 1 OR id = 2) AND born > 1",
        "SELECT name FROM author WHERE NOT id = 1",
        "SELECT name FROM author WHERE name IS NOT NULL",
        "SELECT name FROM author WHERE EXISTS (SELECT * FROM book)",
        "SELECT CASE WHEN id > 1 THEN 1 ELSE 2 END FROM author",
        "SELECT name FROM author UNION ALL SELECT title FROM book",
        "SELECT name FROM author WHERE id <> 1",
        "SELECT name FROM writer",
        "SELECT writer FROM author",
        "SELECT t.name FROM author",
        "SELECT name FROM author WHERE born > avg(born)",
        "SELECT author.name FROM author AS book",
        "SELECT name FROM author WHERE id = (1",
        "SELECT name FROM author ORDER BY born LIMIT",
        "WITH a AS (SELECT 1) SELECT name FROM author",
        "SELECT 'name' FROM author",
        "SELECT name FROM " + "(SELECT name FROM " * 60 + "author" + ")" * 60,
        "x" * 5000,
        "SELECT name FROM author " + "WHERE " * 100,
    ],
)
def test_what_spider_does_not_read(schema, sql):
    with pytest.raises(Unreadable):
        read_query(sql, schema)


def test_white_space_case_and_quotes_say_nothing(schema):
    plain = read_query("SELECT name FROM author WHERE born >= 5 AND name = 'a'", schema)
    assert read_query('select\tNAME from Author\nwhere born>=5 and name="a";', schema) == plain
    assert read_query("SELECT `name` FROM [author] WHERE born > = 5 AND name = 'a' -- end", schema) == plain


def test_what_stands_behind_the_query_is_not_read(schema):
    assert read_query("SELECT name FROM author LIMIT 3 OFFSET 2", schema).limited
