"""``manyone reproduce``: runs what tests the papers' claims, then prints and writes the verdicts.

Every field has a claims file (``study/claims.toml``) and a study module (``study/study.py``), which knows how its
claims are tested; this module plans their jobs, runs them side by side and puts all fields on one page. The page grows:
verdicts are told as soon as a suite is measured, those of quick suites first. Rows that exist are not measured again. A
field whose methods are of several families has further chapters, each a folder of its study with the same two files:
``policies/study/continual`` is ``policies-continual``, and ``--field policies`` means all.
"""

from __future__ import annotations

import importlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from manyone import __version__
from manyone.claims.claims import Claims
from manyone.claims.figure import Figure, load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.claims.study import Job, Report, Study, SuiteInfo
from manyone.engine.documents import read_json
from manyone.engine.extras import check_extras
from manyone.engine.fabric import processors
from manyone.engine.files import write_atomic
from manyone.engine.progress import say_beginning
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.fields import FIELDS
from manyone.recipes.needs import Needs, together
from manyone.recipes.running import print_table
from manyone.report.html import write
from manyone.report.terminal import show, verdicts
from manyone.reproduce.clock import seconds_of
from manyone.reproduce.processes import Runner, Task, cluster, task_runner


def _studies() -> dict[str, str]:
    found = {}
    for field in FIELDS:
        found[field] = f"manyone.{field}.study.study"
        files = sorted((Path(__file__).parents[1] / field / "study").glob("*/claims.toml"))
        found |= {f"{field}-{p.parent.name}": f"manyone.{field}.study.{p.parent.name}.study" for p in files}
    return found


PAGE = "report.html"
STUDIES = _studies()
"""Field or chapter (the ``field`` of a claims file) to study module, in the order of the page's chapters."""


class StudyModule(Protocol):
    """What a study module has. Importing it must be cheap: anything heavy is imported inside its functions.

    It may also have ``QUICK``: suites that are measured before all others, as they take less than half a minute;
    ``overview(scale, suites, seeds, folder)``: figures drawn of what all its jobs wrote together; and
    ``needs(scale, suite)``: what is fetched and which libraries there must be, a :class:`manyone.recipes.needs.Needs`.
    """

    TITLE: str
    """The chapter's title, without the scale."""
    NOTES: Sequence[str]
    """What a reader must know before the figures."""
    SEEDS: Mapping[str, int]
    """How many seeds each scale has unless ``--seeds`` says otherwise."""

    def prepare(self, scale: str, suite: str) -> SuiteInfo:
        """Fetches or makes the suite's data once, in the main process, where progress can be seen."""

    def jobs(self, scale: str, suites: Sequence[str], seeds: Sequence[int]) -> list[Job]:
        """Everything to be run, in starting order; names of suites are unique over all fields."""

    def count_rows(self, scale: str, suite: str, part: str) -> int:
        """How many rows a job has, without computing anything."""

    def run_job(self, scale: str, suite: str, seed: int, part: str, folder: Path) -> None:
        """Appends the rows that are missing to ``folder/<suite>-<seed>-<part>.jsonl``; runs in a process of its own.

        It may also write ``<suite>-<seed>-<part>.figures.json`` (:func:`manyone.claims.figure.save_figures`), and what
        ``overview`` reads.
        """

    def settings(self, scale: str, suite: str) -> Mapping[str, Any]:
        """The configuration that the page shows."""


@dataclass(frozen=True)
class Plan:
    """What one field contributes to this run; ``only`` names the claims when not all are tested."""

    claims: Claims
    study: StudyModule
    only: tuple[str, ...]
    suites: tuple[str, ...]
    seeds: int
    jobs: tuple[Job, ...]

    @property
    def field(self) -> str:
        """The field's name."""
        return self.claims.field


def ls() -> list[dict[str, str]]:
    """All claims, for ``manyone ls claims``."""
    return [
        {"claim": c.id, "field": claims.field, "statement": c.statement}
        for claims in all_claims().values()
        for c in claims.claims
    ]


