"""The artefact of a team: the same actions in a fresh process, with manyone and without; clear words when damaged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.artefacts import replace_tensors
from torch._export.serde.schema import SCHEMA_VERSION

import manyone
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.artefact import Team, load_team, save_team
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import LearnedGraph, fixed_graph
from manyone.teams.processes.executor import Decentralised

SPEC = TeamSpec("drawn", 3, 5, actions=4, horizon=7, agent_names=("a", "b", "c"), details={"note": [1, 2]})


def shaken(policy: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights far enough from their start that every part of the network matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.4 * torch.randn(value.shape, generator=generator))
    return policy


def drawn(batch: int, spec: TeamSpec = SPEC) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    mask = rng.random((batch, spec.agents, max(spec.actions, 1))) < 0.6
    mask[..., 0] |= ~mask.any(-1)
    return rng.standard_normal((batch, spec.agents, spec.observation_dim)).astype(np.float32), mask


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Team]:
    folder = tmp_path_factory.mktemp("team")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        policy = shaken(CommFormer(SPEC, width=8, gate=True, dropout=0.1).train())
    with torch.no_grad():  # gates that open for some observations and not for others
        policy.receive_gate.out.bias.zero_()  # type: ignore[union-attr, operator]
    graph = LearnedGraph(3, 1)
    with torch.no_grad():
        graph.logits.copy_(torch.tensor([[0.0, 1, 2], [2, 0, 1], [1, 2, 0]]))
    save_team(folder, policy, graph, SPEC, {"seed": 3})
    assert policy.training, "saving must leave the policy as it was"
    return folder, Team(policy, graph.exact(), SPEC, gate="decided")


FRESH = """
import sys
import numpy as np
import torch
folder, out = sys.argv[1:]
given = np.load(out + "/given.npz")
program = torch.export.load(folder + "/policy.pt2").module()
assert not any(name.startswith("manyone") for name in sys.modules), "the program must need torch alone"
actions, values = program(torch.from_numpy(given["observations"]), torch.from_numpy(given["available"]))
one = program(torch.from_numpy(given["observations"][:1]), torch.from_numpy(given["available"][:1]))[0]
from manyone.teams.artefact import load_team
team = load_team(folder)
team.reset()
loaded = team.act(given["observations"], given["available"])
np.savez(out + "/found.npz", actions=actions, values=values, one=one, loaded=loaded, links=team.links_last)
"""


def test_a_fresh_process_acts_the_same_with_manyone_and_with_torch_alone(
    saved: tuple[Path, Team], tmp_path: Path
) -> None:
    folder, team = saved
    observations, available = drawn(64)
    np.savez(tmp_path / "given.npz", observations=observations, available=available)
    environment = os.environ | {"PYTHONPATH": str(Path(manyone.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", FRESH, str(folder), str(tmp_path)], check=True, env=environment, timeout=300)
    found = {name: torch.from_numpy(value) for name, value in np.load(tmp_path / "found.npz").items()}

    obs = Observation(torch.from_numpy(observations), torch.ones(64, 3, dtype=torch.bool), torch.from_numpy(available))
    with torch.no_grad():
        acted = team.policy.act(obs, team.graph, noise=torch.zeros(()), gate="decided", greedy=True)  # type: ignore[operator]
    assert torch.equal(found["actions"], acted.actions)
    assert torch.equal(found["loaded"], acted.actions)
    assert torch.equal(found["one"], acted.actions[:1])
    assert torch.equal(found["links"], acted.links)
    assert 0 < acted.links.sum() < 64 * 3, "the gate must matter in this test"
    torch.testing.assert_close(found["values"], acted.values, atol=1e-5, rtol=1e-5)


def test_what_was_saved_comes_back_and_nothing_is_pickled(saved: tuple[Path, Team]) -> None:
    folder, team = saved
    again = load_team(folder)
    assert again.spec == SPEC
    assert again.extra == {"seed": 3}
    assert again.gate == "decided"
    assert again.policy.options == team.policy.options  # type: ignore[union-attr]
    assert torch.equal(again.graph, team.graph)
    for name, value in team.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value), name
    with zipfile.ZipFile(folder / "policy.pt2") as archive:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            if inside.endswith("_config.json"):
                assert not any(entry["use_pickle"] for entry in json.loads(archive.read(name))["config"].values())
            elif not inside.startswith("data/weights/"):  # bare numbers, as their configuration says
                assert b"pkl" not in archive.read(name), name
                assert not archive.read(name).startswith((b"\x80", b"PK")), f"{name} looks like a pickle"


def test_the_program_names_no_folder_of_the_machine_that_wrote_it(saved: tuple[Path, Team]) -> None:
    content = (saved[0] / "policy.pt2").read_bytes()  # entries are stored as they are
    for module in (manyone, torch):
        assert str(Path(module.__file__).parent).encode() not in content
    assert b'File \\"' not in content, "a stack trace"


class Evil:
    """A pickle that makes the file ``marker`` as it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def legacy_layout(good: dict[str, bytes], evil: Path) -> dict[str, bytes]:
    """The archive of torch 2.5 and before, whose weights are pickles."""
    pickled = io.BytesIO()
    torch.save(Evil(evil), pickled)
    names = ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_example_inputs.pt")
    program = next(content for name, content in good.items() if name.endswith("models/model.json"))
    version = ".".join(map(str, SCHEMA_VERSION)).encode()
    return {"serialized_exported_program.json": program, "version": version} | dict.fromkeys(names, pickled.getvalue())


