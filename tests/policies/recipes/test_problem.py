"""Own data of policies: what TASK=PLACE may be, and how data of one task come together."""

import json

import gymnasium
import h5py
import numpy as np
import pytest

from manyone.data.trajectories.minari import to_minari
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.recipes.options import CloningOptions
from manyone.policies.recipes.problem import from_places, load_problem


def episodes(count=2, states=3, seed=0):
    draws = np.random.default_rng(seed)
    return [
        {
            "observations": draws.normal(size=(6, states)),
            "actions": draws.uniform(-2, 2, (5, 1)),
            "rewards": draws.normal(size=5),
        }
        for _ in range(count)
    ]


@pytest.fixture
def pendulum(tmp_path):
    """Two data sets of Pendulum, of two episodes and of one."""
    data = Trajectories.from_episodes("gym:Pendulum-v1", episodes())
    data.save(tmp_path / "a")
    Trajectories.from_episodes("pendulum", episodes(1, seed=1)).save(tmp_path / "b")
    return data


def recorded(tmp_path, spec, data):
    """A Minari data set that names its environment."""
    folder = to_minari(data, "swing-v0", root=tmp_path)
    record = folder / "data" / "metadata.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"env_spec": json.dumps(spec)}))
    return folder


def test_data_of_one_task_are_joined(tmp_path, pendulum):
    a, b = tmp_path / "a", tmp_path / "b"
    for pairs in ((f"gym:Pendulum-v1={a}", f"gym:Pendulum-v1={b}"), (f"gym:Pendulum-v1={a},{b}",)):
        (one,) = from_places(pairs).data
        assert (one.name, one.episodes) == ("gym:Pendulum-v1", 3)
        assert "2 data sets joined" in one.summary()
    assert len(from_places((f"gym:Pendulum-v1={a}", f"gym:Pendulum-v1?g=5={b}")).data) == 2


def test_keyword_arguments_belong_to_the_task_and_a_place_may_hold_an_equals_sign(tmp_path, pendulum):
    (tmp_path / "b").rename(tmp_path / "x=1")
    problem = from_places((f"gym:Pendulum-v1?g=5&max_episode_steps=9={tmp_path / 'x=1'}",))
    assert problem.tasks == ["gym:Pendulum-v1?g=5&max_episode_steps=9"]


def test_the_task_may_be_left_out_where_the_data_name_their_environment(tmp_path, pendulum):
    for pair in (f"={tmp_path / 'a'}", str(tmp_path / "a")):
        assert from_places((pair,)).tasks == ["gym:Pendulum-v1"]
    spec = {
        "id": "Pendulum-v1",
        "entry_point": "nothing:Env",
        "kwargs": {"g": 9.81},
        "additional_wrappers": [],
        "max_episode_steps": 200,
    }
    folder = recorded(tmp_path, spec, pendulum)
    assert from_places((str(folder),)).tasks == ["gym:Pendulum-v1?g=9.81"]
    assert from_places((f"gym:Pendulum-v1={folder}",)).tasks == ["gym:Pendulum-v1"]
    for pair, message in (
        (str(tmp_path / "b"), "the data do not name their environment: give TASK="),
        ("door-open-v3", "no such file, folder or Minari data set here.*give TASK=PLACE"),
        (f"gym:Pendulum-v1={tmp_path / 'none'}", "none: no such file or folder"),
        (f"door-open-v3={tmp_path / 'a'}", "states and actions of width 3 and 1, but door-open-v3 has 39 and 4"),
    ):
        with pytest.raises(ManyoneError, match=message):
            from_places((pair,))


def test_a_foreign_record_imports_nothing(tmp_path, pendulum):
    folder = recorded(tmp_path, {"id": "evil:Env-v0", "entry_point": "evil:Env", "additional_wrappers": []}, pendulum)
    with pytest.raises(ManyoneError, match="'evil:Env-v0' is not registered in Gymnasium here"):
        from_places((str(folder),))
    assert from_places((f"gym:Pendulum-v1={folder}",)).tasks == ["gym:Pendulum-v1"]


