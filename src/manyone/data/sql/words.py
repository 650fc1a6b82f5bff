"""What cells of invented databases hold: small domains of values that fit a column's name.

Public: ``domain``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from manyone.data.sql.records import Column, Table

if TYPE_CHECKING:
    from manyone.data.sql.sandbox import Value

# fmt: off
GIVEN = ("Alba", "Bruno", "Clara", "David", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Luis",
         "Maya", "Noah", "Olga", "Pablo", "Rosa", "Sven", "Tara", "Victor")
FAMILY = ("Adams", "Berg", "Costa", "Dietz", "Evans", "Fischer", "Garcia", "Haas", "Ito", "Jensen", "Kumar", "Lopez",
          "Meyer", "Novak", "Olsen", "Petit", "Rossi", "Silva", "Tanaka", "Weber")
_COUNTRIES = ("France", "Japan", "Brazil", "Norway", "Canada", "Kenya", "Italy", "Mexico", "Poland", "India")
_CITIES = ("Oslo", "Lyon", "Porto", "Graz", "Kyoto", "Turin", "Boston", "Quito", "Cork", "Dresden")
_STATES = ("Texas", "Ohio", "Utah", "Iowa", "Maine", "Oregon", "Kansas", "Nevada")
_STREETS = ("Mill Lane", "Park Road", "High Street", "Station Road", "Church Lane", "River Walk")
_LANGUAGES = ("English", "French", "Spanish", "German", "Arabic", "Hindi")
_COLOURS = ("red", "blue", "green", "black", "white", "yellow", "silver")
_MONTHS = ("January", "March", "April", "June", "August", "October", "December")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_ADJECTIVES = ("Silver", "Northern", "Quiet", "Golden", "Open", "Distant", "Early", "Bright", "Wild", "Blue")
_NOUNS = ("Harbour", "Garden", "River", "Signal", "Forest", "Bridge", "Summit", "Lantern", "Island", "Meadow")
_KINDS = ("standard", "special", "regular", "premium", "basic", "mixed")
_STATUS = ("open", "closed", "pending", "active", "cancelled")
_JOBS = ("Manager", "Clerk", "Engineer", "Analyst", "Designer", "Assistant")
_TEXTS = ("short", "plain", "detailed", "draft", "final", "public", "internal", "annual")
_PEOPLE = ("person", "people", "player", "singer", "student", "teacher", "employee", "customer", "author", "actor",
           "artist", "staff", "member", "user", "candidate", "owner", "professional", "conductor", "visitor", "driver",
           "faculty", "client", "patient", "doctor", "coach", "wrestler", "highschooler", "contestant", "manager")
# fmt: on

_NAMED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\b(first|given|fore|middle)\b|\bfname\b", GIVEN),
    (r"\b(last|family|sur|surname|lname)\b", FAMILY),
    (r"\b(sex|gender)\b", ("F", "M")),
    (r"\b(country|nationality|citizenship|nation)\b", _COUNTRIES),
    (r"\b(city|town|hometown|location|venue|destination|birth place)\b", _CITIES),
    (r"\b(state|county|province|region|district)\b", _STATES),
    (r"\b(address|street|line 1|line 2)\b", tuple(f"{i * 7 + 3} {s}" for i, s in enumerate(_STREETS))),
    (r"\b(language)\b", _LANGUAGES),
    (r"\b(colou?r)\b", _COLOURS),
    (r"\b(month)\b", _MONTHS),
    (r"\b(weekday|day)\b", _DAYS),
    (r"\b(e ?mail)\b", tuple(f"{g.lower()}.{f.lower()}@example.org" for g, f in zip(GIVEN, FAMILY))),
    (r"\b(phone|fax|mobile|cell)\b", tuple(f"555-01{i * 7 + 10}" for i in range(12))),
    (r"\b(zip|zipcode|postcode|postal)\b", tuple(f"{10_100 + 317 * i}" for i in range(10))),
    (r"\b(url|website|web)\b", tuple(f"https://example.org/{n.lower()}" for n in _NOUNS)),
    (r"\b(status|outcome|result)\b", _STATUS),
    (r"\b(job|position|role|occupation|profession|rank)\b", _JOBS),
    (r"\b(type|kind|category|class|genre|group|level|grade|size|style|theme)\b", _KINDS),
    (r"\b(description|details?|note|comment|text|remarks?|content)\b", _TEXTS),
)
_FLAG = re.compile(r"^(is|has|was|with)\b|\b(flag|yn)\b|\by n\b")
_YEAR = re.compile(r"\byear\b|\bfounded\b|\bopening\b|\bbuilt\b")
_RANGES: tuple[tuple[str, int, int], ...] = (
    (r"\bage\b", 18, 60),
    (r"\b(year)\b", 1990, 2022),
    (r"\b(month)\b", 1, 12),
    (r"\b(day)\b", 1, 28),
    (r"\b(rank|rating|grade|score|stars?|level|position)\b", 1, 10),
    (r"\b(percent|percentage|share|rate)\b", 5, 95),
    (r"\b(salary|price|cost|amount|budget|revenue|sales|income|charge|fee|value|balance|profits?)\b", 100, 5000),
    (r"\b(population|attendance|capacity|votes?|views?|bytes|assets)\b", 500, 90_000),
    (r"\b(number|num|count|quantity|total)\b", 1, 15),
)
_DISTINCT = 10


class Source(Protocol):
    """What draws: whole numbers from 0 to ``bound`` - 1."""

    def below(self, bound: int) -> int:
        """The next number."""
        ...


def domain(table: Table, column: Column, draws: Source) -> list[Value]:
    """Up to ten values (two of a flag) that a column may hold, by its kind and the words of its name."""
    words = column.natural or column.name.lower().replace("_", " ")
    if column.type == "boolean" or (_FLAG.search(words) and column.type != "time"):
        return [1, 0] if column.type in ("boolean", "number") else ["T", "F"]
    if column.type == "number":
        return list(_numbers(words, draws))
    if column.type == "time" or re.search(r"\bdate\b", words):
        return list(_times(words, draws))
    if _YEAR.search(words):
        return [str(v) for v in _numbers("year", draws)]
    if re.search(r"\b(first|last|given|family) name\b|\b[fl]name\b", words) is None and re.search(r"\bname\b", words):
        return list(_titles(f"{table.natural} {words}", draws))
    found = next((values for pattern, values in _NAMED if re.search(pattern, words)), None)
    if found is not None:
        return list(found)
    if re.search(r"\b(code|id|key)\b", words):
        return [f"{chr(65 + draws.below(26))}{chr(65 + draws.below(26))}{10 + draws.below(90)}" for _ in range(20)]
    return list(_titles(f"{table.natural} {words}", draws))


def _numbers(words: str, draws: Source) -> list[int | float]:
    low, high = next(((a, b) for pattern, a, b in _RANGES if re.search(pattern, words)), (1, 100))
    fraction = re.search(r"\b(price|cost|amount|rate|height|weight|length|score|average|gpa)\b", words) is not None
    found = dict.fromkeys(low + draws.below(high - low + 1) for _ in range(_DISTINCT))
    return [value + 0.5 if fraction and value % 2 else value for value in found]


def _times(words: str, draws: Source) -> list[str]:
    if _YEAR.search(words):
        return [str(1990 + draws.below(33)) for _ in range(_DISTINCT)]
    days = [f"{1998 + draws.below(24)}-{1 + draws.below(12):02}-{1 + draws.below(28):02}" for _ in range(_DISTINCT)]
    if re.search(r"\bdate\b", words) and not re.search(r"\btime\b", words):
        return days
    clock = [f"{draws.below(24):02}:{5 * draws.below(12):02}:00" for _ in range(_DISTINCT)]
    if re.fullmatch(r".*\btime", words) and not re.search(r"\bdate\b", words):
        return clock
    return [f"{day} {hour}" for day, hour in zip(days, clock)]


def _titles(words: str, draws: Source) -> list[str]:
    if any(person in words for person in _PEOPLE):
        return [f"{GIVEN[draws.below(20)]} {FAMILY[draws.below(20)]}" for _ in range(2 * _DISTINCT)]
    return [f"{_ADJECTIVES[draws.below(10)]} {_NOUNS[draws.below(10)]}" for _ in range(2 * _DISTINCT)]
