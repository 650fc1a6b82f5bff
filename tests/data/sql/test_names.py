from hypothesis import given
from hypothesis import strategies as st

from manyone.data.sql.names import is_plural, natural_name, plural, singular


def test_the_words_of_identifiers():
    for identifier, words in {
        "InvoiceLine": "invoice line",
        "numOfPets": "num of pets",
        "HTTPCode2": "http code 2",
        "singer_in_concert": "singer in concert",
        "Order Date": "order date",
        "playerID": "player id",
        "Straße": "straße",
        "ÜberGröße": "über größe",
        "2B": "2 b",
        "___": "___",
    }.items():
        assert natural_name(identifier) == words


def test_one_and_many():
    for one, many in {
        "city": "cities",
        "bus": "buses",
        "class": "classes",
        "movie": "movies",
        "person": "people",
        "invoice line": "invoice lines",
        "singer in concert": "singers in concert",
        "box": "boxes",
        "series": "series",
        "day": "days",
        "address": "addresses",
        "date of birth": "dates of birth",
    }.items():
        assert plural(one) == many
        assert plural(many) == many
        assert singular(many) == one
        assert singular(one) == one


def test_what_has_no_plural_stays():
    for phrase in ("start from", "year awarded", "how to get there", "series"):
        assert plural(phrase) == phrase
    assert [is_plural(p) for p in ("languages", "likes", "status", "address", "series", "age")] == [
        True, True, False, False, False, False]  # fmt: skip


@given(st.text(max_size=40))
def test_any_text_has_words_and_they_keep_its_letters(text):
    words = natural_name(text)
    letters = [c for c in text.lower() if c.isalnum()]
    if letters:
        assert [c for c in words if c.isalnum()] == letters
    assert words == words.lower()
