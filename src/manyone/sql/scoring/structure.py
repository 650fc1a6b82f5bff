"""A query in Spider's terms: what it selects, from which tables, under which conditions (Yu et al., EMNLP 2018).

The grammar is the one that Spider's own parser reads, a part of SQL: tables joined by JOIN ... ON, AS before every
alias, conditions without brackets around them, at most one of UNION, INTERSECT and EXCEPT behind a query. What it does
not read (LEFT JOIN, column aliases, CASE, lists behind IN, ...) counts as wrong in exact match, there as here. It is a
grammar over words, not over meanings: ``FROM t AS a`` is read and ``FROM t a`` is not, which a tree of SQL cannot tell
apart; so this is a reader of its own.

Departures, see :data:`manyone.sql.scoring.presets.DEVIATIONS`: white space is no part of the language, and an alias
means what it means in the query that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from manyone.data.sql.records import Schema
from manyone.sql.scoring.words import Word, words

AGGREGATES = ("max", "min", "count", "sum", "avg")
OPERATORS = ("not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists")
SETS = ("intersect", "union", "except")
_CLAUSES = frozenset(("select", "from", "where", "group", "order", "limit", *SETS))
_JOINS = frozenset(("join", "on", "as"))
_ARITHMETIC = ("-", "+", "*", "/")
_ENDS = frozenset((")", ";"))
_DEEPEST = 50  # queries inside queries
ALL = "*"
"""The column that stands for all of them."""


class Unreadable(Exception):
    """The query is not written in Spider's part of SQL; the message says where."""


@dataclass(frozen=True)
class ColumnUnit:
    """A column ("table.column" in lower case, or "*") under an aggregate ("" for none)."""

    aggregate: str
    column: str
    distinct: bool | None = False


@dataclass(frozen=True)
class ValueUnit:
    """A column, or two of them with an arithmetic sign between."""

    sign: str
    left: ColumnUnit
    right: ColumnUnit | None = None


@dataclass(frozen=True)
class Selected:
    """An item behind SELECT; an aggregate around it stands here."""

    aggregate: str
    unit: ValueUnit


Value = Union[float, str, ColumnUnit, "Query", None]


@dataclass(frozen=True)
class Condition:
    """``unit operator first`` or ``unit BETWEEN first AND second``, or their negation."""

    negated: bool
    operator: str
    unit: ValueUnit
    first: Value
    second: Value = None


@dataclass(frozen=True)
class Conditions:
    """Conditions in the order in which they stand, and the words ("and", "or") between them."""

    items: tuple[Condition, ...] = ()
    connectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """A query by its clauses, without the number behind LIMIT. ``tables`` are names in lower case, or queries."""

    distinct: bool | None = False
    select: tuple[Selected, ...] = ()
    tables: tuple[str | Query, ...] = ()
    on: Conditions = Conditions()
    where: Conditions = Conditions()
    group: tuple[ColumnUnit, ...] = ()
    having: Conditions = Conditions()
    direction: str = ""
    order: tuple[ValueUnit, ...] = ()
    limited: bool = False
    intersect: Query | None = None
    union: Query | None = None
    otherwise: Query | None = None  # EXCEPT, which is a word of Python


def read_query(sql: str, schema: Schema, *, scoped: bool = True) -> Query:
    """``sql`` over ``schema`` in Spider's terms. Raises :class:`Unreadable` where it is not in its grammar.

    ``scoped``: an alias holds in its query and those inside; else, as in the official parser, all over the text, and
    the last one of a name wins.
    """
    reader = _Reader(_merged(words(sql)), schema, scoped)
    try:
        return reader.query({})
    except IndexError:
        raise Unreadable("it ends too early") from None


def columns(schema: Schema) -> Mapping[str, frozenset[str]]:
    """Table -> its columns, all in lower case."""
    return {name: frozenset(column.name.lower() for column in table.columns) for name, table in schema.by_name.items()}


@dataclass(frozen=True)
class _Token:
    """A word as the grammar reads it: ``text`` is in lower case but for a text's; ``plain``: it may be a keyword."""

    text: str
    plain: bool
    number: float | None = None
    literal: bool = False

    def __repr__(self) -> str:
        return repr(self.text)


def _merged(found: Sequence[Word]) -> list[_Token]:
    """The words with ``table.column`` in one; a word of the grammar is one that no quotes hold."""
    tokens: list[_Token] = []
    at = 0
    while at < len(found):
        word = found[at]
        at += 1
        if word.kind == "text":
            tokens.append(_Token(word.text, False, literal=True))
        elif word.kind == "number":
            tokens.append(_Token(word.text, False, number=float(word.text)))
        elif word.kind in ("word", "name"):
            parts = [_name(word)]
            while at + 1 < len(found) and found[at].text == "." and found[at + 1].kind in ("word", "name"):
                parts.append(_name(found[at + 1]))
                at += 2
            tokens.append(_Token(".".join(parts), word.kind == "word" and len(parts) == 1))
        else:
            tokens.append(_Token(word.text, True))
    return tokens


def _name(word: Word) -> str:
    return (word.text if word.kind == "word" else word.text[1:-1]).lower()


