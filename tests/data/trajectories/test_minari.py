"""Minari data sets: exact round trips, what they may lack, and what is refused."""

import json
import sys
import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from tests.data.trajectories.episodes import episodes, same

from manyone.data.trajectories.files import from_folder
from manyone.data.trajectories.minari import from_minari, to_minari
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError

BOX = gymnasium.spaces.Box(-9, 9, (2,), np.float32)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Writes a Minari data set with Minari itself: made(id, episodes, **spaces) -> its folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def write(dataset_id, buffers, observation_space=BOX, action_space=BOX, **more):
        with warnings.catch_warnings(action="ignore"):  # that no author, code and environment are given
            minari.create_dataset_from_buffers(
                dataset_id, buffers, observation_space=observation_space, action_space=action_space, **more
            )
        return tmp_path / dataset_id

    return write


def buffer(steps, observations=None, actions=None, **more):
    flags = np.zeros(steps, bool)
    return EpisodeBuffer(
        observations=np.zeros((steps + 1, 2), np.float32) if observations is None else observations,
        actions=np.zeros((steps, 2), np.float32) if actions is None else actions,
        rewards=np.ones(steps),
        terminations=flags,
        truncations=flags,
        **more,
    )


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
    data = Trajectories.from_episodes("t", episodes([4, 7]))
    to_minari(data, "mine/t-v0")
    loaded = minari.load_dataset("mine/t-v0")
    assert loaded.total_steps == 11
    first = loaded[0]
    assert first.observations.shape == (5, 3)
    assert first.terminations.tolist() == [False] * 3 + [True]
    assert loaded[1].truncations.tolist() == [False] * 6 + [True]
    same(from_minari("mine/t-v0"), data)
    with pytest.raises(ManyoneError, match=r"no such file, folder or Minari.*minari download none/such-v0"):
        from_minari("none/such-v0")


def test_dictionary_observations_are_laid_side_by_side_in_the_given_order(made):
    space = gymnasium.spaces.Dict(a=BOX, b=BOX, deep=gymnasium.spaces.Dict(c=BOX))
    inside = {key: np.full((4, 2), value, np.float32) for key, value in (("a", 1), ("b", 2), ("c", 3))}
    folder = made("d-v0", [buffer(3, inside | {"deep": {"c": inside.pop("c")}})], space)
    found = from_minari(folder, keys=("b", "deep/c", "a"))
    assert found.observations[0].tolist() == [2, 2, 3, 3, 1, 1]
    assert found.meta["keys"] == ["b", "deep/c", "a"]
    for keys, message in (
        ((), "a dictionary with a, b, deep: choose by --keys"),
        (("b", "z"), "have no z .it has a, b, deep.; choose others by --keys"),
        (("deep",), "deep is a dictionary itself: choose entries of it, e.g. deep/c"),
    ):
        with pytest.raises(ManyoneError, match=rf"d-v0: .*{message}"):
            from_minari(folder, keys=keys)


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_is_read_from_infos_by_either_name(made, key):
    infos = [{key: np.array([0, 1, 0, 0])}, {key: np.zeros(4)}]
    assert from_minari(made("d-v0", [buffer(3, infos=i) for i in infos])).successes.tolist() == [True, False]


def test_what_some_episodes_lack_does_not_reject_the_set(made):
    short = buffer(3, np.ones((3, 2), np.float32), infos={"success": np.zeros(3)})
    data = from_minari(made("d-v0", [buffer(3), short, buffer(2)]))
    assert data.lengths.tolist() == [3, 3, 2]
    np.testing.assert_array_equal(data.observations[3:6], np.ones((3, 2)))
    assert data.final_observations is None
    assert data.successes is None
    assert data.meta["notes"] == [
        "final observations of 2 of 3 episodes left out",
        "successes of 1 of 3 episodes left out",
    ]


@pytest.mark.parametrize(
    ("buffers", "spaces", "message"),
    [
        (
            buffer(3, actions=np.zeros((3, 2), int)),
            {"action_space": gymnasium.spaces.MultiDiscrete([2, 3])},
            r"actions are MultiDiscrete\(\[2 3\]\)",
        ),
        (
            buffer(3, actions=np.zeros((3, 2), int)),
            {"action_space": gymnasium.spaces.Box(0, 9, (2,), int)},
            "actions are .*; policies act in a Box of floats or a Discrete space",
        ),
        (
            buffer(3, np.zeros(4, int)),
            {"observation_space": gymnasium.spaces.Discrete(4)},
            r"observations are Discrete\(4\)",
        ),
        (
            buffer(3, np.zeros((4, 32, 32, 3), np.uint8)),
            {"observation_space": gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)},
            "observations are images .uint8, 32 x 32 x 3.; policies read vectors",
        ),
    ],
)
def test_several_discrete_actions_and_images_are_refused_in_one_line(made, buffers, spaces, message):
    with pytest.raises(ManyoneError, match=rf"d-v0: its {message}"):
        from_minari(made("d-v0", [buffers], **spaces))


