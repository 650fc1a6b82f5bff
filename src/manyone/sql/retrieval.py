"""Which values of a database a question names: "flights to Pariss" and ``airports.city = 'Paris'``.

CodeS, which KID follows, looks up the question's n-grams (n <= 4) in an index of all texts of a database and keeps what
resembles one by 0.9 or more. The index here is a map from words to values in a SQLite file of the cache, one for each
content of a database, so that it is built once: :meth:`ValueIndex.open`, then :meth:`ValueIndex.match`.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import closing
from difflib import SequenceMatcher
from pathlib import Path
from typing import Protocol

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.data.sql.records import Schema
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError
from manyone.sql.prompt import MATCHED_LIMIT

LONGEST = 80
"""Characters of the longest value that the index holds: a question names no longer ones."""
_FORMAT = 1  # of the index; another number makes another file
_WORDS_OF_AN_NGRAM = 4
_ALIKE = 0.9
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_IN_QUOTES = re.compile(r"(?<!\w)(['\"‘“])(.{1,80}?)(['\"’”])(?!\w)")
_CANDIDATES = 2_000  # values looked at for one word of one n-gram
_NEIGHBOURS = 4_000  # words looked at that may be a question's word in another spelling
_NEAREST = 8  # of these, that are looked up
# fmt: off
_STOP = frozenset([
    "a", "an", "and", "any", "are", "as", "at", "be", "been", "by", "can", "could", "did", "do", "does", "each",
    "every", "find", "for", "from", "get", "give", "had", "has", "have", "how", "i", "in", "is", "it", "its", "list",
    "many", "me", "more", "most", "much", "no", "not", "of", "on", "one", "or", "please", "show", "than", "that", "the",
    "their", "them", "there", "these", "they", "this", "those", "to", "was", "were", "what", "when", "where", "which",
    "who", "whom", "whose", "will", "with", "without", "you",
])
# fmt: on


class Source(Protocol):
    """A database as the index reads it."""

    path: Path

    @property
    def fingerprint(self) -> str:
        """The same for the same content, in hexadecimal."""

    def schema(self) -> Schema:
        """Its tables."""

    def texts(self, table: str, column: str, *, longest: int, most: int, seconds: float) -> tuple[list[str], bool]:
        """The distinct texts of 1 to ``longest`` characters in a column, and whether these are all of them: at most
        ``most``, found in about ``seconds``."""


class ValueIndex:
    """The texts of a database by their words. A context manager."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file.resolve().as_uri() + "?mode=ro", uri=True)
        self._nearest: dict[str, list[str]] = {}
        self._columns = dict(_rows(self._db, "SELECT id, tbl || char(0) || col FROM columns"))
        self.values = int(next(_rows(self._db, "SELECT count(*) FROM vals"))[0])
        """How many it holds."""
        self.partial = [(str(t), str(c)) for t, c in _rows(self._db, "SELECT tbl, col FROM columns WHERE NOT whole")]
        """Columns of which it does not hold all texts, for want of time or room."""

    @classmethod
    def open(cls, source: Source, *, values: int = 1_000_000, seconds: float = 60.0) -> ValueIndex:
        """The index of ``source``: the cached one, or a new one with at most ``values`` values, made in about
        ``seconds``. ``ManyoneError`` when the database cannot be read or the cache not be written."""
        key = f"{source.fingerprint[:40]}-{_FORMAT}-{values}-{seconds:g}"
        file = cache_folder("sql-values") / f"{key}.sqlite"
        with locked(f"sql-values-{key}"):
            if file.is_file():
                try:
                    return cls(file)
                except sqlite3.Error:
                    file.unlink()  # damaged; it is made again
            with workspace() as folder:
                try:
                    _build(folder / "index.sqlite", source, values, seconds)
                except (sqlite3.Error, OSError) as problem:
                    raise ManyoneError(f"{file.parent}: cannot write the index of {source.path.name} ({problem}); make "
                                       "room, or set MANYONE_CACHE") from None  # fmt: skip
                (folder / "index.sqlite").replace(file)
            return cls(file)

    def __enter__(self) -> ValueIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    def match(
        self, question: str, *, alike: float = _ALIKE, most: int = MATCHED_LIMIT
    ) -> dict[tuple[str, str], list[str]]:
        """(table, column) -> the values that ``question`` names, the most alike first and at most ``most`` a column.

        A value is named where its text resembles one to four neighbouring words of the question, or what stands there
        in quotes, by ``alike`` (difflib's ratio, capitals and accents aside). Words that only build sentences name
        nothing by themselves.
        """
        best: dict[int, float] = {}
        found: dict[int, tuple[int, str]] = {}
        for ngram in ngrams(question):
            for key, column, text in self._candidates(ngram, alike):
                score = _ratio(ngram, plain(text), alike)
                if score >= alike and score > best.get(key, 0.0):
                    best[key], found[key] = score, (column, text)
        ordered = sorted(found, key=lambda k: (-best[k], -len(found[k][1]), k))
        result: dict[tuple[str, str], list[str]] = {}
        for key in ordered:
            column, text = found[key]
            table, _, name = self._columns[column].partition("\0")
            values = result.setdefault((table, name), [])
            if len(values) < most:
                values.append(text)
        return result

    def _candidates(self, ngram: str, alike: float) -> Iterator[tuple[int, int, str]]:
        """(id, column, text) of the values that share a word with ``ngram`` and are about as long."""
        # two texts of lengths a and b are alike by 2 min(a, b) / (a + b) at most
        least, longest = len(ngram) * alike / (2 - alike), len(ngram) * (2 - alike) / alike
        seen: set[int] = set()
        for word in words(ngram):
            for near in self._near(word, alike):
                for row in _rows(
                    self._db,
                    "SELECT v.id, v.col, v.text FROM words w JOIN vals v ON v.id = w.val "
                    "WHERE w.word = ? AND w.length BETWEEN ? AND ? LIMIT ?",
                    (near, least, longest, _CANDIDATES),
                ):
                    if row[0] not in seen:
                        seen.add(row[0])
                        yield row

    def _near(self, word: str, alike: float) -> list[str]:
        """``word``, and the words of values that are spelled almost so and begin alike."""
        if len(word) < 4 or word in _STOP:
            return [word]
        if word not in self._nearest:
            least = alike - 0.1  # of one word; the whole text decides
            scored = [(_ratio(word, near, least), near) for near in self._beginning_like(word) if near != word]
            found = sorted((s for s in scored if s[0] >= least), key=lambda s: (-s[0], s[1]))
            self._nearest[word] = [word, *(near for _, near in found[:_NEAREST])]
        return self._nearest[word]

    def _beginning_like(self, word: str) -> list[str]:
        """The words of about the length of ``word`` that share its first letter, or more where those are too many."""
        found: list[str] = []
        for letters in (1, 2, 3):
            start = word[:letters]
            rows = _rows(self._db, "SELECT word FROM vocabulary WHERE word >= ? AND word < ? AND length(word) "
                         "BETWEEN ? AND ? LIMIT ?", (start, start[:-1] + chr(ord(start[-1]) + 1), len(word) - 2,
                                                     len(word) + 2, _NEIGHBOURS))  # fmt: skip
            found = [near for (near,) in rows]
            if len(found) < _NEIGHBOURS:
                break
        return found


