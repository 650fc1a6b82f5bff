"""Which bands of a sensor a model gets, as rows for a table and bars for a figure: ``earth-match --from --to``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manyone.data.rasters.bands import Band
from manyone.data.rasters.sensors import Sensor, find_sensor
from manyone.earth.catalogue import Model, Slots, find_model
from manyone.earth.sensors.matching import Match, match
from manyone.earth.sensors.naming import misnamed
from manyone.earth.sensors.resampling import gaussian_weights, is_hyperspectral
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Bar:
    """One band as a figure draws it: a bar of its width around its centre."""

    side: str
    """source or slot."""
    name: str
    center_nm: float
    fwhm_nm: float | None
    partner: str
    """The band on the other side; empty: none."""


@dataclass(frozen=True)
class MatchReport:
    """What ``match_report`` found."""

    source: str
    model: str
    modality: str
    rows: tuple[dict[str, Any], ...]
    """One a slot: slot, slot nm, band, band nm, Δλ nm, cost; band is MISSING where there is none."""
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    unit: str
    """The unit that the model wants; empty: not published."""
    notes: tuple[str, ...]
    bars: tuple[Bar, ...]
    """Bands with a wavelength, of both sides."""


def match_report(source: str | Sensor | tuple[Band, ...], model: str, limit: float = 1.0) -> MatchReport:
    """Pairs a sensor (by name, or bands) with the input slots of ``model`` (an id of the catalogue).

    Of a model with several modalities the one that most bands fit. ``ManyoneError`` for a sensor or model that is
    unknown and for a model whose input bands are not known.
    """
    if isinstance(source, str):
        source = find_sensor(source)
    name, bands = (source.id, source.bands) if isinstance(source, Sensor) else ("bands", tuple(source))
    entry = find_model(model)
    if not entry.slots:
        raise ManyoneError(f"{entry.id}: its input bands are not in the catalogue; give the model's slots yourself")
    if not bands:
        raise ManyoneError(f"{name}: its bands are not in the catalogue; give bands")
    chosen, found = _best(bands, entry, limit)
    notes = [*misnamed(bands)]
    if len(entry.slots) > 1:
        notes.append(f"of {len(entry.slots)} modalities of {entry.id}, {chosen.modality} fits best")
    if found is None:
        return _any(name, bands, entry, chosen, tuple(notes))
    rows, missing, partners = [], [], {}
    weights = gaussian_weights(bands, found.slots) if is_hyperspectral(bands) else None
    for pair in found.pairs:
        slot = found.slots[pair.slot]
        row: dict[str, Any] = {"slot": f"{slot.name} {slot.common}", "slot nm": slot.center_nm}
        if weights is not None and slot.kind == "optical":
            used = int((weights[pair.slot] > 0).sum())
            row |= {"band": f"{used} bands" if used else "MISSING", "band nm": None, "Δλ nm": None, "cost": None}
        elif pair.source is None:
            row |= {"band": "MISSING", "band nm": None, "Δλ nm": None, "cost": None}
        else:
            band = bands[pair.source]
            row |= {"band": f"{band.name} {band.common}", "band nm": band.center_nm}
            row |= {"Δλ nm": pair.delta_nm, "cost": pair.cost}
            partners[pair.slot] = pair.source
        if row["band"] == "MISSING":
            missing.append(str(row["slot"]))
        rows.append(row)
    if weights is not None:
        notes.append(f"{len(bands)} bands: slots are Gaussian sums of them, not pairs")
    if chosen.bands and chosen.bands[0].mean is None:
        notes.append(f"{entry.id} publishes no mean and std of its pre-training: normalise by the data set")
    notes.append(f"slots: {chosen.source} (confidence {chosen.confidence})")
    return MatchReport(
        source=name,
        model=entry.id,
        modality=chosen.modality,
        rows=tuple(rows),
        missing=tuple(missing),
        unused=() if weights is not None else tuple(f"{b.name} {b.common}" for b in found.unused),
        unit=chosen.unit or "",
        notes=tuple(notes),
        bars=_bars(bands, found.slots, partners),
    )


def _best(bands: tuple[Band, ...], entry: Model, limit: float) -> tuple[Slots, Match | None]:
    """The first modality of the sensor itself that it fills; else the one that uses most of its bands.

    Of equals one that is filled goes first, then any bands, then one with slots that are missing.
    """
    pairings = [(s, None if s.bands is None else match(bands, s.bands, limit)) for s in entry.slots]
    for slots, found in pairings:
        if found is not None and not found.missing and slots.sensor == bands[0].sensor:
            return slots, found
    useful = sum(band.kind in ("optical", "radar") for band in bands)
    used = [useful if found is None else len(found.source) - len(found.unused) for _, found in pairings]
    full = [1 if found is None else 2 if not found.missing else 0 for _, found in pairings]
    at = max(range(len(pairings)), key=lambda i: (used[i], full[i], -i))
    return pairings[at]


def _any(name: str, bands: tuple[Band, ...], entry: Model, chosen: Slots, notes: tuple[str, ...]) -> MatchReport:
    wanted = "wavelength" in chosen.needs
    passed = [b for b in bands if not wanted or b.center_nm is not None or b.kind == "radar"]
    rows = tuple({"slot": "any", "slot nm": None, "band": f"{b.name} {b.common}", "band nm": b.center_nm,
                  "Δλ nm": 0.0 if b.center_nm is not None else None, "cost": 0.0} for b in passed)  # fmt: skip
    needs = f"; it needs {', '.join(chosen.needs)}" if chosen.needs else ""
    return MatchReport(
        source=name,
        model=entry.id,
        modality=chosen.modality,
        rows=rows,
        missing=(),
        unused=tuple(f"{b.name} {b.common}" for b in bands if b not in passed),
        unit=chosen.unit or "",
        notes=(
            *notes,
            f"{entry.id} takes any bands{needs}",
            f"slots: {chosen.source} (confidence {chosen.confidence})",
        ),
        bars=tuple(Bar("source", b.name, b.center_nm, b.fwhm_nm, "") for b in passed if b.center_nm is not None),
    )


def _bars(bands: tuple[Band, ...], slots: tuple[Band, ...], partners: dict[int, int]) -> tuple[Bar, ...]:
    back = {s: t for t, s in partners.items()}
    found = []
    for t, slot in enumerate(slots):
        if slot.center_nm is not None:
            partner = bands[partners[t]].name if t in partners else ""
            found.append(Bar("slot", slot.name, slot.center_nm, slot.fwhm_nm, partner))
    for s, band in enumerate(bands):
        if band.center_nm is not None:
            partner = slots[back[s]].name if s in back else ""
            found.append(Bar("source", band.name, band.center_nm, band.fwhm_nm, partner))
    return tuple(found)
