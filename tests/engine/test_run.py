import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError


@dataclass(kw_only=True)
class Options:
    out: Path | None = None
    rate: float = 0.1


def lines(run):
    return [{k: v for k, v in record.items() if k != "time"} for record in run.metrics()]


def test_nothing_is_written_before_the_first_write(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "run", "toy", Options())
    assert not run.exists
    assert list(tmp_path.iterdir()) == []
    run.log(0, "train", {"loss": 1.0})
    assert run.exists
    assert (run.path / "config.yaml").is_file()


def test_config_is_complete_and_opens_again(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options(out=Path("x"), rate=1e-5))
    run.ensure()
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["recipe"] == "toy"
    assert config["options"] == {"out": "x", "rate": 1e-5}
    assert config["environment"]["torch"].startswith(torch.__version__.split("+")[0])
    again = RunFolder.open(run.path)
    assert (again.recipe, again.options, again.exists, again.done) == ("toy", config["options"], True, False)
    again.finish()
    assert RunFolder.open(run.path).done


def test_metrics_are_strict_json_with_wall_clock_under_time_only(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.log(1, "train", {"loss": torch.tensor(0.5), "task": {"a": float("nan")}, "n": [1, True], "time": {"x": 2.0}})
    raw = (run.path / "metrics.jsonl").read_text()
    record = json.loads(raw, parse_constant=pytest.fail)
    times = record.pop("time")
    assert record == {"step": 1, "kind": "train", "loss": 0.5, "task": {"a": None}, "n": [1, True]}
    assert times["x"] == 2.0
    assert times["unix"] > 1e9
    with pytest.raises(ValueError, match="'kind'"):
        run.log(1, "train", {"kind": "x"})


def test_an_existing_run_is_kept_unless_overwriting_is_asked_for(tmp_path):
    first = RunFolder.create(tmp_path / "run", "toy", Options())
    first.log(0, "train", {"loss": 1})
    (first.folder("model") / "old").write_text("x")
    with pytest.raises(ManyoneError, match=r"holds a run already.*--out.*--overwrite.*manyone resume"):
        RunFolder.create(tmp_path / "run", "toy", Options())
    second = RunFolder.create(tmp_path / "run", "toy", Options(rate=2.0), overwrite=True)
    assert (tmp_path / "run" / "model" / "old").exists()  # until the new run writes
    second.log(5, "train", {"loss": 2})
    assert not (tmp_path / "run" / "model").exists()
    assert [r["step"] for r in second.metrics()] == [5]


def test_a_folder_that_is_no_run_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ManyoneError, match="is not a run folder"):
            RunFolder.create(tmp_path, "toy", Options(), overwrite=overwrite)
    with pytest.raises(ManyoneError, match=r"has no config.yaml"):
        RunFolder.open(tmp_path)
    with pytest.raises(ManyoneError, match=r"has no config.yaml"):
        RunFolder.open(tmp_path / "thesis.tex")


def test_an_unreadable_config_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: [")
    with pytest.raises(ManyoneError, match=r"config.yaml, line 1: not YAML") as caught:
        RunFolder.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_through_a_file_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ManyoneError, match="file is a file, not a folder"):
        RunFolder.create(tmp_path / "file" / "run", "toy", Options())
    with pytest.raises(ManyoneError, match="file is a file, not a folder"):
        RunFolder.create(tmp_path / "file", "toy", Options())


