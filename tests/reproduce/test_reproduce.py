"""``manyone reproduce`` with a toy study: planning, processes, failures, several fields on one page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manyone.claims.rows import load_rows
from manyone.claims.study import Report, Study
from manyone.errors import ManyoneError
from manyone.report import html
from manyone.reproduce import reproduce

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
    assert "woods: made for smoke" in shown
    assert "Claims of tin, scale smoke" in shown
    assert "success in %" in shown


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
    assert message.endswith(f"(log: {Path('r/rows/tins-1-first.log')}; what is done is kept: the same command goes on)")
    assert "measured plain" in (rows / "tins-1-first.log").read_text()
    assert len(load_rows(rows / "tins-0-first.jsonl")) == 2
    assert len(load_rows(rows / "tins-1-first.jsonl")) == 1
    (rows / "trouble").unlink()
    assert reproduce.reproduce(fields=["tin"], out=Path("r"), workers=1) == 0
    assert len(load_rows(rows / "tins-1-first.jsonl")) == 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_a_signal_ends_the_workers(toys, sent):
    rows = toys / "r/rows"
    rows.mkdir(parents=True)
    (rows / "trouble").write_text("wait")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from pathlib import Path; from manyone.reproduce import reproduce\n"
    code += f"reproduce.claims_file = lambda field: Path({str(toys / 'claims')!r}) / (field + '.toml')\n"
    code += "reproduce.STUDIES = {'tin': 'toy_study'}\n"
    code += "if __name__ == '__main__': reproduce.reproduce(out=Path('r'), workers=2)"
    path = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    environment = os.environ | {"PYTHONPATH": path}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=toys, start_new_session=True)
    deadline = time.time() + 60
    while time.time() < deadline and not (rows / "tins-1-first.jsonl").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    children = {int(d[0]) for d in order(rows)}
    if sent == signal.SIGINT:
        os.killpg(parent.pid, sent)  # as Ctrl-C does: the whole group hears it
    else:
        os.kill(parent.pid, sent)
    assert parent.wait(20) != 0
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert not list(rows.glob(".running*"))


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
