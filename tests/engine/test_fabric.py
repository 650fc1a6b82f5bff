import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.engine.toy import Regression, seed_all

from manyone.engine import fabric
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError

SOURCE = Path(__file__).parents[2] / "src"

WORKER = """
import atexit
import sys
from dataclasses import dataclass
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tests.engine.toy import Regression, seed_all
from manyone.engine import fabric
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import InterruptedRun

@dataclass(kw_only=True)
class Options:
    rate: float = 0.1

lightning = fabric.make_fabric("cpu")
assert lightning.world_size == 2
rank = fabric.rank()
print(f"rank {rank} of {len(fabric.gather(None))}", flush=True)


def go(run, seed, signal_at=None):
    seed_all(seed)
    learner = Regression(fabric=lightning, signal_at=signal_at)
    try:
        train(learner, run, steps=12, evaluate_every=4, checkpoint_every=5)
    except InterruptedRun as stop:
        print(f"rank {rank}: {stop}", flush=True)


def new(name):
    # each rank asks for a folder of its own, as with a name made from the clock: rank 0's counts
    return RunFolder.create(Path(name if rank == 0 else f"rank-{rank}-{name}"), "toy", Options())


go(new("whole"), seed=rank)
go(new("parts"), seed=rank, signal_at=7 if rank == 1 else None)  # only rank 1 is told to stop, and both must
go(RunFolder.open(Path("parts")), seed=rank + 50)  # where the random generators stand must not matter
# registered before the group's own end, so it runs after it
atexit.register(lambda: print(f"rank {rank}: group {torch.distributed.is_initialized()}", flush=True))
fabric.make_fabric("cpu")
"""


@dataclass(kw_only=True)
class Options:
    rate: float = 0.1


def torchrun(folder, script):
    (folder / "worker.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "worker.py"]
    return subprocess.run(
        [*command, str(Path(__file__).parents[2])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def timeless(run):
    return [{k: v for k, v in record.items() if k != "time"} for record in run.metrics()]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_ranks_write_one_run_stop_together_and_resume_exactly(tmp_path):
    outcome = torchrun(tmp_path, WORKER)
    assert outcome.returncode == 0, outcome.stderr
    assert "rank 1 of 2" in outcome.stdout
    for rank in (0, 1):
        assert f"rank {rank}: stopped by SIGTERM at step 7 of 12" in outcome.stdout
        assert f"rank {rank}: group False" in outcome.stdout  # left before the interpreter went

    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole", "worker.py"]  # no folder of rank 1
    runs = [RunFolder.open(tmp_path / name) for name in ("whole", "parts")]
    assert [r["step"] for r in timeless(runs[0]) if r["kind"] == "train"] == list(range(1, 13))
    assert timeless(runs[0]) == timeless(runs[1])
    weights = [safetensors.torch.load_file(r.path / "model" / "model.safetensors") for r in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    # the ranks' noise differs, so two ranks are not one
    seed_all()
    alone = RunFolder.create(tmp_path / "alone", "toy", Options())
    train(Regression(), alone, steps=12)
    single = safetensors.torch.load_file(alone.path / "model" / "model.safetensors")
    assert not torch.equal(single["weight"], weights[0]["weight"])


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert (fabric.rank(), fabric.is_writer(), fabric.broadcast("x"), fabric.gather(3)) == (0, True, "x", [3])
    assert fabric.any_rank(True)
    assert not fabric.any_rank(False)


def test_fabric_on_one_device_trains():
    lightning = fabric.make_fabric("cpu", "bf16-mixed")
    assert lightning.world_size == 1
    assert lightning.device.type == "cpu"
    learner = Regression(fabric=lightning)
    assert learner.step()["loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"device": "cpu:1"}, "device 'cpu:1' is unknown"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
        ({"device": "cpu", "precision": "17-true"}, "precision '17-true'"),
    ],
)
def test_wrong_settings_are_one_line(arguments, message):
    with pytest.raises(ManyoneError, match=message):
        fabric.make_fabric(**arguments)
