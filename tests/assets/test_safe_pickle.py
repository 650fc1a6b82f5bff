"""The allow-list unpickler reads arrays and nothing else."""

import os
import pickle

import numpy as np
import pytest

from manyone.assets.safe_pickle import load_array
from manyone.errors import ManyoneError


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_come_back_as_they_were(protocol):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    if protocol < 3:  # these protocols spell bytes through a codec call, which is refused like any other call
        with pytest.raises(ManyoneError, match="refused"):
            load_array(pickle.dumps(array, protocol), "x")
        return
    assert np.array_equal(load_array(pickle.dumps(array, protocol), "x"), array)


def test_arrays_written_by_old_numpy_are_read():
    raw = pickle.dumps(np.arange(5), 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert load_array(raw, "x").tolist() == [0, 1, 2, 3, 4]


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ManyoneError, match=r"file\.gz: the pickle asks for .*mkdir, which is refused"):
        load_array(pickle.dumps(Evil(target)), "file.gz")
    assert not target.exists()


@pytest.mark.parametrize("name", [b"builtins\neval", b"numpy\nload", b"numpy\nfromfile", b"numpy.f2py\ncompile"])
def test_every_other_name_is_refused(name):
    with pytest.raises(ManyoneError, match="refused"):
        load_array(b"c" + name + b"\n.", "x")


def test_object_arrays_and_other_values_are_refused():
    with pytest.raises(ManyoneError, match="not a plain array"):
        load_array(pickle.dumps(np.array([{}], dtype=object), 4), "x")
    with pytest.raises(ManyoneError, match="holds a dict"):
        load_array(pickle.dumps({}), "x")


@pytest.mark.parametrize("raw", [b"", b"\x80", b"garbage", pickle.dumps(np.arange(9), 4)[:-20]])
def test_a_damaged_pickle_is_named(raw):
    with pytest.raises(ManyoneError, match=r"x: not a readable pickle"):
        load_array(raw, "x")
