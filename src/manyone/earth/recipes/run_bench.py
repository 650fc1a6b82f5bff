"""How ``earth-bench`` runs: every encoder on every set that it reads, once; then every protocol on the kept features.

The run folder gets ``cells.jsonl`` (a line for each figure as it is measured: a killed run goes on from there),
``bench.json`` (sets, ranks, what does not apply and why, encoder passes) and ``report.html``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import torch

from manyone.claims.figure import Figure, save_figures
from manyone.data.rasters.scenes import LabelledScenes, Places, RasterSet
from manyone.earth.benching import Cell, applies, blind, cell_from, check_protocols, is_few_shot, measure, ranking
from manyone.earth.embedding import How, Ready, embed, pooling_of, ready
from manyone.earth.encoders.loading import fixed_bands
from manyone.earth.names import LEARNED, PLACES, SUITES, SUPERVISED
from manyone.earth.recipes import bench_figures, pictures
from manyone.earth.recipes.common import how_of, store_of
from manyone.earth.recipes.maps import Area, draw_map
from manyone.earth.recipes.options import BenchOptions
from manyone.earth.recipes.results import results_of
from manyone.earth.samples import Samples, Sampling, draw
from manyone.earth.statistics import Ranking
from manyone.earth.store import Store
from manyone.earth.suites import load, named, own
from manyone.engine.devices import device_of
from manyone.engine.documents import loads_json, sound
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs
from manyone.engine.modules import isolated
from manyone.engine.progress import Progress, hide_progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.needs import UNKNOWN
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table
from manyone.report.html import run_report

CELLS, RESULT = "cells.jsonl", "bench.json"


@dataclass
class Bench:
    """What a comparison has found so far."""

    cells: list[Cell] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """"model on set" -> why there is no figure."""
    passes: int = 0
    """Batches that went through an encoder in this run."""
    encoding: dict[str, float] = field(default_factory=dict)
    """"model on set" -> processor seconds for 1,000 samples, of those that were encoded in this run."""
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    maps: list[Figure] = field(default_factory=list)


def run(options: BenchOptions, build: None, folder: RunFolder) -> None:
    """Embeds, measures, prints and writes."""
    check_protocols(options.protocols)
    names = _names(options)
    folder.ensure()
    found = Bench(cells=_earlier(folder.path / CELLS))
    store = store_of(options)
    with Progress("comparing", len(names) * len(options.models), unit="pairs") as bar:
        for number, source in enumerate(_sources(options)):
            samples = draw(source, sampling_of(options))
            check_inputs(folder, {samples.name: samples.fingerprint()})
            found.sets[samples.name] = describe(samples)
            for place, pair in enumerate(_pairs(options, samples, found.cells)):
                bar.update(number * len(options.models) + place, name=f"{pair.model} on {samples.name}")
                _keep(pair, samples.name, found, folder.path / CELLS)
            if options.maps and isinstance(source, LabelledScenes):
                found.maps += _map(options, samples, store, found.cells)
    sets, models = list(found.sets), list(options.models)
    found.cells.sort(key=lambda c: (sets.index(c.data), models.index(c.model), options.protocols.index(c.protocol)))
    if not found.cells:
        raise ManyoneError(f"no encoder fits any set: {'; '.join(f'{k}: {v}' for k, v in found.skipped.items())}")
    _write(options, found, folder)


def evaluate(options: BenchOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Every figure as model/set/protocol."""
    results_of(folder, RESULT, split)
    return {f"{c.model}/{c.data}/{c.protocol}": c.value for c in _earlier(folder.path / CELLS)}


def _names(options: BenchOptions) -> list[str]:
    return [*SUITES.get(options.suite, ()), *(named(word)[0] for word in options.data)]


def plan(options: BenchOptions, build: None, folder: RunFolder) -> list[str]:
    """Encoders, sets and protocols; nothing is fetched for it."""
    check_protocols(options.protocols)
    return [
        f"encoders: {', '.join(options.models)}",
        f"sets: {', '.join(_names(options))}",
        f"protocols: {', '.join(options.protocols)}; {options.split} split, seed {options.seed}",
        f"at most {options.train} training and {options.test} test samples a set; classes: {UNKNOWN}",
    ]


def sampling_of(options: BenchOptions) -> Sampling:
    """How the samples of a set are drawn."""
    return Sampling(split=options.split, block=options.block, buffer=options.buffer, train=options.train,
                    test=options.test, seed=options.seed)  # fmt: skip


