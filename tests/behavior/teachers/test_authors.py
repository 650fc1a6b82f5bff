"""Checkpoints of the layout that Offline Behavior Distillation's authors published, re-made here."""

from __future__ import annotations

import os
import sys
import zipfile

import pytest
import torch
from torch import nn

from manyone.behavior.teachers.authors import d4rl_set, d4rl_statistics, read_checkpoint
from manyone.errors import ManyoneError


class Scalar(nn.Module):
    """The class that the published files name; theirs is from ``__main__``."""

    def __init__(self, value):
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(value))

    def forward(self):
        return self.constant


class Actor(nn.Module):
    def __init__(self, states, actions, width=16):
        super().__init__()
        sizes = [(states, width), (width, width), (width, width), (width, 2 * actions)]
        parts = [part for a, b in sizes for part in (nn.Linear(a, b), nn.ReLU())]
        self.base_network = nn.Sequential(*parts[:-1])
        self.log_std_multiplier, self.log_std_offset = Scalar(1.1), Scalar(-0.9)


class Critic(nn.Module):
    def __init__(self, inputs, width=16):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )


def checkpoint(states=11, actions=3):
    """What CORL's Cal-QL saves: state dicts, optimisers after a step, and two pickled modules."""
    torch.manual_seed(0)
    actor, critics = Actor(states, actions), [Critic(states + actions) for _ in range(4)]
    optimiser = torch.optim.Adam(actor.parameters())
    actor.base_network(torch.ones(1, states)).sum().backward()
    optimiser.step()
    content = {"actor": actor.state_dict()}
    content |= dict(zip(("critic1", "critic2", "critic1_target", "critic2_target"), (c.state_dict() for c in critics)))
    content |= {"critic_1_optimizer": optimiser.state_dict(), "actor_optim": optimiser.state_dict()}
    content |= {"sac_log_alpha": Scalar(0.1), "cql_log_alpha": Scalar(1.0), "total_it": 1_000_000}
    return content, actor, critics[0]


def written(content, folder):
    path = folder / "Cal-QL-hopper-medium-replay-v2" / "checkpoint.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


def test_a_checkpoint_acts_and_values_as_the_authors_networks_do(tmp_path):
    content, actor, critic = checkpoint()
    saved = read_checkpoint(written(content, tmp_path))
    mean, deviation = d4rl_statistics()["hopper-medium-replay"]
    observations = mean + torch.randn(20, 11)
    states = (observations - mean) / deviation
    actions = torch.tanh(actor.base_network(states)[:, :3])
    values = critic.network(torch.cat([states, actions], 1))[:, 0]
    teacher = saved.teacher
    torch.testing.assert_close(teacher.actions(states), actions.detach())
    torch.testing.assert_close(teacher.values(states, actions.detach()), values.detach())
    torch.testing.assert_close(torch.from_numpy(saved.policy().act(range(20), observations.numpy())), actions.detach())
    _, log_std = teacher.policy.normal(states)
    torch.testing.assert_close(log_std, 1.1 * actor.base_network(states)[:, 3:].detach() - 0.9)
    assert (saved.frame.environment, saved.frame.horizon) == ("gym:Hopper-v4", 1000)
    assert saved.info["steps"] == 1_000_000


def test_the_nine_sets_of_statistics():
    table = d4rl_statistics()
    assert sorted(table) == sorted(
        f"{body}-{quality}"
        for body in ("halfcheetah", "hopper", "walker2d")
        for quality in ("medium", "medium-replay", "medium-expert")
    )
    for name, (mean, deviation) in table.items():
        assert mean.shape == deviation.shape == (11 if name.startswith("hopper") else 17,)
    mean, deviation = table["hopper-medium"]
    assert float(mean[0]) == pytest.approx(1.311279)
    assert float(deviation[0]) == pytest.approx(0.177908 + 1e-3)  # D4RL's floor is added


