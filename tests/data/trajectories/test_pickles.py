"""Prompt-DT's pickled episodes: read without running anything, named by their files, refused where they do not fit."""

import os
import pickle

import numpy as np
import pytest

from manyone.data.trajectories import files
from manyone.data.trajectories.files import from_folder, from_pickle_file, from_place
from manyone.errors import ManyoneError


def published(lengths=(4, 3), seed=0, width=3):
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(n, width)),
            "actions": rng.normal(size=(n, 2)),
            "rewards": rng.normal(size=(n, 1)),
            "terminals": np.arange(n) == n - 1 - n % 2,
        }
        for n in lengths
    ]


def written(path, value):
    path.write_bytes(pickle.dumps(value, 4))
    return path


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ant_dir-7-expert.pkl", "ant-dir:7"),
        ("cheetah_vel-23-prompt-medium.pkl", "cheetah-vel:23"),
        ("ML1-pick-place-v2-11-random.pkl", "ml1-pick-place:11"),
        ("mine-3-expert.pkl", "mine:3"),
        ("mine.pkl", "mine"),
    ],
)
def test_episodes_come_back_and_the_files_name_tells_the_task(tmp_path, file, name):
    given = published()
    data = from_pickle_file(written(tmp_path / file, given))
    assert data.name == name
    assert data.lengths.tolist() == [4, 3]
    np.testing.assert_array_equal(data.observations[:4], np.float32(given[0]["observations"]))
    np.testing.assert_array_equal(data.actions[4:], np.float32(np.clip(given[1]["actions"], -1, 1)))
    assert data.returns == pytest.approx([one["rewards"].sum() for one in given], rel=1e-5)
    assert data.terminated.tolist() == [True, True]
    assert data.final_observations is None
    assert data.meta["source"] == "pickled episodes"


def test_lists_of_numbers_and_next_observations_are_read(tmp_path):
    (one,) = published((4,))
    whole = np.random.default_rng(1).normal(size=(5, 3))
    one |= {"observations": list(whole[:-1]), "next_observations": whole[1:], "rewards": [0.0, 1, True, 2.5]}
    data = from_place(str(written(tmp_path / "a.pkl", [one])), clip=None)
    np.testing.assert_array_equal(data.final_observations, np.float32(whole[-1:]))
    np.testing.assert_array_equal(data.actions, np.float32(one["actions"]))
    assert data.returns.tolist() == [4.5]
    one["next_observations"] = whole[1:].copy()
    one["next_observations"][1] += 1
    cut = from_folder(written(tmp_path / "b.pkl", [one]))
    assert cut.lengths.tolist() == [2, 2]
    assert cut.meta["cuts"] == 1


def test_several_files_are_one_data_set(tmp_path):
    first = written(tmp_path / "ant_dir-1-expert.pkl", published())
    second = written(tmp_path / "ant_dir-1-medium.pkl", published(seed=1))
    assert from_place(f"{first},{second}", "ant-dir:1").episodes == 4


class Evil:
    def __reduce__(self):
        return os.system, ("touch made",)


def without(key):
    (one,) = published((3,))
    return [{name: value for name, value in one.items() if name != key}]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([Evil()], "asks for .*system, which is refused"),
        ([{"observations": Evil()}], "asks for .*system, which is refused"),
        ({"observations": 1}, "expected a list of episodes"),
        ([], "expected a list of episodes"),
        ([1, 2], "expected a list of episodes"),
        (without("rewards"), r"x\.pkl: episode 0: has no rewards \(it has observations, actions, terminals\)"),
        ([published()[0] | {"rewards": ["a"] * 4}], "rewards hold <U1; expected numbers"),
        ([published()[0] | {"rewards": [1, [2]]}], "episode 0: rewards cannot be read"),
        ([published()[0] | {"rewards": np.ones(9)}], "episode 0"),
        ([published()[0] | {"observations": np.full((4, 3), np.nan)}], "episode 0"),
    ],
)
def test_bad_and_hostile_files_are_refused_by_their_names(tmp_path, monkeypatch, value, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManyoneError, match=words) as told:
        from_pickle_file(written(tmp_path / "x.pkl", value))
    assert "x.pkl" in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "made").exists()


def test_large_and_missing_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGEST_PICKLE", 100)
    with pytest.raises(ManyoneError, match=r"bytes; pickles of up to 100 are read"):
        from_pickle_file(written(tmp_path / "x.pkl", published()))
    with pytest.raises(ManyoneError, match="cannot be read"):
        from_pickle_file(tmp_path / "none.pkl")
    with pytest.raises(ManyoneError, match="no such file"):
        from_place(str(tmp_path / "none.pkl"))
