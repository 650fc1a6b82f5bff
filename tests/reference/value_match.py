"""Values that a question names, by comparing every value with every n-gram: no index, nothing of the package."""

import re
import unicodedata
from difflib import SequenceMatcher

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def bare(text):
    letters = [c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)]
    return " ".join("".join(letters).casefold().split())


def named(question, columns, stop, alike=0.9):
    """Of ``columns``, (table, column) -> values, what resembles one to four neighbouring words of the question."""
    text = bare(question)
    marks = list(_WORD.finditer(text))
    grams = []
    for i in range(len(marks)):
        for j in range(i, min(i + 4, len(marks))):
            if any(m.group() not in stop for m in marks[i : j + 1]):
                grams.append(text[marks[i].start() : marks[j].end()])
    found = {}
    for place, values in columns.items():
        hit = {v for v in values for g in grams if SequenceMatcher(None, g, bare(v), autojunk=False).ratio() >= alike}
        if hit:
            found[place] = hit
    return found
