"""SQL as a row of words, for what the official scores do to the text of a query: white space carries no meaning here.

words        the words of a statement, with their kinds
without_distinct, first_statement, spaced_comparisons, current_year
             the rewritings of the official execution score
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["space", "text", "name", "number", "word", "sign"]

_WORD = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<name>`(?:[^`]|``)*`|\[[^\]]*\])
    |(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?!\w)|\.\d+(?:[eE][+-]?\d+)?(?!\w))
    |(?P<word>\w+)
    |(?P<sign>[<>!=]=|<>|\|\||.)""",
    re.X | re.S,
)


@dataclass(frozen=True)
class Word:
    """A word of SQL: white space or a comment, a text in quotes, a name in back-ticks or brackets, a number, a word
    (keyword or name, as it is written), or a sign."""

    kind: Kind
    text: str


def all_words(sql: str) -> list[Word]:
    """Every part of ``sql``, white space and comments too: the texts joined are ``sql`` again."""
    return [Word(found.lastgroup, found[0]) for found in _WORD.finditer(sql)]  # type: ignore[arg-type]


def words(sql: str) -> list[Word]:
    """The words of ``sql`` without white space and comments; ``> =`` and its like are one sign."""
    found: list[Word] = []
    for word in all_words(sql):
        if word.kind == "space":
            continue
        if word.text == "=" and found and found[-1].kind == "sign" and found[-1].text in "<>!":
            found[-1] = Word("sign", found[-1].text + "=")
        else:
            found.append(word)
    return found


def without_distinct(sql: str) -> str:
    """``sql`` without the word DISTINCT, wherever it stands outside of texts, quoted names and comments."""
    return "".join(word.text for word in all_words(sql) if word.kind != "word" or word.text.lower() != "distinct")


def first_statement(sql: str) -> str:
    """What stands before the first semicolon that ends a statement."""
    found: list[str] = []
    for word in all_words(sql):
        if word.kind == "sign" and word.text == ";" and "".join(found).strip():
            break
        found.append(word.text)
    return "".join(found)


def spaced_comparisons(sql: str) -> str:
    """``> =``, ``< =`` and ``! =`` written together."""
    return sql.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")


_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.I)


def current_year(sql: str) -> str:
    """MySQL's year of today, which SQLite does not have, as the year in which Spider's golds hold."""
    return _YEAR.sub("2020", sql)
