"""Numbers of the diffusers library, computed by scripts/diffusers_reference.py."""

import json
from pathlib import Path

import pytest
import torch


class Diffusers:
    """What its schedulers gave, for the tensors that are stored beside."""

    def __init__(self, stored):
        self._stored = stored
        for name in ("start", "draws", "x0", "noise"):
            setattr(self, name, torch.tensor(stored[name]))

    def schedule(self, name, total):
        """Of ``total`` steps, or of a ``few``."""
        own = {s["total"]: s for s in self._stored["schedules"] if s["schedule"] == name}
        return own[min(own) if total == "few" else total]

    def chains(self, **words):
        return [c for c in self._stored["chains"] if all(c[k] == v for k, v in words.items())]


@pytest.fixture(scope="session")
def diffusers():
    return Diffusers(json.loads((Path(__file__).parents[2] / "fixtures" / "diffusers.json").read_text()))
