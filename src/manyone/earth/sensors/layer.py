"""The sensor layer: eight steps in a fixed order from what a sensor measured to what a model expects (rsfm.md 2.2).

    1 mask   2 unit   3 match or 4 resample   5 missing slots   6 space   7 time   8 normalise

``plan`` decides everything that does not depend on the pixels; a :class:`Plan` is a value, its ``key()`` part of the
key of whatever is computed with it, and ``Plan.apply`` the pure function that it stands for. ``fit`` adds the
statistics of the train split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.data.rasters.bands import Band, Unit
from manyone.data.rasters.units import check_units, conversion_note, guess_unit
from manyone.earth.sensors import checks, space
from manyone.earth.sensors.conversion import convert
from manyone.earth.sensors.frames import choose_frames, take_frames
from manyone.earth.sensors.matching import Match, match
from manyone.earth.sensors.missing import fill
from manyone.earth.sensors.naming import misnamed
from manyone.earth.sensors.normalise import RunningStatistics, Statistics, shift_scale
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.sensors.resampling import gaussian_weights, is_hyperspectral
from manyone.earth.spec import Context, ModelSpec
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Plan:
    """All decisions of the sensor layer for one sensor, one model and one choice of options."""

    model: str
    source: tuple[Band, ...]
    """The bands of the data, each with its unit."""
    slots: tuple[Band, ...]
    """The prepared channels, each with the unit that it has before it is normalised."""
    weights: tuple[tuple[float, ...], ...]
    """Share of each source band in each channel; a row of zeros for a channel that is filled by its mean."""
    options: LayerOptions
    size: int | None
    frames: tuple[int, int]
    zero: tuple[int, ...] = ()
    """Channels that are 0 after normalisation."""
    kept: tuple[int, ...] | None = None
    """Positions of the channels among the model's slots where some were left out; None: none was."""
    statistics: Statistics | None = None
    match: Match | None = None
    """The pairing, where bands were paired (not resampled or passed on as they are)."""
    resampled: bool = False
    """Whether channels are Gaussian sums of many bands."""
    notes: tuple[str, ...] = ()
    """Guesses and doubts."""
    mixes: tuple[tuple[int, tuple[tuple[int, float], ...]], ...] = ()
    """(channel, ((another channel, its share), ...)): channels that are copied after normalisation (``missing``)."""

    def key(self) -> str:
        """SHA-256 of every parameter that the output depends on."""
        facts: dict[str, Any] = {
            "source": [asdict(band) for band in self.source],
            "slots": [asdict(band) for band in self.slots],
            "weights": self.weights,
            "options": asdict(self.options),
            "size": self.size,
            "frames": self.frames,
            "zero": self.zero,
            "kept": self.kept,
            "statistics": self.statistics and asdict(self.statistics),
        }
        if self.mixes:
            facts["mixes"] = self.mixes
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def select(self, pixels: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Steps 1 to 5: (channels, valid) [B, (T,) M, H, W] in the slots' units, from [B, (T,) C, H, W]."""
        x, mask = self.masked(pixels, valid)
        x = self._converted(x)
        weights = torch.tensor(self.weights, dtype=torch.float64, device=x.device)
        used = weights > 0
        if bool(((weights == 0) | (weights == 1)).all()) and int(used.sum(1).max()) == 1:
            index = used.double().argmax(1)  # whole bands are moved, not multiplied: exact
            out, ok = x.index_select(-3, index), mask.index_select(-3, index)
        else:
            out = torch.einsum("ms,...shw->...mhw", weights.to(x.dtype), x)
            lacking = torch.einsum("ms,...shw->...mhw", used.to(x.dtype), (~mask).to(x.dtype))
            ok = lacking == 0
        if self.zero:
            others = [m for m in range(len(self.slots)) if m not in self.zero]
            out, ok = out.clone(), ok.clone()
            out[..., list(self.zero), :, :] = 0
            ok[..., list(self.zero), :, :] = ok[..., others, :, :].any(-3, keepdim=True)
        return torch.where(ok, out, 0.0), ok

    def apply(
        self,
        pixels: Tensor,
        valid: Tensor | None = None,
        *,
        gsd_m: float | None = None,
        time: Tensor | None = None,
        lonlat: Tensor | None = None,
        cloud: Tensor | None = None,
    ) -> tuple[Tensor, Context]:
        """All steps: (float32 [B, (T,) M, h, w], its context), from pixels [B, (T,) C, H, W] in the source's units.

        ``valid``: bool of the shape of ``pixels``, or without its channels. ``time``: days since 1970 [B, T] (or [B]).
        ``cloud``: cloud fraction [B, T]. ``context.more`` has ``valid`` (of the output), ``padded`` (dates that repeat
        another) and ``slots`` (``kept``), where there are any. A model of one date gets a series date by date: the
        result then has all dates, for its caller to merge.
        """
        x, ok = self.select(pixels, valid)
        height = x.shape[-2]
        x, ok = self._sized(x, ok)
        more: dict[str, Tensor] = {}
        if x.dim() == 4 and self.frames[1] > 1:
            x, ok = x[:, None], ok[:, None]
        if time is not None and time.dim() == 1:
            time = time[:, None]
        if x.dim() == 5:
            x, ok, time = self._dated(x, ok, time, cloud, more)
        x = torch.where(ok, self._normalised(x), 0.0).float()
        for channel, parts in self.mixes:
            mixed = torch.stack([share * x[..., other, :, :] for other, share in parts]).sum(0)
            x[..., channel, :, :] = torch.where(ok[..., channel, :, :], mixed, 0.0)
        if self.zero:
            x[..., list(self.zero), :, :] = 0
        more["valid"] = ok
        if self.kept is not None:
            more["slots"] = torch.tensor(self.kept)
        resized = self.options.fit == "resize"
        return x, Context(
            wavelengths_nm=_numbers([b.center_nm for b in self._physical]),
            bandwidths_nm=_numbers([b.fwhm_nm for b in self._physical]),
            bands=self.slots,
            gsd_m=space.gsd_after(gsd_m, height, x.shape[-2]) if resized else gsd_m,
            time=time,
            lonlat=lonlat,
            more=more,
        )

    def report(self) -> list[str]:
        """Every decision, guess, pair, missing and unused band, a line each."""
        o = self.options
        units_in = ", ".join(sorted({str(b.unit) for b in self.source}))
        units_out = ", ".join(sorted({str(b.unit) for b in self.slots}))
        lines = [f"model {self.model}: {len(self.slots)} channels from {len(self.source)} bands"]
        lines.append(f"unit: {units_in} -> {units_out}")
        if self.match is not None:
            lines += self.match.lines()
        elif self.resampled:
            lines.append(f"resampled: {len(self.source)} bands by Gaussians of the slots' widths")
        else:
            lines.append("bands passed on: " + ", ".join(f"{b.name} {b.common}" for b in self.slots))
        lines.append(
            f"missing slots: {o.missing}; normalised: {o.normalise}; size: {self.size or 'as it is'} ({o.fit})"
        )
        return lines + [f"note: {note}" for note in self.notes]

    def check(self, prepared: Tensor, context: Context) -> tuple[list[checks.Figure], list[str]]:
        """(mean and std of each channel after normalisation, a line for each that is out of range)."""
        rows = checks.figures(prepared, context.more["valid"], self.slots)
        # reflectances that a model takes as they are have no reason to be of unit variance
        as_they_are = self.options.normalise == "none" or (
            self.options.normalise == "model" and all(b.mean == 0 and b.std == 1 for b in self.slots)
        )
        return rows, checks.out_of_range(rows, range(len(rows)) if as_they_are else self.zero)

    @cached_property
    def _physical(self) -> tuple[Band, ...]:
        """What each channel really measures: the source band where one alone fills it, else the slot."""
        found = []
        for slot, row in zip(self.slots, self.weights, strict=True):
            whole = [s for s, w in enumerate(row) if w == 1]
            found.append(self.source[whole[0]] if whole else slot)
        return tuple(found)

    def masked(self, pixels: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Step 1: (pixels with 0 where they are not valid, valid), both [B, (T,) C, H, W]."""
        if pixels.dim() not in (4, 5) or pixels.shape[-3] != len(self.source):
            raise ManyoneError(
                f"pixels: shape {tuple(pixels.shape)}, must be [B, (T,) C, H, W] with C = {len(self.source)} "
                f"({', '.join(b.name for b in self.source)})"
            )
        x = pixels.float() if not pixels.is_floating_point() else pixels
        mask = torch.isfinite(x)
        if valid is not None:
            if valid.shape != x.shape:
                if valid.shape != (*x.shape[:-3], *x.shape[-2:]):
                    raise ManyoneError(f"valid: shape {tuple(valid.shape)} does not go with pixels {tuple(x.shape)}")
                valid = valid.unsqueeze(-3)
            mask = mask & valid
        for c, band in enumerate(self.source):
            if band.nodata is not None:
                mask[..., c, :, :] &= x[..., c, :, :] != band.nodata
        return torch.where(mask, x, 0.0), mask

    def _converted(self, x: Tensor) -> Tensor:
        out = x
        for (old, new), channels in self._conversions.items():
            if len(channels) == len(self.source):
                return convert(x, old, new)
            out = x.clone() if out is x else out
            out[..., channels, :, :] = convert(x[..., channels, :, :], old, new)
        return out

    @cached_property
    def _conversions(self) -> dict[tuple[Unit, Unit], list[int]]:
        groups: dict[tuple[Unit, Unit], list[int]] = {}
        for s, band in enumerate(self.source):
            for slot, row in zip(self.slots, self.weights, strict=True):
                if row[s] > 0 and band.unit and slot.unit and band.unit != slot.unit:
                    groups.setdefault((band.unit, slot.unit), []).append(s)
                    break
        return groups

    def _sized(self, x: Tensor, ok: Tensor) -> tuple[Tensor, Tensor]:
        if self.size is None or self.options.fit == "none":
            return x, ok
        if self.options.fit == "crop":
            return space.crop(x, self.size), space.crop(ok, self.size)
        return space.resize(x, ok, self.size)

    def _dated(
        self, x: Tensor, ok: Tensor, time: Tensor | None, cloud: Tensor | None, more: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        low, high = self.frames
        count = x.shape[1]
        wanted = self.options.frames or (min(max(count, low), high) if high > 1 else count)
        index, padded = choose_frames(count, wanted, samples=len(x), time=time, cloud=cloud)
        x, ok = take_frames(x, index), take_frames(ok, index)
        time = None if time is None else take_frames(time, index)
        if bool(padded.any()):
            more["padded"] = padded
        if high == 1 and wanted == 1:
            x, ok = x[:, 0], ok[:, 0]
        return x, ok, time

    def _normalised(self, x: Tensor) -> Tensor:
        how = self.options.normalise
        if how == "none":
            return x
        if how == "model":
            shift, scale = [b.mean or 0.0 for b in self.slots], [b.std or 1.0 for b in self.slots]
        elif self.statistics is None:
            raise ManyoneError(
                f"normalise {how}: the plan has no statistics of the train split: use fit(plan, batches)"
            )
        elif how == "dataset":
            shift, scale = list(self.statistics.mean), list(self.statistics.std)
        else:
            shift = list(self.statistics.low)
            scale = [high - low for low, high in zip(self.statistics.low, self.statistics.high, strict=True)]
        return shift_scale(x.float(), torch.tensor(shift, device=x.device), torch.tensor(scale, device=x.device))


def plan(
    source: Sequence[Band],
    spec: ModelSpec,
    options: LayerOptions | None = None,
    *,
    maxima: Sequence[float] | None = None,
) -> Plan:
    """Decides how ``source`` bands feed the model ``spec``.

    ``maxima``: the largest value a band, which its unit is guessed from where neither the band nor ``options.unit``
    says it. ``ManyoneError`` for bands without a unit and without maxima, units that cannot be converted, slots that
    no band fills (under the policy "error"), and statistics that the model does not publish.
    """
    options = options or LayerOptions()
    if not source:
        raise ManyoneError(f"source: no bands: name those of the data to feed {spec.id}")
    bands, notes = _with_units(tuple(source), options, maxima, needed=_needs_units(spec))
    notes += misnamed(bands)
    if spec.slots is None:
        return _any_bands(bands, spec, options, notes)
    slots = tuple(replace(slot, unit=slot.unit or spec.unit) for slot in spec.slots)
    pairing = None
    if is_hyperspectral(bands):
        weights = gaussian_weights(bands, slots)
        for t, s in enumerate(match(bands, slots, options.limit).indices):
            if s is not None and slots[t].kind != "optical":
                weights[t, s] = 1
        notes.append(f"{len(bands)} bands are resampled to the slots, not paired with them")
    else:
        pairing = match(bands, slots, options.limit)
        weights = np.zeros((len(slots), len(bands)))
        for t, s in enumerate(pairing.indices):
            if s is not None:
                weights[t, s] = 1
    if options.missing == "drop" and not weights.any(axis=1).all():
        raise ManyoneError(f"missing drop: {spec.id} takes fixed bands: use slice, or a policy that fills the slots")
    filling = fill(bands, slots, weights, options.missing)
    kept = [t for t in range(len(slots)) if t not in filling.left_out]
    made = Plan(
        model=spec.id,
        source=bands,
        slots=_own_units(bands, tuple(slots[t] for t in kept), filling.weights[kept]),
        weights=tuple(map(tuple, filling.weights[kept].tolist())),
        options=options,
        size=options.size or spec.size,
        frames=spec.frames,
        zero=filling.zero,
        kept=tuple(kept) if filling.left_out else None,
        match=pairing,
        resampled=pairing is None,
        notes=tuple(notes + list(filling.notes)),
        mixes=filling.mixes,
    )
    return _checked(made)


def fit(made: Plan, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Plan:
    """The plan with the statistics of ``batches`` of the train split: (pixels [B, (T,) C, H, W], valid or None)."""
    running = RunningStatistics(len(made.slots))
    notes: list[str] = []
    for pixels, valid in batches:
        x, ok = made.select(pixels, valid)
        if made.zero:  # filled by their mean: nothing to measure
            ok = ok.clone()
            ok[..., list(made.zero), :, :] = True
        running.add(x, ok)
        if not notes:
            raw, mask = made.masked(pixels, valid)
            values, good = (part.movedim(-3, 0).flatten(1).cpu().numpy() for part in (raw, mask))
            notes = list(check_units(made.source, values, good))
    return replace(made, statistics=running.result(), notes=(*made.notes, *notes))


def _needs_units(spec: ModelSpec) -> bool:
    return spec.unit is not None or any(slot.unit for slot in spec.slots or ())


def _with_units(
    bands: tuple[Band, ...], options: LayerOptions, maxima: Sequence[float] | None, *, needed: bool
) -> tuple[tuple[Band, ...], list[str]]:
    """The bands with a unit each, and what was guessed."""
    open_ = [i for i, band in enumerate(bands) if band.unit is None]
    if not open_:
        return bands, []
    names = ", ".join(bands[i].name for i in open_)
    if options.unit is not None:
        unit, note = options.unit, f"unit of {names}: {options.unit}, as chosen"
    elif maxima is not None:
        if len(maxima) != len(bands):
            raise ManyoneError(f"maxima: {len(maxima)} for {len(bands)} bands: give one a band")
        guess = guess_unit([bands[i] for i in open_], [maxima[i] for i in open_])
        unit, note = guess.unit, guess.line
    elif needed:
        raise ManyoneError(f"unit of {names} is not declared: say what the pixels are (unit: refl, refl_dn, ...)")
    else:
        return bands, []
    return tuple(replace(b, unit=unit) if b.unit is None else b for b in bands), [note]


def _any_bands(bands: tuple[Band, ...], spec: ModelSpec, options: LayerOptions, notes: list[str]) -> Plan:
    """Models that take any bands get those that they can place: all, or those with a wavelength or a polarisation."""
    chosen = list(range(len(bands)))
    if "wavelength" in spec.needs:
        chosen = [i for i, b in enumerate(bands) if b.center_nm is not None or b.kind == "radar"]
        if dropped := [b.name for i, b in enumerate(bands) if i not in chosen]:
            notes.append(f"bands without a wavelength are not passed on: {', '.join(dropped)}")
    if not chosen:
        raise ManyoneError(f"{spec.id} needs wavelengths: give the bands their center_nm")
    slots = []
    for i in chosen:
        band = bands[i]
        # the model's unit is one of reflectance or of counts; radar and heights stay what they are
        unit = spec.unit if spec.unit and band.kind == "optical" else band.unit
        slots.append(replace(band, unit=unit, mean=None, std=None, nodata=None))
    weights = tuple(tuple(float(s == i) for s in range(len(bands))) for i in chosen)
    size = options.size or spec.size
    made = Plan(spec.id, bands, tuple(slots), weights, options, size, spec.frames, notes=tuple(notes))
    return _checked(made)


def _own_units(bands: tuple[Band, ...], slots: tuple[Band, ...], weights: np.ndarray) -> tuple[Band, ...]:
    """Slots of a model that names no unit keep that of the band that fills them."""
    return tuple(
        slot if slot.unit or not row.any() else replace(slot, unit=bands[int(row.argmax())].unit)
        for slot, row in zip(slots, weights, strict=True)
    )


def _checked(made: Plan) -> Plan:
    notes = list(made.notes)
    for slot, row in zip(made.slots, made.weights, strict=True):
        for band in (made.source[s] for s, w in enumerate(row) if w > 0):
            if slot.unit is None or band.unit is None or band.unit == slot.unit:
                continue
            try:
                convert(torch.ones(1), band.unit, slot.unit)
            except ManyoneError as problem:
                raise ManyoneError(f"band {band.name} for slot {slot.name} of {made.model}: {problem}") from None
            if (note := conversion_note(band.unit, slot.unit)) is not None and note not in notes:
                notes.append(note)
    if made.options.normalise == "model":
        lacking = [b.name for m, b in enumerate(made.slots) if m not in made.zero and (b.mean is None or b.std is None)]
        if lacking:
            raise ManyoneError(
                f"normalise model: {made.model} has no published mean and std for {', '.join(lacking)}: use dataset"
            )
    return replace(made, notes=tuple(notes))


def _numbers(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([float("nan") if v is None else v for v in values], dtype=torch.float32)
