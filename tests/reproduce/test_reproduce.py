"""``manyone reproduce`` with a toy study: planning, processes, failures, several fields on one page."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import joblib
import pytest

from manyone.claims.rows import load_rows
from manyone.claims.study import Report, Study
from manyone.errors import ManyoneError
from manyone.report import html
from manyone.reproduce import reproduce
from manyone.reproduce.processes import task_runner

HERE = Path(__file__).parent
CLAIMS = """
field = "{field}"
score = "success"
[metrics.regret]
label = "mean regret"
[papers]
[methods.plain]
label = "Plain"
[methods.clever]
label = "Clever"
[[claims]]
id = "{field}-clever"
short = "clever > plain"
statement = "Clever beats plain in {field}."
comparison = "greater"
left = {{ method = "clever" }}
right = {{ method = "plain" }}
tests = {{ smoke = ["{field}s"], laptop = ["{field}s", "more-{field}s"] }}
[[claims]]
id = "{field}-regret"
short = "less regret"
statement = "Clever regrets less."
comparison = "less"
metric = "regret"
left = {{ method = "clever" }}
right = {{ method = "plain" }}
tests = {{ laptop = ["{field}s"] }}
"""


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Two toy fields instead of the real ones, in an empty folder."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "claims"
    folder.mkdir()
    for field in ("tin", "wood"):
        (folder / f"{field}.toml").write_text(CLAIMS.format(field=field))
    monkeypatch.setattr(reproduce, "claims_file", lambda field: folder / f"{field}.toml")
    monkeypatch.setattr(reproduce, "STUDIES", {"wood": "toy_study", "tin": "toy_study"})
    return tmp_path


def order(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "order").read_text().splitlines()]


def test_the_plan_follows_claims_fields_scale_and_seeds(toys):
    every = reproduce.plan([], [], "smoke", None)
    assert [(p.field, p.suites, p.seeds, len(p.jobs)) for p in every] == [
        ("wood", ("woods",), 2, 4),
        ("tin", ("tins",), 2, 4),
    ]
    (tin,) = reproduce.plan([], ["tin"], "laptop", 1)
    assert (tin.suites, tin.seeds, len(tin.jobs)) == (("tins", "more-tins"), 1, 4)
    (one,) = reproduce.plan(["wood-regret"], [], "laptop", None)
    assert (one.field, one.suites, one.seeds, one.only) == ("wood", ("woods",), 3, ("wood-regret",))


@pytest.mark.parametrize(
    ("names", "fields", "scale", "message"),
    [
        (["nothing"], [], "smoke", "unknown claim 'nothing': see `manyone ls claims`"),
        ([], ["iron"], "smoke", "--field iron: unknown field, use wood, tin"),
        (["tin-clever"], ["wood"], "smoke", "claim 'tin-clever' belongs to tin, which --field wood leaves out"),
        (["tin-regret"], [], "smoke", "no claim chosen is tested at scale 'smoke': try another --scale"),
    ],
)
def test_wrong_words(toys, names, fields, scale, message):
    with pytest.raises(ManyoneError) as caught:
        reproduce.plan(names, fields, scale, None)
    assert str(caught.value) == message


def test_all_fields_in_one_folder_on_one_page(toys, capsys):
    assert reproduce.reproduce(out=Path("r"), workers=2) == 0
    rows = toys / "r/rows"
    done = order(rows)
    assert sorted(d[1:4] for d in done) == sorted(
        [suite, str(seed), part] for suite in ("woods", "tins") for seed in (0, 1) for part in ("first", "second")
    )
    assert len({d[0] for d in done}) <= 2, "two warm processes do all eight jobs"
    assert str(os.getpid()) not in {d[0] for d in done}
    assert {d[4] for d in done} == {"1"}, "one thread in each"
    assert not list(rows.glob(".running*"))
    assert (rows / "woods-0-first.log").read_text().split() == ["measured", "plain", "measured", "clever"]
    report = Report.load(toys / "r")
    assert [s.field for s in report.studies] == ["wood", "tin"]
    assert [f.title for f in report.studies[0].figures] == ["Levels of seed 0"]
    assert report.studies[0].configs == {"woods": {"scale": "smoke", "suite": "woods"}}
    assert (
        Study.load(toys / "r/tin").rows
        == [r for seed in (0, 1) for part in ("first", "second") for r in load_rows(rows / f"tins-{seed}-{part}.jsonl")]
        or len(Study.load(toys / "r/tin").rows) == 8
    )
    page = (toys / "r/report.html").read_text()
    assert page == html.render(report)
    for part in ('id="wood"', 'id="tin"', 'id="wood-claims"', 'id="tin-measures"', "Success per task", "mean regret"):
        assert part in page
    shown = capsys.readouterr().out
    for field in ("Wood", "Tin"):
        assert re.search(rf"^{field} on {field.lower()}s, after \d+ s: 1 holds \(of 1 tests\)$", shown, re.M)
        sentence = f"  ✓ holds: Clever beats plain in {field.lower()}. Here +25.0"
        assert -1 < shown.find(sentence) < shown.find("Claims of wood, scale smoke"), "sentences come before tables"
    assert "woods: made for smoke" in shown
    assert "Claims of tin, scale smoke" in shown
    assert "success in %" in shown


def test_the_page_grows_with_the_fields_and_quick_ones_come_first(toys, monkeypatch, capsys):
    quick = types.ModuleType("quick_study")
    quick.__dict__.update({k: v for k, v in vars(importlib.import_module("toy_study")).items() if k != "__name__"})
    quick.QUICK = ("tins",)
    monkeypatch.setitem(sys.modules, "quick_study", quick)
    monkeypatch.setitem(reproduce.STUDIES, "tin", "quick_study")
    pages = []
    kept = reproduce.write
    monkeypatch.setattr(reproduce, "write", lambda path, report: pages.append(report) or kept(path, report))
    rows = toys / "r/rows"
    rows.mkdir(parents=True)
    for task in reproduce.plan([], ["tin"], "smoke", None)[0].jobs:  # a process of its own does not know the module
        importlib.import_module("toy_study").run_job("smoke", *task, rows)
    assert reproduce.reproduce(out=Path("r"), workers=2) == 0
    assert [[s.field for s in page.studies] for page in pages] == [["tin"], ["wood", "tin"]]
    shown = capsys.readouterr().out
    assert shown.find("Tin on tins, after") < shown.find("woods: made for smoke") < shown.find("Wood on woods, after")


def test_a_page_that_cannot_be_written_is_said(toys, monkeypatch):
    def fail(path, report):
        raise ManyoneError("the disk is full")

    monkeypatch.setattr(reproduce, "write", fail)
    with pytest.raises(ManyoneError, match="the disk is full"):
        reproduce.reproduce(out=Path("r"), workers=2)


def test_a_dry_run_says_what_would_be_measured_and_writes_nothing(toys, capsys):
    assert reproduce.reproduce(out=Path("r"), dry_run=True) == 0
    shown = capsys.readouterr().out
    assert "0 of 8" in shown
    assert "first, second" in shown
    assert not (toys / "r").exists()
    reproduce.reproduce(fields=["tin"], out=Path("r"))
    capsys.readouterr()
    reproduce.reproduce(fields=["tin"], out=Path("r"), dry_run=True)
    assert "8 of 8" in capsys.readouterr().out


def test_one_suite_of_those_of_a_scale(toys, capsys):
    assert (
        reproduce.reproduce(scale="laptop", fields=["tin"], suites=["more-tins"], seeds=2, out=Path("one"), workers=1)
        == 0
    )
    (study,) = Report.load(Path("one")).studies
    assert {row.suite for row in study.rows} == {"more-tins"}
    assert [(f.claim.id, f.suite) for f in study.findings()] == [("tin-clever", "more-tins")]
    assert "--suite more-tins" in study.commands[0]
    with pytest.raises(
        ManyoneError, match=r"--suite tinns: no claim is tested on it at scale laptop; did you mean 'tins'"
    ):
        reproduce.plan([], [], "laptop", None, ["tinns"])


def test_a_field_tested_later_joins_the_page(toys):
    reproduce.reproduce(fields=["tin"], out=Path("r"), seeds=2)
    assert [s.field for s in Report.load(toys / "r").studies] == ["tin"]
    assert 'id="claims"' in (toys / "r/report.html").read_text()
    reproduce.reproduce(fields=["wood"], out=Path("r"), seeds=2)
    assert [s.field for s in Report.load(toys / "r").studies] == ["wood", "tin"]
    assert 'id="tin-claims"' in (toys / "r/report.html").read_text()


def test_rows_that_exist_are_not_measured_again(toys):
    reproduce.reproduce(fields=["tin"], out=Path("r"))
    path = toys / "r/rows/tins-0-first.jsonl"
    before = path.read_text()
    path.write_text(before.splitlines(keepends=True)[0])
    reproduce.reproduce(fields=["tin"], out=Path("r"))
    assert path.read_text() == before


def test_rows_of_other_settings_are_not_gone_on_with(toys, monkeypatch, capsys):
    reproduce.reproduce(fields=["tin"], out=Path("r"), seeds=1)
    before = (toys / "r/rows/tins-0-first.jsonl").read_text()
    import toy_study

    monkeypatch.setattr(toy_study, "settings", lambda scale, suite: {"suite": suite, "lr": 0.1, "of": (1, 2)})
    with pytest.raises(ManyoneError, match=r"tins was begun there with other settings \(lr, of\); .* --out"):
        reproduce.reproduce(fields=["tin"], out=Path("r"), seeds=2)
    with pytest.raises(ManyoneError, match=r"other settings \(lr, of, scale\)"):
        reproduce.reproduce(fields=["tin"], suites=["tins"], out=Path("r"), scale="laptop", seeds=2)
    assert (toys / "r/rows/tins-0-first.jsonl").read_text() == before
    (toys / "r/rows/tins.settings.json").unlink()  # as earlier versions left folders
    capsys.readouterr()
    reproduce.reproduce(fields=["tin"], out=Path("r"), seeds=2)
    assert "with what settings the rows in" in capsys.readouterr().out
    assert (toys / "r/rows/tins-0-first.jsonl").read_text() == before
    assert not (toys / "r/rows/tins.settings.json").exists()
    reproduce.reproduce(fields=["tin"], out=Path("other"), seeds=1)
    reproduce.reproduce(fields=["tin"], out=Path("other"), seeds=2)  # tuples are lists in the file, and equal


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("raise", "ValueError: the toy broke"),
        ("die", "its process was ended by SIGKILL: probably out of memory, so try fewer --workers"),
    ],
)
def test_a_job_that_fails_or_dies_is_named_with_its_log_and_finished_rows_stay(toys, trouble, says):
    rows = toys / "r/rows"
    rows.mkdir(parents=True)
    (rows / "trouble").write_text(trouble)
    with pytest.raises(ManyoneError) as caught:
        reproduce.reproduce(fields=["tin"], out=Path("r"), workers=1)
    message = str(caught.value)
    assert message.startswith(f"tins seed 1, first: {says} (")
    assert "\n" not in message
    assert message.endswith(f"(log: {rows / 'tins-1-first.log'}; what is done is kept: the same command goes on)")
    assert "measured plain" in (rows / "tins-1-first.log").read_text()
    assert len(load_rows(rows / "tins-0-first.jsonl")) == 2
    assert len(load_rows(rows / "tins-1-first.jsonl")) == 1
    (rows / "trouble").unlink()
    assert reproduce.reproduce(fields=["tin"], out=Path("r"), workers=1) == 0
    assert len(load_rows(rows / "tins-1-first.jsonl")) == 2


def begun(toys: Path, *words: str) -> tuple[subprocess.Popen, set[int]]:
    """The command line in a group of its own, with a job that waits; the processes that do the jobs."""
    rows = toys / "r/rows"
    rows.mkdir(parents=True)
    (rows / "trouble").write_text("wait")
    program = toys / "program.py"
    program.write_text(f"""