def describe(samples: Samples) -> dict[str, Any]:
    """What the report says of a set."""
    s = samples.splits
    return {
        "samples": [len(s.train), len(s.val), len(s.test)],
        "blind": blind(samples),
        "split": s.kind,
        "classes": list(samples.classes),
        "bands": [f"{b.name} {b.common}" for b in samples.bands],
        "sensor": next((b.sensor for b in samples.bands), ""),
        "source": samples.source.about.source,
        "licence": samples.source.about.licence,
        "notes": [*samples.notes, *samples.source.about.notes],
    }


def features_of(options: BenchOptions, model: str, samples: Samples, store: Store) -> tuple[Ready, How, Any, Any]:
    """(encoder and plan, how, the store's entry, the array that stands for a sample)."""
    how = how_of(options, model)
    one = ready(model, samples, how, options.weights)
    entry = embed(one, samples, how, store)
    return one, how, entry, entry.array(pooling_of(one.encoder.spec, entry))


class Pair(NamedTuple):
    """What one encoder on one set has given; computed in any process."""

    model: str
    cells: tuple[Cell, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    """("model on set", why there is no figure)."""
    passes: int = 0
    cost: float | None = None
    notes: tuple[str, ...] = ()


def workers_of(options: BenchOptions) -> int:
    """Processes side by side; an accelerator is not shared."""
    if options.workers is not None:
        return options.workers
    alone = not options.suite or device_of(options.device).type != "cpu"
    return 1 if alone else min(joblib.effective_n_jobs(-1), len(options.models))


def measure_pair(options: BenchOptions, model: str, samples: Samples, done: Collection[str]) -> Pair:
    """One encoder on one set: all protocols that are not ``done``."""
    wanted = [p for p in options.protocols if applies(p, samples) and p not in done]
    where = f"{model} on {samples.name}"
    if (model in PLACES) != isinstance(samples.source, Places):
        return Pair(model)  # places have no pixels and images no places: nothing to tell
    skipped = []
    if model == SUPERVISED and (few := [p for p in wanted if is_few_shot(p)]):
        skipped.append((f"{where}, {', '.join(few)}", "it has learned from all training labels, not from a few"))
        wanted = [p for p in wanted if p not in few]
    if not wanted:
        return Pair(model, skipped=tuple(skipped))
    torch.set_num_threads(1)  # thin products, one after the other: more threads only wait for each other
    try:
        one, _, entry, features = features_of(options, model, samples, store_of(options))
    except ManyoneError as problem:
        # a model that cannot take this sensor is a result of the comparison, not its end
        return Pair(model, skipped=(*skipped, (where, str(problem))))
    cells = tuple(
        measure(features, samples, model, protocol, resamples=options.resamples, seed=options.seed)[0]
        for protocol in wanted
    )
    return Pair(model, cells, tuple(skipped), entry.forward_calls, cost_of(entry.folder), one.notes)


def _quietly(options: BenchOptions, model: str, samples: Samples, done: Collection[str]) -> Pair:
    """In a process of its own."""
    hide_progress()
    return measure_pair(options, model, samples, done)


def _pairs(options: BenchOptions, samples: Samples, cells: Sequence[Cell]) -> Iterator[Pair]:
    """All encoders on one set, as they are done."""
    done = {m: {c.protocol for c in cells if (c.model, c.data) == (m, samples.name)} for m in options.models}
    if (workers := workers_of(options)) == 1:
        for model in options.models:
            yield measure_pair(options, model, samples, done[model])
        return
    samples.fingerprint()  # once, not in every process
    slow_first = sorted(options.models, key=lambda m: m not in (*LEARNED, "rcf") and not fixed_bands(m))
    with isolated():
        yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)(
            joblib.delayed(_quietly)(options, model, samples, done[model]) for model in slow_first
        )


def _keep(pair: Pair, name: str, found: Bench, path: Path) -> None:
    """Adds the pair to what was found, and its figures to the file."""
    where = f"{pair.model} on {name}"
    found.skipped |= dict(pair.skipped)
    found.passes += pair.passes
    if pair.cost is not None:
        found.encoding[where] = pair.cost
    notes = found.sets[name]["notes"]
    notes += [note for note in pair.notes if note not in notes]
    found.cells += pair.cells
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(cell.to_json(), allow_nan=False) + "\n" for cell in pair.cells)


def cost_of(folder: Path) -> float | None:
    """Processor seconds that the encoder took for 1,000 samples, as its entry in the store keeps it."""
    path = folder / "cost.json"
    if not path.is_file():
        return None
    with sound(path, "what an encoder cost"):
        return float(loads_json(path.read_bytes())["cpu_s_per_1000"])


