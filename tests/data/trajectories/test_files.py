"""Minari, D4RL and .npz episodes: exact round trips, and what is refused."""

import h5py
import numpy as np
import pytest

from manyone.data.trajectories.files import (
    from_d4rl_hdf5,
    from_folder,
    from_minari,
    from_npz_file,
    from_npz_folder,
    to_minari,
)
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError

ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations", "successes", "goals")


def episodes(lengths, seed=0, **extra):
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(n + 1, 3)),
            "actions": rng.uniform(-1, 1, size=(n, 2)),
            "rewards": rng.normal(size=n),
            "terminated": n % 2 == 0,
            **extra,
        }
        for n in lengths
    ]


def same(a, b):
    for key in ARRAYS:
        first, second = getattr(a, key), getattr(b, key)
        assert (first is None) == (second is None), key
        if first is not None:
            np.testing.assert_array_equal(first, second, err_msg=key)


@pytest.mark.parametrize("final", [True, False])
def test_minari_round_trip_is_exact(tmp_path, final):
    given = episodes([4, 7, 1], goal=3, success=True)
    given[1]["goal"], given[2]["success"] = 8, False
    if not final:
        for e in given:
            e["observations"] = e["observations"][:-1]
    data = Trajectories.from_episodes("door", given, meta={"licence": "MIT", "quality": "near"})
    folder = to_minari(data, "mine/door/near-v0", root=tmp_path)
    assert folder == tmp_path / "mine/door/near-v0"
    again = from_minari(folder)
    same(again, data)
    assert again.name == "door"
    assert again.meta == data.meta
    same(from_folder(folder, limit=2), data.select([0, 1]))
    with pytest.raises(ManyoneError, match="near-v0: Minari refuses it"):
        to_minari(data, "mine/door/near-v0", root=tmp_path)


def test_minari_finds_the_same_data_by_its_own_means(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari

    data = Trajectories.from_episodes("t", episodes([4, 7]))
    to_minari(data, "mine/t-v0")
    loaded = minari.load_dataset("mine/t-v0")
    assert loaded.total_steps == 11
    first = loaded[0]
    assert first.observations.shape == (5, 3)
    assert first.terminations.tolist() == [False] * 3 + [True]
    assert loaded[1].truncations.tolist() == [False] * 6 + [True]
    same(from_minari("mine/t-v0"), data)
    with pytest.raises(ManyoneError, match="minari download none/such-v0"):
        from_minari("none/such-v0")


def test_dictionary_observations_are_laid_side_by_side_in_the_given_order(tmp_path, monkeypatch):
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    flags = np.zeros(3, dtype=bool)
    buffer = EpisodeBuffer(
        observations={"a": np.ones((4, 2), np.float32), "b": np.full((4, 2), 2, np.float32)},
        actions=np.zeros((3, 2), np.float32),
        rewards=np.ones(3),
        terminations=flags,
        truncations=flags,
        infos={"success": np.array([0, 1, 0, 0])},
    )
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers(
            "d-v0", [buffer], observation_space=gymnasium.spaces.Dict(a=box, b=box), action_space=box
        )
    found = from_minari(tmp_path / "d-v0", keys=("b", "a"))
    assert found.observations[0].tolist() == [2, 2, 1, 1]
    assert found.successes.tolist() == [True]
    with pytest.raises(ManyoneError, match="dictionary with a, b: give keys"):
        from_minari(tmp_path / "d-v0")


def test_damaged_minari_sets_are_refused(tmp_path):
    data = Trajectories.from_episodes("t", episodes([4, 7]))
    folder = to_minari(data, "t-v0", root=tmp_path)
    file = folder / "data" / "main_data.hdf5"
    with h5py.File(file, "a") as h5:
        del h5["episode_1"]["rewards"]
        h5["episode_1"]["rewards"] = np.zeros(6)
    with pytest.raises(ManyoneError, match=r"t-v0: episode 1: 8 observations, 7 actions and 6 rewards"):
        from_minari(folder)
    with h5py.File(file, "a") as h5:
        del h5["episode_1"]["actions"]
    with pytest.raises(ManyoneError, match=r"t-v0: episode 1: damaged"):
        from_minari(folder)
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ManyoneError, match="not a readable Minari data set"):
        from_minari(folder)
    with pytest.raises(ManyoneError, match=r"no data/metadata\.json"):
        from_minari(tmp_path)


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
    arrays = d4rl(tmp_path / "hopper.hdf5", next_observations=np.arange(36.0).reshape(12, 3))
    data = from_d4rl_hdf5(tmp_path / "hopper.hdf5")
    assert data.name == "hopper"
    assert data.lengths.tolist() == [4, 5]
    assert data.terminated.tolist() == [True, False]
    assert data.meta["dropped_steps"] == 3
    np.testing.assert_array_equal(data.actions, arrays["actions"][:9])
    assert data.final_observations.tolist() == [[9, 10, 11], [24, 25, 26]]


