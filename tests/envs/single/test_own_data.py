"""Own data by TASK=PLACE: published pickles of a family's task."""

import pickle

import numpy as np
import pytest

from manyone.envs.single.own_data import from_places, horizon
from manyone.errors import ManyoneError


@pytest.fixture
def pickled(tmp_path):
    rng = np.random.default_rng(0)
    keys = {"observations": 2, "actions": 2}
    episodes = [{key: rng.uniform(-1, 1, (20, n)) for key, n in keys.items()} | {"rewards": -np.ones(20)}] * 3
    path = tmp_path / "data" / "point-robot-5-expert.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(episodes))
    return path


def test_published_pickles_are_a_tasks_data_with_and_without_its_name(pickled):
    pytest.importorskip("gymnasium")
    for pair, name in ((str(pickled), "point-robot:5"), (f"point-robot:7={pickled}", "point-robot:7")):
        (data,) = from_places([pair])
        assert (data.name, data.episodes, horizon(data)) == (name, 3, 20)
    with pytest.raises(ManyoneError, match="states and actions of width 2 and 2, but cheetah-vel:1 has 20 and 6"):
        from_places([f"cheetah-vel:1={pickled}"])


@pytest.mark.parametrize("option", ["--data", "--shots"])
def test_messages_name_the_option_that_the_place_was_given_with(option):
    with pytest.raises(ManyoneError, match=f"^{option} nowhere: no such file"):
        from_places(["nowhere"], option=option)
    with pytest.raises(ManyoneError, match=f"^{option} nowhere=here: "):
        from_places(["nowhere=here"], option=option)
