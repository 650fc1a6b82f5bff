"""The run folder: everything that one run writes, and enough to repeat it.

``config.yaml`` (recipe and complete options), ``metrics.jsonl`` (one JSON object a line), ``checkpoints/``, ``model/``
(the artefact), ``stages/NAME/`` (the same again for a run of several trainings) and ``done`` when it has finished.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import yaml

import manyone
from manyone.engine.documents import loads_json, read_yaml
from manyone.engine.fabric import is_writer
from manyone.engine.files import check_writable, sync_folder, write_atomic, writing
from manyone.engine.options import check_round_trip
from manyone.engine.trust import named_modules, remember
from manyone.errors import ManyoneError

CONFIG, _METRICS, _DONE = "config.yaml", "metrics.jsonl", "done"
_LARGEST_CONFIG = 16 << 20  # bytes
_LOCKS: dict[tuple[int, int], int] = {}
"""Open handles of the folders (device, inode) that this process has claimed; the system frees them when it ends."""


class RunFolder:
    """A run on the disk. Made by ``create`` or ``open``; the folder itself appears with the first write.

    Under several ranks only rank 0 writes; on the others every writing method does nothing.

    Attributes: ``path`` of the folder; ``recipe``, the name of what ran; ``options``, its options as plain values.
    Write your own files below ``folder(name)``, which makes the run folder first.
    """

    def __init__(self, path: Path, recipe: str, options: dict[str, Any], *, root: RunFolder | None = None) -> None:
        self.path, self.recipe, self.options = path, recipe, options
        self.root = root or self
        self.trained = False
        self._ready = False
        self._replaces: list[Path] = []
        self._metrics: BinaryIO | None = None
        self._earlier: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()

    @classmethod
    def create(cls, path: Path | str, recipe: str, options: Any, overwrite: bool = False) -> RunFolder:
        """A new run of ``recipe`` with ``options`` (a dataclass); nothing is written yet.

        Raises ``ManyoneError`` when ``path`` cannot be written or is in use. ``overwrite`` allows an earlier run there
        to be replaced, which happens at the first write; a folder that is not a run is never replaced.
        """
        path = Path(path)
        run = cls(path, recipe, check_round_trip(options))
        if not is_writer():
            return run
        check_writable(path)
        entries = sorted(path.iterdir()) if path.is_dir() else []
        if entries and not (path / CONFIG).is_file():
            raise ManyoneError(f"{path} exists and is not a run folder: choose another folder with --out")
        if entries and not overwrite:
            raise ManyoneError(
                f"{path} holds a run already: choose another folder with --out, replace it with --overwrite, "
                f"or go on with it: manyone resume {path}"
            )
        run._replaces = entries
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """The run at ``path``, to read it or to go on with it. Raises ``ManyoneError`` when there is none."""
        path = Path(path)
        config = read_config(path)
        if not isinstance(config.get("recipe"), str) or not isinstance(config.get("options"), dict):
            raise ManyoneError(f"{path / CONFIG}: not the configuration of a run: recipe or options are missing")
        run = cls(path, config["recipe"], config["options"])
        run._ready = True
        run._remember()
        return run

    @property
    def exists(self) -> bool:
        """Whether this run has written anything."""
        return self._ready

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it appears with the first of them."""
        return self.path / "checkpoints"

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return (self.path / _DONE).is_file()

    def ensure(self) -> None:
        """Makes the folder and writes ``config.yaml``, once; replaces the earlier run if that was allowed."""
        if self._ready or not is_writer():
            return
        if self.root is not self:
            self.root.ensure()
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        else:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                self.lock()
                if (self.path / CONFIG).exists() and not self._replaces:
                    raise ManyoneError(f"another process has just begun a run in {self.path}: choose another --out")
                for entry in self._replaces:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            config = self._config().encode()
            if named_modules(self.options):  # else it is opened again by everybody
                remember(config)
            write_atomic(self.path / CONFIG, config)
            sync_folder(self.path.parent)
        self._ready = True

    def lock(self) -> None:
        """Claims the folder for this process until it ends, so that two processes never write the same run."""
        if os.name != "posix" or not is_writer():
            return
        import fcntl

        handle = os.open(self.path, os.O_RDONLY)
        folder = (os.fstat(handle).st_dev, os.fstat(handle).st_ino)
        if folder in _LOCKS:
            os.close(handle)
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ManyoneError(f"another process is working in {self.path}: wait for it or stop it first") from None
        except OSError:  # a file system without locks: then there is nothing to claim
            os.close(handle)
            return
        _LOCKS[folder] = handle

    def close(self) -> None:
        """Closes the metrics file; a later write opens it again."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def folder(self, name: str) -> Path:
        """A sub-folder for own files, made if need be."""
        self.ensure()
        path = self.path / name
        if is_writer():
            with writing(path):
                path.mkdir(parents=True, exist_ok=True)
        return path

    def stage(self, name: str) -> RunFolder:
        """A run inside this one, for recipes that train several times: its own metrics, checkpoints and model."""
        stage = RunFolder(self.path / "stages" / name, self.recipe, self.options, root=self.root)
        if self._ready and stage.path.is_dir():
            stage._ready = True
            stage._remember()
        return stage

    def log(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        """Appends the line {"step", "kind", **metrics, "time"} to ``metrics.jsonl``.

        Values are numbers (a scalar tensor will do), strings, or nested mappings and lists of them; one that is not
        finite is written as null. Wall-clock values belong under the key "time" and nowhere else. A resumed run that
        repeats a line which the file holds already, apart from "time", does not write it again.
        """
        if not is_writer():
            return
        self.ensure()
        record: dict[str, Any] = {"step": int(step), "kind": kind}
        for name, value in metrics.items():
            if name in ("step", "kind"):
                raise ValueError(f"a metric cannot be called '{name}'")
            if name != "time":
                record[name] = _plain(value)
        key = json.dumps(record, ensure_ascii=False)
        if self._earlier[key] > self._repeated[key]:
            self._repeated[key] += 1
            return
        record["time"] = {"unix": round(time.time(), 3), **_plain(metrics.get("time", {}))}
        self._append((json.dumps(record, ensure_ascii=False) + "\n").encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``, oldest first; a last line cut short by a crash is left out."""
        return [record for record, _ in self._lines()]

    def truncate(self, step: int) -> None:
        """Cuts off the metrics of later steps than ``step``: a resumed run will write them again."""
        path = self.path / _METRICS
        if not is_writer() or not path.exists():
            return
        kept = [line for record, line in self._lines() if record["step"] <= step]
        data = b"".join(kept)
        if len(data) != path.stat().st_size:
            self.close()
            write_atomic(path, data)
        self._remember()

    def sync(self) -> None:
        """Forces the metrics written so far to the disk."""
        if self._metrics is not None:
            with writing(self.path / _METRICS):
                os.fsync(self._metrics.fileno())

    def finish(self) -> None:
        """Marks the run as finished."""
        if is_writer():
            self.ensure()
            write_atomic(self.path / _DONE, (time.strftime("%Y-%m-%dT%H:%M:%S%z") + "\n").encode())

    def _config(self) -> str:
        config = {
            "manyone": manyone.__version__,
            "recipe": self.recipe,
            "options": self.options,
            "environment": {
                "python": platform.python_version(),
                "torch": metadata.version("torch"),
                "platform": platform.platform(),
            },
            "time": {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z")},
        }
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)

    def _append(self, line: bytes) -> None:
        path = self.path / _METRICS
        with writing(path, "the earlier metrics and checkpoints are intact"):
            if self._metrics is None:
                _drop_torn_line(path)
                self._metrics = path.open("ab", buffering=0)
            before = os.fstat(self._metrics.fileno()).st_size
            rest = memoryview(line)
            try:
                while rest:  # an unbuffered write may take a part only, before the error comes
                    rest = rest[self._metrics.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):  # the error that matters is the one being raised
                    os.ftruncate(self._metrics.fileno(), before)
                raise

    def _lines(self) -> list[tuple[dict[str, Any], bytes]]:
        return read_metrics(self.path)

    def _remember(self) -> None:
        keys = ({k: v for k, v in record.items() if k != "time"} for record, _ in self._lines())
        self._earlier = Counter(json.dumps(key, ensure_ascii=False) for key in keys)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.yaml`` of the run ``folder``. Raises ``ManyoneError`` when there is none or it is damaged."""
    path = folder / CONFIG
    if not path.is_file():
        raise ManyoneError(f"{folder} is not a run folder: it has no {CONFIG}")
    config = read_yaml(path, aliases=True, largest=_LARGEST_CONFIG)
    if not isinstance(config, dict):
        raise ManyoneError(f"{path}: empty or damaged: it must hold the run's recipe and options")
    return config


def read_metrics(folder: Path) -> list[tuple[dict[str, Any], bytes]]:
    """The records of ``metrics.jsonl`` in the run ``folder`` and their lines; a last line cut short is left out."""
    path = folder / _METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was cut short, or is nothing
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = loads_json(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ManyoneError(f"{path}, line {number} is no record in JSON: remove this line")
        found.append((record, line + b"\n"))
    return found


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line without its end, which a crash left, so that the next line starts on its own."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int)):
        return value
    return float(value) if math.isfinite(value) else None
