"""Tasks side by side through joblib, in processes beside this one, each with a log of its own, and with a clean stop.

joblib decides when and where a task runs: in threads of this process unless ``joblib.parallel_config`` or
:func:`cluster` names another backend (loky, Dask, Ray). There :func:`supervise` hands the task to a process that it has
started and waits for the answer. So a process that is killed is known with its task, its exit status and its log, and
takes no pool with it. On Linux these processes are forked from a server that has imported PyTorch and computed nothing:
one starts within milliseconds, and does one task after the other, with the imports and the data of those before.

Tasks share nothing with the process that planned them but the file system. A folder ``.running-*`` beside the logs
holds a file for every task that runs, and the file ``stop`` when all have to end.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import joblib

from manyone.engine.modules import isolated
from manyone.engine.progress import Progress
from manyone.errors import InterruptedRun, ManyoneError
from manyone.reproduce.clock import clocked

_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
AGAIN = "the same command goes on"
"""How people go on after a failure or a signal."""

_NAME = "manyone-worker"
_STOP = "stop"
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 30.0  # a run writes its checkpoint before it leaves
_EXIT_CODES = threading.Lock()  # starting a process reads the codes of the ended ones, which can be read only once
_HERE = threading.local()  # .worker: the process of this thread


class Task(NamedTuple):
    """``call`` ("module:function") with ``arguments``, in any process on any machine that has the file system."""

    name: str
    log: Path
    call: str
    arguments: tuple[Any, ...]
    again: str = AGAIN
    clock: Path | None = None
    """Where its seconds are added up, over all commands that work on it."""


class Runner(NamedTuple):
    """Runs tasks whose logs are in one folder; made by :func:`task_runner`."""

    running: Path
    workers: int | None

    def run(
        self,
        tasks: Sequence[Task],
        unit: str,
        total: int,
        done: Callable[[], int],
        look: Callable[[], None] | None = None,
    ) -> None:
        """Runs all ``tasks``, started in their order; a bar shows which are running and ``done()`` of ``total`` units.

        ``look`` is called now and then while they run, in another thread; what it raises is raised when they are done.

        One that fails, or whose process dies, ends all with a :class:`ManyoneError` that names it and its log.
        """
        count = min(self.workers or joblib.effective_n_jobs(-1), len(tasks))
        with Progress("tasks", total, start=done(), unit=unit) as bar, _shown(bar, done, self.names, look):
            try:
                joblib.Parallel(n_jobs=max(count, 1), prefer="threads", batch_size=1)(
                    joblib.delayed(supervise)(task, self.running) for task in tasks
                )
            except ManyoneError:
                raise
            except Exception as error:  # a worker of another backend, and with it the supervisor, is gone
                lost = "; ".join(self.names()) or "no task"
                raise ManyoneError(f"the workers failed while there ran {lost}: {_line(error)}") from error

    def names(self) -> list[str]:
        """What is running now, on any machine."""
        found = []
        for path in sorted(self.running.glob("*.task")):
            with contextlib.suppress(FileNotFoundError):  # it has ended since
                found.append(path.read_text(encoding="utf-8"))
        return found


@contextlib.contextmanager
def task_runner(
    folder: Path, workers: int | None = None, preload: Sequence[str] = (), again: str = AGAIN
) -> Iterator[Runner]:
    """A runner of ``workers`` tasks at a time (all processors by default) with its files in ``folder``.

    ``preload`` names modules that tasks need; they are imported once while the caller makes the data ready. However the
    block is left, no task outlives it; SIGTERM and Ctrl-C leave it by :class:`InterruptedRun`.
    """

    def interruption(number: int) -> InterruptedRun:
        name = signal.Signals(number).name
        return InterruptedRun(f"stopped by {name}; what is done is kept: {again}", 128 + number)

    def leave(number: int, _frame: object) -> None:
        raise interruption(number)

    before = signal.signal(signal.SIGTERM, leave)
    running = Path(tempfile.mkdtemp(prefix=".running-", dir=folder))
    runner = Runner(running, workers)
    try:
        if _CONTEXT.get_start_method() == "forkserver":
            _CONTEXT.set_forkserver_preload([f"{__package__}.warm", __name__, *preload])
            with isolated():
                forkserver.ensure_running()
        yield runner
    except KeyboardInterrupt:
        raise interruption(signal.SIGINT) from None
    finally:
        (running / _STOP).touch()
        deadline = time.monotonic() + _GRACE_SECONDS + 5
        while time.monotonic() < deadline and (
            runner.names() or any(child.name == _NAME for child in multiprocessing.active_children())
        ):
            time.sleep(0.02)
        shutil.rmtree(running, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def cluster(name: str | None) -> Iterator[None]:
    """Tasks of this block run on a ``dask`` or ``ray`` cluster; None leaves joblib's choice as it is.

    The address comes from where the cluster's own tools look (``DASK_SCHEDULER_ADDRESS``, ``RAY_ADDRESS``); without
    one, a cluster is started on this machine.
    """
    if name is None:
        yield
        return
    try:
        if name == "dask":
            distributed = importlib.import_module("dask.distributed")
            importlib.import_module("dask").config.set({"distributed.worker.daemon": False})  # workers start processes
            with isolated():
                client = distributed.Client()
            with client, joblib.parallel_config("dask"):
                yield
        else:
            ray = importlib.import_module("ray")
            importlib.import_module("ray.util.joblib").register_ray()
            with isolated():
                running = ray.init()
            with running, joblib.parallel_config("ray"):
                yield
    except ModuleNotFoundError as error:
        raise ManyoneError(f"--cluster {name} needs a package: pip install 'manyone[cluster]' ({error})") from error


def supervise(task: Task, running: Path) -> None:
    """Runs ``task`` in the process that belongs to this thread; raises what went wrong in one line."""
    if _ended(running):
        return
    worker = getattr(_HERE, "worker", None)
    if worker is None or worker.running != running:
        worker = _HERE.worker = _Worker(running)
    mark = running / f"{task.log.stem}.task"
    try:
        mark.write_text(task.name, encoding="utf-8")
        problem = worker.do(task)
    except BaseException:
        worker.end()  # Ctrl-C, where this is the main thread
        raise
    finally:
        mark.unlink(missing_ok=True)
    if problem is not None:
        raise ManyoneError(f"{task.name}: {problem} (log: {task.log}; what is done is kept: {task.again})")


class _Worker:
    """A process that does the tasks of one thread, one after the other."""

    def __init__(self, running: Path) -> None:
        if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
            multiprocessing.set_start_method(None, force=True)  # loky's, which a new process would not know
        self.running = running
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, running), name=_NAME)
        with _EXIT_CODES, isolated():
            self.process.start()
        theirs.close()

    def do(self, task: Task) -> str | None:
        """None, or what went wrong in one line; the process ends when all have to."""
        try:
            self.connection.send(task)
            while not self.connection.poll(_LOOK_SECONDS):
                if _ended(self.running):
                    self.end()
                    return None
            return self.connection.recv()
        except (EOFError, OSError):
            with _EXIT_CODES:
                self.process.join(5)
            self.end()
            return _ending(self.process.exitcode)

    def end(self) -> None:
        """Ends the process; this thread's next task gets a new one."""
        _HERE.worker = None
        self.process.terminate()
        self.process.join(_GRACE_SECONDS)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _ended(running: Path) -> bool:
    """Whether what runs tasks has stopped, or is gone."""
    return (running / _STOP).exists() or not running.exists()