class _Reader:
    """Reads one query after another from the tokens, from ``at`` on."""

    def __init__(self, tokens: Sequence[_Token], schema: Schema, scoped: bool) -> None:
        self.tokens, self.at, self.deep = tokens, 0, 0
        self.columns = columns(schema)
        self.scoped = scoped
        self.everywhere: dict[str, str] | None = None

    # --- tokens -------------------------------------------------------------------------------------------------------

    def left(self) -> bool:
        return self.at < len(self.tokens)

    def peek(self) -> str:
        """The next token where it may be a keyword or a sign; "" at the end and before other tokens."""
        return self.tokens[self.at].text if self.left() and self.tokens[self.at].plain else ""

    def take(self, text: str) -> bool:
        """Whether the next token is ``text``, which is then behind."""
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise self.wrong(f"{text!r} expected")

    def wrong(self, words: str) -> Unreadable:
        place = repr(self.tokens[self.at]) if self.left() else "the end"
        return Unreadable(f"{words} at {place}")

    def ended(self) -> bool:
        """Whether the clause is over."""
        return self.peek() in _CLAUSES or self.peek() in _ENDS

    # --- names --------------------------------------------------------------------------------------------------------

    def _aliases(self, start: int, end: int) -> dict[str, str]:
        """Alias -> table, from every ``table AS alias`` whose AS is from ``start`` to before ``end``."""
        found: dict[str, str] = {}
        for at in range(max(start, 1), end):
            if self.tokens[at].plain and self.tokens[at].text == "as":
                found[self.tokens[at + 1].text] = self.tokens[at - 1].text
        if clash := sorted(set(found) & set(self.columns)):
            raise Unreadable(f"the alias {clash[0]!r} is the name of a table")
        return found

    def own_aliases(self) -> dict[str, str]:
        """The aliases of the query that starts here: not those of queries in brackets or behind UNION and its like."""
        if not self.scoped:
            if self.everywhere is None:
                self.everywhere = self._aliases(0, len(self.tokens))
            return self.everywhere
        depth, end = 0, self.at
        found: dict[str, str] = {}
        while end < len(self.tokens) and depth >= 0:
            token = self.tokens[end]
            if token.plain and depth == 0 and token.text in SETS:
                break
            if token.plain and depth == 0 and token.text == "as":
                found |= self._aliases(end, end + 1)
            depth += token.plain * ((token.text == "(") - (token.text == ")"))
            end += 1
        return found

    def table(self, name: str, aliases: Mapping[str, str]) -> str:
        found = aliases.get(name, name)
        if found not in self.columns:
            raise self.wrong(f"no table {name!r}")
        return found

    # --- the grammar --------------------------------------------------------------------------------------------------

    def query(self, outer: Mapping[str, str]) -> Query:
        """A query, in brackets or not, with what UNION and its like put behind it."""
        self.deep += 1
        if self.deep > _DEEPEST:
            raise Unreadable("too many queries inside each other")
        in_brackets = self.take("(")
        aliases = {**outer, **self.own_aliases()}
        start = self.at
        self._to_from()
        tables, on, known = self.sources(aliases)
        after = self.at
        self.at = start
        distinct, select = self.selection(aliases, known)
        self.at = after
        where = self.conditions(aliases, known) if self.take("where") else Conditions()
        group: tuple[ColumnUnit, ...] = ()
        if self.take("group"):
            self.need("by")
            group = self.grouping(aliases, known)
        having = self.conditions(aliases, known) if self.take("having") else Conditions()
        direction = ""
        order: tuple[ValueUnit, ...] = ()
        if self.take("order"):
            self.need("by")
            direction, order = self.ordering(aliases, known)
        limited = self.take("limit")
        if limited:
            self.tokens[self.at]  # there must be one, which does not count
            self.at += 1
        self._semicolons()
        if in_brackets:
            self.need(")")
        self._semicolons()
        behind: dict[str, Query] = {}
        if (name := self.peek()) in SETS:
            self.at += 1
            behind[name] = self.query(outer)
        self.deep -= 1
        return Query(distinct, select, tables, on, where, group, having, direction, order, limited,
                     behind.get("intersect"), behind.get("union"), behind.get("except"))  # fmt: skip

    def _to_from(self) -> None:
        while not self.take("from"):
            if not self.left():
                raise Unreadable("no FROM")
            self.at += 1

    def _semicolons(self) -> None:
        while self.take(";"):
            pass

    def sources(self, aliases: Mapping[str, str]) -> tuple[tuple[str | Query, ...], Conditions, list[str]]:
        """Tables and queries behind FROM, the conditions behind ON, and the tables by themselves."""
        tables: list[str | Query] = []
        items: list[Condition] = []
        connectors: list[str] = []
        known: list[str] = []
        while self.left():
            in_brackets = self.take("(")
            if self.peek() == "select":
                tables.append(self.query(aliases))
            else:
                self.take("join")
                name = self.table(self.tokens[self.at].text, aliases)
                self.at += 1
                if self.take("as"):
                    self.at += 1
                tables.append(name)
                known.append(name)
            if self.take("on"):
                more = self.conditions(aliases, known)
                connectors += (["and"] if items else []) + list(more.connectors)
                items += more.items
            if in_brackets:
                self.need(")")
            if self.left() and self.ended():
                break
        return tuple(tables), Conditions(tuple(items), tuple(connectors)), known

    def selection(self, aliases: Mapping[str, str], known: Sequence[str]) -> tuple[bool, tuple[Selected, ...]]:
        self.need("select")
        distinct = self.take("distinct")
        found: list[Selected] = []
        while self.left() and self.peek() not in _CLAUSES:
            aggregate = self.peek() if self.peek() in AGGREGATES else ""
            self.at += bool(aggregate)
            found.append(Selected(aggregate, self.value_unit(aliases, known)))
            self.take(",")
        return distinct, tuple(found)

    def value_unit(self, aliases: Mapping[str, str], known: Sequence[str]) -> ValueUnit:
        in_brackets = self.take("(")
        left = self.column_unit(aliases, known)
        sign, right = "", None
        if self.peek() in _ARITHMETIC:
            sign = self.peek()
            self.at += 1
            right = self.column_unit(aliases, known)
        if in_brackets:
            self.need(")")
        return ValueUnit(sign, left, right)

    def column_unit(self, aliases: Mapping[str, str], known: Sequence[str]) -> ColumnUnit:
        in_brackets = self.take("(")
        if (aggregate := self.peek()) in AGGREGATES:
            self.at += 1
            self.need("(")
            distinct = self.take("distinct")
            column = self.column(aliases, known)
            self.need(")")
            return ColumnUnit(aggregate, column, distinct)
        distinct = self.take("distinct")
        column = self.column(aliases, known)
        if in_brackets:
            self.need(")")
        return ColumnUnit("", column, distinct)

    def column(self, aliases: Mapping[str, str], known: Sequence[str]) -> str:
        token = self.tokens[self.at]
        if self.take("*"):
            return ALL
        if token.literal or token.number is not None:
            raise self.wrong("a column expected")
        if "." in token.text:
            alias, _, column = token.text.partition(".")
            table = self.table(alias, aliases)
            if column not in self.columns[table]:
                raise self.wrong("no such column")
        else:
            column = token.text
            tables = [table for table in known if column in self.columns[table]]
            if not tables:
                raise self.wrong("no such column")
            table = tables[0]
        self.at += 1
        return f"{table}.{column}"

    def conditions(self, aliases: Mapping[str, str], known: Sequence[str]) -> Conditions:
        items: list[Condition] = []
        connectors: list[str] = []
        while self.left():
            unit = self.value_unit(aliases, known)
            negated = self.take("not")
            operator = self.peek()
            if operator not in OPERATORS:
                raise self.wrong("a comparison expected")
            self.at += 1
            first, second = self.value(aliases, known), None
            if operator == "between":
                self.need("and")
                second = self.value(aliases, known)
            items.append(Condition(negated, operator, unit, first, second))
            if self.left() and (self.ended() or self.peek() in _JOINS):
                break
            if (word := self.peek()) in ("and", "or"):
                connectors.append(word)
                self.at += 1
            elif self.left():
                raise self.wrong("AND or OR expected")
        return Conditions(tuple(items), tuple(connectors))

    def value(self, aliases: Mapping[str, str], known: Sequence[str]) -> Value:
        in_brackets = self.take("(")
        found: Value
        token = self.tokens[self.at]
        if self.peek() == "select":
            found = self.query(aliases)
        elif token.literal:
            found = token.text[1:-1]
            self.at += 1
        elif self._number() is not None:
            found = self._number()
            self.at += 1 + (token.number is None)
        elif in_brackets or self.peek() in AGGREGATES:
            raise self.wrong("a value expected")
        else:
            found = self.column_unit(aliases, known)
            while self.left() and not self._value_ends():
                self.at += 1  # the rest of an expression, which has no place in a condition: it does not count
        if in_brackets:
            self.need(")")
        return found

    def _number(self) -> float | None:
        """The number that comes next, with its sign."""
        token = self.tokens[self.at]
        if token.number is not None:
            return token.number
        after = self.tokens[self.at + 1].number if self.at + 1 < len(self.tokens) else None
        return -after if self.peek() == "-" and after is not None else None

    def _value_ends(self) -> bool:
        return self.peek() in (",", ")", "and") or self.peek() in _CLAUSES or self.peek() in _JOINS

    def grouping(self, aliases: Mapping[str, str], known: Sequence[str]) -> tuple[ColumnUnit, ...]:
        found: list[ColumnUnit] = []
        while self.left() and not self.ended():
            found.append(self.column_unit(aliases, known))
            if not self.take(","):
                break
        return tuple(found)

    def ordering(self, aliases: Mapping[str, str], known: Sequence[str]) -> tuple[str, tuple[ValueUnit, ...]]:
        found: list[ValueUnit] = []
        direction = "asc"  # one word for all of them: the last that stands there
        while self.left() and not self.ended():
            found.append(self.value_unit(aliases, known))
            if self.peek() in ("asc", "desc"):
                direction = self.peek()
                self.at += 1
            if not self.take(","):
                break
        return direction, tuple(found)
