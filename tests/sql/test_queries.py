"""The normal form of SQL means what the query meant; what it reads; other dialects."""

import sqlite3

import pytest
import sqlglot

from manyone.data.sql.records import Column, Schema, Table
from manyone.errors import ManyoneError
from manyone.sql.queries import dialect, normal, translate, used

SCHEMA = Schema(
    "pets",
    (
        Table("Student", (Column("StuID", "number", primary_key=True), Column("Name"), Column("Home Town"),
                          Column("Age", "number"))),
        Table("Pet", (Column("PetID", "number", primary_key=True), Column("Owner", "number"), Column("Kind"),
                      Column("Weight", "number"))),
    ),
)  # fmt: skip

QUERIES = {
    "select Name from Student where Age > 20": "SELECT name FROM student WHERE age > 20",
    "SELECT T1.name, count(*) FROM student AS T1 JOIN pet AS T2 ON T1.stuid = T2.owner GROUP BY t1.StuID":
        "SELECT student.name, COUNT(*) FROM student JOIN pet ON student.stuid = pet.owner GROUP BY student.stuid",
    'SELECT count1.name FROM student count1 WHERE count1.name = "T1"':
        "SELECT count1.name FROM student AS count1 WHERE count1.name = 'T1'",
    "SELECT t1.name, t2.name FROM Student t1 JOIN Student t2 ON t1.age < t2.age":
        "SELECT t1.name, t2.name FROM student AS t1 JOIN student AS t2 ON t1.age < t2.age",
    "SELECT t1.name FROM Student t1 WHERE t1.age > (SELECT avg(t2.age) FROM student t2)":
        "SELECT student.name FROM student WHERE student.age > (SELECT AVG(student.age) FROM student)",
    "SELECT t1.name FROM Student t1 "
    "WHERE t1.age > (SELECT avg(t2.age) FROM student t2 WHERE t2.`home town` = t1.`Home Town`)":
        "SELECT t1.name FROM student AS t1 WHERE t1.age > "
        "(SELECT AVG(t2.age) FROM student AS t2 WHERE t2.`home town` = t1.`home town`)",
    "SELECT student.name FROM student WHERE age > (SELECT min(T1.age) FROM student AS T1 WHERE student.age > T1.age)":
        "SELECT student.name FROM student WHERE age > "
        "(SELECT MIN(t1.age) FROM student AS t1 WHERE student.age > t1.age)",
    'SELECT kind FROM pet WHERE kind != "Cat" AND kind NOT LIKE "%O%" ORDER BY Weight desc limit 1':
        "SELECT kind FROM pet WHERE kind <> 'Cat' AND kind NOT LIKE '%O%' ORDER BY weight DESC LIMIT 1",
    "select name from student where stuid not in (select owner from pet where owner is not null)":
        "SELECT name FROM student WHERE stuid NOT IN (SELECT owner FROM pet WHERE owner IS NOT NULL)",
    "SELECT name FROM student EXCEPT SELECT T1.name FROM student AS T1 JOIN pet AS T2 ON T1.stuid = T2.owner":
        "SELECT name FROM student EXCEPT SELECT student.name FROM student JOIN pet ON student.stuid = pet.owner",
    'SELECT "Age" FROM student WHERE "Name" = "O\'Neil"': "SELECT `age` FROM student WHERE `name` = 'O''Neil'",
    'SELECT "home town" FROM student WHERE [Home Town] = "it""s"':
        "SELECT `home town` FROM student WHERE `home town` = 'it\"s'",
    "with q as (select Owner, max(Weight) as Top from Pet group by Owner) select T1.Top from q as T1":
        "WITH q AS (SELECT owner, MAX(weight) AS top FROM pet GROUP BY owner) SELECT q.top FROM q",
    "SELECT T3.Top FROM (SELECT max(T1.weight) AS Top FROM pet AS T1) AS T3":
        "SELECT t3.top FROM (SELECT MAX(pet.weight) AS top FROM pet) AS t3",
    "SELECT count(*) FROM (student AS T1 JOIN pet AS T2 ON T1.stuid = T2.owner)":
        "SELECT COUNT(*) FROM (student JOIN pet ON student.stuid = pet.owner)",
}  # fmt: skip


@pytest.fixture(scope="module")
def database():
    con = sqlite3.connect(":memory:")
    con.execute("CREATE TABLE Student (StuID INTEGER, Name TEXT, `Home Town` TEXT, Age INTEGER)")
    con.execute("CREATE TABLE Pet (PetID INTEGER, Owner INTEGER, Kind TEXT, Weight REAL)")
    students = [(1, "Ann", "Rome", 19), (2, "O'Neil", 'it"s', 25), (3, "T1", "Rome", 31), (4, "Bo", "Oslo", 20)]
    pets = [(1, 1, "Cat", 3.5), (2, 1, "Dog", 9.0), (3, 3, "hamster", 0.2), (4, None, "Eel", 1.0)]
    con.executemany("INSERT INTO Student VALUES (?, ?, ?, ?)", students)
    con.executemany("INSERT INTO Pet VALUES (?, ?, ?, ?)", pets)
    return con