def test_d4rl_without_timeouts_is_cut_by_the_horizon(tmp_path):
    d4rl(tmp_path / "old.hdf5", timeouts=None)
    with pytest.raises(ManyoneError, match="has no timeouts; give horizon"):
        from_d4rl_hdf5(tmp_path / "old.hdf5")
    data = from_d4rl_hdf5(tmp_path / "old.hdf5", horizon=3)
    assert data.lengths.tolist() == [3, 1, 3, 3]
    assert data.terminated.tolist() == [False, True, False, False]
    assert from_d4rl_hdf5(tmp_path / "old.hdf5", horizon=4).lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((9, 2))}, "9 actions for 12 rewards"),
        ({"rewards": None, "actions": None}, "has no actions and no rewards"),
        ({"rewards": np.where(np.arange(12) == 6, np.inf, 0)}, "episode 1, step 2: rewards are not finite"),
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


def npz_folder(folder, count=12):
    folder.mkdir()
    given = episodes([3 + i % 2 for i in range(count)])
    for i, e in enumerate(given):
        np.savez(
            folder / f"{i}.npz",
            observations=e["observations"][:-1],
            next_observations=e["observations"][1:],
            actions=3 * e["actions"],
            rewards=e["rewards"][:, None],
            terminals=np.zeros((len(e["rewards"]), 1)),
            task="door",
        )
    return given


def test_npz_episodes_are_read_in_numerical_order_with_actions_clipped(tmp_path):
    given = npz_folder(tmp_path / "door-open-v2")
    data = from_npz_folder(tmp_path / "door-open-v2")
    assert data.name == "door-open-v2"
    assert data.lengths.tolist() == [len(e["rewards"]) for e in given]
    np.testing.assert_allclose(data.returns, [e["rewards"].sum() for e in given], atol=1e-5)
    assert np.abs(data.actions).max() == 1
    np.testing.assert_array_equal(data.final_observations[10], given[10]["observations"][-1].astype(np.float32))
    raw = from_npz_folder(tmp_path / "door-open-v2", clip=None, limit=11)
    assert raw.episodes == 11
    assert np.abs(raw.actions).max() > 1
    with pytest.raises(ManyoneError, match="0: must be 1 or more"):
        from_npz_folder(tmp_path / "door-open-v2", limit=0)


def test_a_bad_npz_episode_is_refused_by_its_file(tmp_path):
    folder = tmp_path / "door"
    given = npz_folder(folder)
    good = (folder / "10.npz").read_bytes()
    fields = {"observations": given[10]["observations"], "actions": given[10]["actions"]}
    for write, message in (
        (lambda p: p.write_bytes(good[:-30]), r"10\.npz: not a readable"),
        (lambda p: p.write_bytes(good[:600] + b"\0" * 40 + good[640:]), r"10\.npz: .* (cannot be read|has no)"),
        (lambda p: p.write_bytes(b""), r"10\.npz: not a readable"),
        (lambda p: np.savez(p, **fields), r"10\.npz: has no rewards"),
        (lambda p: np.savez(p, **fields, rewards=np.array([None] * 3)), "rewards .*never unpickled"),
        (lambda p: np.savez(p, **fields, rewards=np.zeros(9)), r"10\.npz: episode 10: 4 observations, 3 actions and 9"),
        (lambda p: np.savez(p, **fields, rewards=np.full(3, np.nan)), r"10\.npz: episode 10, step 0: rewards are not"),
    ):
        write(folder / "10.npz")
        with pytest.raises(ManyoneError, match=message):
            from_npz_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManyoneError, match=r"expected files 0\.npz"):
        from_folder(tmp_path / "empty")


def test_stacked_npz_with_short_or_long_names(tmp_path):
    rng = np.random.default_rng(0)
    o, a, r = rng.normal(size=(4, 5, 3)), 2 * rng.normal(size=(4, 5, 2)), rng.normal(size=(4, 5))
    np.savez_compressed(tmp_path / "door.npz", o=o, a=a, r=r, s=r.sum(1))
    data = from_folder(tmp_path / "door.npz")
    assert data.name == "door"
    assert data.lengths.tolist() == [5] * 4
    np.testing.assert_array_equal(data.actions, a.reshape(20, 2).clip(-1, 1).astype(np.float32))
    np.savez(tmp_path / "long.npz", observations=o, actions=a, rewards=r[:, :4])
    with pytest.raises(ManyoneError, match=r"long\.npz: observations \(4, 5, 3\).*the same E and T"):
        from_npz_file(tmp_path / "long.npz")
    np.save(tmp_path / "bare.npy", o)
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(ManyoneError, match="one bare array"):
        from_npz_file(tmp_path / "bare.npz")
    with pytest.raises(ManyoneError, match=r"expected a folder of episodes, an \.npz or an \.hdf5"):
        from_folder(tmp_path / "x.csv")