def _map(options: BenchOptions, samples: Samples, store: Store, cells: Sequence[Cell]) -> list[Figure]:
    """Image, truth and the map of the encoder that is best on validation, of one area of the first scene."""
    own_cells = [c for c in cells if c.data == samples.name and c.protocol == "linear" and "val" in c.chosen]
    if not own_cells:
        return []
    best = max(own_cells, key=lambda c: c.chosen["val"])
    one, how, _, features = features_of(options, best.model, samples, store)
    drawn = draw_map(one, how, samples, features, best.chosen, Area.middle(samples))
    caption = (f"Image, labels, and the map of {best.model} with a linear probe (chosen on validation). "
               f"Accuracy on all test samples {percent(best.value)} %. Colours: {drawn.legend}.")  # fmt: skip
    data = {"data": pictures.side_by_side(list(drawn.pictures)), "width": 960}
    return [Figure("image", f"{samples.name}: a map", data, caption, bench_figures.SECTION)]


def _sources(options: BenchOptions) -> Iterator[RasterSet]:
    for name in SUITES.get(options.suite, ()):
        yield load(name)
    yield from own(options.data, labels=options.labels, column=options.column, sensor=options.sensor, unit=options.unit)


def _earlier(path: Path) -> list[Cell]:
    """The cells that were measured before the run was stopped; a line that was cut short counts for nothing."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    with sound(path, "figures of a comparison, a line each"):
        return [cell_from(loads_json(line), str(path)) for line in lines[:-1] if line]


def _write(options: BenchOptions, found: Bench, folder: RunFolder) -> None:
    ranks = {p: r for p in options.protocols for r in [ranking(found.cells, p, options.models, options.seed)] if r}
    plain = {
        "sets": found.sets, "skipped": found.skipped, "encoder_passes": found.passes, "encoding": found.encoding,
        "ranks": {p: _ranks(r) for p, r in ranks.items()},
    }  # fmt: skip
    write_atomic(folder.path / RESULT, (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode())
    figures = bench_figures.figures_of(found.cells, ranks, found.sets, found.skipped, found.encoding)
    save_figures(folder.path / "figures.json", [*figures, *found.maps])
    mean = {f"{p}/{m}": r.ranks[i].value for p, r in ranks.items() for i, m in enumerate(r.models)}
    folder.log(0, "final", {f"mean_rank/{name}": value for name, value in mean.items()}
               | {"encoder_passes": float(found.passes), "figures": float(len(found.cells))})  # fmt: skip
    folder.close()
    run_report([folder.path], folder.path / "report.html")
    _print(options, found, ranks)


def _print(options: BenchOptions, found: Bench, ranks: Mapping[str, Ranking]) -> None:
    for protocol in options.protocols:
        own_cells = {(c.model, c.data): c for c in found.cells if c.protocol == protocol}
        sets = [s for s in found.sets if any(d == s for _, d in own_cells)]
        if not sets:
            continue
        rank = ranks.get(protocol)
        mean = dict(zip(rank.models, rank.ranks, strict=True)) if rank else {}
        rows = [(m, *(_cell(own_cells.get((m, s))) for s in sets), f"{mean[m].value:.1f}" if m in mean else "–")
                for m in options.models if any((m, s) in own_cells for s in sets)]  # fmt: skip
        metrics = {d: c.metric for (_, d), c in own_cells.items()}
        guess = (_figure(found.sets[s]["blind"], metrics[s]) for s in sets)
        print_table((protocol, *sets, "mean rank"), rows, (bench_figures.BLIND, *guess, ""))
        for note in rank.notes if rank else ():
            print(f"  {note}")
    for name, about in found.sets.items():
        for note in about["notes"]:
            print(f"{name}: {note}")
    if any(about["split"] == "random" for about in found.sets.values()) and options.split == "random":
        print("random split: neighbours stand on both sides, scores are too high: --split block")
    for where, why in found.skipped.items():
        print(f"left out: {where}: {why}")
    print("95 % intervals and mean ranks with theirs are in the report")
    print(f"encoder passes in this run: {found.passes} (the rest was in the store)")


def _cell(cell: Cell | None) -> str:
    return "–" if cell is None else _figure(cell.value, cell.metric)


def _figure(value: float, metric: str) -> str:
    return f"{value:.3g}" if metric == "rmse" else percent(value)


def _ranks(rank: Ranking) -> dict[str, Any]:
    return {
        "models": list(rank.models),
        "data_sets": list(rank.data_sets),
        "mean_rank": [[i.value, i.low, i.high] for i in rank.ranks],
        "normalised": [[i.value, i.low, i.high] for i in rank.normalised],
        "friedman_p": rank.friedman_p,
        "critical_difference": rank.critical_difference,
        "notes": list(rank.notes),
    }
