"""Devices by name, with GPUs that a test machine may not have."""

from __future__ import annotations

import pytest
import torch

from manyone.engine.devices import device_of
from manyone.errors import ManyoneError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def have(cuda: int = 0, mps: bool = False) -> list[torch.device]:
        chosen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return chosen

    return have


def test_auto_is_the_best_device_that_is_there(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    assert device_of() == torch.device("cpu")
    machine(mps=True)
    assert device_of("auto") == device_of("mps") == torch.device("mps")
    assert device_of("auto", double=True) == torch.device("cpu")
    chosen = machine(cuda=2)
    assert device_of() == device_of("cuda") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of("cpu") == torch.device("cpu")
    assert chosen == [torch.device("cuda", n) for n in (0, 0, 1)]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("auto", double=True) == torch.device("cuda", 1)


def test_what_is_not_there_is_named(machine) -> None:
    machine(cuda=1)
    for name, words in (
        ("gpu", "device 'gpu' is unknown: use auto, cpu, cuda, cuda:N or mps"),
        ("cpu:1", "device 'cpu:1' is unknown"),
        ("cuda:x", "device 'cuda:x' is unknown"),
        ("cuda:1", "device 'cuda:1' is not there: torch sees 1 CUDA devices"),
        ("mps", "no Apple GPU"),
    ):
        with pytest.raises(ManyoneError, match=words):
            device_of(name)
