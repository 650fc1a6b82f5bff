"""Archives are read in place: wheel, tgz, deb (four compressions) and folder."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from manyone.assets.archives import find, open_archive
from manyone.errors import ManyoneError

FILES = {"a/one.txt": b"one", "a/b/two.bin": bytes(range(256)), "three": b""}


def make_tar(files, prefix="", links=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(prefix + name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


def make_deb(payload, name):
    parts = [b"!<arch>\n"]
    for member, content in (("debian-binary", b"2.0\n"), ("control.tar", b"odd"), (name, payload)):
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        assert len(header) == 60
        parts += [header, content, b"\n" if len(content) % 2 else b""]
    return b"".join(parts)


@pytest.fixture(params=["whl", "tgz", "deb", "deb.gz", "deb.xz", "deb.bz2", "folder"])
def archive(request, tmp_path):
    path = tmp_path / f"file.{request.param}"
    if request.param == "whl":
        with zipfile.ZipFile(path, "w") as z:
            for name, content in FILES.items():
                z.writestr(name, content)
    elif request.param == "tgz":
        path.write_bytes(gzip.compress(make_tar(FILES)))
    elif request.param == "folder":
        for name, content in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        squeeze = {"deb": bytes, "deb.gz": gzip.compress, "deb.xz": lzma.compress, "deb.bz2": bz2.compress}[
            request.param
        ]
        name = "data.tar" + request.param.removeprefix("deb")
        path.write_bytes(make_deb(squeeze(make_tar(FILES, "./", [("link", "three")])), name))
    return open_archive(path)


def test_names_and_content_are_the_same_in_every_format(archive):
    assert archive.names() == sorted(FILES)
    assert {name: archive.read(name) for name in archive.names()} == FILES


def test_a_missing_member_is_named(archive):
    with pytest.raises(ManyoneError, match=r"cannot read member 'nothing'"):
        archive.read("nothing")


def test_find_wants_exactly_one_match(archive):
    assert find(archive, "two.*") == "a/b/two.bin"
    with pytest.raises(ManyoneError, match="nothing matches"):
        find(archive, "four*")
    with pytest.raises(ManyoneError, match="2 files match"):
        find(archive, "a/*")


def test_names_that_climb_out_are_never_written(tmp_path):
    path = tmp_path / "in" / "evil.tgz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(make_tar({"../../evil.txt": b"x", "/abs.txt": b"y"})))
    archive = open_archive(path)
    assert archive.read("../../evil.txt") == b"x"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["evil.tgz"]


def test_a_folder_answers_only_for_its_own_files(tmp_path):
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ManyoneError, match="cannot read member"):
        open_archive(tmp_path / "folder").read("../outside.txt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x1f\x8bnot gzip", b"!<arch>\n", b"plain text"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "damaged.whl"
    path.write_bytes(content)
    with pytest.raises(ManyoneError, match=r"damaged\.whl") as error:
        open_archive(path)
    assert "\n" not in str(error.value)


def test_a_truncated_deb_is_named(tmp_path):
    path = tmp_path / "cut.deb"
    path.write_bytes(make_deb(lzma.compress(make_tar(FILES)), "data.tar.xz")[:-100])
    with pytest.raises(ManyoneError, match=r"cut\.deb"):
        open_archive(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ManyoneError, match=r"gone\.whl: no such archive"):
        open_archive(tmp_path / "gone.whl")
