"""Writes docs/earth-models.md, the catalogue of remote-sensing models as a page, from its data.

python scripts/earth_catalogue_page.py [FILE]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from manyone.earth.catalogue import Model, catalogue, data_sets, listed, raw, taxonomy, weight_files
from manyone.earth.published import Table, tables

PAGE = Path(__file__).parents[1] / "docs" / "earth-models.md"
_CATEGORIES = {
    "vfm.supervised": "Vision models, supervised pre-training",
    "vfm.contrastive": "Vision models, contrastive pre-training",
    "vfm.mim": "Vision models, masked image modelling",
    "vfm.hybrid": "Vision models, several objectives",
    "vfm.jepa": "Vision models, joint-embedding prediction",
    "vfm.sam": "Models based on Segment Anything",
    "vlm.contrastive": "Vision-language models, contrastive",
    "vlm.location": "Image and location",
    "vlm.generative": "Vision-language models, generative",
    "llm": "Language models",
    "generative": "Image generation",
    "weather": "Weather",
    "other.heliophysics": "Heliophysics",
    "general": "General vision models that are used for comparison",
    "baseline": "Baselines without pre-training",
}
"""In the order of the page."""
_GEO_BENCH = ("m-eurosat", "m-so2sat", "m-bigearthnet", "m-brick-kiln", "m-forestnet", "m-pv4ger")
_PAPERS = (
    ("EuroSat", "top1acc (OA)"), ("RESISC-45", "20% OA"), ("AID", "50%"), ("BEN-S2", "mAP 10%"), ("OSCD", "f1"),
    ("LEVIR-CD", "f1"), ("DIOR", "mAP50"), ("DIOR-R", "mAP"), ("FAIR1M", "mAP"), ("LoveDA", "mIoU"),
    ("iSAID", "mIoU"), ("Potsdam", "mf1"),
)  # fmt: skip
"""Data set and metric of the columns that most models of the compilation have."""


def page() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_taxonomy(), *_models(), *_published(), *_data_sets(), ""])


def _head() -> list[str]:
    survey = raw()["survey"]
    return [
        "# Remote-sensing foundation models",
        "",
        f"<!-- written by scripts/{Path(__file__).name}: change the catalogue, not this page -->",
        "",
        f"{len(catalogue())} models that are described, {len(listed())} that are known by name, {len(weight_files())} "
        f"weight files of torchgeo and {len(data_sets())} data sets, after the taxonomy of {survey['authors']} "
        f"{survey['year']} ([arXiv {survey['arxiv']}](https://arxiv.org/abs/{survey['arxiv']})) and its "
        f"[list](https://github.com/{survey['list'].removeprefix('github:')}).",
        "",
        "```",
        "manyone ls earth-models --sensor sentinel-2 --loadable --commercial",
        "manyone data info dofa",
        "```",
        "",
        "Every entry has a source and a confidence (`manyone data info MODEL`). A licence that nobody verified is "
        "`unknown`: check the page of the weights before you pass them on. `--commercial` leaves unknown licences out "
        "and counts them.",
        "",
    ]


def _taxonomy() -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for model in catalogue().values():
        counts[model.category.partition(".")[0]] += 1
    branches = {"VFM": ("vfm",), "VLM": ("vlm",), "LLM": ("llm",), "Generative": ("generative",),
                "Other": ("weather", "other")}  # fmt: skip
    rows = [
        (f"**{name}**", "; ".join(parts), sum(counts[branch] for branch in branches[name]))
        for name, parts in taxonomy().items()
    ]
    rows.append(("not of the survey", "general vision models and baselines", counts["general"] + counts["baseline"]))
    return ["## Taxonomy", "", *_table(("branch", "what belongs to it", "models here"), rows), ""]


def _models() -> list[str]:
    groups: dict[str, list[Model]] = defaultdict(list)
    for model in catalogue().values():
        groups[model.category].append(model)
    lines = ["## Models", ""]
    for category in sorted(groups, key=lambda c: (list(_CATEGORIES).index(c) if c in _CATEGORIES else 99, c)):
        rows = [
            (
                f"`{m.id}`", f"{m.name} ({m.year})", ", ".join(m.modalities), "; ".join(m.backbone),
                ", ".join(m.params_m) or "?", _licence(m),
                ", ".join(dict.fromkeys(loader.library for loader in m.loaders)) or "-", "; ".join(m.weights) or "-",
            )
            for m in groups[category]
        ]  # fmt: skip
        heads = ("id", "model", "takes", "backbone", "million parameters", "licence", "built by", "weights")
        lines += [f"### {_CATEGORIES.get(category, category)}", "", *_table(heads, rows), ""]
    return lines


def _licence(model: Model) -> str:
    hint = f" (hint: {model.license_hint})" if model.license_hint else ""
    mark = {"no": ", not commercial", "terms": ", read it"}.get(model.commercial, "")
    return f"{model.license}{mark}{hint}"


def _published() -> list[str]:
    found = tables()
    lines = ["## Published figures", "", "Others' figures as they were published, each table with its protocol.", ""]
    lines += _about("Frozen encoder and UPerNet (PANGAEA), mIoU; BioMassters: RMSE", found["pangaea"])
    lines += [*_wide(found["pangaea"]), ""]
    lines += _about("The same protocol for TerraMind", found["pangaea_terramind"])
    lines += [*_wide(found["pangaea_terramind"]), ""]
    lines += _about("GEO-Bench classification, frozen, linear probe", found["torchgeo_bench"])
    lines += [*_linear(found["torchgeo_bench"]), ""]
    lines += _about("Figures printed in the models' papers", found["literature_compilation"])
    lines += [
        "Fine-tuning and probing are mixed, and some cells are suspicious: data with a flag. The catalogue has all "
        f"{len(found['literature_compilation'].figures)} cells; these are the columns that most models have.",
        "",
        *_papers(found["literature_compilation"]),
        "",
    ]
    for id, title in (
        ("skyscript_zero_shot", "Zero-shot, mean top-1 of seven scene sets"),
        ("georsclip_zero_shot", "Zero-shot of GeoRSCLIP"),
        ("remoteclip_retrieval", "Retrieval of RemoteCLIP"),
        ("remoteclip_gain", "Gains of RemoteCLIP over earlier models"),
    ):
        lines += _about(title, found[id])
        rows = [(f.row, f.data or "several", _number(f.value)) for f in found[id].figures]
        lines += [*_table(("model", "data set", "figure"), rows), ""]
    return lines


def _about(title: str, table: Table) -> list[str]:
    note = f" Note: {table.note}." if table.note else ""
    return [
        f"### {title}",
        "",
        f"Protocol: {table.protocol}. Source: {table.source}. Confidence: {table.confidence}.{note}",
        "",
    ]


def _wide(table: Table) -> list[str]:
    columns = list(dict.fromkeys(f.data for f in table.figures))
    cells = {(f.row, f.data): f.value for f in table.figures}
    return _table(("model", *columns), _rows(cells, columns))


def _linear(table: Table) -> list[str]:
    cells = {(f"{f.row}, {f.variant.removeprefix('linear, ')}", f.data): f.value
             for f in table.figures if f.variant.startswith("linear")}  # fmt: skip
    return _table(("model, bands", *_GEO_BENCH), _rows(cells, _GEO_BENCH))


def _papers(table: Table) -> list[str]:
    columns = [f"{data} {metric}" for data, metric in _PAPERS]
    cells = {(f.row, f"{f.data} {f.variant}"): f.value for f in table.figures}
    return _table(("model", *columns), _rows(cells, columns))


def _rows(cells: dict[tuple[str, str], float], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """A row a model that has any of the columns."""
    names = dict.fromkeys(row for row, column in cells if column in columns)
    return [
        (name, *(_number(cells[name, column]) if (name, column) in cells else "-" for column in columns))
        for name in names
    ]


def _data_sets() -> list[str]:
    rows = [
        (f"`{d.id}`", d.name, d.role, d.task or "-", d.modality, d.images, d.license, d.loader or "-")
        for d in data_sets().values()
    ]
    heads = ("id", "data set", "role", "task", "modality", "images", "licence", "loader")
    return ["## Data sets", "", *_table(heads, rows)]


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]


def _number(value: float) -> str:
    return f"{value:g}"


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    place.write_text(page(), encoding="utf-8")
    print(f"wrote {place}")