def claims_file(field: str) -> Path:
    """The claims of ``field``: ``study/claims.toml`` in its package, or of its chapter after a hyphen."""
    name, _, chapter = field.partition("-")
    return Path(__file__).parents[1] / name / "study" / chapter / "claims.toml"


def all_claims() -> dict[str, Claims]:
    """The claims files of the fields in :data:`STUDIES`."""
    return {field: load_claims(claims_file(field)) for field in STUDIES}


def plan(
    names: Sequence[str], fields: Sequence[str], scale: str, seeds: int | None, chosen_suites: Sequence[str] = ()
) -> list[Plan]:
    """What the claims called ``names`` of ``fields`` need at ``scale`` on ``chosen_suites`` (all by default)."""
    for field in fields:
        if field not in STUDIES:
            raise ManyoneError(f"--field {field}: unknown field, use {', '.join(STUDIES)}")
    fields = [name for name in STUDIES if name in fields or name.partition("-")[0] in fields]
    known = all_claims()
    home = {c.id: field for field, claims in known.items() for c in claims.claims}
    for name in names:
        if name not in home:
            raise ManyoneError(f"unknown claim {name!r}: see `manyone ls claims`")
        if fields and home[name] not in fields:
            raise ManyoneError(f"claim {name!r} belongs to {home[name]}, which --field {','.join(fields)} leaves out")
    tested = {s for claims in known.values() for c in claims.claims for s in c.tests.get(scale, ())}
    for suite in chosen_suites:
        if suite not in tested:
            raise ManyoneError(
                f"--suite {suite}: no claim is tested on it at scale {scale}; {suggestion(suite, tested)}"
            )
    plans = []
    for field in [f for f in STUDIES if not fields or f in fields]:
        chosen = [c for c in known[field].claims if not names or c.id in names]
        suites = tuple(dict.fromkeys(s for c in chosen for s in c.tests.get(scale, ())))
        suites = tuple(s for s in suites if not chosen_suites or s in chosen_suites)
        if not suites:
            continue
        study: Any = importlib.import_module(STUDIES[field])
        count = seeds or study.SEEDS[scale]
        jobs = tuple(study.jobs(scale, suites, range(count)))
        only = tuple(c.id for c in chosen) if names else ()
        plans.append(Plan(known[field], study, only, suites, count, jobs))
    if not plans:
        raise ManyoneError(f"no claim chosen is tested at scale {scale!r}: try another --scale")
    return plans


def reproduce(
    names: Sequence[str] = (),
    *,
    fields: Sequence[str] = (),
    suites: Sequence[str] = (),
    scale: str = "smoke",
    seeds: int | None = None,
    out: Path | None = None,
    workers: int | None = None,
    on: str | None = None,
    dry_run: bool = False,
) -> int:
    """Tests the claims called ``names`` of ``fields`` on ``suites`` (all by default); prints the report's path.

    ``on`` names a cluster (:func:`manyone.reproduce.processes.cluster`) that runs the jobs; ``dry_run`` prints the jobs
    instead.

    Fields that an earlier run into the same folder has tested stay on the page.
    """
    started = time.time()
    say_beginning("reproduce: looks at what the claims need")
    plans = plan(names, fields, scale, seeds, suites)
    folder = out or Path("runs") / f"reproduce-{scale}"
    rows = folder.absolute() / "rows"  # a job may run elsewhere
    if dry_run:
        _show_jobs(plans, scale, rows)
        return 0
    check_extras(_needs(plans, scale).extras)
    try:
        rows.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ManyoneError(f"{rows}: cannot be made: {error.strerror}; choose another folder with --out") from error
    _require_same_settings(plans, scale, rows)
    command = f"manyone reproduce {' '.join(names)}{' ' if names else ''}--scale {scale}"
    command += f" --field {','.join(fields)}" if fields else ""
    command += f" --suite {','.join(suites)}" if suites else ""
    command += f" --seeds {seeds}" if seeds else ""
    ready: dict[str, list[SuiteInfo]] = {p.field: [] for p in plans}
    told: dict[str, list[str]] = {p.field: [] for p in plans}
    studies: dict[str, Study] = {}

    def tell(p: Plan, suite: str) -> None:
        """Says what came out on a suite and puts it on the page."""
        told[p.field].append(suite)
        whole = len(told[p.field]) == len(p.suites)
        study = _study(p, ready[p.field], rows, scale, command, suites if whole else told[p.field])
        report = _beside_earlier([study], folder, scale)
        report.save(folder)
        write(folder / PAGE, report)
        studies[p.field] = study
        print(f"\n{verdicts(study, suite, time.time() - started)}\non the page: {folder / PAGE}", flush=True)

    with cluster(on), task_runner(rows, workers, [STUDIES[p.field] for p in plans]) as runner:
        for part in _quick_first(plans):
            for p, suite in part:
                ready[p.field].append(_prepare(p.study, scale, suite))
            _measure(part, scale, rows, runner, tell)
    for p in plans:
        show(studies[p.field])
    print(f"wall time: {time.time() - started:.0f} s on {processors()} processors")
    print(f"report: {(folder / PAGE).resolve()}")
    return 0


