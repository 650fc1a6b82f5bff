"""From identifiers to the words that people say: ``InvoiceLine`` is an "invoice line", and two are "invoice lines".

Public: ``natural_name``, ``plural``, ``singular``, ``is_plural``. English only; what a schema calls a thing in another
language stays as it is, with the blanks where the identifier has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# fmt: off
_IRREGULAR = {
    "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    "mouse": "mice", "analysis": "analyses", "basis": "bases", "crisis": "crises", "index": "indices",
    "matrix": "matrices", "criterion": "criteria", "phenomenon": "phenomena", "datum": "data", "medium": "media",
    "shelf": "shelves", "leaf": "leaves", "wife": "wives", "life": "lives", "half": "halves", "hero": "heroes",
    "bus": "buses", "gas": "gases", "lens": "lenses", "status": "statuses", "bonus": "bonuses", "quiz": "quizzes",
}
_SINGULAR = {many: one for one, many in _IRREGULAR.items()}
_MASS = frozenset([
    "data", "series", "species", "staff", "information", "equipment", "weather", "news", "music", "software", "mail",
    "traffic", "furniture", "money", "sheep", "fish", "aircraft", "personnel", "feedback", "stock", "media",
])  # one word for one and for many
# fmt: on
_UNCHANGED = frozenset(["from", "to", "of", "in", "by", "at", "on", "for", "with", "until", "not"])
_DOUBLED = ("ss", "us", "is", "ous")


def natural_name(identifier: str) -> str:
    """The words of an identifier in lower case: ``numOfPets`` -> "num of pets", ``HTTPCode2`` -> "http code 2"."""
    words: list[str] = []
    for word in re.findall(r"[^\W\d_]+|\d+", identifier):
        start = 0
        for i in range(1, len(word)):
            starts_word = word[i].isupper() and not word[i - 1].isupper()
            ends_acronym = word[i].islower() and word[i - 1].isupper() and i - 1 > start
            if starts_word or ends_acronym:
                cut = i if starts_word else i - 1
                words.append(word[start:cut])
                start = cut
        words.append(word[start:])
    return " ".join(words).lower() or identifier.strip().lower()


def plural(phrase: str) -> str:
    """The plural of a noun phrase, by its last word, or by the noun before "in", "of", "for", "to" or "with"."""
    return _on_noun(phrase, _plural)


def singular(phrase: str) -> str:
    """The singular of a noun phrase, by the same word as :func:`plural`."""
    return _on_noun(phrase, _singular)


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase speaks of several: "languages", but not "status" or "series"."""
    return singular(phrase) != phrase


def _on_noun(phrase: str, change: Callable[[str], str]) -> str:
    words = phrase.split(" ")
    if words[-1] in _UNCHANGED or words[0] in ("how", "what", "when", "where", "why"):  # "start from", "how to pay"
        return phrase
    at = next((i for i, word in enumerate(words) if i and word in ("in", "of", "for", "to", "with")), len(words)) - 1
    words[at] = change(words[at])
    return " ".join(words)


def _plural(word: str) -> str:
    if re.search(r"[^aeiou]ed$", word):  # "year awarded"
        return word
    if word in _MASS or word in _SINGULAR or (_singular(word) != word):
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return word + "s"


def _singular(word: str) -> str:
    if word in _MASS or word in _IRREGULAR:
        return word
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word.endswith("ies") and len(word) > 4 and word != "movies":
        return word[:-3] + "y"
    if re.search(r"(sses|xes|ches|shes|zzes)$", word):
        return word[:-2]
    if word.endswith("s") and not word.endswith(_DOUBLED) and len(word) > 3:
        return word[:-1]
    return word
