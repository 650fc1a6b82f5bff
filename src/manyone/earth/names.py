"""Suites of sets, encoders and what brings them, by name: for those who list them and load none."""

from __future__ import annotations

SUITES: dict[str, tuple[str, ...]] = {
    "earth": ("nc-landsat", "statlog", "indian-pines-s2", "deepforest", "sn-atlanta", "koppen"),
    "earth-small": ("nc-landsat", "statlog"),
}
"""Name -> sets: land cover by Landsat-7, by Landsat MSS and by AVIRIS seen as Sentinel-2, crowns of trees from the air,
buildings from space, and the climates of places."""
PIXELS = ("raw", "raw3x3", "raw5x5", "stats", "stats3x3", "stats5x5")
PLACES = ("lonlat", "xyz", "rff", "geoclip")
"""Encoders of places instead of images."""
SUPERVISED = "cnn-supervised"
"""The encoder that learns from labels: ``embedding.ready`` trains it, as an encoder alone has none."""
PACKAGED = ("efficientnet-lite0", "geoclip")
"""Encoders whose weights the asset of their name carries."""
OWN = (*PIXELS, "rcf", "mosaiks", "vit-random", "mae-small", "wave-small", SUPERVISED, *PLACES, "efficientnet-lite0")
LEARNED = ("mosaiks", "mae-small", "wave-small")
"""Those that are made from ``imagery`` (the bench's own training images: transductive, to be said beside figures)."""
LIBRARIES = ("timm", "torchgeo", "terratorch", "open_clip", "hf", "efficientnet-lite0")
"""What an id begins with where another library (or a package's weights) makes the encoder."""