import signal, sys
from pathlib import Path
from manyone.cli.main import run
from manyone.reproduce import reproduce
from manyone.reproduce.processes import task_runner
signal.signal(signal.SIGINT, signal.default_int_handler)
reproduce.claims_file = lambda field: Path({str(toys / "claims")!r}) / (field + ".toml")
reproduce.STUDIES = {{"tin": "toy_study"}}
if __name__ == "__main__":
    sys.exit(run(["reproduce", "--out", "r", *sys.argv[1:]]))
""")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *(p for p in sys.path if p)])}
    command = [sys.executable, str(program), *words]
    parent = subprocess.Popen(
        command, env=environment, cwd=toys, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 100
    while time.time() < deadline and not (rows / "tins-1-first.jsonl").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    return parent, {int(d[0]) for d in order(rows)}


def gone(process: int, seconds: float = 0.0) -> bool:
    """Whether ``process`` has ended, within ``seconds``."""
    deadline = time.time() + seconds
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if time.time() >= deadline:
            return False
        time.sleep(0.02)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["interrupt", "terminate"]
)
def test_a_signal_ends_the_workers(toys, sent, code, workers):
    parent, children = begun(toys, "--workers", workers)
    if sent == signal.SIGINT:
        os.killpg(parent.pid, sent)  # as Ctrl-C does: the whole group hears it
    else:
        os.kill(parent.pid, sent)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == code
    line = f"manyone: stopped by {sent.name}; what is done is kept: the same command goes on"
    assert err.splitlines()[-1] == line
    assert "Traceback" not in err
    assert all(gone(child) for child in children)
    assert not list((toys / "r/rows").glob(".running*"))


def test_workers_end_with_a_killed_parent(toys):
    parent, children = begun(toys, "--workers", "2")
    parent.kill()
    parent.communicate(timeout=30)
    assert all(gone(child, 20) for child in children)


def test_a_field_means_all_of_its_chapters_and_a_chapter_can_be_chosen_alone(toys, monkeypatch):
    (toys / "claims" / "wood-carved.toml").write_text(CLAIMS.format(field="wood-carved"))
    monkeypatch.setattr(reproduce, "STUDIES", dict.fromkeys(("wood", "wood-carved", "tin"), "toy_study"))
    assert [p.field for p in reproduce.plan([], ["wood"], "smoke", 1)] == ["wood", "wood-carved"]
    assert [p.field for p in reproduce.plan([], ["wood-carved"], "smoke", 1)] == ["wood-carved"]
    assert [p.field for p in reproduce.plan(["wood-carved-clever"], ["wood"], "smoke", 1)] == ["wood-carved"]
    with pytest.raises(ManyoneError, match="'wood-clever' belongs to wood, which --field wood-carved leaves out"):
        reproduce.plan(["wood-clever"], ["wood-carved"], "smoke", 1)


def test_the_run_time_is_that_of_all_commands_that_made_the_rows(toys):
    out = toys / "out"
    for seeds in (1, 2):
        assert reproduce.reproduce(fields=["tin"], seeds=seeds, out=out, workers=1) == 0
        if seeds == 1:
            for clock in (out / "rows").glob("*.seconds"):
                clock.write_text("100\n")  # as if the first command had taken long
    (study,) = Report.load(out).studies
    assert study.seconds is not None
    assert 200 <= study.seconds < 300
    assert "took 3 min" in (out / "report.html").read_text()


def test_chapters_are_folders_of_a_fields_study():
    for name, module in reproduce.STUDIES.items():
        assert reproduce.claims_file(name).is_file()
        field, _, chapter = name.partition("-")
        assert module == ".".join(["manyone", field, "study", *([chapter] if chapter else []), "study"])


def test_every_study_named_has_its_claims_file_and_its_own_suites():
    """Files of rows are named by suite, so two fields must not share one."""
    seen: dict[str, str] = {}
    for field, claims in reproduce.all_claims().items():
        assert claims.field == field
        suites = {s for c in claims.claims for names in c.tests.values() for s in names}
        assert not suites & set(seen), field
        seen |= dict.fromkeys(suites, field)
    assert {c["field"] for c in reproduce.ls()} == set(reproduce.STUDIES)
    assert json.dumps(reproduce.ls())


def test_joblib_s_own_choice_of_backend_counts(toys):
    with joblib.parallel_config(backend="loky"):
        reproduce.reproduce(fields=["tin"], out=Path("r"), workers=2)
    joblib.externals.loky.get_reusable_executor().shutdown(kill_workers=True)
    assert len(Study.load(toys / "r/tin").rows) == 8


def test_no_task_starts_no_process(tmp_path):
    with task_runner(tmp_path) as runner:
        runner.run([], "rows", 0, lambda: 0)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_not_installed_is_one_line(toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ManyoneError) as caught:
        reproduce.reproduce(out=Path("r"), on="ray")
    assert str(caught.value).startswith("--cluster ray needs a package: pip install 'manyone[cluster]'")
