"""HDF5 files that show other files, or nothing, are refused; links within a file are not."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import manyone
from manyone.data.trajectories.hdf5 import open_hdf5
from manyone.errors import ManyoneError


def external_storage(file, place):
    place.with_suffix(".bin").write_bytes(np.arange(5.0).tobytes())
    file.create_dataset("deep/rewards", (5,), "f8", external=[(str(place.with_suffix(".bin")), 0, 40)])


def external_link(file, place):
    file["deep/rewards"] = h5py.ExternalLink(str(place), "/x")


def external_group(file, place):
    """A soft link that goes through a link into another file."""
    file["deep/other"] = h5py.ExternalLink(str(place), "/")
    file["rewards"] = h5py.SoftLink("/deep/other/x")


def virtual(file, place):
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:3] = h5py.VirtualSource(".", "x", (5,))[:3]
    layout[3:] = h5py.VirtualSource(str(place), "x", (5,))[3:]
    file.create_virtual_dataset("deep/rewards", layout)


def nothing(file, place):
    file.create_dataset("deep/rewards", (10**9, 10**4), "f4", chunks=(1, 100))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (external_storage, "deep/rewards keeps its data in another file; only data inside the file are read"),
        (external_link, "deep/rewards is a link into another file"),
        (external_group, "deep/other is a link into another file"),
        (virtual, r"deep/rewards is a view of another file \(.*other\.hdf5\)"),
        (nothing, r"deep/rewards has 4e\+04 GB of which the file holds next to nothing"),
    ],
)
def test_what_lies_outside_the_file_is_refused(tmp_path, write, message):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = np.arange(5.0)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["x"] = np.arange(5.0)
        write(file, tmp_path / "other.hdf5")
    with pytest.raises(ManyoneError, match=rf"x\.hdf5: {message}"), open_hdf5(tmp_path / "x.hdf5"):
        pass


def test_links_and_views_within_the_file_are_read(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["x"] = np.arange(5.0)
        file["deep/soft"] = h5py.SoftLink("/x")
        file["deep/hard"] = file["x"]
        file["deep/loop"] = file["deep"]
        file["deep/nowhere"] = h5py.SoftLink("/none")
        file["kind"] = np.dtype("f4")
        layout = h5py.VirtualLayout((5,), "f8")
        layout[:] = h5py.VirtualSource(file["x"])
        file.create_virtual_dataset("deep/view", layout)
        file.create_dataset("zeros", data=np.zeros((3000, 3000)), compression="gzip", compression_opts=9)
    with open_hdf5(tmp_path / "x.hdf5") as file:
        for name in ("soft", "hard", "view"):
            np.testing.assert_array_equal(file[f"deep/{name}"][()], np.arange(5.0))


def test_no_other_module_opens_hdf5_files():
    source = Path(manyone.__file__).parent
    opening = {str(p.relative_to(source)) for p in source.rglob("*.py") if re.search(r"h5py\.File\(", p.read_text())}
    assert opening == {"data/trajectories/hdf5.py"}
