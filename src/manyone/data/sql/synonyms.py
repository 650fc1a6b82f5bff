"""Other nouns for a noun, by WordNet 3.0: what its most frequent sense is called besides.

Public: ``synonyms``, ``read_synonyms``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import get
from manyone.data.sql.records import Schema

_MOST, _SENSES = 3, 5
_NO_NOUNS = frozenset(["in", "of", "by", "at", "a", "an", "as", "is", "id", "no", "or", "us", "was", "are", "at bats"])


@lru_cache(maxsize=1)
def wordnet() -> tuple[bytes, bytes]:
    """The index and the data of WordNet's nouns."""
    archive = open_archive(get("wordnet-base"))
    return archive.read(find(archive, "index.noun")), archive.read(find(archive, "data.noun"))


def synonyms(schemas: Iterable[Schema]) -> dict[str, tuple[str, ...]]:
    """Up to three synonyms of every word in the natural names of ``schemas`` that has any."""
    words = set()
    for schema in schemas:
        for table in schema.tables:
            for phrase in (table.natural, *(c.natural for c in table.columns)):
                words.update(phrase.split())
    index, data = wordnet()
    return read_synonyms(index, data, words)


def read_synonyms(index: bytes, data: bytes, words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The synonyms of ``words`` in WordNet's ``index.noun`` and ``data.noun``.

    A line of the index is ``lemma n senses pointers [pointer ...] senses tagged offset ...``, its senses by their
    frequency; a line of the data, at the byte ``offset``, is ``offset file n count(hex) word id word id ...``. Of the
    first sense all other words are taken that are not names and not longer than two words. A word of more than five
    senses has none: which one a column means is not known.
    """
    wanted, found = set(words) - _NO_NOUNS, {}
    for line in index.decode("utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        lemma = line.split(" ", 1)[0]
        if lemma not in wanted:
            continue
        parts = line.split()
        senses = int(parts[2])
        if senses > _SENSES:
            continue
        offset = int(parts[-senses])
        fields = data[offset : data.index(b"\n", offset)].decode("utf-8").split(" ")
        others = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
        plain = [o.replace("_", " ") for o in others if o != lemma and o == o.lower() and o.count("_") < 2]
        if plain:
            found[lemma] = tuple(plain[:_MOST])
    return found
