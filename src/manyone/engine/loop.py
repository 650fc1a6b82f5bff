"""The one training loop: metrics, evaluation schedule, checkpoints, exact resume, signals, NaN.

The order within a step is fixed, because an exact resume rests on it: step, metrics, evaluation, checkpoint, stop. So
a checkpoint of step k stands after everything that step k wrote, and a resumed run goes on with step k + 1.
"""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from manyone.engine import checkpoint, fabric
from manyone.engine.files import part_beside, sync_folder, writing
from manyone.engine.learner import Learner
from manyone.engine.loggers import check_loggers, make_loggers
from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.engine.signals import StopRequests
from manyone.errors import InterruptedRun, ManyoneError


def train(
    learner: Learner,
    run: RunFolder,
    *,
    steps: int,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 2,
    loggers: Sequence[str] = (),
    progress: bool | None = None,
    log_every: int = 1,
) -> dict[str, Any]:
    """Runs ``learner`` for ``steps`` steps in ``run``, or the rest of them when ``run`` has a checkpoint.

    Every ``log_every``-th step writes a "train" line to the metrics, every ``evaluate_every``-th (and step 0) an
    "eval" line; 0 means never. Every ``checkpoint_every``-th step and the last one are saved, the newest ``keep`` of
    them stay. At the end the learner is evaluated ("final" line) and exported to ``run.path / "model"``; the final
    metrics are returned. ``progress`` shows progress always (True), never (False) or when it takes long (None).

    Raises ``InterruptedRun`` after SIGTERM or SIGINT, once the state is saved, and ``ManyoneError`` when the loss or
    the state stops being finite (earlier checkpoints stay) or the disk refuses a write. A run is trained once; for
    several trainings in one recipe give each its ``run.stage(name)``.
    """
    for name, value, least in (("steps", steps, 0), ("evaluate_every", evaluate_every, 0),
                               ("checkpoint_every", checkpoint_every, 0), ("keep", keep, 1),
                               ("log_every", log_every, 1)):  # fmt: skip
        if value < least:
            raise ManyoneError(f"{name} = {value}: must be at least {least}")
    if run.trained:
        raise ValueError("this run has been trained already: give each training its own run.stage(name)")
    run.trained = True
    check_loggers(loggers)
    run.path = fabric.broadcast(run.path)
    if run.exists:
        run.root.lock()
    start = _restore(learner, run, steps)
    run.truncate(start)
    saver = _Saver(learner, run, keep, start if start else None)

    with ExitStack() as stack:
        run.ensure()
        stack.callback(run.close)
        outlets = make_loggers(loggers, run, start) if fabric.is_writer() else []
        for outlet in outlets:
            stack.callback(outlet.close)
        stop = stack.enter_context(StopRequests())
        shown = progress if fabric.is_writer() else False
        bar = stack.enter_context(Progress(run.path.name, steps, start=start, show=shown))

        def record(step: int, kind: str, metrics: Mapping[str, Any]) -> None:
            run.log(step, kind, metrics)
            for outlet in outlets:
                outlet.log(step, kind, metrics)

        if start == 0 and evaluate_every and steps:
            record(0, "eval", learner.evaluate())
        for step in range(start + 1, steps + 1):
            metrics = learner.step()
            if not math.isfinite(metrics["loss"]):
                raise ManyoneError(f"the loss is {float(metrics['loss'])} at step {step}: {saver.advice()}")
            last = step == steps
            if last or step % log_every == 0:
                record(step, "train", metrics)
            if evaluate_every and step % evaluate_every == 0 and not last:
                record(step, "eval", learner.evaluate())
            stopping = fabric.any_rank(bool(stop.received))
            if last or stopping or (checkpoint_every and step % checkpoint_every == 0):
                saver.save(step)
            if stopping:
                raise _interrupted(stop, run, f"at step {step} of {steps}; the state is saved")
            bar.update(step, metrics=metrics, name=_doing(run, metrics))

        final = dict(learner.evaluate())
        record(steps, "final", final)
        _export(learner.export, run)
        if fabric.any_rank(bool(stop.received)):
            raise _interrupted(stop, run, f"after step {steps} of {steps}; the model is saved")
    return final


def _doing(run: RunFolder, metrics: Mapping[str, Any]) -> str:
    """The run by name, with its "phase" where the metrics of a step tell one."""
    phase = metrics.get("phase")
    return run.path.name if phase is None else f"{run.path.name}: {phase}"


class _Saver:
    """Writes checkpoints of a learner, and knows the last good one."""

    def __init__(self, learner: Learner, run: RunFolder, keep: int, last: int | None) -> None:
        self.learner, self.run, self.keep, self.last = learner, run, keep, last
        # infinities that are there from the start (a mask, say) are meant
        self._meant = checkpoint.not_finite(learner.state_dict())

    def save(self, step: int) -> None:
        state = self.learner.state_dict()
        bad = checkpoint.not_finite(state) - self._meant
        if fabric.any_rank(bool(bad)):
            names = ", ".join(sorted(bad)[:3]) or "on another rank"
            raise ManyoneError(f"step {step} left values that are not finite in the state ({names}): {self.advice()}")
        random_states = fabric.gather(checkpoint.random_state())
        if fabric.is_writer():
            self.run.ensure()
            self.run.sync()
            folder = self.run.checkpoints
            checkpoint.save(folder, step, {"learner": state, "random": random_states})
            checkpoint.prune(folder, self.keep)
        self.last = step

    def advice(self) -> str:
        if self.last is None:
            return "there is no checkpoint yet; try a smaller learning rate or look at the data"
        return (
            f"the last good checkpoint is step {self.last} in {self.run.checkpoints}; "
            "try a smaller learning rate or look at the data"
        )


def _restore(learner: Learner, run: RunFolder, steps: int) -> int:
    """Puts ``learner`` and the random generators to the newest intact checkpoint; its step, or 0 without one."""
    found = checkpoint.load_newest(run.checkpoints) if fabric.broadcast(run.exists) else None
    start = found[0] if found else 0
    if fabric.broadcast(start) != start:
        raise ManyoneError(f"rank {fabric.rank()} does not see the checkpoints in {run.checkpoints}: use a shared disk")
    if found is None:
        return 0
    if start > steps:
        raise ManyoneError(f"{run.checkpoints} is at step {start}, past the {steps} steps asked for")
    if fabric.is_writer():
        checkpoint.set_aside(run.checkpoints, after=start)
    learner.load_state_dict(found[1]["learner"])
    states = found[1]["random"]
    if fabric.rank() < len(states):
        checkpoint.restore_random_state(states[fabric.rank()])
    return start


def _export(export: Callable[[Any], None], run: RunFolder) -> None:
    """Exports into a temporary folder that then becomes ``model``, so that a half-written model never has that name."""
    if not fabric.is_writer():
        return
    run.ensure()
    target = run.path / "model"
    with writing(target, f"the state is intact: manyone resume {run.root.path}"), part_beside(target) as part:
        export(part)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
        sync_folder(run.path)


def _interrupted(stop: StopRequests, run: RunFolder, where: str) -> InterruptedRun:
    number = stop.received or signal.SIGTERM  # another rank received it
    name = signal.Signals(number).name
    return InterruptedRun(f"stopped by {name} {where}; go on with: manyone resume {run.root.path}", 128 + number)
