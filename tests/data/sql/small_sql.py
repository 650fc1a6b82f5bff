"""A small shop as a SQLite file, and folders in the layouts of the published data sets, made where a test runs."""

import json
import sqlite3
from contextlib import closing

SHOP = """
CREATE TABLE Customer (CustomerId INTEGER PRIMARY KEY, FullName TEXT NOT NULL, City VARCHAR(40), BirthDate DATE);
CREATE TABLE Product (ProductId INTEGER PRIMARY KEY, Name TEXT, Category TEXT, UnitPrice REAL, IsActive BOOLEAN);
CREATE TABLE "Order" (
  OrderId INTEGER PRIMARY KEY, CustomerId INTEGER REFERENCES Customer, ProductId INTEGER,
  Quantity INTEGER, "Order Date" DATETIME, FOREIGN KEY (ProductId) REFERENCES Product (ProductId)
);
"""
CITIES = ("Oslo", "Lyon", "Graz", "Porto")
CATEGORIES = ("tea", "coffee", "cocoa")


def make_shop(path, customers=20, products=15, orders=120):
    """The shop with rows that a fixed rule gives: ties, customers without orders, products that are not active."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SHOP)
        db.executemany("INSERT INTO Customer VALUES (?, ?, ?, ?)", [
            (i, f"Person {chr(65 + i)}", CITIES[i % 4] if i % 7 else None, f"19{60 + i}-0{1 + i % 9}-11")
            for i in range(customers)
        ])  # fmt: skip
        db.executemany("INSERT INTO Product VALUES (?, ?, ?, ?, ?)", [
            (i, f"Blend {i}", CATEGORIES[i % 3], round(1.5 + 0.75 * (i % 9), 2), i % 4 != 0) for i in range(products)
        ])  # fmt: skip
        db.executemany('INSERT INTO "Order" VALUES (?, ?, ?, ?, ?)', [
            (i, (i * i) % (customers - 4), (i * 5) % products, 1 + i % 6, f"2024-0{1 + i % 9}-1{i % 10} 08:00:00")
            for i in range(orders)
        ])  # fmt: skip
        db.commit()
    return path


TABLES = [
    {
        "db_id": "shop",
        "table_names_original": ["Customer", "Product", "Order", "sqlite_sequence"],
        "table_names": ["customer", "product", "order", "sqlite sequence"],
        "column_names_original": [
            [-1, "*"],
            *([0, n] for n in ("CustomerId", "FullName", "City", "BirthDate")),
            *([1, n] for n in ("ProductId", "Name", "Category", "UnitPrice", "IsActive")),
            *([2, n] for n in ("OrderId", "CustomerId", "ProductId", "Quantity", "Order Date")),
            [3, "name"],
        ],
        "column_names": [
            [-1, "*"],
            *([0, n] for n in ("customer id", "name of the customer", "home town", "birth date")),
            *([1, n] for n in ("product id", "name", "category", "price", "is active")),
            *([2, n] for n in ("order id", "customer id", "product id", "quantity", "order date")),
            [3, "name"],
        ],
        "column_types": [
            *("text", "number", "text", "text", "time", "number", "text", "text", "number", "boolean"),
            *("number", "number", "number", "number", "time", "text"),
        ],
        "primary_keys": [1, 5, 10],
        "foreign_keys": [[11, 1], [12, 5]],
    }
]
QUESTIONS = (
    ("How many customers are there?", "SELECT count(*) FROM Customer"),
    ("Which customers live in Oslo?", "SELECT FullName FROM Customer WHERE City = 'Oslo'"),
    ("What is the dearest product?", "SELECT Name FROM Product ORDER BY UnitPrice DESC LIMIT 1"),
    ("How many products has each category?", "SELECT Category, count(*) FROM Product GROUP BY Category"),
    (
        "Who ordered more than 5 at once?",
        "SELECT DISTINCT T1.FullName FROM Customer AS T1 JOIN \"Order\" AS T2 ON T1.CustomerId = T2.CustomerId "
        "WHERE T2.Quantity > 5",
    ),
)  # fmt: skip


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def rows(question="question", query="query", count=40, **more):
    """``count`` rows about the shop, each with a SQL of its own."""
    found = []
    for i in range(count):
        words, sql = QUESTIONS[i % len(QUESTIONS)]
        sql += f" LIMIT {i + 1}" if "LIMIT" not in sql else f" OFFSET {i}"
        found.append({"db_id": "shop", question: f"{words} ({i})", query: sql, **more})
    return found


def spider(folder):
    """Spider's layout."""
    make_shop(folder / "database" / "shop" / "shop.sqlite")
    write_json(folder / "tables.json", TABLES)
    write_json(folder / "train_spider.json", rows(count=40))
    write_json(folder / "train_others.json", rows(count=5))
    write_json(folder / "dev.json", rows(count=7))
    return folder


def syn(folder):
    """Spider-Syn's layout."""
    spider(folder)
    (folder / "train_others.json").unlink()
    write_json(folder / "train_spider.json", rows("SpiderSynQuestion", count=40, SpiderQuestion="no"))
    write_json(folder / "dev.json", rows("SpiderSynQuestion", count=7, SpiderQuestion="no"))
    return folder


def dk(folder):
    """Spider-DK's layout."""
    make_shop(folder / "database" / "shop" / "shop.sqlite")
    write_json(folder / "tables.json", TABLES)
    write_json(folder / "Spider-DK.json", rows(count=7))
    return folder


def realistic(folder):
    """Spider-Realistic's layout."""
    make_shop(folder / "database" / "shop" / "shop.sqlite")
    write_json(folder / "tables.json", TABLES)
    write_json(folder / "spider-realistic.json", rows(count=7))
    return folder


def bird(folder):
    """BIRD's layout, with evidence, difficulty and descriptions."""
    for part in ("train", "dev"):
        place = folder / f"{part}_databases" / "shop"
        make_shop(place / "shop.sqlite")
        write_json(folder / f"{part}_tables.json", TABLES)
    description = place / "database_description" / "Customer.csv"
    description.parent.mkdir()
    description.write_bytes(
        b"\xef\xbb\xbforiginal_column_name,column_name,column_description,data_format\n"
        b"FullName,full name,\"how the customer is called, in full\",text\nCity,residence,where,text\n"
    )  # fmt: skip
    write_json(folder / "train.json", rows("question", "SQL", 40, evidence="dear means a high price"))
    write_json(folder / "dev.json", rows("question", "SQL", 7, evidence="", difficulty="simple", question_id=0))
    return folder


LAYOUTS = {"spider": spider, "spider-syn": syn, "spider-dk": dk, "spider-realistic": realistic, "bird": bird}