def _show_jobs(plans: Sequence[Plan], scale: str, folder: Path) -> None:
    """What would be measured, a line a suite."""
    lines = []
    for p in plans:
        for suite in p.suites:
            jobs = [job for job in p.jobs if job.suite == suite]
            there = sum(_lines(folder, job) for job in jobs)
            rows = sum(p.study.count_rows(scale, suite, job.part) for job in jobs)
            parts = ", ".join(dict.fromkeys(job.part for job in jobs))
            lines.append((p.field, suite, str(p.seeds), f"{there} of {rows}", parts))
    print_table(("field", "suite", "seeds", "rows measured", "parts"), lines)
    for line in _needs(plans, scale).lines():
        print(line)
    print("nothing was measured now")


def _needs(plans: Sequence[Plan], scale: str) -> Needs:
    """What all of the studies ask for."""
    told = ((getattr(p.study, "needs", None), p.suites) for p in plans)
    return together(needs(scale, suite) for needs, suites in told if needs is not None for suite in suites)


def _prepare(study: StudyModule, scale: str, suite: str) -> SuiteInfo:
    info = study.prepare(scale, suite)
    for note in info.notes:
        print(f"{suite}: {note}")
    return info


def _quick_first(plans: Sequence[Plan]) -> list[list[tuple[Plan, str]]]:
    """Plans with each of their suites, in two parts, of which the first says something soon; no part is empty."""
    every = [(p, suite) for p in plans for suite in p.suites]
    quick = [(p, suite) for p, suite in every if suite in getattr(p.study, "QUICK", ())]
    return [part for part in (quick, [one for one in every if one not in quick]) if part]


def _measure(
    part: Sequence[tuple[Plan, str]], scale: str, folder: Path, runner: Runner, tell: Callable[[Plan, str], None]
) -> None:  # fmt: skip
    """Runs the jobs of these suites that lack rows, under one bar; calls ``tell`` as soon as a suite is measured."""
    plans = list({p.field: p for p, _ in part}.values())
    needed = [
        (p, job, p.study.count_rows(scale, job.suite, job.part))
        for p in plans
        for job in p.jobs
        if (p.field, job.suite) in {(q.field, suite) for q, suite in part}
    ]
    tasks = [
        Task(
            str(job),
            folder / f"{job.file}.log",
            f"{STUDIES[p.field]}:run_job",
            (scale, *job, folder),
            clock=_clock(folder, job),
        )
        for p, job, rows in needed
        if _lines(folder, job) < rows
    ]
    total = sum(rows for _, _, rows in needed)
    waiting = list(part)

    def look() -> None:
        """A suite is measured when its rows are there and none of its jobs runs any more, which may still draw."""
        for p, suite in list(waiting):
            jobs = [(job, rows) for _, job, rows in needed if job.suite == suite]
            there = all(_lines(folder, job) >= rows for job, rows in jobs)
            if there and {str(job) for job, _ in jobs}.isdisjoint(runner.names()):
                waiting.remove((p, suite))
                tell(p, suite)

    runner.run(tasks, "rows", total, lambda: sum(_lines(folder, job) for _, job, _ in needed), look)
    for p, suite in waiting:
        tell(p, suite)