def other_letter_case(good: dict[str, bytes], evil: Path) -> dict[str, bytes]:
    """Pickled example inputs under the name that torch reads, in other letters."""
    pickled = io.BytesIO()
    torch.save(Evil(evil), pickled)
    root = next(iter(good)).partition("/")[0]
    return good | {f"{root}/data/{name}/model.pt": pickled.getvalue() for name in ("Sample_Inputs", "sample_inputs")}


def expression(good: dict[str, bytes], evil: Path) -> dict[str, bytes]:
    """No pickle at all: a size in the program's JSON is an expression, which torch evaluates."""
    code = f"__import__('pathlib').Path({str(evil)!r}).touch()"
    changed = {name: re.sub(rb'"expr_str": ?"[^"]*"', b'"expr_str": ' + json.dumps(code).encode(), content)
               for name, content in good.items() if name.endswith("models/model.json")}  # fmt: skip
    assert b"__import__" in b"".join(changed.values())
    return good | changed


@pytest.mark.parametrize("attack", [legacy_layout, other_letter_case, expression])
def test_a_foreign_team_runs_nothing_that_its_program_holds(
    saved: tuple[Path, Team], tmp_path: Path, attack: Callable[[dict[str, bytes], Path], dict[str, bytes]]
) -> None:
    folder, evil = copied(saved[0], tmp_path), tmp_path / "ran"
    with zipfile.ZipFile(saved[0] / "policy.pt2") as archive:
        good = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "policy.pt2", "w") as archive:
        for name, content in attack(good, evil).items():
            archive.writestr(name, content)
    with contextlib.suppress(Exception):
        torch.export.load(folder / "policy.pt2").module()
    assert evil.exists(), "torch no longer falls for this one; then it proves nothing below"
    evil.unlink()
    observations, available = drawn(2)
    load_team(folder).act(observations, available)
    with Decentralised(folder) as team:
        team.act(observations[0], available[0])
    assert not evil.exists()
    assert "load_program" not in dir(manyone.teams)
    assert "Trusted only" in (saved[0] / "README.md").read_text()


def test_one_copy_and_many_and_draws_that_depend_on_seed_and_step(saved: tuple[Path, Team]) -> None:
    team = load_team(saved[0])
    observations, available = drawn(6)
    many = team.act(observations, available)
    one = [team.act(o, a, np.ones(3, bool)) for o, a in zip(observations, available, strict=True)]
    np.testing.assert_array_equal(many, np.stack(one))
    team.reset(1)
    first = [team.act(observations, available, greedy=False) for _ in range(3)]
    team.reset(1)
    np.testing.assert_array_equal(first, [team.act(observations, available, greedy=False) for _ in range(3)])
    assert not np.array_equal(first[0], first[1])
    assert np.take_along_axis(available, first[0][..., None], -1).all(), "an action that was not available"


