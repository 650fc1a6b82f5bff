"""What the tests of this field share: tiny models with their pairs, and a small database of music."""

import copy
import sqlite3
from contextlib import closing

import pytest
import torch

from manyone.sql.collate import encode
from manyone.sql.language_model import LanguageModel
from manyone.sql.models import Size, new_decoder
from manyone.sql.tokens import padding, rewriting_tokens, train_tokenizer

SQL = [
    "SELECT name FROM singer",
    "SELECT count(*) FROM singer WHERE age > 30",
    "SELECT max(age) , country FROM singer GROUP BY country",
    "SELECT name FROM singer WHERE country = 'France' ORDER BY age DESC LIMIT 1",
    "SELECT T1.name FROM concert AS T1 JOIN singer AS T2 ON T1.id = T2.id",
    "SELECT DISTINCT country FROM singer",
]
ASKED = ["names", "how many are older than 30", "oldest of each country", "the oldest French one", "concerts",
         "countries"]  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([*SQL, *ASKED] * 3, 300)


@pytest.fixture(scope="session")
def tokens(tokenizer):
    return rewriting_tokens(tokenizer)


@pytest.fixture(scope="session")
def pad(tokenizer):
    return padding(tokenizer)


@pytest.fixture(scope="session")
def gold(tokenizer):
    return [encode(tokenizer, f"{q}\n", sql, max_input=24, max_output=60) for q, sql in zip(ASKED, SQL)]


@pytest.fixture(scope="session")
def _models(tokenizer):
    """A student and a teacher that have something to say: weights far from those of a fresh network."""
    found = []
    for seed, width in ((0, 32), (1, 48)):
        model = new_decoder(Size(2, width, 2), len(tokenizer), seed=seed, special=tokenizer, longest=128)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3 if parameter.ndim > 1 else 1)
        found.append(model)
    return found


@pytest.fixture
def student(_models):
    return LanguageModel(copy.deepcopy(_models[0]))


@pytest.fixture
def teacher(_models):
    return LanguageModel(copy.deepcopy(_models[1])).freeze()


TABLES = (
    "CREATE TABLE artist (artist_id INTEGER PRIMARY KEY, name TEXT, country VARCHAR(40))",
    "CREATE TABLE album (album_id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER REFERENCES artist(artist_id), "
    "price REAL, released DATE)",
)
ARTISTS = [(1, "AC/DC", "Australia"), (2, "Beyoncé", "United States"), (3, "Sigur Rós", "Iceland"),
           (4, "O'Jays", "United States"), (5, None, "France")]  # fmt: skip
ALBUMS = [(1, "Back in Black", 1, 9.5, "1980-07-25"), (2, "Lemonade", 2, 12.0, "2016-04-23"),
          (3, "Ágætis byrjun", 3, 11.0, "1999-06-12"), (4, "Takk", 3, 8.0, "2005-09-12")]  # fmt: skip


def fill(db):
    for statement in TABLES:
        db.execute(statement)
    db.executemany("INSERT INTO artist VALUES (?, ?, ?)", ARTISTS)
    db.executemany("INSERT INTO album VALUES (?, ?, ?, ?, ?)", ALBUMS)


@pytest.fixture(scope="session")
def music(tmp_path_factory):
    """The SQLite file."""
    file = tmp_path_factory.mktemp("music") / "music.sqlite"
    with closing(sqlite3.connect(file)) as db:
        fill(db)
        db.commit()
    return file


@pytest.fixture(scope="session")
def duck(tmp_path_factory):
    """The same as a DuckDB file."""
    duckdb = pytest.importorskip("duckdb")
    file = tmp_path_factory.mktemp("duck") / "music.duckdb"
    with duckdb.connect(str(file)) as db:
        fill(db)
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))


PAIRS = (
    ("How many albums are there?", "SELECT COUNT(*) FROM album"),
    ("What are the names of all artists?", "SELECT name FROM artist"),
    ("Which albums cost less than 9?", "SELECT title, price FROM album WHERE price < 9"),
    ("Show the year of everything.", "SELECT year FROM nowhere"),
    ("What is the meaning of it?", "no idea"),
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, music):
    """The folder of a model of two layers that knows the five answers of PAIRS by heart."""
    import torch

    from manyone.sql.artefact import save
    from manyone.sql.collate import encode, pack
    from manyone.sql.databases import open_database
    from manyone.sql.models import Size, new_decoder
    from manyone.sql.prompt import render
    from manyone.sql.tokens import padding, train_tokenizer

    with open_database(music) as database:
        schema = database.schema()
    prompts = [render(schema, question, style="compact") for question, _ in PAIRS]
    tokenizer = train_tokenizer([*prompts, *(sql for _, sql in PAIRS)], 400)
    model = new_decoder(Size(2, 32), len(tokenizer), seed=0, longest=256, special=tokenizer)
    batch = pack([encode(tokenizer, p, sql) for p, (_, sql) in zip(prompts, PAIRS)], padding(tokenizer))
    labels = batch.ids.masked_fill(~batch.out, -100)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        found = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=labels)
        found.loss.backward()
        adam.step()
        adam.zero_grad()
        if found.loss < 1e-3:
            break
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save(folder, model, tokenizer, {"style": "compact", "max_input": 200, "max_output": 40})
    return folder
