"""What ``manyone predict`` takes for models of maps: a scene of the same sensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUMMARY = """Maps a scene of the sensor that the model was made for: the class of every pixel and how sure the
model is of it. --out is a GeoTIFF in the scene's grid; without it the shares of the classes are printed."""
USAGE = "MODEL SCENE.tif --out MAP.tif"
EXAMPLE = "manyone predict runs/landcover scene.tif --out map.tif"


def recognises(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a model folder is one of earth."""
    return config.get("kind") == "earth-map"


def declare(parser: Any) -> None:
    """SCENE, --sensor and --unit."""
    parser.add_argument("scene", metavar="SCENE", help="a GeoTIFF, or files of one band each with commas")
    parser.add_argument("--sensor", metavar="NAME", default="", help="what took it (default: what the file says)")
    parser.add_argument("--unit", metavar="UNIT", help="what its values are (default: what the file says)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, ... (default: the best there is)")
