"""PettingZoo's parallel API: own environments by factory or module, mpe2, workers, exact resume, refusals."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

from tests.envs.teams.own_parallel import Countdown, Forgetful, Meet, Push

from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for


def first_allowed(observation) -> torch.Tensor:
    return observation.available.int().argmax(2)


def random_allowed(observation, *names) -> torch.Tensor:
    weights = observation.available.float()
    return weights.flatten(0, 1).multinomial(1, generator=generator_for("test", *names)).view(weights.shape[:2])


def play(env, steps: int, start: int = 0, observation=None) -> list:
    found = []
    for step in range(start, start + steps):
        out = env.step(random_allowed(observation, step))
        observation = out.observation
        found.append(out)
    return found


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if one is None or other is None:
        return one is other
    return all(same(a, b) for a, b in zip(one, other))


def test_the_ten_line_environment_by_factory_and_by_module() -> None:
    for name in (Meet, "pettingzoo:tests.envs.teams.own_parallel"):
        env = make_adapter(name, 3, workers=0, success="success")
        assert isinstance(env, TeamEnv)
        spec = env.spec
        assert (spec.agents, spec.observation_dim, spec.actions, spec.horizon) == (2, 2, 3, 20)
        assert spec.agent_names == ("a", "b")
        assert spec.reports_success
        seen = env.reset(4)
        ended = 0
        for _ in range(25):
            before = seen.observations
            out = env.step((before[..., 0] < before[..., 1]).long() * 2)  # left, or right towards the other
            seen = out.observation
            over = out.done
            ended += int(over.sum())
            assert torch.equal(out.success, out.terminated), "they met"
            assert torch.equal(out.rewards, out.terminated.float()[:, None].expand(3, 2))
            if over.any():
                assert out.final.alive[over].all()
                met = out.final.observations[out.terminated]
                assert torch.equal(met[..., 0], met[..., 1])
                assert out.observation.alive.all(), "the next episode has begun"
        assert ended >= 3
        env.close()


def test_agents_that_leave_are_dead_see_zeros_and_have_one_action() -> None:
    env = make_adapter(Countdown, 1, workers=0)
    assert (env.spec.observation_dim, env.spec.actions, env.spec.state_dim) == (4, 4, 2)
    seen = env.reset(0)
    assert seen.alive.all()
    assert seen.available[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    out = env.step(first_allowed(seen))
    assert out.observation.available[0].int().tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], "masked"
    assert out.rewards.tolist() == [[1, 1, 1]]
    out = env.step(first_allowed(out.observation))
    assert out.rewards.tolist() == [[2, 2, 2]], "the reward of the step in which an agent leaves counts"
    assert out.observation.alive.tolist() == [[False, True, True]]
    assert not out.observation.observations[0, 0].any()
    assert out.observation.available[0].int().sum(1).tolist() == [1, 3, 4]
    assert not out.done.any()
    out = env.step(first_allowed(out.observation))
    assert out.rewards.tolist() == [[0, 3, 3]]
    out = env.step(first_allowed(out.observation))
    assert out.terminated.all()
    assert not out.truncated.any()
    assert out.final.alive.tolist() == [[False, False, True]], "the last to leave is still seen in final"
    assert out.final.observations[0, 2, :2].tolist() == [2, 4]
    assert out.final.state.tolist() == [[4, 4]]
    assert out.observation.alive.all()
    assert out.observation.state.tolist() == [[0, 0]]


def test_cut_off_is_apart_from_terminated_and_a_limit_cuts_off() -> None:
    env = make_adapter(Countdown, 1, workers=0, cut=True)
    out = play(env, 4, observation=env.reset(0))[-1]
    assert out.truncated.all()
    assert not out.terminated.any()
    env = make_adapter(Countdown, 1, workers=0, limit=3)
    assert env.spec.horizon == 3
    out = play(env, 3, observation=env.reset(0))[-1]
    assert out.truncated.all()
    assert out.final.alive.tolist() == [[False, False, True]]


def test_padded_actions_are_refused_and_a_spaces_start_is_added() -> None:
    made = []
    env = make_adapter(lambda: made.append(Countdown()) or made[-1], 2, workers=0)
    env.reset(0)
    with pytest.raises(ManyoneError, match=r"slot 0, step 1: action 2 is not available to agent 'zero'"):
        env.step(torch.full((2, 3), 2))
    env.step(torch.tensor([[1, 2, 3]] * 2))
    assert made[-1].asked == [{"zero": 6, "one": 7, "two": 8}]
    with pytest.raises(ManyoneError, match=r"shape \[2\]; \[2, 3\] is needed"):
        env.step(torch.zeros(2).long())
    with pytest.raises(ManyoneError, match="whole numbers"):
        env.step(torch.zeros(2, 3))


def test_continuous_actions_are_padded_and_clipped_to_each_agents_bounds() -> None:
    env = make_adapter(Push, 2, workers=0, limit=5)
    assert not env.spec.discrete
    assert (env.spec.action_dim, env.spec.low, env.spec.high) == (2, (-2, 0), (3, 0.5))
    assert env.reset(0).available is None
    out = env.step(torch.tensor([[[9.0, 9.0], [9.0, 9.0]], [[-9.0, 0.0], [0.25, 0.25]]]))
    assert out.observation.observations.tolist() == [[[1, 0], [3, 0.5]], [[-1, 0], [0.25, 0.25]]]
    with pytest.raises(ManyoneError, match="not finite"):
        env.step(torch.full((2, 2, 2), torch.nan))


def test_numbers_are_the_same_for_any_number_of_workers_and_global_streams_are_left_alone() -> None:
    courses = []
    for workers in (0, 2):
        random.seed(1)
        np.random.seed(1)
        before = random.random(), np.random.rand()
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(workers)
        env = make_adapter(Countdown, 3, workers=workers)
        seen = env.reset(11)
        courses.append([seen, *play(env, 6, observation=seen)])
        state = env.state_dict()
        env.close()
        assert (random.random(), np.random.rand()) == before
    assert same(*courses)
    draws = courses[0][0].observations[:, 0, 2]
    assert len(set(draws.tolist())) == 3, "slots differ"
    assert state["actions"].shape == (int(state["steps"].sum()), 3)


def test_a_slots_episodes_do_not_depend_on_the_batch() -> None:
    small, large = (make_adapter(Countdown, batch, workers=0) for batch in (1, 3))
    one, three = small.reset(2), large.reset(2)
    for _ in range(6):
        assert torch.equal(one.observations[0], three.observations[0])
        one, three = (env.step(first_allowed(seen)).observation for env, seen in ((small, one), (large, three)))


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    env = make_adapter(Countdown, 3, workers=0)
    middle = play(env, 6, observation=env.reset(1))[-1].observation
    state = env.state_dict()
    wanted = play(env, 8, 6, middle)
    other = make_adapter(Countdown, 3, workers=0)
    seen = other.load_state_dict(state)
    assert same(seen, middle)
    assert same(wanted, play(other, 8, 6, seen))
    with pytest.raises(ManyoneError, match="3 slots, this environment 2"):
        make_adapter(Countdown, 2, workers=0).load_state_dict(state)


def test_an_environment_that_does_not_follow_its_seed_cannot_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forgetful, "starts", 0)
    env = make_adapter(Forgetful, 1, workers=0)
    env.reset(0)
    env.step(torch.zeros(1, 2).long())
    state = env.state_dict()
    with pytest.raises(ManyoneError, match=r"slot 0: .*reset\(seed=...\) must decide everything"):
        make_adapter(Forgetful, 1, workers=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("nan", "agent 'one' observed with a number that is not finite"),
        ("reward", "agent 'one' was rewarded with a number that is not finite"),
        ("wide", r"agent 'one' observed something of shape \[5\]; its observation space has shape \[3\]"),
        ("mask", "agent 'one' has no available action"),
        ("stranger", "agent 'four' is not among possible_agents"),
    ],
)
def test_bad_environments_are_refused_with_the_agent_named(spoil: str, words: str) -> None:
    env = make_adapter(Countdown, 2, workers=0, spoil=spoil)
    seen = env.reset(0)
    with pytest.raises(ManyoneError, match=f"Countdown, slot 0, step 1: {words}") as caught:
        env.step(first_allowed(seen))
    assert "\n" not in str(caught.value)


def test_a_failure_in_a_worker_is_told_in_the_same_words_and_leaves_no_process() -> None:
    env = make_adapter(Countdown, 2, workers=1, spoil="nan")
    seen = env.reset(0)
    (process,) = multiprocessing.active_children()
    with pytest.raises(ManyoneError, match="slot 0, step 1: agent 'one' observed"):
        env.step(first_allowed(seen))
    assert multiprocessing.active_children() == []
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()


def test_workers_end_when_the_parent_is_killed() -> None:
    script = (
        "import multiprocessing, time\n"
        "from tests.envs.teams.own_parallel import Meet\n"
        "from manyone.envs.teams.adapters import make_adapter\n"
        "if __name__ == '__main__':\n"
        "    env = make_adapter(Meet, 2, workers=1)\n"
        "    env.reset(0)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}, text=True
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not _running(worker):
            break
        time.sleep(0.1)
    assert not _running(worker)


def _running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_cannot_be_made_is_refused_in_words() -> None:
    for call, words in (
        (partial(make_adapter, "nothing", 2), "write one of pettingzoo:NAME"),
        (partial(make_adapter, "atari:x", 2), "write one of pettingzoo:NAME"),
        (partial(make_adapter, "pettingzoo:no.such.module", 2), "start in the folder that it lies in"),
        (partial(make_adapter, "pettingzoo:json", 2), r"module json has no parallel_env\(\)"),
        (partial(make_adapter, "pettingzoo:tests.envs.teams.own_parallel:size", 2), "'size' is not a setting"),
        (
            partial(make_adapter, "pettingzoo:tests.envs.teams.own_parallel:size=3", 2),
            "unexpected keyword argument|takes no arguments",
        ),
        (partial(make_adapter, dict, 2), "a dict without possible_agents"),
        (partial(make_adapter, Meet, 0), "batch 0"),
        (partial(make_adapter, Meet, 2, workers=-1), "workers -1"),
        (partial(make_adapter, Meet, 2, limit=0), "limit 0"),
        (partial(make_adapter, lambda: Meet(), 2, workers=1), "workers=0"),
        (partial(make_adapter, "mpe:simple_nothing_v1", 2), "simple_spread_v3"),
        (partial(make_adapter, "mamujoco:Ant 4x2", 2), "pip install gymnasium-robotics"),
    ):
        if "mamujoco" in str(call) and _installed("gymnasium_robotics"):
            continue
        with pytest.raises(ManyoneError, match=words):
            call()
    make_adapter(lambda: Meet(), 4).close()  # it cannot be sent to a worker, so none is started


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def test_mpe_agrees_with_stepping_it_directly() -> None:
    module = pytest.importorskip("mpe2.simple_speaker_listener_v4")
    env = make_adapter("mpe:simple_speaker_listener_v4:max_cycles=5", 2, workers=0)
    assert env.spec.horizon == 5
    seen = env.reset(3)
    bare = module.parallel_env(max_cycles=5)
    wanted, _ = bare.reset(seed=seed_for(3, "team episode", 1, 0) >> 32)
    for step in range(5):
        for agent, name in enumerate(env.spec.agent_names):
            np.testing.assert_array_equal(seen.observations[1, agent, : len(wanted[name])], wanted[name])
        actions = random_allowed(seen, step)
        out = env.step(actions)
        chosen = dict(zip(env.spec.agent_names, actions[1].tolist()))
        wanted, rewards, _, truncations, _ = bare.step(chosen)
        np.testing.assert_allclose(out.rewards[1], [rewards[name] for name in env.spec.agent_names], rtol=1e-6)
        seen = out.final if out.final is not None else out.observation
        assert out.truncated[1] == all(truncations.values())
    picture = env.frame(1)
    assert picture.dtype == np.uint8
    assert picture.shape == (700, 700, 3)
