"""From a catalogue's entry to what the sensor layer needs to know of a model."""

from __future__ import annotations

from typing import cast

from manyone.earth.catalogue import find_model
from manyone.earth.spec import ModelSpec, Need
from manyone.errors import ManyoneError


def model_spec(name: str, modality: str | None = None, *, width: int = 0, trained: bool = True) -> ModelSpec:
    """The input contract of the model ``name`` for one of its modalities (default: the first).

    ``width`` is its encoder's to say. ``ManyoneError`` for a model or modality that is unknown.
    """
    entry = find_model(name)
    if not entry.slots:
        raise ManyoneError(f"{entry.id}: its input bands are not in the catalogue; write a ModelSpec with its slots")
    known = {slots.modality: slots for slots in entry.slots}
    if modality is not None and modality not in known:
        raise ManyoneError(f"modality {modality!r} of {entry.id}: must be one of {', '.join(known)}")
    slots = known[modality] if modality else entry.slots[0]
    return ModelSpec(
        id=entry.id,
        slots=slots.bands,
        width=width,
        unit=slots.unit,
        needs=cast("frozenset[Need]", frozenset(slots.needs)),
        size=slots.size,
        patch=slots.patch,
        frames=slots.frames,
        licence=entry.license,
        trained=trained,
    )
