import pytest
from tests.data.sql.small_sql import make_shop

from manyone.data.sql.facts import gather
from manyone.data.sql.files import Reader
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.phrases import Condition, Wording, agreed, article
from manyone.data.sql.schema import read_schema


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    path = make_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    with Reader(path) as reader:
        return gather(reader, read_schema(path))


def said(facts, condition, mode="plain", other=None, count=40):
    """All that is said of one condition, and whether the mode ever changed it."""
    wordings = [Wording(facts, Draws(i), mode, other) for i in range(count)]
    return {w.condition(condition) for w in wordings}, {w.changed for w in wordings}


def test_articles():
    words = ("age", "unit price", "hour", "email", "european city", "university", "umbrella", "city", "one year")
    assert [article(w).split()[0] for w in words] == ["an", "a", "an", "an", "a", "a", "an", "a", "a"]


def test_verbs_agree_with_names():
    assert agreed("whose likes is below 3", "likes") == "whose likes are below 3"
    assert agreed("whose likes equals 3", "likes") == "whose likes equal 3"
    assert agreed("whose age is below 3", "age") == "whose age is below 3"
    assert article("languages") == "languages"


def test_there_are_several_ways_to_say_a_condition(facts):
    _, product, order = facts.tables
    price = product.column("UnitPrice")
    for operator, words in {">": "above", ">=": "at least", "<": "below", "<=": "at most", "!=": "other than"}.items():
        ways, _ = said(facts, Condition(price, operator, 3.5))
        assert len(ways) >= 3
        assert all("unit price" in way and "3.5" in way for way in ways)
        assert any(words in way for way in ways)
    ways, _ = said(facts, Condition(order.column("Order Date"), ">", "2024-02-01"))
    assert all("after 2024-02-01" in w or "later than 2024-02-01" in w for w in ways)
    ways, _ = said(facts, Condition(price, "between", 1, 3))
    assert all("1" in w and "3" in w for w in ways)


def test_yes_and_no(facts):
    active = facts.tables[1].column("IsActive")
    assert said(facts, Condition(active, "=", 1))[0] == {"that are active", "which are active"}
    assert said(facts, Condition(active, "=", 0))[0] == {"that are not active", "which are not active"}
    one = Wording(facts, Draws(1)).where([Condition(active, "=", 1)], many=False)
    assert one in (" that is active", " which is active")


def test_a_constant_that_implies_its_column_may_stand_alone(facts):
    city, price = facts.tables[0].column("City"), facts.tables[1].column("UnitPrice")
    assert said(facts, Condition(city, "=", "Oslo"), "dropped") == ({"in Oslo"}, {True})
    _, changed = said(facts, Condition(price, "=", 1.5), "dropped")
    assert changed == {False}  # a number is in many columns
    facts.homes["oslo"].add(("Product", "Name"))
    try:
        assert said(facts, Condition(city, "=", "Oslo"), "dropped")[1] == {False}
    finally:
        facts.homes["oslo"].remove(("Product", "Name"))


def test_words_of_the_field(facts):
    customer, product, _ = facts.tables
    price, birth = product.column("UnitPrice"), customer.column("BirthDate")
    assert said(facts, Condition(price, ">", 3), "domain")[0] == {"that are more expensive than 3"}
    assert said(facts, Condition(birth, "<", "1970-01-01"), "domain")[0] == {"born before 1970-01-01"}
    for most, count, words in ((True, 1, "the most expensive product"), (False, 3, "the 3 cheapest products")):
        wording = Wording(facts, Draws(0), "domain")
        assert wording.extreme(product, price, most, count, []) == words
        assert wording.changed
    plain = Wording(facts, Draws(0)).extreme(product, price, True, 3, [])
    assert plain.startswith("the 3 products with the ")
    assert plain.endswith(" unit price")


def test_synonyms_are_one_word_in_a_whole_question(facts):
    other = {"customer": ("client", "patron"), "city": ("town",)}
    customer = facts.tables[0]
    found = set()
    for i in range(30):
        w = Wording(facts, Draws(i), "synonyms", other)
        text = f"{w.many(customer)} {w.one(customer)} {w.column(customer.column('City'))}"
        assert w.changed
        found.add(text)
    assert found == {"clients client town", "patrons patron town"}
    untouched = Wording(facts, Draws(0), "synonyms", {})
    assert untouched.many(customer) == "customers"
    assert not untouched.changed


@pytest.mark.parametrize("mode", ["synonyms", "dropped", "domain"])
def test_modes_make_the_same_draws(facts, mode):
    """What is said after a condition does not depend on the mode that it was said in."""
    customer, product, _ = facts.tables
    conditions = [Condition(customer.column("City"), "=", "Oslo"), Condition(product.column("UnitPrice"), ">", 3),
                  Condition(customer.column("BirthDate"), "<", "1970-01-01")]  # fmt: skip
    for i in range(20):
        one, two = Wording(facts, Draws(i)), Wording(facts, Draws(i), mode, {"city": ("town",)})
        for w in (one, two):
            w.where(conditions)
            w.extreme(product, product.column("UnitPrice"), True, 1, conditions)
            w.children(facts.joins[0], conditions)
        assert one.draws.uniform() == two.draws.uniform()