def test_the_set_is_read_off_the_path_or_named(tmp_path):
    assert d4rl_set("x/Cal-QL-halfcheetah-medium-expert-v2/checkpoint.pt") == "halfcheetah-medium-expert"
    assert d4rl_set("hopper-medium-v2/walker2d-medium-replay.pt") == "walker2d-medium-replay"
    assert d4rl_set("teacher.pt") is None
    path = tmp_path / "teacher.pt"
    torch.save(checkpoint()[0], path)
    with pytest.raises(ManyoneError, match=r"which D4RL set standardises its states.*hopper-medium-expert"):
        read_checkpoint(path)
    assert read_checkpoint(path, "hopper-medium").frame.name == "hopper-medium"
    with pytest.raises(ManyoneError, match=r"actor takes states of width 11 and gives 3 actions.*walker2d-medium has"):
        read_checkpoint(path, "walker2d-medium")


class Malicious:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("place", ["beside", "instead"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, place):
    target = tmp_path / "made"
    content = checkpoint()[0]
    evil = Malicious(os.mkdir, str(target))
    path = written({**content, "more": evil} if place == "beside" else evil, tmp_path)
    with pytest.raises(ManyoneError, match=r"refused, it asks for (posix|nt)\.mkdir"):
        read_checkpoint(path)
    assert not target.exists()


def test_the_module_that_a_file_names_for_its_scalars_is_not_imported(tmp_path, monkeypatch):
    """An empty object of ours stands in for a class of that name, wherever the file says that it is from."""
    (tmp_path / "wicked.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nScalar = int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = written(checkpoint()[0], tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    own = f"{Scalar.__module__}\nScalar".encode()
    assert own in parts[name]
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in parts.items():
            archive.writestr(key, value.replace(own, b"wicked\nScalar") if key == name else value)
    assert read_checkpoint(path).teacher.name == "calql"
    assert "wicked" not in sys.modules
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("critic1"), "critic1 is another network"),
        (lambda c: c["actor"].pop("base_network.6.bias"), r"actor is another network \(see 'base_network.6.bias"),
        (lambda c: c["actor"].update({"base_network.8.weight": torch.ones(2, 2)}), "see 'base_network.8.weight"),
        (lambda c: c["critic1"].update({"network.2.weight": torch.ones(16, 15)}), "do not fit one another"),
        (lambda c: c["critic1"].update({"network.4.weight": torch.ones(2, 16)}), "do not fit|critic takes"),
        (lambda c: c["actor"].update({"a\nb": torch.ones(2)}), r"see 'a\\nb'"),
        (
            lambda c: c["actor"].update({"base_network.0.weight": torch.ones(1).expand(1 << 30, 11)}),
            "at most 4096 wide",
        ),
        (lambda c: c["actor"]["base_network.2.weight"].fill_(float("nan")), "not finite"),
        (lambda c: c["critic1"].update({"network.0.bias": torch.ones(16, dtype=torch.int32)}), r"is int32 \[16\]"),
    ],
)
def test_another_layout_is_refused_in_one_line(tmp_path, change, message):
    content = checkpoint()[0]
    change(content)
    with pytest.raises(ManyoneError, match=message) as error:
        read_checkpoint(written(content, tmp_path))
    assert "\n" not in str(error.value)


def test_other_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "hopper-medium.pt"
    for write, message in (
        (lambda: path.write_bytes(b"no zip"), "not a torch zip"),
        (lambda: torch.save([1, 2], path), "it holds a list"),
        (lambda: torch.save(checkpoint()[0], path, _use_new_zipfile_serialization=False), "not a torch zip"),
    ):
        write()
        with pytest.raises(ManyoneError, match=message) as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)
    with pytest.raises(ManyoneError, match="cannot be read"):
        read_checkpoint(tmp_path / "hopper-medium-absent.pt")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(70 << 20))
    with pytest.raises(ManyoneError, match="70 MB, the authors' checkpoints have 4"):
        read_checkpoint(path)