def test_the_data_s_horizon_cuts_files_without_timeouts(tmp_path):
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        for key, shape in (("observations", (12, 3)), ("actions", (12, 1)), ("rewards", 12), ("terminals", 12)):
            file[key] = np.zeros(shape)
    data = (f"gym:Pendulum-v1={tmp_path / 'old.hdf5'}",)
    with pytest.raises(ManyoneError, match=r"old\.hdf5: has no timeouts; give horizon \(--data-horizon\)"):
        load_problem(CloningOptions(data=data))
    assert load_problem(CloningOptions(data=data, data_horizon=4)).data[0].lengths.tolist() == [4, 4, 4]
    with pytest.raises(ManyoneError, match="--data-horizon 4: must be for an HDF5 file in --data"):
        CloningOptions(data=("door-open-v3=x",), data_horizon=4)


def test_discrete_actions_are_as_many_as_the_environment_has(tmp_path):
    with h5py.File(tmp_path / "cart.hdf5", "w") as file:
        numbers = {"observations": np.zeros((6, 4)), "actions": np.array([0, 1, 1, 0, 0, 1]), "rewards": np.ones(6)}
        for key, value in (*numbers.items(), ("timeouts", np.arange(6) % 3 == 2)):
            file[key] = value
    problem = load_problem(CloningOptions(data=(f"gym:CartPole-v1={tmp_path / 'cart.hdf5'}",)))
    assert problem.data[0].choices == 2
    assert [bound.tolist() for bound in problem.bounds[0]] == [[0, 0], [1, 1]]
    named = (f"cart={tmp_path / 'cart.hdf5'}",)
    with pytest.raises(ManyoneError, match=r"say how many choices there are .*--data-choices N"):
        load_problem(CloningOptions(data=named, simulator=False))
    assert load_problem(CloningOptions(data=named, simulator=False, data_choices=3)).data[0].choices == 3
    moves = {"observations": np.zeros((4, 4)), "actions": np.full((3, 2), 0.3), "rewards": np.ones(3)}
    Trajectories.from_episodes("c", [moves]).save(tmp_path / "real")
    with pytest.raises(ManyoneError, match=r"real: has real-valued actions, not the 2 choices that are given"):
        from_places((f"gym:CartPole-v1={tmp_path / 'real'}",))


def test_scores_are_normalised_where_d4rl_knows_the_environment(tmp_path):
    moves = {"observations": np.zeros((4, 11)), "actions": np.zeros((3, 3)), "rewards": np.ones(3)}
    data = Trajectories.from_episodes("mine", [moves])
    data.save(tmp_path / "hopper")
    for task, wanted in (("gym:Hopper-v5", (-20.272305, 3234.3)), ("gym:Hopper-v5?ctrl_cost_weight=1", None)):
        problem = from_places((f"{task}={tmp_path / 'hopper'}",))
        assert problem.references(()).get(task) == wanted
        assert problem.references((f"{task}=1,2",)) == {task: (1, 2)}


class Reaching(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        goal=gymnasium.spaces.Box(-1, 1, (1,), np.float32), observation=gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


def test_keys_choose_from_the_environment_s_observations_what_the_data_hold(tmp_path, monkeypatch, pendulum):
    monkeypatch.setitem(gymnasium.registry, "Goal-v0", gymnasium.envs.registration.EnvSpec("Goal-v0", Reaching))
    data = (f"gym:Goal-v0={tmp_path / 'a'}", f"gym:Pendulum-v1={tmp_path / 'b'}")
    with pytest.raises(ManyoneError, match="gym:Goal-v0: its observations are a dictionary with goal, observation"):
        load_problem(CloningOptions(data=data))
    problem = load_problem(CloningOptions(data=data, keys=("observation,goal",)))
    assert problem.tasks == ["gym:Goal-v0?keys=observation,goal", "gym:Pendulum-v1"]


def test_digests_are_those_of_the_content(tmp_path, pendulum):
    def found(**change):
        given = episodes()
        given[1] |= change
        Trajectories.from_episodes("gym:Pendulum-v1", given).save(tmp_path / "c", overwrite=True)
        return from_places((str(tmp_path / "c"),)).digests()

    same = from_places((str(tmp_path / "a"),)).digests()
    assert list(same) == ["--data gym:Pendulum-v1"]
    assert found() == same
    assert found(rewards=np.arange(5.0)) != same
    assert found(terminated=True) != same