def _require_same_settings(plans: Sequence[Plan], scale: str, folder: Path) -> None:
    """What a folder holds is only gone on with under the settings that it was begun with, which it remembers."""
    for p in plans:
        for suite in p.suites:
            place = folder / f"{suite}.settings.json"
            now = json.loads(json.dumps({"scale": scale, **p.study.settings(scale, suite)}, default=str))
            if not place.is_file():
                if any(_lines(folder, job) for job in p.jobs if job.suite == suite):  # of a version before this one
                    print(f"{suite}: with what settings the rows in {folder} were measured is not known; they are kept")
                else:
                    write_atomic(place, (json.dumps(now, indent=1) + "\n").encode())
                continue
            then = read_json(place)
            if not isinstance(then, Mapping):
                raise ManyoneError(f"{place}: expected a mapping; remove it with the rows beside it")
            differing = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
            if differing:
                raise ManyoneError(
                    f"{folder}: {suite} was begun there with other settings ({', '.join(differing)}); choose another "
                    "folder with --out"
                )


def _clock(folder: Path, job: Job) -> Path:
    return folder / f"{job.file}.seconds"


def _lines(folder: Path, job: Job) -> int:
    path = folder / f"{job.file}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _study(
    plan: Plan, suites: Sequence[SuiteInfo], folder: Path, scale: str, command: str, chosen: Sequence[str]
) -> Study:  # fmt: skip
    """Everything that the field's chapter shows."""
    files = [folder / f"{job.file}.jsonl" for job in plan.jobs]
    drawn = [folder / f"{job.file}.figures.json" for job in plan.jobs]
    return Study(
        title=f"{plan.study.TITLE}, tested at scale {scale}",
        scale=scale,
        field=plan.field,
        rows=[row for path in files if path.exists() for row in load_rows(path)],
        claims_text=_only(claims_file(plan.field).read_text(encoding="utf-8"), plan.only),
        suites=suites,
        figures=[*_overview(plan, scale, folder), *(f for path in drawn if path.exists() for f in load_figures(path))],
        configs={s: dict(plan.study.settings(scale, s)) for s in plan.suites},
        commands=[command],
        environment={
            "manyone": __version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "machine": f"{processors()} processors, {platform.machine()}, {platform.system()}",
        },
        notes=list(plan.study.NOTES),
        made=time.strftime("%Y-%m-%d"),
        chosen=chosen,
        seconds=seconds_of(_clock(folder, job) for job in plan.jobs if _lines(folder, job)),
    )


def _overview(plan: Plan, scale: str, folder: Path) -> list[Figure]:
    """What the study draws of all its jobs together, where it does."""
    draw = getattr(plan.study, "overview", None)
    return list(draw(scale, plan.suites, range(plan.seeds), folder)) if draw else []


def _beside_earlier(studies: Sequence[Study], folder: Path, scale: str) -> Report:
    """The new studies, with those of other fields that the folder holds, in the order of :data:`STUDIES`."""
    known = {}
    if (folder / "study.json").is_file():
        known = {s.field: s for s in Report.load(folder).studies if s.scale == scale and s.field in STUDIES}
    known |= {s.field: s for s in studies}
    title = f"Many into one: the papers' claims, tested at scale {scale}"
    return Report(title, tuple(known[field] for field in STUDIES if field in known))


def _only(text: str, names: Sequence[str]) -> str:
    """The claims file with only the claims called ``names``."""
    if not names:
        return text
    head, *blocks = text.split("[[claims]]")
    return "[[claims]]".join([head, *(b for b in blocks if any(f'id = "{n}"' in b for n in names))])
