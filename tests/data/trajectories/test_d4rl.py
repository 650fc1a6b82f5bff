"""D4RL's HDF5 and files that are laid out alike: where episodes end, and what is refused."""

import tracemalloc

import h5py
import numpy as np
import pytest

from manyone.data.trajectories.d4rl import from_d4rl_hdf5
from manyone.data.trajectories.files import from_folder
from manyone.errors import ManyoneError


def d4rl(path, **change):
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(12, 3)).astype(np.float32),
        "actions": rng.normal(size=(12, 2)).astype(np.float32),
        "rewards": rng.normal(size=12).astype(np.float32),
        "terminals": np.isin(np.arange(12), [3]),
        "timeouts": np.isin(np.arange(12), [8]),
        **change,
    }
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key] = value
    return arrays


def test_d4rl_episodes_end_at_terminals_and_timeouts(tmp_path):
    states = np.arange(39.0).reshape(13, 3)
    arrays = d4rl(tmp_path / "hopper.hdf5", observations=states[:-1], next_observations=states[1:])
    data = from_d4rl_hdf5(tmp_path / "hopper.hdf5")
    assert data.name == "hopper"
    assert data.lengths.tolist() == [4, 5]
    assert data.terminated.tolist() == [True, False]
    assert data.meta["dropped_steps"] == 3
    np.testing.assert_array_equal(data.actions, arrays["actions"][:9])
    assert data.meta["cuts"] == 0
    assert data.meta["notes"] == ["3 steps after the last end of an episode left out"]
    assert data.final_observations.tolist() == [[12, 13, 14], [27, 28, 29]]


def test_rows_that_do_not_join_the_next_one_are_an_episode_cut(tmp_path):
    states = np.arange(39.0).reshape(13, 3)
    following = states[1:] * (1 + 1e-7)  # rounding joins
    following[[5, 7, 3]] += 1  # row 3 is a terminal: its next observation need not join
    d4rl(tmp_path / "x.hdf5", observations=states[:-1], next_observations=following)
    data = from_d4rl_hdf5(tmp_path / "x.hdf5")
    assert data.lengths.tolist() == [4, 2, 2, 1]
    assert data.terminated.tolist() == [True, False, False, False]
    assert data.meta["cuts"] == 2
    assert "2 episode cuts where next_observations do not join the next row" in data.meta["notes"]
    np.testing.assert_allclose(data.final_observations, following[[3, 5, 7, 8]], rtol=1e-6)


def test_single_transitions_are_no_episodes(tmp_path):
    draws = np.random.default_rng(1).normal(size=(12, 3))
    d4rl(tmp_path / "x.hdf5", next_observations=draws)
    with pytest.raises(ManyoneError, match=r"x\.hdf5: no row's next_observations .* single transitions"):
        from_d4rl_hdf5(tmp_path / "x.hdf5")
    draws[2, 1] = np.nan
    d4rl(tmp_path / "x.hdf5", next_observations=draws)
    with pytest.raises(ManyoneError, match=r"x\.hdf5: row 2: next_observations are not finite"):
        from_d4rl_hdf5(tmp_path / "x.hdf5")


@pytest.mark.parametrize("name", ["truncations", "episode_terminals", "dones"])
def test_ends_of_episodes_have_several_names(tmp_path, name):
    """d3rlpy's episode_terminals are up at every end, by terminal or by time."""
    d4rl(tmp_path / "x.hdf5", timeouts=None, **{name: np.isin(np.arange(12), [3, 8, 11])})
    data = from_d4rl_hdf5(tmp_path / "x.hdf5")
    assert data.lengths.tolist() == [4, 5, 3]
    assert data.terminated.tolist() == [True, False, False]
    d4rl(tmp_path / "x.hdf5", timeouts=None, terminals=None, terminations=np.isin(np.arange(12), [3, 11]))
    assert from_d4rl_hdf5(tmp_path / "x.hdf5").terminated.tolist() == [True, True]


def test_without_timeouts_a_terminal_last_row_or_joins_are_enough(tmp_path):
    d4rl(tmp_path / "x.hdf5", timeouts=None, terminals=np.isin(np.arange(12), [3, 11]))
    data = from_d4rl_hdf5(tmp_path / "x.hdf5")
    assert data.lengths.tolist() == [4, 8]
    assert data.meta["notes"] == ["no timeouts: every episode is taken to end at a terminal"]
    states = np.arange(39.0).reshape(13, 3)
    following = states[1:].copy()
    following[8] += 1
    d4rl(tmp_path / "x.hdf5", timeouts=None, observations=states[:-1], next_observations=following)
    assert from_d4rl_hdf5(tmp_path / "x.hdf5").lengths.tolist() == [4, 5]


