"""``manyone ls``, ``report``, ``reproduce``, ``data`` and ``bench``: thin doors to modules that load when asked for."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from manyone.cli.parser import Parser, at_least_one, one_of
from manyone.cli.show import show, show_lists
from manyone.errors import ManyoneError
from manyone.fields import FIELDS
from manyone.recipes.table import RECIPES

_EARTH = "earth-models"
"""The list that is a catalogue of what others made: long, and with options."""
LISTS = ("recipes", "suites", "data", "models", "claims", _EARTH, "earth-sensors")
"""What ``manyone ls`` lists."""
_NAMED = 4  # runs that the name of a page of several names
_DATA_VERBS = ("ls", "get", "make", "info", "clear")


def ls(words: Sequence[str]) -> int:
    """``manyone ls [recipes|suites|data|models|claims|earth-sensors]``; ``ls earth-models`` has options of its own."""
    if words[:1] == [_EARTH]:
        return int(_load("manyone.cli.earth_command").ls(words[1:]))
    parser = Parser(
        "ls",
        "Lists what there is: recipes, suites, data, models, claims, remote-sensing models and sensors; without a\n"
        "word, all on one screen. In a pipe the lists are tab-separated.",
        "manyone ls data",
    )
    parser.add_argument("what", metavar="WHAT", nargs="?", help=f"one of {', '.join(LISTS)}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse(words)
    if parsed.what is None and not parsed.json:
        print(_one_screen())
        return 0
    names = ("recipes", "claims") if parsed.what is None else (one_of(parsed.what, "list", LISTS),)
    if names == (_EARTH,):
        return int(_load("manyone.cli.earth_command").ls(["--json"] * parsed.json))
    found: list[tuple[str, list[dict[str, str]]]] = []
    for name in names:
        if name == "recipes":
            rows = [{"recipe": n, "field": r.field, "what it does": r.summary} for n, r in RECIPES.items()]
            found.append((name, rows))
        elif name == "suites":
            found.append((name, _suites()))
        elif name == "claims":
            found.append((name, _load("manyone.reproduce.reproduce").ls()))
        elif name == "earth-sensors":
            found.append((name, _load("manyone.cli.earth_command").sensor_rows()))
        else:
            found += _load("manyone.cli.data_command").lists(name)
    show_lists(found, as_json=parsed.json)
    return 0


def _one_screen() -> str:
    """Every recipe by its field, and how much there is of all else."""
    claims = _load("manyone.reproduce.reproduce").ls()
    assets = _load("manyone.assets.registry").ASSETS.values()
    weights = sum(asset.kind == "weights" for asset in assets)
    lines = ["recipes, by field: manyone run RECIPE (what each does: manyone ls recipes)", ""]
    for field in FIELDS:
        names = ", ".join(name for name, recipe in RECIPES.items() if recipe.field == field)
        lines += textwrap.wrap(names, 79, initial_indent=f"  {field:<11}", subsequent_indent=" " * 13,
                               break_on_hyphens=False)  # fmt: skip
    others = {
        "suites": "ready-made tasks, by the fields that take them (--suite NAME)",
        "data": f"{len(assets) - weights} packages of data; suites, tables, databases, scenes",
        "models": f"{weights} packages of weights",
        "claims": f"{len(claims)} claims of the papers (test them: manyone reproduce)",
        _EARTH: "remote-sensing foundation models, by sensor and licence",
        "earth-sensors": "sensors with their bands (manyone data info SENSOR)",
    }
    lines += ["", "more: manyone ls WHAT", ""]
    return "\n".join([*lines, *(f"  {name:<14}{text}" for name, text in others.items())])


def _suites() -> list[dict[str, str]]:
    """Ready-made tasks and the fields whose recipes take them as ``--suite``."""
    images, sql = _load("manyone.data.suite_names").SUITES, _load("manyone.data.sql.suites").SUITES
    offline, earth = _load("manyone.data.trajectories.offline").SUITES, _load("manyone.earth.names").SUITES
    rows = [(name, "merging", text) for name, text in images.items()]
    rows += [(name, "policies" + ", behavior" * name.startswith("mujoco"), text) for name, text in offline.items()]
    rows += [(name, "sql", suite.summary) for name, suite in sql.items()]
    rows += [(name, "earth", f"sets: {', '.join(sets)}") for name, sets in earth.items()]
    return [{"suite": name, "fields": fields, "what it is": text} for name, fields, text in rows]


def report(words: Sequence[str]) -> int:
    """``manyone report RUN... [--out FILE]``."""
    parser = Parser(
        "report",
        "Writes one self-contained HTML page about one or more runs: tables, plots, configuration.",
        "manyone report runs/first runs/second --out both.html",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="run folders, folders of several seeds, or one folder of `manyone reproduce`",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page (default: report.html in the run's folder; of several report-RUN-RUN.html beside the first)",
    )
    parsed = parser.parse(words)
    for run in parsed.runs:
        if not any((run / name).is_file() for name in ("config.yaml", "study.json", "seeds.json")):
            raise ManyoneError(f"{run} is not a run folder: it has no config.yaml")
    written = _load("manyone.report.html").run_report(parsed.runs, parsed.out or _page_of(parsed.runs))
    print(f"report: {written}")
    return 0


def _page_of(runs: Sequence[Path]) -> Path:
    """Where a page goes by itself: into the run's folder; of several runs beside the first, whose own page stays."""
    if len(runs) == 1:
        return runs[0] / "report.html"
    names = [run.resolve().name for run in runs]
    named = names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"and-{len(names) - _NAMED + 1}-more"]
    return runs[0].resolve().parent / f"report-{'-'.join(named)}.html"