def _line(error: BaseException) -> str:
    return (f"{type(error).__name__}: {error}".splitlines() or ["an error without a message"])[0]


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            memory = ": probably out of memory, so try fewer --workers" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{memory}"
    return f"its process ended with status {code}"


@contextlib.contextmanager
def _shown(
    bar: Progress, done: Callable[[], int], names: Callable[[], Sequence[str]], look: Callable[[], None] | None
) -> Iterator[None]:
    """Keeps ``bar`` up to date and calls ``look``, in a thread of its own; raises at the end what ``look`` raised."""
    over = threading.Event()
    problems: list[Exception] = []

    def keep() -> None:
        while not over.wait(_LOOK_SECONDS):
            bar.update(done(), name="; ".join(names()) or "starting")
            if look is not None and not problems:
                try:
                    look()
                except Exception as problem:
                    problems.append(problem)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if problems:
        raise problems[0]


# --- in the process that does the tasks -------------------------------------------------------------------------------


def _serve(connection: Connection, running: Path) -> None:
    """The life of a process: tasks from ``connection``, each answered by None or what went wrong, until all end."""
    os.setpgrp()  # Ctrl-C on a terminal is for the process that supervises, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module(f"{__package__}.warm")
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not connection.poll(_LOOK_SECONDS):
                if _ended(running):
                    return
            task = connection.recv()
            with task.log.open("ab", buffering=0) as file:
                for descriptor in (1, 2):  # what C libraries print too
                    os.dup2(file.fileno(), descriptor)
            connection.send(_attempt(task))


def _end_with_parent() -> None:
    """Ends this process when the one that supervises is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _attempt(task: Task) -> str | None:
    """Runs the task; None, or what went wrong in one line, with all of it in the log."""
    try:
        module, _, function = task.call.partition(":")
        with clocked(task.clock) if task.clock else contextlib.nullcontext():
            getattr(importlib.import_module(module), function)(*task.arguments)
    except ManyoneError as problem:
        print(problem, file=sys.stderr)
        return str(problem)
    except Exception as problem:
        traceback.print_exc()
        return _line(problem)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return None
