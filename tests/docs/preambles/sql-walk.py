"""Chinook's albums, and a file of questions."""

import sqlite3
from contextlib import closing
from pathlib import Path

ARTISTS = ["AC/DC", "Accept", "Aerosmith", "Audioslave", "Buddy Guy", "Chico Science"]

with closing(sqlite3.connect("chinook.sqlite")) as db:
    db.execute("CREATE TABLE artist (artist_id INTEGER PRIMARY KEY, name TEXT)")
    db.execute("CREATE TABLE album (album_id INTEGER PRIMARY KEY, title TEXT, year INTEGER, "
               "artist_id INTEGER REFERENCES artist (artist_id))")  # fmt: skip
    db.executemany("INSERT INTO artist VALUES (?, ?)", enumerate(ARTISTS, 1))
    db.executemany("INSERT INTO album VALUES (?, ?, ?, ?)",
                   [(i, f"Volume {i % 7}", 1980 + i % 9, 1 + i % len(ARTISTS)) for i in range(1, 31)])  # fmt: skip
    db.commit()
Path("questions.txt").write_text("How many albums are there?\nHow many artists are there?\n")
