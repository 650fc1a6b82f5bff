"""A database of singers, gold queries in the layouts of Spider and BIRD, and predictions."""

import json
import sqlite3
from pathlib import Path

GOLD = ["SELECT count(*) FROM singer", "SELECT name FROM singer WHERE age > 30"]
PREDICTED = ["SELECT count(id) FROM singer", "SELECT name FROM singer WHERE age > 30"]
NAME = "concert_singer"

folder = Path("database") / NAME
folder.mkdir(parents=True)
for suffix, age in (("", 40), ("_2", 20)):
    connection = sqlite3.connect(folder / f"{NAME}{suffix}.sqlite")
    connection.execute("CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
    connection.execute("INSERT INTO singer VALUES (1, 'Ada', 31), (2, 'Bo', ?)", (age,))
    connection.commit()
    connection.close()
Path("gold.txt").write_text("".join(f"{sql}\t{NAME}\n" for sql in GOLD))
Path("pred.txt").write_text("".join(f"{sql}\n" for sql in PREDICTED))
rows = [{"db_id": NAME, "question": "?", "query": sql, "SQL": sql, "difficulty": "simple"} for sql in GOLD]
Path("dev.json").write_text(json.dumps(rows))
Path("bird.json").write_text(json.dumps(rows))
predictions = {str(k): f"{sql}\t----- bird -----\t{NAME}" for k, sql in enumerate(PREDICTED)}
Path("predict_dev.json").write_text(json.dumps(predictions))
columns = [[-1, "*"], [0, "id"], [0, "name"], [0, "age"]]
tables = {"db_id": NAME, "table_names": ["singer"], "table_names_original": ["singer"], "column_names": columns,
          "column_names_original": columns, "column_types": ["text", "number", "text", "number"], "primary_keys": [1],
          "foreign_keys": []}  # fmt: skip
Path("tables.json").write_text(json.dumps([tables]))
