"""What the command line shows of remote-sensing models and sensors: ``manyone ls earth-models``, ``data info dofa``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from manyone.cli.parser import Parser
from manyone.cli.show import show_lists
from manyone.data.rasters.sensors import Sensor, find_sensor, sensors
from manyone.earth.catalogue import Model, Slots, find_model, is_model, listed, models
from manyone.earth.catalogue_check import check
from manyone.earth.published import Figure, published, tables
from manyone.errors import ManyoneError

_MODELS = "models"
_FIGURES = 40
_FILES = 8


def ls(words: Sequence[str]) -> int:
    """``manyone ls earth-models [--sensor S] [--loadable] [--commercial] [--category C] [--text T] [--json]``."""
    parser = Parser(
        "ls earth-models",
        "Remote-sensing foundation models: what they take, on what terms, and who loads them.\n"
        "`manyone data info MODEL` shows all that is known about one.",
        "manyone ls earth-models --sensor sentinel-2 --loadable",
    )
    parser.add_argument(
        "--sensor", metavar="S", help="only models that this sensor can feed: sentinel-2, rgb, sar, ..."
    )
    parser.add_argument("--loadable", action="store_true", help="only models that a library builds")
    parser.add_argument("--commercial", action="store_true", help="only licences that allow commercial use")
    parser.add_argument("--category", metavar="C", help="only a branch of the taxonomy: vfm, vfm.mim, vlm, ...")
    parser.add_argument("--text", metavar="WORDS", help="only entries that contain all these words")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="check the catalogue itself and name every problem")
    parsed = parser.parse(words)
    if parsed.check:
        problems = check()
        for line in problems:
            print(line)
        print(f"{len(problems)} problems in the catalogue" if problems else "the catalogue is sound")
        return 1 if problems else 0
    found = models(
        sensor=parsed.sensor,
        loadable=parsed.loadable,
        commercial=parsed.commercial,
        category=parsed.category,
        text=parsed.text,
    )
    asked = parsed.sensor or parsed.loadable or parsed.commercial or parsed.category or parsed.text
    more = "" if asked else f"; {len(listed())} more are known by name only"
    terminal = sys.stdout.isatty() and not parsed.json
    if not terminal:
        show_lists([(_MODELS, _model_rows(found.models))], as_json=parsed.json)
    elif found.models:
        _console().print(_models_table(found.models, _console().width))
    for line in [*(f"note: {note}" for note in found.notes), f"{len(found.models)} models{more}"]:
        print(line, file=sys.stdout if terminal else sys.stderr)
    return 0


def sensor_rows() -> list[dict[str, str]]:
    """One row a sensor, for ``manyone ls earth-sensors``."""
    return [
        {"sensor": s.id, "name": s.name, "bands": str(len(s.bands)), "processing": "; ".join(s.processing)}
        for s in sensors()
    ]


def _model_rows(found: Sequence[Model]) -> list[dict[str, str]]:
    """One row a model, whole."""
    return [
        {"model": m.id, "year": str(m.year), "category": m.category, "takes": ", ".join(m.modalities),
         "licence": m.license, "by": ", ".join(dict.fromkeys(loader.library for loader in m.loaders))}
        for m in found
    ]  # fmt: skip


def is_known(name: str) -> bool:
    """Whether ``name`` is a model of the catalogue or a sensor."""
    if is_model(name):
        return True
    try:
        find_sensor(name)
    except ManyoneError:
        return False
    return True


def names() -> list[str]:
    """Ids of models and sensors."""
    return [model.id for model in models().models] + [sensor.id for sensor in sensors()]


def describe(name: str) -> None:
    """Prints all that is known about a model or a sensor."""
    _console().print(_model(find_model(name)) if is_model(name) else _sensor(find_sensor(name)))


def _console() -> Console:
    # a pipe has no width: leave the lines whole
    return Console(width=None if sys.stdout.isatty() else max(shutil.get_terminal_size().columns, 200))


def _models_table(found: Sequence[Model], room: int) -> Table:
    """One line a model on a terminal of ``room`` columns: what does not fit is cut, but for names."""
    rows = _model_rows(found)
    headings = tuple(rows[0])
    widths = [max(len(heading), *(len(row[heading]) for row in rows)) for heading in headings]
    free = room - sum(widths[:3]) - 3 * len(headings)
    for at, share in ((5, 0.25), (4, 0.3)):
        widths[at] = min(widths[at], max(6, int(free * share)))
    widths[3] = min(widths[3], max(6, free - widths[4] - widths[5]))
    table = Table(title=_MODELS, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    return table


def _model(model: Model) -> Group:
    facts = {
        "what it is": f"{model.name} ({model.year}, {model.venue})",
        "category": model.category,
        "method": model.method,
        "takes": ", ".join(model.modalities),
        "backbone": ", ".join(model.backbone),
        "parameters": ", ".join(model.params_m) + " million" if model.params_m else "not recorded",
        "pre-trained on": " ".join(filter(None, (model.pretrain_data, f"({model.pretrain_size})"))) if
        model.pretrain_size else model.pretrain_data or "not recorded",
        "code": model.code or "not recorded",
        "weights": "; ".join(model.weights) or "not recorded",
        "licence": model.license + (f" (a hint says {model.license_hint})" if model.license_hint else ""),
        "commercial use": {"terms": "its own licence: read it", "unknown": "unknown: check before use"}.get(
            model.commercial, model.commercial
        ),
        "built by": "\n".join(
            f"{o.library}: {o.call}" + (f" (from {o.since} on)" if o.since else "") +
            ("" if o.gives == "encoder" else f", gives {o.gives}") + (", weights offline" if o.offline else "")
            for o in model.loaders
        ) or "no library that is known here",
        "source": f"{', '.join(model.source)}; confidence {model.confidence}",
    }  # fmt: skip
    parts: list[Table | Text] = [_facts(model.id, facts)]
    parts += [_slots(slots) for slots in model.slots]
    if model.weight_files:
        shown = model.weight_files[: _FILES if sys.stdout.isatty() else None]
        lines = [f"  {f.enum}: {f.hub}/{f.file}" for f in shown]
        if len(model.weight_files) > len(shown):
            lines.append(f"  and {len(model.weight_files) - len(shown)} more")
        parts.append(Text("weight files in torchgeo\n" + "\n".join(lines) + "\n"))
    figures = published(model.id)
    parts.append(_figures(figures) if figures else Text("no published figures are recorded"))
    for id in dict.fromkeys(figure.table for figure in figures):
        table = tables()[id]
        note = f" Note: {table.note}" if table.note else ""
        parts.append(Text(f"{id}: {table.protocol}. Source: {table.source}; confidence {table.confidence}.{note}"))
    return Group(*parts)


def _slots(slots: Slots) -> Table | Text:
    about = [f"{slots.size} px" if slots.size else "", f"patch {slots.patch}" if slots.patch > 1 else ""]
    about += [f"{slots.frames[0]} to {slots.frames[1]} dates" if slots.frames != (1, 1) else ""]
    about += [f"needs {', '.join(slots.needs)}" if slots.needs else ""]
    about += [f"source: {slots.source}; confidence {slots.confidence}"]
    title = f"input, {slots.modality}: " + ", ".join(filter(None, about))
    if slots.bands is None:
        return Text(f"{title}; any bands\n")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("band", "name", "nm", "width nm", "unit", "mean", "std"):
        table.add_column(heading, justify="left" if heading in ("band", "name", "unit") else "right")
    for b in slots.bands:
        numbers = (_number(b.center_nm), _number(b.fwhm_nm), b.unit or "", _number(b.mean), _number(b.std))
        table.add_row(*map(Text, (b.name, b.common, *numbers)))
    return table


def _figures(figures: Sequence[Figure]) -> Table:
    cut = sys.stdout.isatty() and len(figures) > _FIGURES
    more = f" (the first {_FIGURES} of {len(figures)}; a pipe gets all)" if cut else ""
    table = Table(title=f"published figures{more}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("data set", "metric or probe", "value", "row", "table"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for f in figures[: _FIGURES if cut else None]:
        table.add_row(*map(Text, (f.data or "several", f.variant, f"{f.value:g}", f.row, f.table)))
    return table


def _sensor(sensor: Sensor) -> Group:
    facts = {"sensor": sensor.name, "processing": "; ".join(sensor.processing), "note": sensor.note,
             "source": sensor.source, "confidence": sensor.confidence}  # fmt: skip
    table = Table(title="bands", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("band", "name", "nm", "width nm", "pixel m"):
        table.add_column(heading, justify="left" if heading in ("band", "name") else "right")
    for b in sensor.bands:
        table.add_row(*map(Text, (b.name, b.common, _number(b.center_nm), _number(b.fwhm_nm), _number(b.gsd_m))))
    fed = [model.id for model in models(sensor=sensor.id).models]
    last = Text(f"models that it can feed: {', '.join(fed) or 'none is known'}")
    return Group(_facts(sensor.id, {k: v for k, v in facts.items() if v}), table, last)


def _facts(title: str, rows: dict[str, str]) -> Table:
    table = Table(show_header=False, title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(Text(key), Text(value))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
