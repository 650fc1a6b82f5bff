"""A folder of pairs about one small database with a test suite of two instances."""

import json
import sqlite3

COLUMNS = ("age", "height", "albums")
COUNTRIES = ("France", "Japan", "Peru", "Kenya")


def write_pairs(folder):
    """``folder/pairs.jsonl`` and ``folder/database/band/*.sqlite``; returns the path of the pairs."""
    place = folder / "database" / "band"
    place.mkdir(parents=True)
    for number, name in enumerate(("band", "band_1")):
        with sqlite3.connect(place / f"{name}.sqlite") as db:
            db.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INT, height INT, albums INT, "
                       "country TEXT)")  # fmt: skip
            rows = [(i, f"n{i}", 20 + 7 * i % 31 + number, 150 + 11 * i % 41, i % 5, COUNTRIES[(i + number) % 4])
                    for i in range(12)]  # fmt: skip
            db.executemany("INSERT INTO singer VALUES (?, ?, ?, ?, ?, ?)", rows)
    rows = []
    for column in COLUMNS:
        for word, sql in (("largest", "max"), ("smallest", "min"), ("average", "avg")):
            rows.append((f"the {word} {column}", f"SELECT {sql}({column}) FROM singer"))
        for country in COUNTRIES:
            rows.append(
                (f"{column} of singers from {country}", f"SELECT {column} FROM singer WHERE country = '{country}'")
            )
        rows.append((f"names by {column}", f"SELECT name FROM singer ORDER BY {column}"))
    split = ["test" if i % 6 == 0 else "val" if i % 6 == 1 else "train" for i in range(len(rows))]
    lines = [json.dumps({"db_id": "band", "question": q, "query": s, "split": part, "source": "made"})
             for (q, s), part in zip(rows, split)]  # fmt: skip
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