def plain(text: str) -> str:
    """``text`` without capitals and accents and with single spaces: what is compared."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(bare.casefold().split())


def words(text: str) -> list[str]:
    """The words of ``text`` as the index knows them."""
    return _WORD.findall(plain(text))


def ngrams(question: str) -> list[str]:
    """Up to four neighbouring words of ``question`` as they stand there, and what is in quotes, each once."""
    text = plain(question)
    spans = [m.span() for m in _WORD.finditer(text)]
    grams = [text[spans[i][0] : spans[i + n - 1][1]]
             for n in range(_WORDS_OF_AN_NGRAM, 0, -1) for i in range(len(spans) - n + 1)]  # fmt: skip
    grams = [plain(m[2]) for m in _IN_QUOTES.finditer(question)] + grams
    return [g for g in dict.fromkeys(grams) if g and not all(w in _STOP for w in _WORD.findall(g))]


def _ratio(a: str, b: str, least: float) -> float:
    """How alike two texts are, from 0 to 1; 0 where a cheap bound shows that it is below ``least``."""
    if a == b:
        return 1.0
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return 0.0
    return matcher.ratio()


def _build(file: Path, source: Source, values: int, seconds: float) -> None:
    """Writes the index of ``source`` to ``file``."""
    columns = [(t.name, c.name) for t in source.schema().tables for c in t.columns]
    deadline = time.monotonic() + seconds
    keys = itertools.count()
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as db,
        Progress(f"reading the values of {source.path.name}", len(columns), unit="columns") as bar,
    ):
        for statement in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "BEGIN",
                          "CREATE TABLE columns (id INTEGER PRIMARY KEY, tbl TEXT, col TEXT, whole INTEGER)",
                          "CREATE TABLE vals (id INTEGER PRIMARY KEY, col INTEGER, text TEXT)",
                          "CREATE TABLE words (word TEXT, length INTEGER, val INTEGER, "
                          "PRIMARY KEY (word, length, val)) WITHOUT ROWID"):  # fmt: skip
            db.execute(statement)
        left = values
        for number, (table, column) in enumerate(columns):
            # what is left of the time is shared by the columns that are left, so that a long one starves none
            share = (deadline - time.monotonic()) / (len(columns) - number)
            texts, whole = source.texts(table, column, longest=LONGEST, most=max(left // (len(columns) - number), 1),
                                        seconds=max(share, 0.05))  # fmt: skip
            left -= len(texts)
            db.execute("INSERT INTO columns VALUES (?, ?, ?, ?)", (number, table, column, whole))
            rows = [(next(keys), number, text) for text in texts]
            db.executemany("INSERT INTO vals VALUES (?, ?, ?)", rows)
            db.executemany("INSERT OR IGNORE INTO words VALUES (?, ?, ?)",
                           ((word, len(bare), key) for key, _, text in rows
                            for bare in [plain(text)] for word in _WORD.findall(bare)))  # fmt: skip
            bar.update(number + 1)
        db.execute("CREATE TABLE vocabulary AS SELECT DISTINCT word FROM words ORDER BY word")
        db.execute("CREATE INDEX spelled ON vocabulary (word)")
        db.execute("COMMIT")


def _rows(db: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> Iterator[tuple]:
    return iter(db.execute(sql, values).fetchall())
