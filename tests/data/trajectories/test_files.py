""".npz episodes, and places of any form: exact round trips, and what is refused."""

import numpy as np
import pytest
from tests.data.trajectories.episodes import episodes, same

from manyone.data.trajectories.files import (
    from_folder,
    from_npz_file,
    from_npz_folder,
    from_place,
    pairs_from_npz,
)
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError


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
        (
            lambda p: p.write_bytes(good[:600] + b"\0" * 40 + good[640:]),
            r"10\.npz: .*(cannot be read|has no|readable)",
        ),
        (lambda p: p.write_bytes(b""), r"10\.npz: not a readable"),
        (
            lambda p: p.write_bytes(b"no archive" * 9),
            r"10\.npz: not a readable \.npz file \(not an array file, or one of",
        ),
        (lambda p: np.savez(p, **fields), r"10\.npz: has no rewards"),
        (lambda p: np.savez(p, **fields, rewards=np.array([None] * 3)), "rewards .*never unpickled"),
        (lambda p: np.savez(p, **fields, rewards=np.zeros(9)), r"10\.npz: episode 10: 4 observations, 3 actions and 9"),
        (lambda p: np.savez(p, **fields | {"actions": np.zeros((3, 1), int)}, rewards=np.zeros(3)), "choices=N"),
        (lambda p: np.savez(p, **fields, rewards=np.full(3, np.nan)), r"10\.npz: episode 10, step 0: rewards are not"),
    ):
        write(folder / "10.npz")
        with pytest.raises(ManyoneError, match=message) as refused:
            from_npz_folder(folder)
        assert "allow_pickle" not in str(refused.value)
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
    with pytest.raises(ManyoneError, match=r"expected a folder of episodes, an \.npz, \.pkl or \.hdf5 file"):
        from_folder(tmp_path / "x.csv")


def test_an_npz_episode_is_cut_where_its_rows_do_not_join(tmp_path):
    given = npz_folder(tmp_path / "door", count=2)
    whole = {k: np.concatenate([e[k] for e in given]) for k in ("actions", "rewards")}
    states = [e["observations"] for e in given]
    rows = {"observations": np.concatenate([s[:-1] for s in states])}
    rows["next_observations"] = np.concatenate([s[1:] for s in states])
    np.savez(tmp_path / "door" / "1.npz", **whole, **rows, terminals=np.arange(7) == 6)
    data = from_npz_folder(tmp_path / "door", clip=None)
    assert data.lengths.tolist() == [3, 3, 4]
    assert data.terminated.tolist() == [False, False, True]
    assert data.meta["cuts"] == 1
    assert data.meta["notes"] == ["1 episode cuts where next_observations do not join the next row"]
    np.testing.assert_array_equal(data.final_observations[1:], [s[-1].astype(np.float32) for s in states])
    whole["rewards"][5] = np.inf
    np.savez(tmp_path / "door" / "1.npz", **whole, **rows)
    with pytest.raises(ManyoneError, match=r"1\.npz: episode 2, step 2: rewards are not finite"):
        from_npz_folder(tmp_path / "door")


def test_places_with_commas_between_them_are_one_data_set(tmp_path):
    given = episodes([4, 7, 2])
    whole = Trajectories.from_episodes("all", given)
    Trajectories.from_episodes("a", given[:1]).save(tmp_path / "a,b")
    Trajectories.from_episodes("c", given[1:]).save(tmp_path / "c")
    same(from_place(f"{tmp_path}/a,b"), whole.select([0]))
    (tmp_path / "a,b").rename(tmp_path / "a")
    data = from_place(f"{tmp_path}/a,{tmp_path}/c")
    same(data, whole)
    assert data.meta["notes"] == ["2 data sets joined"]
    for e in given[1:]:
        e["observations"] = e["observations"][:-1]
    Trajectories.from_episodes("d", given[1:]).save(tmp_path / "d")
    data = from_place(f"{tmp_path}/a,{tmp_path}/d")
    assert data.final_observations is None
    assert "final observations left out: not all of them have them" in data.meta["notes"]
    wide = [{"observations": np.zeros((3, 5)), "actions": np.zeros((3, 2)), "rewards": np.zeros(3)}]
    Trajectories.from_episodes("w", wide).save(tmp_path / "w")
    with pytest.raises(ManyoneError, match="states and actions of width 5 and 2 cannot be joined to one of 3 and 2"):
        from_place(f"{tmp_path}/a,{tmp_path}/w")
    for missing in ("/none/here", "x.hdf5", "./y"):
        with pytest.raises(ManyoneError, match=f"{missing}: no such file or folder"):
            from_place(missing)


def test_discrete_actions_in_npz_files_are_one_hot(tmp_path):
    folder, numbers = tmp_path / "cart", np.array([1, 0, 1])
    folder.mkdir()
    for i, actions in enumerate((numbers, numbers[:, None])):
        np.savez(folder / f"{i}.npz", observations=np.zeros((3, 2)), actions=actions, rewards=np.ones(3))
    stacked = {"o": np.zeros((2, 3, 2)), "a": np.stack([numbers, numbers]), "r": np.ones((2, 3))}
    np.savez(tmp_path / "stacked.npz", **stacked)
    for place in (folder, tmp_path / "stacked.npz"):
        data = from_place(str(place), choices=2)
        assert data.choices == 2
        np.testing.assert_array_equal(data.actions, np.eye(2)[[1, 0, 1, 1, 0, 1]])
        with pytest.raises(ManyoneError, match=r"say how many choices there are .*--data-choices N"):
            from_place(str(place))
    joined = from_place(f"{folder},{tmp_path / 'stacked.npz'}", choices=2)
    assert (joined.episodes, joined.choices) == (4, 2)


def test_pairs_are_read_by_name_and_from_the_folder_that_holds_them(tmp_path):
    draws = np.random.Generator(np.random.Philox(0))
    own = {key: draws.normal(size=(5, width)) for key, width in (("observations", 3), ("actions", 2))}
    np.savez(tmp_path / "distilled.npz", mean=np.zeros(3), **own)
    for place in (tmp_path, tmp_path / "distilled.npz"):
        for read, given in zip(pairs_from_npz(place, "hopper"), own.values()):
            np.testing.assert_array_equal(read, given.astype(np.float32))
    np.savez(tmp_path / "several.npz", **{f"{n}/{k}": v + n for n in (1, 2) for k, v in own.items()})
    np.testing.assert_array_equal(
        pairs_from_npz(tmp_path / "several.npz", "2")[0], (own["observations"] + 2).astype(np.float32)
    )


def test_files_without_pairs_are_refused(tmp_path):
    good = {"observations": np.ones((4, 3)), "actions": np.ones((4, 2))}
    for number, (change, message) in enumerate((
        ({"actions": np.ones((3, 2))}, r"expected \[n, S\] and \[n, A\]"),
        ({"actions": np.full((4, 2), np.nan)}, "are not finite"),
        ({"observations": np.array([{}] * 4)}, "cannot be read"),
        ({"observations": np.zeros((0, 3)), "actions": np.zeros((0, 2))}, "n at least 1"),
    )):  # fmt: skip
        np.savez(tmp_path / f"{number}.npz", **(good | change))
        with pytest.raises(ManyoneError, match=message):
            pairs_from_npz(tmp_path / f"{number}.npz")
    np.savez(tmp_path / "other.npz", observations=np.ones((4, 3)))
    with pytest.raises(ManyoneError, match=r"has no hopper/actions or actions \(it has observations\)"):
        pairs_from_npz(tmp_path / "other.npz", "hopper")