def reproduce(words: Sequence[str]) -> int:
    """``manyone reproduce [CLAIM...] [--field F] --scale smoke|laptop|paper``."""
    parser = Parser(
        "reproduce",
        "Runs what tests the papers' claims; prints claim, published and measured figure (with interval) and verdict.",
        "manyone reproduce --scale smoke",
    )
    parser.add_argument("claims", metavar="CLAIM", nargs="*", help="claims to test (manyone ls claims; default: all)")
    parser.add_argument(
        "--field",
        metavar="F",
        action="append",
        default=[],
        help=f"only the claims of a field, or of several with commas: {', '.join(FIELDS)} (default: all)",
    )
    parser.add_argument(
        "--suite",
        metavar="S",
        action="append",
        default=[],
        help="only on a suite, or several with commas, of those that --dry-run shows (default: all)",
    )
    parser.add_argument(
        "--scale",
        choices=("smoke", "laptop", "paper"),
        default="smoke",
        help="smoke: minutes, shows that everything runs; laptop: within an hour a field; paper: the published "
        "setting, for a GPU (default: smoke)",
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="number of seeds, at least 1 (default: the scale's own)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the study (default: runs/reproduce-SCALE)")
    parser.add_argument(
        "--workers", metavar="N", type=int, help="processes at a time, at least 1 (default: by the CPUs)"
    )
    parser.add_argument(
        "--cluster", choices=("dask", "ray"), help="where to run the jobs instead of processes on this machine"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured, and measure nothing")
    parsed = parser.parse(words)
    at_least_one(parsed, "seeds", "workers")
    module = _load("manyone.reproduce.reproduce")
    code = module.reproduce(
        parsed.claims,
        fields=_listed(parsed.field),
        suites=_listed(parsed.suite),
        scale=parsed.scale,
        seeds=parsed.seeds,
        out=parsed.out,
        workers=parsed.workers,
        on=parsed.cluster,
        dry_run=parsed.dry_run,
    )
    return int(code or 0)


def _listed(words: Sequence[str]) -> list[str]:
    return [name.strip() for word in words for name in word.split(",") if name.strip()]


def data(words: Sequence[str]) -> int:
    """``manyone data ls|get|make|info|clear NAME``."""
    parser = Parser(
        "data",
        "Data sets and weights: where they come from, fetching and making them, and what they take on the disk.\n\n"
        "  ls            what there is\n"
        "  get NAME      fetch it from its source and check it\n"
        "  make NAME     make it, where it is made rather than fetched\n"
        "  info NAME     origin, size and licence; of your own episodes, databases, pairs and images, by their\n"
        "                place, what they hold\n"
        "  clear NAME    remove it from the cache",
        "manyone data make metaworld-pairs10-near --workers 2",
    )
    parser.add_argument("verb", metavar="VERB", help=f"one of {', '.join(_DATA_VERBS)}")
    parser.add_argument("names", metavar="NAME", nargs="*", help="data sets (manyone data ls)")
    parser.add_argument("--json", action="store_true", default=None, help="of `ls`: print JSON")
    makes = parser.add_argument_group(
        "options of `make` for offline data sets (metaworld-..., cheetah-..., ml1-..., mujoco-...)"
    )
    makes.add_argument(
        "--episodes",
        metavar="N",
        type=int,
        help="episodes a task, 1 to 100000 (default: 60; ml1-...: 20; mujoco-...: 100)",
    )
    makes.add_argument(
        "--steps", metavar="N", type=int, help="steps an episode, 1 to 500 (default: 200; mujoco-...: 1000)"
    )
    makes.add_argument("--seed", metavar="N", type=int, help="seed, 0 or more (default: 0)")
    makes.add_argument("--workers", metavar="N", type=int, help="processes, 1 to the CPUs (default: the CPUs)")
    makes.add_argument("--source", metavar="DIR", type=Path, help="folder of the official episodes, for ...-expert")
    pairs = parser.add_argument_group("options of `make sql-pairs`: questions and SQL about your own databases")
    pairs.add_argument("--db", metavar="FILE", action="append", help="a SQLite file; give it once for each database")
    pairs.add_argument("--out", metavar="DIR", type=Path, help="folder of the pairs, in Spider's layout")
    pairs.add_argument("--pairs", metavar="N", type=int, help="pairs in all, at least 1 (default: 5000)")
    pairs.add_argument(
        "--instances", metavar="N", type=int, help="databases with other rows for a test suite, 0 to 20 (default: 3)"
    )
    pairs.add_argument(
        "--robust", action="store_true", default=None, help="the test questions in other words as well (WordNet)"
    )
    pairs.add_argument("--tables", metavar="FILE", type=Path, help="a tables.json that names columns in plain words")
    pairs.add_argument("--overwrite", action="store_true", default=None, help="replace pairs that were made earlier")
    reads = parser.add_argument_group("options of `info` for your own episodes (a folder, a file, a Minari id)")
    reads.add_argument("--keys", metavar="A,B", help="entries of dictionary observations")
    reads.add_argument("--data-horizon", metavar="N", type=int, help="steps after which HDF5 episodes were cut")
    reads.add_argument(
        "--data-choices", metavar="N", type=int, help="number of discrete actions in HDF5, .npz and .pkl files"
    )
    parsed = parser.parse(words)
    verb = one_of(parsed.verb, "verb of `manyone data`", _DATA_VERBS)
    module = _load("manyone.cli.data_command")
    groups = {
        "make": (
            *("episodes", "steps", "seed", "workers", "source"),
            *("db", "out", "pairs", "instances", "robust", "tables", "overwrite"),
        ),
        "info": ("keys", "data_horizon", "data_choices"),
        "ls": ("json",),
    }
    options: dict[str, Any] = {}
    for owner, chosen in groups.items():
        given = {key: value for key in chosen if (value := getattr(parsed, key)) is not None}
        if given and verb != owner:
            option = next(iter(given)).replace("_", "-")
            raise ManyoneError(f"--{option} is an option of `manyone data {owner}`, not of `{verb}`")
        options |= given
    at_least_one(parsed, "pairs")
    if not 0 <= options.get("instances", 0) <= 20:
        raise ManyoneError(f"--instances {options['instances']}: must be 0 to 20")
    if options.get("seed", 0) < 0:
        raise ManyoneError(f"--seed {options['seed']}: must be 0 or more")
    if verb == "ls":
        if parsed.names:
            raise ManyoneError(f"'{parsed.names[0]}' is one word too many: `manyone data ls` takes no name")
        show_lists(module.lists("data"), as_json=bool(options.get("json")))
        return 0
    if not parsed.names:
        raise ManyoneError(f"`manyone data {verb}` needs a name (manyone data ls)")
    for name in parsed.names:
        show(getattr(module, verb)(name, **options), name)
    return 0


def bench(words: Sequence[str]) -> int:
    """``manyone bench [NAME...]``."""
    parser = Parser(
        "bench",
        "Measures speed and memory, side by side with peers in one run.",
        "manyone bench",
    )
    parser.add_argument("names", metavar="BENCHMARK", nargs="*", help="what to measure (default: everything)")
    names = parser.parse(words).names
    show(_load("manyone.cli.bench_command").run(names), "bench")
    return 0


def _load(name: str) -> ModuleType:
    return importlib.import_module(name)
