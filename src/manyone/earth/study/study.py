"""The study of encoders of satellite images: what a comparison depends on, tested on real imagery.

A job is one part with one seed: the comparison itself ("bench"), and small experiments on what it depends on: the
split, the policy for missing bands, encoder passes of a sweep, chance level of random weights, encoders of places.
Features are kept in the store that all parts and seeds share.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyone.claims.figure import Figure
from manyone.claims.rows import Row, append_rows, keys_in, load_rows
from manyone.claims.study import Job, SuiteInfo, TaskInfo
from manyone.data.rasters.scenes import Chips, LabelledScenes, Places
from manyone.earth.benching import Cell, measure
from manyone.earth.embedding import embed, ready
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.names import PLACES, SUPERVISED
from manyone.earth.protocols.linear import linear_probe
from manyone.earth.protocols.probe import probe
from manyone.earth.protocols.zero_shot import class_embeddings, zero_shot
from manyone.earth.published import tables
from manyone.earth.recipes.common import how_of, store_of
from manyone.earth.recipes.needs import encoder_needs, set_needs
from manyone.earth.recipes.options import BenchOptions
from manyone.earth.recipes.run_bench import features_of, sampling_of
from manyone.earth.samples import Samples, draw
from manyone.earth.sensors.layer import Plan, fit, plan
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.spec import Context, ModelSpec
from manyone.earth.study.settings import PARTS, setting_of
from manyone.earth.suites import load
from manyone.engine.files import write_atomic
from manyone.randomness import generator_for
from manyone.recipes.needs import Needs, together

TITLE = "Encoders of satellite images: what a comparison depends on"
NOTES = [
    "All imagery is real and comes from package registries; no published foundation model is among the encoders, as "
    "their weights are on data hubs: what is tested is the comparison itself, and that simple features are strong.",
    "Accuracies are overall accuracies on test samples. A seed draws the split, the samples and all random weights.",
    "mae-small has learned from the bench's own images without their labels (transductive).",
]
SEEDS = {"smoke": 3, "laptop": 3, "paper": 3}
_DENSE = 60_000  # training pixels where splits are compared, of the scene's 135,092
_WORDS = 64  # hash buckets of a random text encoder


def needs(scale: str, suite: str) -> Needs:
    """What is fetched and which libraries there must be."""
    setting = setting_of(scale, suite)
    return together([*map(encoder_needs, setting.models), *map(set_needs, setting.sets)])


def prepare(scale: str, suite: str) -> SuiteInfo:
    """Fetches what the cache does not have."""
    setting = setting_of(scale, suite)
    options: BenchOptions = setting.arm().options()
    tasks = []
    for name in setting.sets:
        samples = draw(load(name), sampling_of(options))
        about, s = samples.source.about, samples.splits
        tasks.append(TaskInfo(name, len(samples.classes), len(s.train), len(s.val), len(s.test), about.source,
                              about.licence))  # fmt: skip
    return SuiteInfo(suite, "rasters", tuple(tasks))


def jobs(scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One job a part, seed and suite."""
    return [Job(suite, seed, part) for part in PARTS for seed in seeds for suite in suites
            if part in setting_of(scale, suite).parts]  # fmt: skip


def count_rows(scale: str, suite: str, part: str) -> int:
    """Rows of one job."""
    setting = setting_of(scale, suite)
    protocols = setting.arm().options().protocols
    counts = {"bench": len(setting.models) * len(protocols) + 2, "splits": 4, "sensors": 4, "sweep": 2, "zero-shot": 2,
              "places": len(PLACES)}  # fmt: skip
    return counts[part]


def settings(scale: str, suite: str) -> dict[str, Any]:
    """The configuration of ``suite``."""
    setting = setting_of(scale, suite)
    shown = {k: v for k, v in dataclasses.asdict(setting).items() if k != "options"}
    hidden = {"out", "seed", "overwrite", "device", "logger", "dry_run", "store", "memory"}
    bench = {k: v for k, v in dataclasses.asdict(setting.arm().options()).items() if k not in hidden}
    return shown | {"earth-bench": bench}


