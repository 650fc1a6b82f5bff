"""What ``manyone predict`` takes for text-to-SQL models: a question, or a file of them, and a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUMMARY = """Answers questions about a SQLite or DuckDB file in SQL. The database is only read, and only when the
prompt is made and with --execute or --beams, under limits of time and memory."""
USAGE = 'MODEL "QUESTION" --db FILE'
EXAMPLE = 'manyone predict runs/kid "How many albums are there?" --db chinook.sqlite --execute'
DESCRIPTION = "manyone.json"
"""The file beside the weights that says what the model was trained for."""


def recognises(folder: Path, config: Mapping[str, Any]) -> bool:
    """A folder of this field, or any of a causal language model."""
    names = config.get("architectures")
    causal = isinstance(names, list) and any(str(name).endswith("ForCausalLM") for name in names)
    return causal or (folder / DESCRIPTION).is_file()


def declare(parser: Any) -> None:
    """QUESTION, --db and how the answer is to be."""
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="in quotes")
    parser.add_argument("--db", metavar="FILE", type=Path, help="the database: a SQLite or DuckDB file")
    parser.add_argument(
        "--questions", metavar="FILE", type=Path,
        help="instead of QUESTION: one a line, or JSON lines with question (and evidence); answers are JSON lines",
    )  # fmt: skip
    parser.add_argument("--evidence", metavar="TEXT", default="", help="what a reader must know besides the schema")
    parser.add_argument("--execute", action="store_true", help="run the answer and show what it gives")
    parser.add_argument(
        "--dialect", metavar="NAME", help="print the SQL for postgres, mysql, ... (default: the database's own)"
    )
    parser.add_argument(
        "--beams", metavar="N", type=int, default=1,
        help="search so many answers and take the first that runs (default: 1, the likeliest)",
    )  # fmt: skip
    parser.add_argument("--seconds", metavar="S", type=float, default=30.0, help="that a query may take (default: 30)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, ... (default: the best there is)")
