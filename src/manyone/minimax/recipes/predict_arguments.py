"""What ``manyone predict`` takes for classifiers of minimax: a file of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUMMARY = """Scores the rows of a CSV, Parquet or libsvm file with a trained model: the predicted class and the
probability of every class. Columns are found by name, in any order, and read as they were in training;
others are left alone."""
USAGE = "MODEL FILE"
EXAMPLE = "manyone predict runs/first patients.csv --out scored.csv"


def recognises(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a model folder is one of minimax."""
    return config.get("kind") in ("score", "softmax", "sampler") and "network" in config


def declare(parser: Any) -> None:
    """FILE, --delimiter and --unknown."""
    parser.add_argument("file", metavar="FILE", type=Path, help="the rows")
    parser.add_argument("--delimiter", metavar="MARK", help="what separates the cells of a CSV (default: found)")
    parser.add_argument(
        "--unknown",
        choices=("refuse", "zeros"),
        default="refuse",
        help="words that no training row had: an error, or none of the known ones (default: refuse)",
    )