def run_job(scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
    """Appends the missing rows of ``part`` to ``folder/<suite>-<seed>-<part>.jsonl``."""
    path = folder / f"{suite}-{seed}-{part}.jsonl"
    done = keys_in(path)
    if len(done) >= count_rows(scale, suite, part):
        return
    torch.set_num_threads(1)  # jobs run side by side, one a processor
    work = {"bench": _bench, "splits": _splits, "sensors": _sensors, "sweep": _sweep, "zero-shot": _zero_shot,
            "places": _places}[part]  # fmt: skip
    rows = work(scale, suite, seed, folder)
    append_rows(path, [row for row in rows if row.key not in done])


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """Accuracy by encoder and set, and published figures."""
    drawn = []
    for suite in suites:
        paths = [folder / f"{job.file}.jsonl" for job in jobs(scale, [suite], seeds)]
        rows = [row for path in paths if path.exists() for row in load_rows(path)]
        for variant in dict.fromkeys(row.variant for row in rows if row.task and row.condition == "clean"):
            own = [r for r in rows if r.variant == variant and r.condition == "clean" and len(r.task) > 1]
            if own:
                drawn.append(_matrix(suite, variant or "linear", own))
    return [*drawn, *_published()]


# --- parts ------------------------------------------------------------------------------------------------------------


def _bench(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """Every encoder on every set; and what choosing one encoder for all sets costs against one for each."""
    setting = setting_of(scale, suite)
    options: BenchOptions = setting.arm().options(seed=seed)
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for name in setting.sets:
        samples = draw(load(name), sampling_of(options))
        for model in setting.models:
            for protocol, cell in _cells(options, model, samples).items():
                cells.setdefault((model, protocol), {})[name] = cell
    rows = [
        Row(suite, seed, model, "" if protocol == "linear" else protocol, task={s: c.value for s, c in own.items()},
            metrics={"balanced": float(np.mean([c.values["balanced_accuracy"] for c in own.values()])),
                     "miou": float(np.mean([c.values["miou"] for c in own.values()])),
                     "ece": float(np.mean([c.values["ece"] for c in own.values()]))})
        for (model, protocol), own in cells.items()
    ]  # fmt: skip
    linear = {model: own for (model, protocol), own in cells.items() if protocol == "linear"}
    val = {model: {s: float(c.chosen["val"]) for s, c in own.items()} for model, own in linear.items()}
    val.pop(SUPERVISED, None)  # the choice is one among frozen encoders
    one = max(val, key=lambda m: sum(val[m].values()))
    each = {s: max(val, key=lambda m: val[m][s]) for s in setting.sets}
    return [
        *rows,
        Row(suite, seed, "one-for-all", task={s: linear[one][s].value for s in setting.sets},
            metrics={"encoders": 1.0}),
        Row(suite, seed, "one-for-each", task={s: linear[each[s]][s].value for s in setting.sets},
            metrics={"encoders": float(len(set(each.values())))}),
    ]  # fmt: skip


def _cells(options: BenchOptions, model: str, samples: Samples) -> dict[str, Cell]:
    _, _, _, features = features_of(options, model, samples, store_of(options))
    return {protocol: measure(features, samples, model, protocol, resamples=options.resamples, seed=options.seed)[0]
            for protocol in options.protocols}  # fmt: skip


def _splits(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """The same pixels' features, split by blocks of ground and at random.

    Half of all labelled pixels train: with a few thousand of them no test pixel has a neighbour among them, and there
    is nothing to leak.
    """
    setting = setting_of(scale, suite)
    rows = []
    for split in ("block", "random"):
        options: BenchOptions = setting.arm().options(seed=seed, split=split, train=_DENSE, test=_DENSE // 4)
        samples = draw(load(setting.pixels), sampling_of(options))
        _, _, _, features = features_of(options, "stats5x5", samples, store_of(options))
        for protocol in ("knn5-l2", "linear"):
            cell, _ = measure(features, samples, "stats5x5", protocol, resamples=options.resamples, seed=seed)
            rows.append(Row(suite, seed, f"stats-{protocol}", split, "split", metrics={"oa": cell.value}))
    return rows


def _sensors(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """A linear probe on Sentinel-2's bands of Indian Pines, tested on the same ground as Landsat-8 would see it."""
    options: BenchOptions = setting_of(scale, suite).arm().options(seed=seed)
    samples = draw(load("indian-pines-s2"), sampling_of(options))
    other = load("indian-pines-l8")
    assert isinstance(samples.source, LabelledScenes)
    assert isinstance(other, LabelledScenes)
    slots = samples.bands
    spec = ModelSpec("sentinel-2 pixels", slots, len(slots))
    own = fit(plan(slots, spec, LayerOptions()), [_columns(samples.source, samples.pixels, samples.splits.train)])
    features = _prepared(own, samples.source, samples.pixels)
    found = {"same-sensor": features}
    for policy in ("nearest", "interp", "mean"):
        made = plan(other.bands, spec, LayerOptions(missing=policy))
        found[policy] = _prepared(replace(made, statistics=own.statistics), other, samples.pixels)
    rows = []
    for name, seen in found.items():
        mixed = features.copy()
        mixed[samples.splits.test] = seen[samples.splits.test]
        scores = linear_probe(mixed, samples.targets, samples.splits)
        rows.append(Row(suite, seed, "cross-sensor", name, "sensor", metrics={"oa": scores.values["accuracy"]}))
    return rows


def _sweep(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """13 values of C, three poolings and two protocols on statlog: encoder passes of the sweep, and of one pass."""
    setting = setting_of(scale, suite)
    place = folder / "sweep" / f"{suite}-{seed}"
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted job has stored would make the passes too few
    options: BenchOptions = setting.arm().options(seed=seed, store=str(place))
    samples = draw(load("statlog"), sampling_of(options))
    total = once = 0
    for model in setting.sweep:
        how = how_of(options, model)
        one = ready(model, samples, how)
        counted = _Counted(one.encoder)
        prepared = replace(one, encoder=counted)
        first = embed(prepared, samples, how, store_of(options))
        once += first.forward_calls
        for pooling in ("cls", "mean", "max"):
            for protocol in ("linear", "knn5-l2"):
                again = embed(prepared, samples, how, store_of(options))
                array = again.array(f"global_{pooling}")
                if protocol == "linear":
                    linear_probe(array, samples.targets, samples.splits, patience=None)
                else:
                    probe(array, samples.targets, samples.splits, protocol)
        total += counted.calls
    write_atomic(place / "counts.txt", f"{total} {once}\n".encode())
    return [Row(suite, seed, "sweep", "", "cost", metrics={"passes": float(total)}),
            Row(suite, seed, "one-pass", "", "cost", metrics={"passes": float(once)})]  # fmt: skip


def _zero_shot(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """Zero-shot with random weights on both sides: balanced accuracy, the mean of many text encoders; and chance."""
    setting = setting_of(scale, suite)
    options: BenchOptions = setting.arm().options(seed=seed)
    samples = draw(load("statlog"), sampling_of(options))
    source = samples.source
    assert isinstance(source, Chips)
    assert samples.chips is not None
    encoder = load_encoder("vit-random", bands=samples.bands, seed=seed)
    one = replace(ready("vit-random", samples, how_of(options, "vit-random")), encoder=encoder)
    features = embed(one, samples, how_of(options, "vit-random"), store_of(options)).array("global_mean")
    test = torch.from_numpy(np.asarray(features[samples.splits.test], np.float64))
    targets = samples.targets[samples.splits.test]
    found = []
    for number in range(setting.draws):
        table = torch.randn(
            _WORDS, test.shape[1], generator=generator_for(seed, "text encoder", number), dtype=torch.float64
        )

        def encode(texts: list[str], table: torch.Tensor = table) -> torch.Tensor:
            counts = torch.zeros(len(texts), _WORDS, dtype=torch.float64)
            for row, text in enumerate(texts):
                for at in range(len(text) - 2):
                    counts[row, sum(map(ord, text[at : at + 3])) % _WORDS] += 1
            return counts @ table

        classes = class_embeddings(samples.classes, encode)
        found.append(zero_shot(test, targets, classes).values["balanced_accuracy"])
    chance = 1 / len(samples.classes)
    return [Row(suite, seed, "random-towers", "", "zero-shot", metrics={"oa": float(np.mean(found))}),
            Row(suite, seed, "chance", "", "zero-shot", metrics={"oa": chance})]  # fmt: skip


def _places(scale: str, suite: str, seed: int, folder: Path) -> list[Row]:
    """Encoders of places on climates, by blocks of ten degrees."""
    options: BenchOptions = setting_of(scale, suite).arm().options(seed=seed)
    samples = draw(load("koppen"), sampling_of(options))
    assert isinstance(samples.source, Places)
    rows = []
    for model in PLACES:
        cell = _cells(dataclasses.replace(options, protocols=("linear",)), model, samples)["linear"]
        rows.append(Row(suite, seed, model, "", "places", metrics={"oa": cell.value}))
    return rows


class _Counted:
    """An encoder that counts its passes."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.spec, self.calls = encoder, encoder.spec, 0

    def maps(self, pixels: torch.Tensor, context: Context) -> list[torch.Tensor]:
        """Counted."""
        self.calls += 1
        return self.encoder.maps(pixels, context)

    def vectors(self, pixels: torch.Tensor, context: Context) -> dict[Any, torch.Tensor]:
        """Counted."""
        self.calls += 1
        return self.encoder.vectors(pixels, context)

    def digest(self) -> str:
        """The encoder's."""
        return self.encoder.digest()

    def to(self, device: torch.device | str) -> _Counted:
        """Itself."""
        self.encoder.to(device)
        return self


def _columns(source: LabelledScenes, pixels: Any, at: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """([1, C, 1, n], valid) of samples ``at`` of the first scene."""
    values, valid = source.scenes[0].read()
    part = np.s_[:, pixels[at, 1], pixels[at, 2]]
    return torch.from_numpy(values[part])[None, :, None], torch.from_numpy(valid[part])[None, :, None]


def _prepared(made: Plan, source: LabelledScenes, pixels: Any) -> np.ndarray:
    """float32 [N, M]: every sample through the sensor layer."""
    x, _ = made.apply(*_columns(source, pixels, np.arange(len(pixels))))
    return x[0, :, 0].T.numpy().copy()


def _matrix(suite: str, protocol: str, rows: Sequence[Row]) -> Figure:
    columns = list(dict.fromkeys(s for row in rows for s in row.task))
    methods = list(dict.fromkeys(row.method for row in rows))
    values = [[_mean([r.task[s] for r in rows if r.method == m and s in r.task]) for s in columns] for m in methods]
    data = {"rows": methods, "columns": columns, "values": values, "unit": "%"}
    return Figure("matrix", f"{suite}: accuracy, {protocol}", data, "Mean over seeds.", "Encoders of satellite images")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _published() -> list[Figure]:
    """What others measured of published models: the message that no model wins everywhere is theirs."""
    drawn = []
    for table in tables().values():
        data = list(dict.fromkeys(f.data for f in table.figures))
        if table.id.startswith("pangaea") and len(data) > 1:
            models = list(dict.fromkeys(f.row for f in table.figures))
            own = {(f.row, f.data): f.value for f in table.figures}
            rows = [[m, *(own.get((m, d)) for d in data)] for m in models]
            drawn.append(Figure("table", f"Published: {table.id}", {"columns": ["model", *data], "rows": rows},
                                f"{table.protocol}. {table.source}, confidence {table.confidence}.",
                                "Encoders of satellite images"))  # fmt: skip
    return drawn
