"""An expert bundle: one base network, its fine-tuned experts and their frozen heads, on disk or in memory.

Folder layout: ``bundle.json``, ``base.safetensors``, ``experts/<task>.safetensors``, ``heads.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from manyone.engine.artefact import made_of, read_tensors
from manyone.engine.documents import read_json
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.weights.open import StrPath


@dataclass(frozen=True)
class Bundle:
    """``encoder`` is the specification that :func:`manyone.nets.build_encoder` understands."""

    encoder: dict[str, Any]
    base: Mapping[str, Tensor]
    experts: Mapping[str, Mapping[str, Tensor]]
    heads: Mapping[str, Head]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in merging order."""
        return tuple(self.experts)

    def save(self, folder: StrPath) -> None:
        """Writes the bundle; ``bundle.json`` last, so that a folder with it is complete."""
        folder = Path(folder)
        (folder / "experts").mkdir(parents=True, exist_ok=True)
        save_tensors(_plain(self.base), folder / "base.safetensors")
        for task, weights in self.experts.items():
            save_tensors(_plain(weights), folder / "experts" / f"{task}.safetensors")
        save_tensors(head_tensors(self.heads), folder / "heads.safetensors")
        text = {
            "format": 1,
            "encoder": self.encoder,
            "tasks": list(self.experts),
            "heads": head_config(self.heads),
            "info": self.info,
        }
        (folder / "bundle.json").write_text(json.dumps(text, indent=1))

    @staticmethod
    def load(folder: StrPath) -> Bundle:
        """Reads a folder that :meth:`save` wrote."""
        folder = Path(folder)
        path = folder / "bundle.json"
        if not path.is_file():
            raise ManyoneError(f"{folder}: no bundle.json, so this is not an expert bundle")
        text = read_json(path, "the bundle's description")
        with made_of(path):
            if odd := [t for t in text["tasks"] if Path(t).name != t]:
                raise ManyoneError(f"{path}: task {odd[0]!r}: its weights would lie outside the bundle")
            return Bundle(
                encoder=text["encoder"],
                base=read_tensors(folder / "base.safetensors"),
                experts={t: read_tensors(folder / "experts" / f"{t}.safetensors") for t in text["tasks"]},
                heads=heads_from(read_tensors(folder / "heads.safetensors"), text["heads"]),
                info=dict(text["info"]),
            )


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no storage, as safetensors wants them."""
    seen: set[int] = set()
    result = {}
    for name, value in weights.items():
        value = value.detach().contiguous()
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result


def head_tensors(heads: Mapping[str, Head]) -> dict[str, Tensor]:
    """Tensors ``<task>.weight`` and, where there is one, ``<task>.bias``."""
    tensors = {f"{t}.weight": h.weight.contiguous() for t, h in heads.items()}
    return tensors | {f"{t}.bias": h.bias.contiguous() for t, h in heads.items() if h.bias is not None}


def head_config(heads: Mapping[str, Head]) -> dict[str, dict[str, Any]]:
    """The part of the heads that is not a tensor."""
    return {t: {"scale": h.scale, "normalise": h.normalise} for t, h in heads.items()}


def heads_from(tensors: Mapping[str, Tensor], config: Mapping[str, Mapping[str, Any]]) -> dict[str, Head]:
    """Inverse of :func:`head_tensors` and :func:`head_config`."""
    return {
        t: Head(tensors[f"{t}.weight"], tensors.get(f"{t}.bias"), c["scale"], c["normalise"]) for t, c in config.items()
    }