@pytest.mark.parametrize("sql", QUERIES)
def test_the_normal_form_to_the_letter(sql):
    assert normal(sql, SCHEMA) == (QUERIES[sql], True)


@pytest.mark.parametrize("sql", QUERIES)
def test_the_normal_form_gives_the_same_rows_and_is_its_own(sql, database):
    rows = database.execute(sql).fetchall()
    assert rows
    assert database.execute(normal(sql, SCHEMA).sql).fetchall() == rows
    assert normal(QUERIES[sql], SCHEMA).sql == QUERIES[sql]


def test_without_a_schema_what_may_be_a_text_keeps_its_capitals(database):
    sql = 'SELECT Name FROM Student WHERE Name = "Ann" AND Student."Age" > 1'
    found = normal(sql)
    assert found == ('SELECT name FROM student WHERE name = "Ann" AND student."age" > 1', True)
    assert database.execute(found.sql).fetchall() == [("Ann",)]
    assert normal(found.sql) == found


@pytest.mark.parametrize(
    "text",
    ["selec name from student", "", "select 1; drop table student", "DROP TABLE student", "PRAGMA table_info(x)",
     "SELECT " + "(" * 2000 + "1" + ")" * 2000, "SELECT '" + "x" * 30_000 + "'"],
)  # fmt: skip
def test_what_is_no_query_stays_as_it_is(text):
    assert normal(text, SCHEMA) == (text, False)


def test_the_columns_that_a_query_reads():
    join = 'SELECT T1.Name FROM Student AS T1 JOIN Pet AS T2 ON T1.StuID = T2.Owner WHERE weight > 3 AND kind = "a Cat"'
    assert used(join, SCHEMA) == {"student": {"name", "stuid"}, "pet": {"owner", "weight", "kind"}}
    assert used("SELECT count(*) FROM pet", SCHEMA) == {"pet": set()}
    assert used("SELECT * FROM pet", SCHEMA) == {"pet": {"petid", "owner", "kind", "weight"}}
    assert used("SELECT T1.* FROM pet AS T1", SCHEMA) == {"pet": {"petid", "owner", "kind", "weight"}}
    nested = "SELECT name FROM student WHERE stuid IN (SELECT owner FROM pet WHERE weight > age)"
    assert used(nested, SCHEMA) == {"student": {"name", "stuid", "age"}, "pet": {"owner", "weight"}}
    assert used("selec name frm student whre", SCHEMA) == {"student": {"name"}}


@pytest.mark.parametrize("to", ["postgres", "mysql", "duckdb", "snowflake"])
@pytest.mark.parametrize("sql", QUERIES)
def test_a_dialect_and_back_gives_the_same_rows(sql, to, database):
    back = sqlglot.transpile(translate(sql, to, SCHEMA), read=to, write="sqlite")[0]
    assert database.execute(back).fetchall() == database.execute(sql).fetchall()


def test_texts_and_like_are_said_as_the_dialect_needs_them():
    sql = 'SELECT Name FROM Student WHERE "Home Town" LIKE "r%"'
    assert translate(sql, "postgres", SCHEMA) == "SELECT Name FROM Student WHERE \"Home Town\" ILIKE 'r%'"
    assert translate(sql, "mysql", SCHEMA) == "SELECT Name FROM Student WHERE `Home Town` LIKE 'r%'"
    assert translate(sql, "sqlite", SCHEMA) == "SELECT Name FROM Student WHERE \"Home Town\" LIKE 'r%'"


def test_an_unknown_dialect_names_the_nearest():
    with pytest.raises(ManyoneError, match="unknown SQL dialect 'postgre'; did you mean 'postgres'"):
        dialect("postgre")
    with pytest.raises(ManyoneError, match="unknown SQL dialect 'PostgreSQL'; did you mean 'postgres'"):
        translate("SELECT 1", "PostgreSQL")
    with pytest.raises(ManyoneError, match=r"unknown SQL dialect 'qqq'; known: .*duckdb"):
        dialect("qqq")
    assert dialect("MySQL") == "mysql"


def test_what_is_no_query_has_no_form_in_a_dialect():
    with pytest.raises(ManyoneError, match="not one query in sqlite's SQL"):
        translate("SELECT 1; DROP TABLE pet", "postgres")
