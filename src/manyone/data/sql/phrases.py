"""How questions say things: the words for a table, a column, a condition, an extreme; plain, or in other words.

A question is said by a :class:`Wording`, which draws among several ways to say the same. Its ``mode`` is

    plain       the natural names of the schema (what training questions use)
    synonyms    other nouns for tables and columns, where the dictionary has some (in the spirit of Spider-Syn)
    dropped     conditions whose constant implies the column do not name it (in the spirit of Spider-Realistic)
    domain      what people in the field say: "older than 30", "the cheapest" (in the spirit of Spider-DK)

and every mode makes the same draws, so that the questions of two modes differ in those words alone.
Public: ``Wording``, ``Condition``, ``MODES``, ``article``, ``agreed``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from manyone.data.sql.facts import ColumnFacts, Facts, Join, TableFacts, shown
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.names import is_plural, plural
from manyone.data.sql.sandbox import Value

Mode = Literal["plain", "synonyms", "dropped", "domain"]
MODES: tuple[Mode, ...] = ("synonyms", "dropped", "domain")
"""The modes besides plain."""
Operator = Literal["=", "!=", ">", ">=", "<", "<=", "between", "contains", "starts"]
T = TypeVar("T")

# fmt: off
# name of a column -> the most, the least, more than, less than
_DOMAIN: tuple[tuple[str, tuple[str, str, str, str]], ...] = (
    (r"\bage\b", ("oldest", "youngest", "older than", "younger than")),
    (r"\b(price|cost|fee)\b", ("most expensive", "cheapest", "more expensive than", "cheaper than")),
    (r"\b(salary|wage|earnings|income)\b", ("best paid", "worst paid", "paid more than", "paid less than")),
    (r"\b(length|duration|milliseconds|air time|runtime)\b", ("longest", "shortest", "longer than", "shorter than")),
    (r"\b(height|altitude|elevation)\b", ("tallest", "lowest", "taller than", "lower than")),
    (r"\b(weight|mass)\b", ("heaviest", "lightest", "heavier than", "lighter than")),
    (r"\b(speed)\b", ("fastest", "slowest", "faster than", "slower than")),
    (r"\b(population)\b", ("most populous", "least populous", "more populous than", "less populous than")),
    (r"\b(capacity|size|area|bytes|seats)\b", ("biggest", "smallest", "bigger than", "smaller than")),
    (r"\b(rating|score|stars)\b", ("best rated", "worst rated", "rated above", "rated below")),
    (r"\b(delay)\b", ("most delayed", "least delayed", "delayed by more than", "delayed by less than")),
    (r"\b(temperature)\b", ("hottest", "coldest", "hotter than", "colder than")),
    (r"\b(density)\b", ("densest", "least dense", "denser than", "less dense than")),
    (r"\b(attendance)\b", ("best attended", "worst attended", "attended by more than", "attended by fewer than")),
    (r"\b(birth ?date|birthday|birth year)\b", ("youngest", "oldest", "born after", "born before")),
    (r"\bhire", ("most recently hired", "longest serving", "hired after", "hired before")),
    (r"\b(date|year|time|founded|debut|opening)\b", ("most recent", "earliest", "dated after", "dated before")),
)
# fmt: on
_PLACES = re.compile(
    r"\b(city|country|state|county|province|region|continent|town|location|district|nation|hometown)\b"
)
_SEX = re.compile(r"\b(sex|gender)\b")
_WORDS = {"f": "female", "female": "female", "m": "male", "male": "male"}
_VERBS = ("paid", "rated", "born", "delayed", "attended", "hired", "dated")
_VERBS_OF_MANY = {"is": "are", "equals": "equal", "contains": "contain", "includes": "include", "starts": "start",
                  "begins": "begin", "differs": "differ", "lies": "lie", "falls": "fall"}  # fmt: skip
_VOWEL = re.compile(r"(?!uni|use|usu|eu|one\b)[aeiou]|hour|honou?r")
_TRUE = frozenset(["1", "t", "true", "y", "yes"])


def article(phrase: str) -> str:
    """``phrase`` with "a" or "an" before it; without it where it speaks of several."""
    if is_plural(phrase):
        return phrase
    return f"{'an' if _VOWEL.match(phrase.lower()) else 'a'} {phrase}"


def agreed(text: str, name: str) -> str:
    """``text``, which says "whose NAME is ...", with the verb of a name that speaks of several."""
    if not is_plural(name):
        return text
    return re.sub(rf"\bwhose {re.escape(name)} (\w+)", lambda m: f"whose {name} {_VERBS_OF_MANY.get(m[1], m[1])}", text)


def _singly(found: re.Match[str]) -> str:
    return f"{found[1]} {'is' if found[2] == 'are' else 'has'}"


@dataclass(frozen=True)
class Condition:
    """``column OPERATOR value`` (``high`` is the upper end of "between")."""

    column: ColumnFacts
    operator: Operator
    value: Value
    high: Value = None


class Wording:
    """Says a question once. ``other`` has further nouns for a noun; ``changed``: whether the mode made a difference."""

    def __init__(
        self, facts: Facts, draws: Draws, mode: Mode = "plain", other: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.facts, self.draws, self.mode, self.other = facts, draws, mode, other or {}
        self.changed = False
        self._chosen: dict[str, str] = {}

    def pick(self, *options: T) -> T:
        """One of the options."""
        return options[self.draws.below(len(options))]

    # --- nouns --------------------------------------------------------------------------------------------------------

    def one(self, table: TableFacts) -> str:
        """A row of the table."""
        return self._noun(table.one)

    def many(self, table: TableFacts) -> str:
        """Rows of the table."""
        return plural(self._noun(table.one))

    def column(self, column: ColumnFacts) -> str:
        """The column's name."""
        return self._noun(column.natural)

    def columns(self, columns: Sequence[ColumnFacts], *, many: bool = False) -> str:
        """Several columns, with "and" before the last."""
        names = [self.column(c) for c in columns]
        names = [plural(n) for n in names] if many else names
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

    def _noun(self, phrase: str) -> str:
        """The phrase; of its synonyms one and the same in the whole question."""
        draw = self.draws.uniform()
        if self.mode != "synonyms":
            return phrase
        if phrase not in self._chosen:
            self._chosen[phrase] = self._synonym(phrase, draw)
        self.changed |= self._chosen[phrase] != phrase
        return self._chosen[phrase]

    def _synonym(self, phrase: str, draw: float) -> str:
        words = phrase.split(" ")
        for i in reversed(range(len(words))):
            if options := self.other.get(words[i]):
                return " ".join([*words[:i], options[int(draw * len(options))], *words[i + 1 :]])
        return phrase

    # --- conditions ---------------------------------------------------------------------------------------------------

    def where(self, conditions: Sequence[Condition], joint: str = "and", *, many: bool = True) -> str:
        """What follows a noun, of ``many`` or of one: "whose age is above 30 and whose city is Oslo", or nothing."""
        texts = [self.condition(c) for c in conditions]
        if not many:
            texts = [re.sub(r"^(that|which|who) (are|have)\b", _singly, text) for text in texts]
        return "".join(f" {joint} {text}" if i else f" {text}" for i, text in enumerate(texts))

    def condition(self, c: Condition) -> str:
        """One condition, as it follows a noun in the plural."""
        way = self.draws.below(12)
        name, value = self.column(c.column), self.value(c.value)
        if self.mode == "dropped" and (text := self._dropped(c, value)) is not None:
            self.changed = True
            return text
        if self.mode == "domain" and (text := self._domain(c, value)) is not None:
            self.changed = True
            return text
        return self._plain(c, name, value, way)

    def value(self, value: Value) -> str:
        """A constant."""
        text = shown(value)
        assert text is not None
        return f'"{text}"' if self.draws.uniform() < 0.5 and isinstance(value, str) and " " in text else text

    def _plain(self, c: Condition, name: str, value: str, way: int) -> str:
        if c.column.role == "flag":
            return self._flag(c, name, way)
        if c.operator == "between":
            high = self.value(c.high)
            ways = [f"whose {name} is between {value} and {high}", f"with {article(name)} between {value} and {high}",
                    f"whose {name} lies from {value} to {high}"]  # fmt: skip
        elif c.operator == "contains":
            ways = [f"whose {name} contains {value}", f"with {value} in their {name}", f"whose {name} includes {value}"]
        elif c.operator == "starts":
            if c.column.role == "time":
                ways = [
                    f"whose {name} is in {value}",
                    f"with {article(name)} in {value}",
                    f"whose {name} falls in {value}",
                ]
            else:
                ways = [f"whose {name} starts with {value}", f"with {article(name)} that begins with {value}",
                        f"whose {name} begins with {value}"]  # fmt: skip
        elif c.operator == "=":
            ways = [f"whose {name} is {value}", f"with {name} {value}", f"that have {value} as {name}",
                    f"whose {name} equals {value}"]  # fmt: skip
        elif c.operator == "!=":
            ways = [f"whose {name} is not {value}", f"with {article(name)} other than {value}",
                    f"whose {name} differs from {value}"]  # fmt: skip
        elif c.column.role == "time":
            words: tuple[str, ...] = {
                ">": ("after", "later than"), ">=": ("on or after", "no earlier than"),
                     "<": ("before", "earlier than"), "<=": ("on or before", "no later than")}[c.operator]  # fmt: skip
            ways = [f"whose {name} is {word} {value}" for word in words]
            ways += [f"with {article(name)} {word} {value}" for word in words]
        else:
            words = {">": ("greater than", "above", "more than", "higher than"),
                     ">=": ("at least", "no less than", "greater than or equal to"),
                     "<": ("less than", "below", "lower than", "smaller than"),
                     "<=": ("at most", "no more than", "less than or equal to")}[c.operator]  # fmt: skip
            ways = [f"whose {name} is {word} {value}" for word in words]
            ways += [f"with {article(name)} {word} {value}" for word in words if "than" not in word]
        return agreed(ways[way % len(ways)], name)

    def _flag(self, c: Condition, name: str, way: int) -> str:
        yes = (str(c.value).lower() in _TRUE) == (c.operator == "=")
        word = re.sub(r"^(is|was|has|are) ", "", name)
        if word == name:
            return f"whose {name} is {'' if c.operator == '=' else 'not '}{self.value(c.value)}"
        verb = "have" if name.startswith("has") else "are"
        negated = "do not have" if verb == "have" else "are not"
        return f"{self.pick('that', 'which')} {verb if yes else negated} {word}"

    def _dropped(self, c: Condition, value: str) -> str | None:
        """Without the column, where the text is in no other column of the database."""
        if c.operator != "=" or c.column.role in ("key", "flag"):
            return None
        if c.column.natural == "year" or (isinstance(c.value, str) and re.fullmatch(r"(19|20)\d\d", c.value)):
            return f"in {value}"
        if not isinstance(c.value, str) or len(self.facts.homes.get(c.value.lower(), ())) > 1:
            return None
        if _PLACES.search(c.column.natural):
            return f"in {value}"
        if c.column.role == "label":
            return f"called {value}" if re.search(r"\b(name|title)$", c.column.natural) else None
        return f"that are {value}"

    def _domain(self, c: Condition, value: str) -> str | None:
        if c.operator == "=" and _SEX.search(c.column.natural) and str(c.value).lower() in _WORDS:
            return f"who are {_WORDS[str(c.value).lower()]}"
        words = _domain_words(c.column)
        if words is None or c.operator not in (">", "<"):
            return None
        word = words[2] if c.operator == ">" else words[3]
        verb = "" if word.startswith(_VERBS) else "that are "
        return f"{verb}{word} {value}"

    # --- extremes -----------------------------------------------------------------------------------------------------

    def extreme(
        self, table: TableFacts, column: ColumnFacts, most: bool, count: int, conditions: Sequence[Condition]
    ) -> str:
        """The row (or ``count`` rows) that has the most or least: "the 3 singers with the highest age"."""
        way = self.draws.below(12)
        where = self.where(conditions, many=count > 1)
        noun = self.one(table) if count == 1 else self.many(table)
        name = self.column(column)
        number = "" if count == 1 else f"{count} "
        words = _domain_words(column)
        if self.mode == "domain" and words is not None:
            self.changed = True
            return f"the {number}{words[0] if most else words[1]} {noun}{where}"
        if column.role == "time":
            best: tuple[str, ...] = ("latest", "most recent") if most else ("earliest", "first")
        else:
            best = ("highest", "largest", "greatest") if most else ("lowest", "smallest", "least")
        return f"the {number}{noun}{where} with the {best[way % len(best)]} {name}"

    # --- links --------------------------------------------------------------------------------------------------------

    def children(self, join: Join, conditions: Sequence[Condition], *, bare: bool = False) -> str:
        """Rows that refer to parents: "albums of artists whose name is AC/DC"."""
        way = self.draws.below(12)
        child, parent, where = self.many(join.child), self.many(join.parent), self.where(conditions)
        link = self.column(join.column)
        if not join.only:
            return f"{child} whose {_without_id(link)} is {article(self.one(join.parent))}{where}"
        ways = (f"{child} of {parent}{where}", f"{child} that belong to {parent}{where}",
                f"{child} of the {parent}{where}")  # fmt: skip
        return ways[way % len(ways)] if not bare else f"{child} of {parent}{where}"


def _without_id(link: str) -> str:
    return re.sub(r" (id|code|key)$", "", link)


def _domain_words(column: ColumnFacts) -> tuple[str, str, str, str] | None:
    if column.role not in ("measure", "time"):
        return None
    return next((words for pattern, words in _DOMAIN if re.search(pattern, column.natural)), None)
