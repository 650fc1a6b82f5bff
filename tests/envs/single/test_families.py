"""Families of tasks: their splits, and that both ends of every task's name work."""

import numpy as np
import pytest

from manyone.envs.single import families
from manyone.envs.single import make as build
from manyone.errors import ManyoneError


def test_published_splits():
    assert build.suite_tasks("ant-dir-4") == [f"ant-dir:{i}" for i in (10, 15, 19, 25)]
    assert build.suite_tasks("ant-dir-6:train") == [f"ant-dir:{i}" for i in (4, 18, 26, 34, 42, 49)]
    assert build.suite_tasks("ml1-pick-place:test") == [f"ml1-pick-place:{i}" for i in (11, 17, 25, 36, 41)]
    assert len(build.suite_tasks("ml1-reach:train")) == 45
    assert build.suite_tasks("ant-dir-small:test") == ["ant-dir:1", "ant-dir:4", "ant-dir:41"]
    assert build.suite_tasks("ant-dir") == [f"ant-dir:{i}" for i in range(50)]


@pytest.mark.parametrize("name", list(families.SPLITS))
def test_sides_are_disjoint_and_of_the_family(name):
    split = families.SPLITS[name]
    tasks = families.FAMILIES[split.family].tasks
    assert set(split.every) <= set(range(tasks))
    assert len(split.every) == len(set(split.every))
    if not name.endswith("-dir") or name == "ant-dir":  # Cheetah-dir has no unseen task
        assert not set(split.train) & set(split.test)
    if name == split.family:
        assert split.every == tuple(range(tasks))
    for task in build.suite_tasks(name)[:2]:
        assert build.kind(task) == families.FAMILIES[split.family].kind
        assert build.suite_tasks(task) == [task]


def test_directions_beyond_the_training_range_are_beyond_it():
    from manyone.envs.single.locomotion import target

    trained, unseen = (
        [target(task) for task in build.suite_tasks(f"ant-dir-ood:{side}")] for side in ("train", "test")
    )
    assert all(not min(trained) - 0.3 < angle < max(trained) + 0.3 for angle in unseen)
    assert 2.4 < min(trained) < max(trained) < 6.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cheetah-vel:40", "index after the colon must be 0 to 39"),
        ("ml1-reach:٣", "index after the colon must be 0 to 49"),
        ("point-robot:-1", "0 to 19"),
        ("ant-dir-4:test", "ant-dir-4 holds no task out"),
        ("ant-dir-4:1", "unknown task 'ant-dir-4:1'"),
    ],
)
def test_wrong_names(name, words):
    with pytest.raises(ManyoneError, match=words):
        build.suite_tasks(name)


def test_cheetahs_without_the_torso_are_the_same_tasks():
    pytest.importorskip("mujoco")
    envs = [build.make_env(f"{family}:1") for family in ("cheetah-dir", "cheetah17-dir")]
    starts = [env.reset(seed=4)[0] for env in envs]
    assert [len(start) for start in starts] == [20, 17]
    action = np.linspace(-1, 1, 6, dtype=np.float32)
    (full, reward, *_), (short, same, *_) = (env.step(action) for env in envs)
    np.testing.assert_array_equal(full[:17], short)
    assert reward == same
