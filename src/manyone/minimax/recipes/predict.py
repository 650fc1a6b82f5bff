"""``manyone predict`` for minimax: a classifier's probabilities for the rows of a file, its columns found by name."""

from __future__ import annotations

import argparse
from pathlib import Path

from manyone.errors import ManyoneError
from manyone.minimax.artefact import load_model
from manyone.minimax.predict import Sampler
from manyone.recipes.predictions import Predictions


def predict(folder: Path, parsed: argparse.Namespace) -> Predictions:
    """For each row of the file ``predicted``, and ``probability NAME`` of every class."""
    model = load_model(folder).model
    if isinstance(model, Sampler):
        raise ManyoneError(f"{folder}: the generator of a GAN scores no rows: load it in Python, model.sample(16)")
    encoder = model.encoder
    if encoder is None:
        raise ManyoneError(f"{folder}: this model keeps no names of columns (trained on an array, or by an earlier "
                           "version): load it in Python and give it arrays")  # fmt: skip
    rows = encoder.features(encoder.frame(parsed.file, delimiter=parsed.delimiter), unknown=parsed.unknown)
    probabilities = model.predict_proba(rows)
    names = [str(name) for name in model.classes_]
    return Predictions([
        {"predicted": names[best], **{f"probability {name}": p for name, p in zip(names, row, strict=True)}}
        for best, row in zip(probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
    ])  # fmt: skip
