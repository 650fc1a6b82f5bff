"""Names of offline data sets, and how made ones are kept."""

import numpy as np
import pytest

from manyone.data.trajectories.files import from_minari
from manyone.data.trajectories.offline import (
    forget_offline,
    keep_list,
    keep_task,
    load_offline,
    offline_names,
    parse_offline,
    qualities,
)
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError


@pytest.fixture(autouse=True)
def private(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))


def small(name, episodes=2):
    rng = np.random.default_rng(0)
    one = {"observations": rng.normal(size=(6, 3)), "actions": np.zeros((5, 2)), "rewards": np.ones(5), "goal": 1}
    return Trajectories.from_episodes(name, [one] * episodes, meta={"quality": "near"})


def test_names_and_sizes():
    one = parse_offline("metaworld-pairs10-sub@60x200")
    assert (one.suite, one.quality, one.episodes, one.steps) == ("metaworld-pairs10", "sub", 60, 200)
    assert parse_offline("metaworld-pairs10-sub") == one
    assert str(parse_offline("metaworld-mt1:door-open-v3-near", episodes=3)) == "metaworld-mt1:door-open-v3-near@3x200"
    assert parse_offline("cheetah-vel:test-near", steps=50, seed=4).key == "near-60x50-seed4-v0"
    assert parse_offline("ant-dir:test-near").key == "near-60x200-seed0-v1"  # version 0 had other directions
    assert parse_offline("metaworld-mt50-expert", seed=4).key == "expert-seed0-v0"
    three = parse_offline("mujoco3-medium-replay")
    assert (three.suite, three.quality, three.transitions, three.episodes) == ("mujoco3", "medium-replay", 100_000, 0)
    assert (str(three), three.key) == ("mujoco3-medium-replay@100000", "medium-replay-100000-seed0-v0")
    assert three.folder("gym:Hopper-v5") == parse_offline("mujoco-hopper-medium-replay").folder("gym:Hopper-v5")
    assert three.minari_id("gym:Hopper-v5") == "mujoco/Hopper-v5/medium-replay-100000-seed0-v0"
    assert parse_offline(str(three)) == three
    ant = parse_offline("mujoco-ant-random")
    assert ant.minari_id("gym:Ant-v5?include_cfrc_ext_in_observation=false").startswith("mujoco/Ant-v5/random-")
    assert parse_offline("ant-dir-4-expert").folder("ant-dir:10") == parse_offline("ant-dir-ood-expert").folder(
        "ant-dir:10"
    )
    hidden = {name: parse_offline(f"{name}-expert") for name in ("ml1-pick-place", "point-robot")}
    assert {name: one.size for name, one in hidden.items()} == {"ml1-pick-place": "20x200", "point-robot": "60x20"}
    assert all(one.family == name and not one.official for name, one in hidden.items())
    four, many = (parse_offline(f"teachers-{count}-near") for count in (4, 50))
    assert four.folder("teachers:3") == many.folder("teachers:3")
    assert (many.size, many.licence.partition(",")[0]) == ("30x20", "synthetic")
    assert str(parse_offline("mujoco-hopper-expert@500", steps=70)) == "mujoco-hopper-expert@100x70"
    assert str(parse_offline("mujoco-hopper-expert@7x1000")) == "mujoco-hopper-expert@7x1000"
    for name in offline_names():
        assert str(parse_offline(name.replace("TASK", "door-open"))).startswith(name.replace("TASK", "door-open"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metaworld-mt01-near", "unknown data set 'metaworld-mt01-near': did you mean metaworld-mt"),
        ("metaworld-mt10", "did you mean metaworld-mt10-"),
        ("metaworld-mt10-nearly", "did you mean metaworld-mt10-near"),
        ("metaworld-mt1-near", "did you mean"),
        ("metaworld-mt10:door-near", "did you mean"),
        ("cheetah-dir-experts", "did you mean cheetah-dir-expert"),
        ("ant-dir-4:test-expert", "did you mean ant-dir-4-expert"),
        ("point-robot-medium-replay", "did you mean point-robot-medium"),
        ("ml1-reach:train-expert", "did you mean ml1-reach-expert"),
        ("cheetah-dir:test-near", "did you mean cheetah-dir-near"),
        ("ant-dir:all-near", "did you mean ant-dir-small-near or ant-dir-near"),
        ("metaworld-mt10-near@0x200", "0 episodes a task; must be 1 to 100000"),
        ("metaworld-mt10-near@10x501", "501 steps a task; must be 1 to 500"),
        ("metaworld-mt10-expert@10x500", "size of their source"),
        ("metaworld-mt10-near@10", "did you mean metaworld-mt10-near"),
        ("metaworld-mt10-medium", "did you mean metaworld-mt10-"),
        ("mujoco-hopper-replay", "did you mean mujoco-hopper-"),
        ("mujoco-hopper-near", "did you mean mujoco-hopper-"),
        ("mujoco-humanoid-medium", "did you mean mujoco"),
        ("mujoco3:hopper-medium", "did you mean mujoco-hopper-medium or mujoco3-medium"),
        ("mujoco-hopper-medium@0", "0 transitions a task; must be 1 to 10000000"),
        ("mujoco-hopper-medium@3x1001", "1001 steps a task; must be 1 to 1000"),
        ("x", "known are metaworld-mt1"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(name, message):
    with pytest.raises(ManyoneError, match=message):
        parse_offline(name)


def test_what_is_kept_is_loaded_memory_mapped_and_is_also_a_minari_set(tmp_path):
    wanted = parse_offline("metaworld-mt5-near@2x5")
    with pytest.raises(ManyoneError, match=r"not made yet: manyone data make metaworld-mt5-near@2x5$"):
        load_offline("metaworld-mt5-near@2x5")
    with pytest.raises(ManyoneError, match=r"make metaworld-mt5-near@2x5 --seed 3$"):
        load_offline("metaworld-mt5-near@2x5", seed=3)
    for task in ("a-v3", "b:1"):
        keep_task(wanted, task, small(task))
    assert not wanted.made()
    keep_list(wanted, ["b:1", "a-v3"])
    loaded = load_offline("metaworld-mt5-near", episodes=2, steps=5)
    assert [one.name for one in loaded] == ["b:1", "a-v3"]
    assert isinstance(loaded[0].observations, np.memmap)
    exported = from_minari(tmp_path / "minari/metaworld/b-1/near-2x5-seed0-v0")
    np.testing.assert_array_equal(exported.observations, loaded[0].observations)
    assert wanted.made()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_stopped_keeper_is_repeated_and_forgetting_removes_everything(tmp_path):
    wanted = parse_offline("metaworld-mt5-near@2x5")
    keep_task(wanted, "a-v3", small("a-v3"))
    (wanted.folder("a-v3") / "trajectories.json").unlink()  # as if stopped between Minari's copy and ours
    keep_task(wanted, "a-v3", small("a-v3"))
    keep_list(wanted, ["a-v3"])
    assert load_offline("metaworld-mt5-near@2x5")[0].episodes == 2
    assert forget_offline(wanted) > 1000
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("*.hdf5"))
    with pytest.raises(ManyoneError, match="not made yet"):
        load_offline("metaworld-mt5-near@2x5")


def test_a_side_has_the_qualities_of_its_suite():
    assert qualities("ml1-reach:test") == qualities("ml1-reach")
    assert list(qualities("ml1-reach")) == ["random", "medium", "expert"]
    assert list(qualities("metaworld-mt1:door-open")) == ["near", "sub", "expert"]
    assert qualities("ant-dir:test")["expert"] == qualities("mujoco8")["expert"]


def test_a_cut_list_of_tasks_counts_as_not_made():
    wanted = parse_offline("metaworld-mt5-near@2x5")
    keep_list(wanted, ["a-v3"])
    wanted._list().write_text('["a-')
    assert wanted.tasks() is None