def test_an_actor_critic_with_a_global_state_and_continuous_actions(tmp_path: Path) -> None:
    spec = TeamSpec("continuous", 2, 3, action_dim=2, low=(-1.0, -2.0), high=(1.0, 2.0), state_dim=4)
    policy = shaken(ActorCritic(spec, critic="central", width=8))
    save_team(tmp_path, policy, fixed_graph("none", 2), spec)
    team = load_team(tmp_path)
    observations, _ = drawn(5, spec)
    assert json.loads((tmp_path / "config.json").read_text())["program"]["inputs"] == ["observations", "state"]
    state = torch.randn(5, 4)
    actions, values = torch.export.load(tmp_path / "policy.pt2").module()(torch.from_numpy(observations), state)
    torch.testing.assert_close(torch.from_numpy(team.act(observations)), actions, atol=1e-6, rtol=1e-5)
    assert team.spec == spec
    obs = Observation(torch.from_numpy(observations), torch.ones(5, 2, dtype=torch.bool), None, state)
    torch.testing.assert_close(values, policy.values(obs, team.graph), atol=1e-5, rtol=1e-5)  # type: ignore[operator]


def test_actions_of_several_digits_and_a_task_that_forbids_some(tmp_path: Path) -> None:
    spec = TeamSpec("locks", 2, 4, actions=5, digits=(2, 3), masked=True)
    save_team(tmp_path / "team", shaken(CommFormer(spec, width=8)), fixed_graph("full", 2), spec)
    team = load_team(tmp_path / "team")
    assert team.spec == spec
    seen = np.random.default_rng(0).standard_normal((50, 2, 4))
    allowed = np.ones((50, 2, 5), bool)
    allowed[:, :, [0, 3]] = False
    for greedy in (True, False):
        actions = team.act(seen, allowed, greedy=greedy)
        assert actions.shape == (50, 2, 2)
        assert (actions[..., 0] == 1).all()
        assert set(actions[..., 1].ravel().tolist()) <= {0, 2}
    program = torch.export.load(tmp_path / "team" / "policy.pt2").module()
    given = torch.from_numpy(seen.astype(np.float32)), torch.from_numpy(allowed)
    assert np.array_equal(program(*given)[0], team.act(seen, allowed))
    assert team.act(seen[0], allowed[0]).shape == (2, 2)
    with pytest.raises(ManyoneError, match=r"available: locks does not always allow every action; .* bool \[2, 5\]"):
        team.act(seen)
    allowed[3, 1, 2:] = False
    with pytest.raises(ManyoneError, match="agent 1 has no action at all"):
        team.act(seen, allowed)
    card = (tmp_path / "team" / "README.md").read_text()
    assert "team.act(observations, available)" in card
    assert "an action is 2 numbers, below 2, 3" in card


