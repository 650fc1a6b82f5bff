"""Trajectories and windows: against plain loops, round trips, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import windows as plain

from manyone.data.trajectories import trajectories
from manyone.data.trajectories.trajectories import Trajectories, pooled_statistics, suffix_sums
from manyone.data.trajectories.windows import Windows, gather
from manyone.errors import ManyoneError


def make_episodes(lengths, state_dim=3, action_dim=2, seed=0, final=False):
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(length + final, state_dim)).astype(np.float32),
            "actions": rng.normal(size=(length, action_dim)).astype(np.float32),
            "rewards": rng.normal(size=length).astype(np.float32),
            "terminated": bool(length % 2),
            "success": bool(length % 3),
            "goal": length % 5,
        }
        for length in lengths
    ]


@settings(max_examples=40, deadline=None)
@given(
    tasks=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=3),
    length=st.integers(1, 9),
    data=st.data(),
)
def test_windows_agree_with_a_plain_loop_over_samples(tasks, length, data):
    episodes = [make_episodes(lengths, seed=i) for i, lengths in enumerate(tasks)]
    windows = Windows([Trajectories.from_episodes(f"task {i}", e) for i, e in enumerate(episodes)], length)
    chosen = []
    for _ in range(6):
        i = data.draw(st.integers(0, len(tasks) - 1))
        e = data.draw(st.integers(0, len(tasks[i]) - 1))
        chosen.append((i, e, data.draw(st.integers(0, tasks[i][e] - 1))))
    task, episode, start = np.array(chosen).T
    found = windows.gather(*(torch.tensor(x).reshape(2, 3) for x in (task, episode, start)))
    expected = plain.batch(episodes, task, episode, start, length)
    assert set(found) == set(expected)
    for key, value in expected.items():
        got = found[key].reshape(6, *found[key].shape[2:])
        np.testing.assert_allclose(got.numpy(), value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert found["timesteps"].dtype == torch.int64
    assert found["valid"].dtype == torch.bool
    rows = windows.offsets[windows.first_episode[task] + torch.tensor(episode)] + torch.tensor(start)
    for key, value in windows.at(rows).items():
        assert torch.equal(value, found[key].reshape(value.shape)), key


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_return_to_go_falls_by_the_reward_and_agrees_with_the_loop(lengths, seed):
    episodes = make_episodes(lengths, seed=seed)
    data = Trajectories.from_episodes("t", episodes)
    expected = np.concatenate([plain.returns_to_go(e["rewards"]) for e in episodes])
    np.testing.assert_allclose(data.returns_to_go, expected, rtol=1e-5, atol=1e-6)
    for e in range(data.episodes):
        g = data.returns_to_go[data.offsets[e] : data.offsets[e + 1]]
        r = data.rewards[data.offsets[e] : data.offsets[e + 1]]
        np.testing.assert_allclose(g - np.append(g[1:], 0), r, atol=1e-5)
    np.testing.assert_allclose(data.returns, [e["rewards"].sum(dtype=np.float64) for e in episodes], atol=1e-5)


def test_suffix_sums_do_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, size=50)
    values = rng.normal(size=lengths.sum()).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    whole = suffix_sums(values, offsets)
    monkeypatch.setattr(trajectories, "CHUNK", 8)  # blocks of 32 steps; longer episodes stand alone
    np.testing.assert_array_equal(suffix_sums(values, offsets), whole)


def test_suffix_sums_keep_their_digits_after_many_large_episodes():
    values = np.concatenate([np.full(1000, 1e7), [1e-3, 2e-3]]).astype(np.float32)
    assert suffix_sums(values, np.array([0, 1000, 1002]))[-2:] == pytest.approx([3e-3, 2e-3], rel=1e-6)


def test_windows_of_another_length_and_uniform_rows_cover_every_start():
    data = Trajectories.from_episodes("t", make_episodes([3, 5]))
    windows = Windows([data], 4)
    assert windows.gather(*(torch.tensor([x]) for x in (0, 1, 2)), length=2)["valid"].shape == (1, 2)
    assert windows.at(torch.arange(8))["timesteps"].amax(-1).tolist() == [2, 2, 2, 3, 4, 4, 4, 4]


def test_a_window_outside_its_episode_is_refused():
    windows = Windows([Trajectories.from_episodes("t", make_episodes([3, 5]))], 4)
    with pytest.raises(IndexError, match="outside its episode"):
        windows.gather(torch.tensor([0]), torch.tensor([0]), torch.tensor([3]))


def test_gather_pads_whole_numbers_and_flags_with_zero():
    flat = {"a": torch.arange(1, 6), "b": torch.ones(5, 2, 2, dtype=torch.bool)}
    found = gather(flat, torch.tensor([3]), torch.tensor([5]), 3)
    assert found["a"].tolist() == [[0, 4, 5]]
    assert found["b"].sum().item() == 8
    assert found["valid"].tolist() == [[False, True, True]]


def test_normalised_windows_have_unit_statistics_and_zero_padding():
    data = [Trajectories.from_episodes(str(i), make_episodes([9, 20], seed=i)) for i in range(2)]
    mean, std = (torch.from_numpy(np.stack(x)) for x in zip(*(d.statistics() for d in data), strict=True))
    before = data[0].observations.copy()
    windows = Windows(data, 4)
    windows.normalise(mean, std)
    for task in range(2):
        rows = windows.flat["observations"][windows.first_row[task] : windows.first_row[task + 1]]
        torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(rows.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert not windows.at(torch.tensor([8]))["observations"][0, :3].any()
    np.testing.assert_array_equal(data[0].observations, before)


def test_statistics_leave_constant_dimensions_alone():
    episodes = make_episodes([50])
    episodes[0]["observations"][:, 1] = 4.0
    episodes[0]["observations"][:, 2] = np.linspace(0, 1e-3, 50)
    mean, std = Trajectories.from_episodes("t", episodes).statistics()
    assert std[1:].tolist() == [1.0, 1.0]
    assert mean[1] == 4.0
    assert std[0] == pytest.approx(episodes[0]["observations"][:, 0].std(), rel=1e-5)


def test_pooled_statistics_weigh_every_step_the_same(monkeypatch):
    monkeypatch.setattr(trajectories, "CHUNK", 7)
    parts = [Trajectories.from_episodes(str(i), make_episodes([9, 20 + i], seed=i)) for i in range(3)]
    rows = np.concatenate([p.observations for p in parts])
    mean, std = pooled_statistics(parts)
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-5)


def test_best_and_select_take_whole_episodes_in_order():
    episodes = make_episodes([4, 6, 2, 5, 3])
    for e, total in zip(episodes, [1, 5, 3, 5, 2], strict=True):
        e["rewards"][:] = total / len(e["rewards"])
    data = Trajectories.from_episodes("t", episodes)
    assert data.best(0.6).tolist() == [1, 3, 2]
    assert data.best(0.01).tolist() == [1]
    chosen = data.select([-1, 1])
    assert chosen.lengths.tolist() == [3, 6]
    assert chosen.goals.tolist() == [3, 1]
    np.testing.assert_array_equal(chosen.actions[:3], episodes[4]["actions"])
    np.testing.assert_array_equal(chosen.observations[3:], episodes[1]["observations"])
    with pytest.raises(ManyoneError, match="cannot select episodes"):
        data.select([5])
    with pytest.raises(ManyoneError, match="above 0 and at most 1"):
        data.best(0)


@pytest.mark.parametrize("final", [False, True])
def test_a_saved_data_set_comes_back_exactly_and_memory_mapped(tmp_path, final):
    data = Trajectories.from_episodes("t", make_episodes([4, 1, 7], final=final), meta={"licence": "MIT"})
    again = Trajectories.open(data.save(tmp_path / "t"))
    for key in ("observations", "actions", "rewards", "offsets", "terminated", "successes", "goals"):
        np.testing.assert_array_equal(getattr(again, key), getattr(data, key))
    assert isinstance(again.observations, np.memmap)
    assert again.meta == {"licence": "MIT"}
    assert (again.final_observations is None) == (not final)
    if final:
        np.testing.assert_array_equal(again.final_observations, data.final_observations)
    assert again.state_dim == 3
    assert again.action_dim == 2
    with pytest.raises(ManyoneError, match="exists already"):
        data.save(tmp_path / "t")
    data.select([0]).save(tmp_path / "t", overwrite=True)
    assert Trajectories.open(tmp_path / "t").episodes == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_episodes_come_back_in_the_form_they_were_given():
    episodes = make_episodes([4, 6], final=True)
    data = Trajectories.from_episodes("t", episodes)
    again = Trajectories.from_episodes("t", (data.episode(i) for i in range(2)))
    np.testing.assert_array_equal(again.final_observations, [e["observations"][-1] for e in episodes])
    assert again.successes.tolist() == data.successes.tolist()


def spoil(key, value):
    def change(episode):
        episode[key] = value(episode[key])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("rewards", lambda r: r[:-1]), "6 observations, 6 actions and 5 rewards"),
        (spoil("actions", lambda a: a[:-1]), "6 observations, 5 actions and 6 rewards"),
        (spoil("observations", lambda o: np.tile(o, (2, 1))), "12 observations"),
        (spoil("observations", lambda o: o[:, :2]), "states of width 2, others have 3"),
        (spoil("actions", lambda a: a[:, :1]), "actions of width 1, others have 2"),
        (spoil("rewards", lambda r: r[:, None, None]), r"expected \[T, S\]"),
        (spoil("rewards", lambda r: ["x"] * len(r)), "not arrays of numbers"),
        (lambda e: e.pop("actions"), "has no actions"),
        (lambda e: e.pop("goal"), "lacks goals"),
        (lambda e: e.update(final_observation=np.zeros(3)), "alone has final_observations"),
        (spoil("rewards", lambda r: np.where(np.arange(6) == 2, np.nan, r)), "step 2: rewards are not finite"),
        (spoil("observations", lambda o: o / np.array([[1, 0, 1]])), "step 0: observations are not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_bad_episode_is_refused_by_file_and_number(change, message):
    episodes = make_episodes([4, 6, 3])
    change(episodes[1])
    with pytest.raises(ManyoneError, match=rf"folder/file\.h5: episode 1.*{message}"):
        Trajectories.from_episodes("t", episodes, source="folder/file.h5")


def test_inconsistent_arrays_are_refused():
    good = {k: getattr(Trajectories.from_episodes("t", make_episodes([4, 6])), k) for k in trajectories._ARRAYS}
    for change, message in (
        ({"offsets": np.array([0, 4, 4, 10])}, "offsets must rise"),
        ({"offsets": np.array([0, 4, 12])}, "episode 1: 10 rewards, the episodes need 12"),
        ({"actions": good["actions"][:5]}, r"actions have shape \(5, 2\)"),
        ({"successes": np.ones(3)}, r"successes have shape \(3,\), expected \(2,\)"),
        ({"final_observations": np.full((2, 3), np.inf)}, "episode 0: the final observation is not finite"),
    ):
        with pytest.raises(ManyoneError, match=message):
            Trajectories(name="t", **{**good, **change})
    with pytest.raises(ManyoneError, match="no episodes"):
        Trajectories.from_episodes("t", [])


def test_damaged_folders_are_refused_by_file(tmp_path):
    folder = Trajectories.from_episodes("t", make_episodes([4, 6])).save(tmp_path / "t")
    raw = (folder / "actions.npy").read_bytes()
    (folder / "actions.npy").write_bytes(raw[:-20])
    with pytest.raises(ManyoneError, match=r"actions\.npy: missing or damaged"):
        Trajectories.open(folder)
    (folder / "actions.npy").write_bytes(b"no array" * 9)
    with pytest.raises(ManyoneError, match=r"actions\.npy: missing or damaged \(no array of numbers\)"):
        Trajectories.open(folder)
    np.save(folder / "actions.npy", np.zeros((10, 2)))
    with pytest.raises(ManyoneError, match=r"actions\.npy: holds float64, expected float32"):
        Trajectories.open(folder)
    (folder / "actions.npy").write_bytes(raw)
    head = json.loads((folder / "trajectories.json").read_text())
    (folder / "trajectories.json").write_text(json.dumps({**head, "format": 9}))
    with pytest.raises(ManyoneError, match="format 9, this version reads 1"):
        Trajectories.open(folder)
    (folder / "trajectories.json").write_text("{")
    with pytest.raises(ManyoneError, match="damaged"):
        Trajectories.open(folder)
    with pytest.raises(ManyoneError, match="not a trajectory folder"):
        Trajectories.open(tmp_path)


def test_windows_of_tasks_of_different_widths_end_in_zeros():
    data = [Trajectories.from_episodes(str(s), make_episodes([4], state_dim=s)) for s in (3, 5)]
    windows = Windows(data, 4)
    for task, one in enumerate(data):
        found = windows.gather(torch.tensor([task]), torch.tensor([0]), torch.tensor([0]))
        width = one.state_dim
        np.testing.assert_array_equal(found["observations"][0, :, :width], one.observations)
        assert not found["observations"][..., width:].any()
        np.testing.assert_array_equal(found["actions"][0], one.actions)


def test_windows_of_nothing_are_refused():
    data = [Trajectories.from_episodes("3", make_episodes([4], state_dim=3))]
    with pytest.raises(ManyoneError, match="at least one"):
        Windows([], 4)
    with pytest.raises(ManyoneError, match="1 or more"):
        Windows(data[:1], 0)


def test_discrete_actions_are_kept_one_hot_and_what_is_not_is_refused(tmp_path):
    episodes = [{"observations": np.zeros((3, 1)), "actions": np.array([0, 2, 1]), "rewards": np.ones(3)}]
    data = Trajectories.from_episodes("t", episodes, choices=3)
    assert (data.choices, data.action_dim) == (3, 3)
    np.testing.assert_array_equal(data.actions, np.eye(3)[[0, 2, 1]])
    assert Trajectories.open(data.save(tmp_path / "t")).choices == 3
    assert trajectories.join([data, data]).choices == 3
    plain_data = dataclasses.replace(data, meta={})
    assert plain_data.choices == 0
    with pytest.raises(ManyoneError, match="discrete actions and with others cannot be joined"):
        trajectories.join([data, plain_data])
    for odd in ({"actions": data.actions / 2}, {"actions": np.ones((3, 3))}, {"meta": {"choices": 2}}):
        with pytest.raises(ManyoneError, match=r"t: its actions are not one-hot in \d choices"):
            dataclasses.replace(data, **odd)
    with pytest.raises(ManyoneError, match="t: episode 0: its actions have 2; the 2 choices are 0 to 1"):
        Trajectories.from_episodes("t", episodes, choices=2)


@pytest.mark.parametrize("choices", [3, -1, 10**12, "2", 2.0, True])
def test_a_description_that_counts_other_choices_than_there_are_columns_is_refused(tmp_path, choices):
    data = Trajectories.from_episodes("x", make_episodes([4, 5]))
    data.save(tmp_path / "x")
    path = tmp_path / "x/trajectories.json"
    told = json.loads(path.read_text())
    told["meta"]["choices"] = choices
    path.write_text(json.dumps(told))
    with pytest.raises(ManyoneError, match=r"description: must be a whole number|its actions are not one-hot in"):
        Trajectories.open(tmp_path / "x")