def test_a_large_file_is_read_without_a_second_copy(tmp_path):
    """What is kept is what was read: float64 on disk is never in memory as such, nor are next_observations."""
    n, width = 300_000, 32
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for key, shape in (("observations", (n, width)), ("actions", (n, 1)), ("rewards", (n,)), ("timeouts", (n,))):
            file.create_dataset(key, data=np.ones(shape))
        file["timeouts"][:-1] = 0
        file["next_observations"] = h5py.SoftLink("/observations")
    tracemalloc.start()
    data = from_d4rl_hdf5(tmp_path / "x.hdf5")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * data.observations.nbytes


def test_d4rl_without_timeouts_is_cut_by_the_horizon(tmp_path):
    d4rl(tmp_path / "old.hdf5", timeouts=None)
    with pytest.raises(ManyoneError, match=r"has no timeouts; give horizon \(--data-horizon\)"):
        from_d4rl_hdf5(tmp_path / "old.hdf5")
    data = from_d4rl_hdf5(tmp_path / "old.hdf5", horizon=3)
    assert data.lengths.tolist() == [3, 1, 3, 3]
    assert data.terminated.tolist() == [False, True, False, False]
    assert from_d4rl_hdf5(tmp_path / "old.hdf5", horizon=4).lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((9, 2))}, "9 actions for 12 rewards"),
        (
            {"rewards": None, "actions": None},
            r"has no actions and no rewards .it has observations, terminals, timeouts.; expected",
        ),
        (
            dict.fromkeys(("observations", "actions"), np.zeros((0, 2)))
            | dict.fromkeys(("rewards", "terminals", "timeouts"), np.zeros(0)),
            "holds no steps",
        ),
        ({"rewards": np.where(np.arange(12) == 6, np.inf, 0)}, "episode 1, step 2: rewards are not finite"),
        (
            {"actions": np.zeros((12, 1), int)},
            "actions are whole numbers .int64.: say how many choices .* --data-choices N",
        ),
        ({"observations": np.zeros((12, 4, 4, 3), np.uint8)}, "observations are images .uint8, 12 x 4 x 4 x 3."),
        ({"actions": np.array([b"x"] * 12)}, "actions hold .S1; expected numbers"),
        ({"next_observations": np.zeros((12, 2))}, "they must be equal"),
        ({"terminals": np.zeros(12, bool), "timeouts": np.zeros(12, bool)}, "no episode ends"),
    ],
)
def test_bad_d4rl_files_are_refused_by_name(tmp_path, change, message):
    d4rl(tmp_path / "x.hdf5", **change)
    with pytest.raises(ManyoneError, match=rf"x\.hdf5: .*{message}"):
        from_folder(tmp_path / "x.hdf5")


def test_cut_and_foreign_hdf5_files_are_refused(tmp_path):
    d4rl(tmp_path / "x.hdf5")
    raw = (tmp_path / "x.hdf5").read_bytes()
    for damaged in (raw[:700], b"not hdf5", b""):
        (tmp_path / "x.hdf5").write_bytes(damaged)
        with pytest.raises(ManyoneError, match=r"x\.hdf5: not a readable HDF5 file"):
            from_d4rl_hdf5(tmp_path / "x.hdf5")
    with pytest.raises(ManyoneError, match="not a readable HDF5 file"):
        from_d4rl_hdf5(tmp_path / "none.hdf5")


def test_discrete_actions_of_a_stated_number_are_one_hot(tmp_path):
    numbers = np.arange(12) % 3
    for stored in (numbers, numbers[:, None], numbers.astype(np.float32)):
        d4rl(tmp_path / "x.hdf5", actions=stored)
        data = from_folder(tmp_path / "x.hdf5", choices=4)
        assert (data.choices, data.action_dim, data.meta["choices"]) == (4, 4, 4)
        np.testing.assert_array_equal(data.actions, np.eye(4, dtype=np.float32)[numbers[:9]])
    for odd, message in (
        (2, "its actions have 2; the 2 choices are 0 to 1"),
        (1, r"1 discrete actions \(--data-choices\): must be 2 to 10000"),
        (10**9, r"1000000000 discrete actions \(--data-choices\): must be 2 to 10000"),
    ):
        with pytest.raises(ManyoneError, match=message):
            from_d4rl_hdf5(tmp_path / "x.hdf5", choices=odd)
    d4rl(tmp_path / "x.hdf5")
    with pytest.raises(ManyoneError, match=r"its actions are float32, 12 x 2; discrete ones are \[T\] numbers"):
        from_d4rl_hdf5(tmp_path / "x.hdf5", choices=4)


def test_d4rl_s_own_files_have_their_reference_returns(tmp_path):
    for name, wanted in (("hopper_medium-v2", [-20.272305, 3234.3]), ("mine", None)):
        d4rl(tmp_path / f"{name}.hdf5")
        assert from_d4rl_hdf5(tmp_path / f"{name}.hdf5").meta.get("reference") == wanted
