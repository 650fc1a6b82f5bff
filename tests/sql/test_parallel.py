"""Two processes compute what one does: gradients summed (DDP), layers sharded (FSDP), states that resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.sql.rank_program import go

ROOT = Path(__file__).parents[2]


def test_two_processes_train_as_one(tmp_path):
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "tests.sql.rank_program", str(tmp_path), "ddp,fsdp"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines, weights = go("ddp")  # this process alone
    for kind in ("ddp", "fsdp"):
        found = torch.load(tmp_path / f"{kind}.pt", weights_only=True)
        for one, other in zip(lines, found["lines"], strict=True):
            assert other == pytest.approx(one, abs=1e-5), kind
            for name in {"loss", "val_loss"} & one.keys():
                assert other[name] == pytest.approx(one[name], abs=1e-6 * max(1.0, one[name])), (kind, name)
        for name, value in weights.items():
            assert torch.allclose(found["weights"][name], value, atol=1e-4), (kind, name)
