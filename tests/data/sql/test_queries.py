import sqlite3
from contextlib import closing

import pytest
from tests.data.sql.small_sql import SHOP, TABLES

from manyone.data.sql.queries import KINDS, counted, joined, literals, mutants
from manyone.data.sql.schema import schemas_from_tables
from manyone.errors import ManyoneError


@pytest.fixture(scope="module")
def schema():
    return schemas_from_tables(TABLES, "tables.json")["shop"]


def test_constants_are_of_the_column_that_they_are_compared_with(schema):
    sql = (
        "SELECT T1.FullName FROM customer AS T1 JOIN \"Order\" AS T2 ON T1.CustomerId = T2.CustomerId "
        'WHERE T1.city = "Oslo" AND (T2.Quantity > 3 OR 7 >= quantity) AND T1.FullName LIKE \'%Ann_%\' '
        "AND T2.ProductId IN (SELECT ProductId FROM Product WHERE UnitPrice BETWEEN 1.5 AND -2 "
        "AND Name NOT IN ('a', 'b')) GROUP BY T1.City HAVING count(*) > 11"
    )  # fmt: skip
    assert literals(sql, schema) == {
        ("Customer", "City"): {"Oslo"},
        ("Order", "Quantity"): {3, 7},
        ("Customer", "FullName"): {"Anna"},
        ("Product", "UnitPrice"): {1.5, -2},
        ("Product", "Name"): {"a", "b"},
    }


def test_joined_columns(schema):
    sql = (
        'SELECT 1 FROM Customer AS c JOIN "Order" AS o ON c.CustomerId = o.CustomerId WHERE o.ProductId NOT IN '
        "(SELECT ProductId FROM Product) AND c.City = o.Quantity"
    )
    assert set(joined(sql, schema)) == {
        (("Customer", "CustomerId"), ("Order", "CustomerId")),
        (("Order", "ProductId"), ("Product", "ProductId")),
        (("Customer", "City"), ("Order", "Quantity")),
    }


def test_columns_of_numbers(schema):
    sql = "SELECT avg(UnitPrice), max(Name) FROM Product WHERE Category > 3 AND IsActive = 'T'"
    assert counted(sql, schema) == {("Product", "UnitPrice"), ("Product", "Category")}


def test_what_is_no_sql_is_one_line(schema):
    with pytest.raises(ManyoneError, match="not readable as SQL") as problem:
        literals("SELECT FROM WHERE (", schema)
    assert "\n" not in str(problem.value)


GOLD = (
    'SELECT T2.Name, max(T1.Quantity) FROM "Order" AS T1 JOIN Product AS T2 ON T1.ProductId = T2.ProductId '
    "WHERE T2.UnitPrice > 2 AND T2.Category = 'tea' GROUP BY T2.Name ORDER BY count(*) DESC LIMIT 3"
)


def test_mutants_are_one_of_each_kind_and_run(schema):
    found = mutants(GOLD, schema)
    assert [m.kind for m in found] == [k for k in KINDS if k != "set operation"]
    assert [m.kind for m in mutants("SELECT Name FROM Product UNION SELECT City FROM Customer", schema)] == [
        "column", "set operation"]  # fmt: skip
    ordered = "SELECT Name FROM Product UNION SELECT City FROM Customer ORDER BY 1 LIMIT 2"
    (other,) = (m.sql for m in mutants(ordered, schema) if m.kind == "set operation")
    assert other.split("SELECT")[1].split()[-1] in ("INTERSECT", "EXCEPT")
    assert other.endswith("ORDER BY 1 LIMIT 2")
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SHOP)
        for mutant in found:
            db.execute(mutant.sql)
    assert mutants(GOLD, schema) == found
    assert any(mutants(GOLD, schema, seed=s) != found for s in range(1, 6))


def test_a_mutant_differs_in_one_thing(schema):
    by_kind = {m.kind: m.sql for m in mutants("SELECT Name FROM Product WHERE UnitPrice > 2 LIMIT 3", schema)}
    assert by_kind["limit"] == "SELECT Name FROM Product WHERE UnitPrice > 2 LIMIT 4"
    assert by_kind["condition"] == "SELECT Name FROM Product LIMIT 3"
    assert by_kind["operator"] in (f"SELECT Name FROM Product WHERE UnitPrice {op} 2 LIMIT 3" for op in (">=", "<"))
    assert by_kind["value"] == "SELECT Name FROM Product WHERE UnitPrice > 4 LIMIT 3"
    kinds = {m.kind: m.sql for m in mutants("SELECT min(UnitPrice) FROM Product ORDER BY Name ASC", schema)}
    assert kinds["aggregate"] in (f"SELECT {f}(UnitPrice) FROM Product ORDER BY Name ASC" for f in ("MAX", "AVG"))
    assert kinds["direction"].endswith("ORDER BY Name DESC")


def test_joins_are_left_alone(schema):
    sql = 'SELECT count(*) FROM "Order" AS a JOIN Product AS b ON a.ProductId = b.ProductId'
    assert mutants(sql, schema) == []
