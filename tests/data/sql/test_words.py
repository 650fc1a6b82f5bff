import pytest

from manyone.data.sql.fuzz import Draws
from manyone.data.sql.records import Column, Table
from manyone.data.sql.words import domain


@pytest.mark.parametrize(
    ("name", "kind", "holds"),
    [
        ("Age", "number", lambda v: 18 <= v <= 60),
        ("Year", "number", lambda v: 1990 <= v <= 2022),
        ("Year", "text", lambda v: isinstance(v, str) and 1990 <= int(v) <= 2022),
        ("Is_male", "others", lambda v: v in ("T", "F")),
        ("has_dog", "boolean", lambda v: v in (0, 1)),
        ("Country", "text", lambda v: v.istitle()),
        ("sex", "text", lambda v: v in ("F", "M")),
        ("order_date", "time", lambda v: v[4] == v[7] == "-" and len(v) == 10),
        ("start_time", "time", lambda v: v[2] == v[5] == ":" and len(v) == 8),
        ("created", "time", lambda v: len(v) == 19),
        ("airport_code", "text", lambda v: v[:2].isalpha() and v[2:].isdigit()),
        ("Name", "text", lambda v: " " in v),
    ],
)
def test_values_fit_the_name(name, kind, holds):
    column = Column(name, kind, name.lower().replace("_", " "))
    found = domain(Table("singer", (column,), "singer"), column, Draws(3))
    assert 2 <= len(found) <= 20
    assert all(map(holds, found)), found


def test_people_have_names_of_people():
    column = Column("Name", "text", "name")
    people, things = (set(domain(Table(t, (column,), t), column, Draws(1))) for t in ("singer", "stadium"))
    assert not people & things