def test_a_read_only_place_is_refused_at_once_and_at_the_write(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(ManyoneError, match="no permission to write in"):
            RunFolder.create(tmp_path / "run", "toy", Options())
    run = RunFolder.create(tmp_path / "run", "toy", Options())

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(ManyoneError, match=r"cannot write .*run: the file system is read-only") as caught:
        run.log(0, "train", {"loss": 1})
    assert "\n" not in str(caught.value)


def test_a_full_disk_keeps_the_earlier_metrics_whole(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.log(1, "train", {"loss": 1.0})
    before = (run.path / "metrics.jsonl").read_bytes()

    class Full:
        """Takes a few bytes, as a nearly full disk does, and then refuses."""

        def __init__(self, file):
            self.file, self.taken = file, False

        def write(self, data):
            if self.taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.taken = True
            return self.file.write(data[:5])

        def fileno(self):
            return self.file.fileno()

    working = run._metrics
    run._metrics = Full(working)
    with pytest.raises(ManyoneError, match=r"metrics.jsonl: the disk is full.*earlier metrics and checkpoints"):
        run.log(2, "train", {"loss": 2.0})
    assert (run.path / "metrics.jsonl").read_bytes() == before
    run._metrics = working
    run.log(2, "train", {"loss": 2.0})
    assert [r["step"] for r in run.metrics()] == [1, 2]


def test_truncate_and_torn_lines(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    for step in range(4):
        run.log(step, "train", {"loss": step})
    run.close()
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "ki')
    again = RunFolder.open(run.path)
    assert [r["step"] for r in again.metrics()] == [0, 1, 2, 3]
    again.log(9, "note", {"x": 1})
    assert [r["step"] for r in again.metrics()] == [0, 1, 2, 3, 9]
    again.truncate(2)
    again.log(3, "train", {"loss": 30})
    assert lines(again) == [{"step": s, "kind": "train", "loss": v} for s, v in [(0, 0), (1, 1), (2, 2), (3, 30)]]


def test_a_damaged_line_is_named(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.log(0, "train", {"loss": 1})
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 0}\nrubbish\n{"step": 1}\n')
    with pytest.raises(ManyoneError, match="line 2 is no record"):
        run.metrics()


def test_what_a_resumed_recipe_says_again_is_written_once(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.log(0, "plan", {"tasks": 6})
    run.log(0, "plan", {"tasks": 6})
    run.log(1, "train", {"loss": 0.1 + 0.2, "time": {"x": 1}})
    again = RunFolder.open(run.path)
    again.log(0, "plan", {"tasks": 6})
    again.log(0, "plan", {"tasks": 6})
    again.truncate(0)
    again.log(0, "plan", {"tasks": 6})  # a third time is new
    again.log(1, "train", {"loss": 0.5})
    assert lines(again) == [{"step": 0, "kind": "plan", "tasks": 6}] * 3 + [{"step": 1, "kind": "train", "loss": 0.5}]


def test_stages_have_their_own_files(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    stage = run.stage("experts/digits")
    assert not run.exists
    stage.log(1, "train", {"loss": 1})
    assert run.exists
    assert run.metrics() == []
    again = RunFolder.open(run.path).stage("experts/digits")
    again.log(1, "train", {"loss": 1})
    assert len(again.metrics()) == 1


def test_two_processes_cannot_write_one_run(tmp_path):
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.ensure()
    run.lock()  # again in the same process: fine
    code = f"from manyone.engine.run import RunFolder\nRunFolder.open({str(run.path)!r}).lock()"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "another process is working in" in other.stderr


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = RunFolder.create(tmp_path / "run", "toy", Options())
    run.log(0, "train", {"loss": 1})
    run.folder("model")
    run.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null\n",
        b"- a\n",
        b"\xff\xfe",
        b"recipe: [1]\noptions: {}\n",
        b"recipe: toy\noptions: null\n",
        b"recipe: toy\n",
    ],
)
def test_a_damaged_configuration_is_one_line_that_names_the_file(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ManyoneError, match=r"config\.yaml"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b'"a"', b"{", b"{}", b'{"step": "x"}', b""])
def test_a_damaged_line_of_metrics_is_named(tmp_path, line):
    RunFolder.create(tmp_path / "run", "toy", Options()).log(1, "train", {"loss": 1.0})
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ManyoneError, match=r"metrics\.jsonl, line 2 is no record"):
        RunFolder.open(tmp_path / "run")
