"""Teams that act on several frames: the artefact remembers by itself what the training environment stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation, TeamEnv, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.artefact import Team, load_team, save_team
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import fixed_graph
from manyone.teams.play import play
from manyone.teams.processes.executor import Decentralised
from manyone.teams.processes.measure import measure

torch.set_num_threads(1)
TASK, FRAMES = "predator-prey:size=3,predators=3,vision=0,limit=6", 3
GRAPH = fixed_graph("ring", 3, 1)


def shaken(policy: torch.nn.Module) -> torch.nn.Module:
    """Weights far enough from their start that every frame matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.4 * torch.randn(value.shape, generator=generator))
    return policy


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team")
    spec = make_team(TASK, 1, frames=FRAMES).spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = CommFormer(spec, width=8)
    save_team(folder, shaken(policy), GRAPH, spec)
    return folder


def policys(team: Team, shown: Observation) -> np.ndarray:
    with torch.no_grad():
        acted = team.policy.act(shown, team.graph, noise=torch.zeros(()), gate="open", greedy=True)  # type: ignore[operator]
    return acted.actions.numpy()


def follow(team: Team, plain: TeamEnv, stacked: TeamEnv, steps: int) -> list[np.ndarray]:
    """Plays ``plain`` with the team's memory and ``stacked`` beside it; the actions, which must be the policy's."""
    seen, shown = plain.reset(3), stacked.reset(3)
    found = []
    for _ in range(steps):
        actions = team.act(seen.observations.numpy())
        assert np.array_equal(actions, policys(team, shown))
        found.append(actions)
        step, also = plain.step(torch.from_numpy(actions)), stacked.step(torch.from_numpy(actions))
        if step.done.any():
            team.forget(step.done.numpy())
        seen, shown = step.observation, also.observation
    return found


def test_a_loaded_team_remembers_the_frames_that_its_policy_was_trained_on(saved: Path) -> None:
    team = load_team(saved)
    assert team.frames == FRAMES
    first = follow(team, make_team(TASK, 5), make_team(TASK, 5, frames=FRAMES), 20)
    team.reset()
    again = follow(team, make_team(TASK, 5), make_team(TASK, 5, frames=FRAMES), 20)
    assert np.array_equal(first, again), "reset must forget"
    assert any((actions != again[0]).any() for actions in again)


def test_every_row_of_a_batch_remembers_its_own(saved: Path) -> None:
    rng = np.random.default_rng(0)
    width = make_team(TASK, 1).spec.observation_dim
    shown = rng.standard_normal((6, 4, 3, width)).astype(np.float32)
    together, alone = load_team(saved), load_team(saved)
    actions = np.stack([together.act(seen) for seen in shown])
    for b in range(4):
        alone.reset()
        assert np.array_equal(np.stack([alone.act(seen[b]) for seen in shown]), actions[:, b])
    memoryless = []
    for seen in shown:
        alone.reset()
        memoryless.append(alone.act(seen))
    assert (np.stack(memoryless) != actions).any(), "the past must matter in this test"


def test_dead_agents_forget_as_they_do_in_training(saved: Path) -> None:
    team, width = load_team(saved), make_team(TASK, 1).spec.observation_dim
    past, now = np.random.default_rng(1).standard_normal((2, 3, width)).astype(np.float32)
    gone = now.copy()
    gone[1] = 0
    team.act(past)
    actions = team.act(gone, alive=[True, False, True])
    frames = np.zeros((1, 3, FRAMES, width), np.float32)
    frames[0, :, 0], frames[0, :, 1] = gone, past
    frames[0, 1] = 0
    shown = Observation(torch.from_numpy(frames.reshape(1, 3, -1)), torch.ones(1, 3, dtype=torch.bool))
    assert np.array_equal(actions, policys(team, shown)[0])


def test_the_program_takes_the_frames_side_by_side_and_the_readme_says_so(saved: Path) -> None:
    team, env = load_team(saved), make_team(TASK, 4, frames=FRAMES)
    shown = env.reset(1)
    for _ in range(2):
        shown = env.step(torch.from_numpy(policys(team, shown))).observation
    program: Any = torch.export.load(saved / "policy.pt2").module()
    actions, _ = program(shown.observations, torch.ones(4, 3, 5, dtype=torch.bool))
    assert np.array_equal(actions.numpy(), policys(team, shown))
    text, width = (saved / "README.md").read_text(), env.spec.observation_dim // FRAMES
    assert f"numpy [3, {width}], or [B, 3, {width}]" in text
    assert f"[B, 3, {FRAMES * width}], the last {FRAMES}" in text


def test_what_does_not_fit_gives_one_line(saved: Path) -> None:
    team, width = load_team(saved), make_team(TASK, 1).spec.observation_dim
    team.act(np.zeros((2, 3, width)))
    with pytest.raises(ManyoneError, match=r"3 copies: this team remembers what 2 have seen; call reset\(\)"):
        team.act(np.zeros((3, 3, width)))
    team.reset()
    team.act(np.zeros((3, 3, width)))
    with pytest.raises(ManyoneError, match=rf"this team takes \[3, {width}\]"):
        team.act(np.zeros((3, 3, FRAMES * width)))
    spec = TeamSpec("drawn", 2, 7, actions=2, details={"frames": 2})
    with pytest.raises(ManyoneError, match="observations of 7 numbers are not 2 frames"):
        Team(ActorCritic(spec, width=4), torch.zeros(2, 2), spec)


def test_agents_in_processes_of_their_own_act_on_the_same_frames(saved: Path) -> None:
    team = load_team(saved)
    with Decentralised(team) as crew:
        for _ in range(2):
            plain, stacked = make_team(TASK, 3), make_team(TASK, 3, frames=FRAMES)
            seen, shown = plain.reset(2), stacked.reset(2)
            crew.forget()
            for _ in range(8):
                actions = torch.from_numpy(crew.act(seen.observations.numpy()))
                assert np.array_equal(actions.numpy(), policys(team, shown))
                step, shown = plain.step(actions), stacked.step(actions).observation
                crew.forget(step.done.numpy())
                seen = step.observation
        measured = measure(make_team(TASK, 3, frames=FRAMES), crew, episodes=5, seed=4)
    played = play(make_team(TASK, 3, frames=FRAMES), team.policy, team.graph, episodes=5, seed=4, film_slot=0)
    assert np.allclose(measured.returns, played.returns.numpy(), atol=1e-6)
    assert played.lengths.tolist() == measured.lengths.tolist()
    assert played.frames[0].ndim == 3
