"""The allow-list unpickler reads arrays and nothing else."""

import os
import pickle

import numpy as np
import pytest

from manyone.assets.safe_pickle import load_array, load_plain
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


EPISODES = [
    {
        "observations": np.arange(12, dtype=np.float32).reshape(3, 4),
        "actions": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "rewards": [1.0, np.float64(2.5), 3],
        "terminals": np.array([False, False, True]),
        "big": np.arange(3, dtype=">i4"),
        "note": "a",
        "none": None,
    }
]


@pytest.mark.parametrize("protocol", range(6))
def test_lists_of_dictionaries_of_arrays_come_back_as_they_were(protocol):
    (found,) = load_plain(pickle.dumps(EPISODES, protocol), "x")
    for key, value in EPISODES[0].items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value


def test_plain_data_of_old_numpy_and_tuples_are_read():
    raw = pickle.dumps((np.arange(5), {"a": (1, 2)}), 4).replace(
        b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"
    )
    raw = raw[:2] + raw[11:]  # without the frame, whose length is another one now
    array, rest = load_plain(raw, "x")
    assert array.tolist() == [0, 1, 2, 3, 4]
    assert rest == {"a": [1, 2]}


def test_hostile_plain_pickles_are_refused_and_nothing_is_run(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ManyoneError, match=r"f: the pickle asks for .*mkdir, which is refused"):
        load_plain(pickle.dumps([{"rewards": Evil(target)}]), "f")
    assert not target.exists()


BOMB = b"".join([b"(lp0\n", *(b"(lp%d\n" % i + b"".join([b"g%d\na" % (i - 1)] * 30) for i in range(1, 12)), b"."])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"cnumpy\nfromfile\n.", "numpy.fromfile"),
        (b"cnumpy._core.multiarray\n_reconstruct\n.", "holds a function, which is refused"),
        (b"cnumpy\nndarray\n((I1000000000\ntS'f8'\ntR.", "uses STRING"),
        (b"cnumpy\nndarray\n(I1000000000\ntR.", "makes an array by itself"),
        (b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR.", "an array of 'O8', not of numbers"),
        (b"cnumpy\ndtype\n(VV1000000000\nI00\nI01\ntR.", "not of numbers"),
        (b"c_codecs\nencode\n(Vabc\nVzlib\ntR.", "the codec 'zlib'"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "counts to 2147483647"),
        (b"Pkey\n.", "uses PERSID"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"(i__main__\nEvil\n.", "uses INST"),
        (BOMB, "unpacks to more than the file holds"),
        (pickle.dumps([np.array([{}], dtype=object)]), "an array of 'O8', not of numbers"),
        (pickle.dumps([np.array([(1, 2)], "i4,i4")]), "not of numbers"),
        (pickle.dumps([{1: 2}]), "the key 1; expected names"),
        (pickle.dumps([b"bytes"]), "holds a bytes"),
        (pickle.dumps([{1, 2}]), "refused"),
        (pickle.dumps(EPISODES)[:-30], "not a readable pickle"),
        (b"", "not a readable pickle"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line(raw, words):
    with pytest.raises(ManyoneError, match=words) as told:
        load_plain(raw, "x")
    assert str(told.value).startswith("x: ")
    assert "\n" not in str(told.value)


def test_an_array_that_is_referred_to_again_and_again_is_refused():
    array = np.zeros(50_000)
    with pytest.raises(ManyoneError, match="more than the file holds"):
        load_plain(pickle.dumps([array] * 100), "x")


def test_a_pickle_cannot_change_the_readers_stand_ins():
    # BUILD with a pair of states sets attributes of whatever is on the stack, here of the class for dtypes
    raw = b"cnumpy\ndtype\n(N(dVdtype\nI5\nstb."
    with pytest.raises(ManyoneError):
        load_plain(raw, "x")
    (found,) = load_plain(pickle.dumps(EPISODES), "x")
    assert found["big"].tolist() == [0, 1, 2]