def test_sets_of_minaris_other_format_are_read_alike(made):
    given = [
        buffer(3, np.full((4, 2), n, np.float32), infos={"is_success": [k == n for k in range(4)]}) for n in (1, 5)
    ]
    found = [from_minari(made(f"{kind}-v0", given, data_format=kind)) for kind in ("hdf5", "arrow")]
    same(*found)
    assert found[1].successes.tolist() == [True, False]


def test_the_environment_that_a_set_names_is_told_and_never_made(made, tmp_path, monkeypatch):
    """Minari itself makes it where the set lacks a space: that imports what the file says."""
    (tmp_path / "named_by_a_file.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    record = made("d-v0", [buffer(3)]) / "data" / "metadata.json"
    spec = {"id": "E-v0", "entry_point": "named_by_a_file:Env", "additional_wrappers": []}
    head = json.loads(record.read_text()) | {"env_spec": json.dumps(spec)}
    record.write_text(json.dumps(head))
    assert from_minari("d-v0").meta["environment"] == spec
    del head["action_space"]
    record.write_text(json.dumps(head))
    with pytest.raises(ManyoneError, match=r"metadata\.json: has no action_space, and its environment is not made"):
        from_minari("d-v0")
    assert "named_by_a_file" not in sys.modules


def test_a_set_whose_file_shows_another_file_is_refused(made, tmp_path):
    folder = made("d-v0", [buffer(3), buffer(3)])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/rewards")
    with pytest.raises(ManyoneError, match=r"main_data\.hdf5: episode_1/rewards is a link into another file"):
        from_minari(folder)


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
    with pytest.raises(ManyoneError, match=r"main_data\.hdf5: not a readable HDF5 file"):
        from_minari(folder)
    with pytest.raises(ManyoneError, match=r"no data/metadata\.json"):
        from_minari(tmp_path)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [((-5, 20.5), [-5, 20.5]), ((3, 3), None), ((None, 20), None), (("x", 20), None), ((float("nan"), 2), None)],
)
def test_reference_returns_are_read_where_they_are_two_rising_numbers(made, scores, wanted):
    folder = made("mine/scored-v0", [buffer(3)])
    path = folder / "data/metadata.json"
    head = json.loads(path.read_text()) | dict(zip(("ref_min_score", "ref_max_score"), scores))
    path.write_text(json.dumps(head))
    assert from_minari(folder).meta.get("reference") == wanted


def test_discrete_actions_are_one_hot_and_stay_discrete(made, tmp_path):
    actions = [np.array([4, 2, 3]), np.array([2, 2])]
    space = gymnasium.spaces.Discrete(3, start=2)
    data = from_minari(made("d-v0", [buffer(len(a), actions=a) for a in actions], action_space=space))
    assert (data.choices, data.meta["choices"]) == (3, 3)
    np.testing.assert_array_equal(data.actions, np.eye(3)[[2, 0, 1, 0, 0]])
    folder = to_minari(data, "again-v0", root=tmp_path)
    assert minari.load_dataset("again-v0").action_space == gymnasium.spaces.Discrete(3)
    assert minari.load_dataset("again-v0")[0].actions.tolist() == [2, 0, 1]
    again = from_minari(folder)
    same(again, data)
    assert again.meta == data.meta
    assert from_folder(folder, choices=3).choices == 3
    with pytest.raises(ManyoneError, match="again-v0: has 3 choices, not the 4 choices that are given"):
        from_folder(folder, choices=4)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"id": "Hopper-v5", "max_episode_steps": 1000}, [-20.272305, 3234.3]),
        ({"id": "Hopper-v5", "kwargs": {"ctrl_cost_weight": 1}}, None),
        ({"id": "Hopper-v5", "max_episode_steps": 200}, None),
        ({"id": "Ant-v5"}, None),
        (None, [1.629008, 4592.3]),
    ],
)
def test_d4rl_s_reference_returns_are_taken_for_the_environments_that_have_them(made, spec, wanted):
    path = made("mujoco/walker2d/expert-v0", [buffer(3)]) / "data/metadata.json"
    if spec:
        spec = {"additional_wrappers": []} | spec
        path.write_text(json.dumps(json.loads(path.read_text()) | {"env_spec": json.dumps(spec)}))
    assert from_minari("mujoco/walker2d/expert-v0").meta.get("reference") == wanted


@pytest.mark.parametrize("total", [2, 2**31, -1, True, None, "1"])
def test_a_record_that_counts_episodes_that_are_not_there_is_refused(made, total):
    path = made("counts-v0", [buffer(3)]) / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": total}))
    with pytest.raises(ManyoneError, match=rf"metadata\.json: total_episodes {total}, and there are 1; fetch"):
        from_minari("counts-v0")