def copied(folder: Path, to: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_damaged_folders_are_named_in_one_line(saved: tuple[Path, Team], tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"

    def refused(words: str) -> None:
        with pytest.raises(ManyoneError, match=words) as caught:
            load_team(tmp_path)
        assert "\n" not in str(caught.value)
        copied(saved[0], tmp_path)

    refused("no config.json")
    config.write_text("{")
    refused(r"config\.json: damaged")
    config.write_text("[1]")
    refused(r"config\.json: not a team")
    whole = json.loads(config.read_text())
    for name in ("kind", "options", "spec", "gate"):
        config.write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        refused(rf"config\.json: damaged \('{name}' is missing\)")
    config.write_text(json.dumps(whole | {"kind": "oracle"}))
    refused("'oracle'.*commformer, actor-critic")
    config.write_text(json.dumps(whole | {"graph": [[0, 1], [1, 0]]}))
    refused(r"graph \[2, 2\]: must be \[3, 3\]")
    config.write_text(json.dumps(whole | {"spec": whole["spec"] | {"observation_dim": 6}}))
    refused(r"model\.safetensors: encoder\.input\.weight is \[8, 5\].*\[8, 6\]")
    config.write_text(json.dumps(whole | {"options": whole["options"] | {"depth": 2}}))
    refused(r"config\.json: damaged .*depth")
    weights.unlink()
    refused(r"model\.safetensors: cannot be read")
    weights.write_bytes(weights.read_bytes()[:-20])
    refused(r"model\.safetensors: cannot be read")
    tensors = load_file(weights)
    tensors["critic.out.bias"] = torch.tensor([torch.nan])
    replace_tensors(weights.parent, tensors)
    refused(r"model\.safetensors: critic\.out\.bias holds NaN")


def test_what_a_user_gives_is_checked(saved: tuple[Path, Team], tmp_path: Path) -> None:
    team = load_team(saved[0])
    observations, available = drawn(2)
    with pytest.raises(ManyoneError, match=r"observations \[2, 3, 4\]: this team takes \[3, 5\]"):
        team.act(observations[..., :4])
    broken = observations.copy()
    broken[0, 1, 2] = np.nan
    with pytest.raises(ManyoneError, match="agent 1's holds NaN"):
        team.act(broken)
    with pytest.raises(ManyoneError, match=r"available \[2, 3, 3\]: must be \[2, 3, 4\]"):
        team.act(observations, available[..., :3])
    available[1, 2] = False
    with pytest.raises(ManyoneError, match="agent 2 has no action"):
        team.act(observations, available)
    policy = CommFormer(SPEC, width=8)
    with torch.no_grad():
        policy.critic.out.bias.fill_(torch.inf)
    with pytest.raises(ManyoneError, match=r"not written.*critic\.out\.bias hold"):
        save_team(tmp_path, policy, fixed_graph("ring", 3, 1), SPEC)
    sound = CommFormer(SPEC, width=8)
    with pytest.raises(ManyoneError, match="has no gate"):
        save_team(tmp_path, sound, fixed_graph("ring", 3, 1), SPEC, gate="decided")
    with pytest.raises(ManyoneError, match="neither 0 nor 1"):
        save_team(tmp_path, sound, torch.rand(3, 3), SPEC)
    with pytest.raises(ManyoneError, match="must be JSON data"):
        save_team(tmp_path, sound, fixed_graph("ring", 3, 1), SPEC, {"when": object()}, program=False)
    assert not (tmp_path / "config.json").exists()


def test_public_names_are_there_and_a_loaded_team_needs_no_engine() -> None:
    code = """
import sys
import manyone.teams as teams
assert not any(name in sys.modules for name in ("torch", "numpy")), "names are imported when they are asked for"
assert {"load", "load_team", "save", "CommFormer", "TeamLearner", "Training", "Decentralised"} <= set(dir(teams))
from manyone.teams import load, load_team
assert load is load_team
assert "manyone.engine.loop" not in sys.modules
assert all(getattr(teams, name) is not None for name in teams.__all__)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(manyone.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_options_of_artefacts_of_before_that_are_none_any_more_are_passed_over(
    saved: tuple[Path, Team], tmp_path: Path
) -> None:
    copied(saved[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["options"] |= {"gate_tau": 1.0, "value_width": None, "decode": "cached"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    observations, available = drawn(4)
    found = load_team(tmp_path).act(observations, available)
    np.testing.assert_array_equal(found, saved[1].act(observations, available))


def test_the_program_of_a_task_whose_agents_may_be_missing_is_told_who_is_there(tmp_path: Path) -> None:
    spec = TeamSpec("leaving", 3, 4, actions=3, absences=True)
    torch.manual_seed(0)
    policy = CommFormer(spec, width=8)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.4 * torch.randn(value.shape))
    save_team(tmp_path, policy, fixed_graph("full", 3), spec)
    team = load_team(tmp_path)
    assert team.spec == spec
    rng = np.random.default_rng(0)
    alive = rng.random((40, 3)) < 0.6
    seen = (rng.standard_normal((40, 3, 4)) * alive[..., None]).astype(np.float32)
    allowed = np.ones((40, 3, 3), bool)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    found = program(*map(torch.from_numpy, (seen, allowed, alive)))[0].numpy()
    assert np.array_equal(found, team.act(seen, allowed, alive))
    assert not np.array_equal(found[alive], team.act(seen, allowed)[alive]), "all are taken to be there"
    assert "policy(observations, available, alive)" in (tmp_path / "README.md").read_text()
