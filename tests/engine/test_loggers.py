import sys
import types
from dataclasses import dataclass

import pytest
from tests.engine.toy import Regression

from manyone.engine.loggers import check_loggers, make_loggers
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError


@dataclass(kw_only=True)
class Options:
    rate: float = 0.1


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", "toy", Options())


class Recorder(types.ModuleType):
    """Stands for wandb or trackio: notes what it is told."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def init(self, **settings):
        self.calls.append(("init", settings))
        return self

    def log(self, values, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hosted_loggers_receive_every_record(run, monkeypatch, name):
    module = Recorder(name)
    monkeypatch.setitem(sys.modules, name, module)
    train(Regression(), run, steps=2, loggers=[name])
    first, *logs, last = module.calls
    assert first[1]["project"] == "manyone"
    assert first[1]["config"] == {"rate": 0.1}
    assert last == ("finish",)
    assert [(step, sorted(values)) for _, step, values in logs] == [
        (1, ["train/loss", "train/time/step"]),
        (2, ["train/loss", "train/time/step"]),
        (2, ["final/draw", "final/error"]),
    ]


def test_hosted_logger_is_closed_after_an_error(run, monkeypatch):
    module = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ManyoneError, match="loss is nan"):
        train(Regression(loss_at={2: float("nan")}), run, steps=3, loggers=["wandb"])
    assert module.calls[-1] == ("finish",)


def test_tensorboard_writes_scalars(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = make_loggers(["tensorboard"], run)
    logger.log(3, "eval", {"accuracy": 0.5, "task": {"digits": 0.25}, "note": "text", "bad": float("nan")})
    logger.close()
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["eval/accuracy", "eval/task/digits"]
    assert [(e.step, e.value) for e in events.Scalars("eval/task/digits")] == [(3, 0.25)]


def test_wrong_names_and_missing_packages_are_one_line_and_write_nothing(run, monkeypatch):
    with pytest.raises(ManyoneError, match=r"logger 'wnadb' is unknown; did you mean 'wandb'\?"):
        check_loggers(["wnadb"])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ManyoneError, match="logger 'trackio' is not installed: pip install trackio"):
        train(Regression(), run, steps=1, loggers=["trackio"])
    assert not run.path.exists()
