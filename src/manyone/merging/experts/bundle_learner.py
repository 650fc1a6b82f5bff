"""Experts for merging: one base, one frozen head and one fine-tuned expert per task of a suite, as a cached bundle.

``bundle("mini6", 0)`` gives the :class:`Bundle` of a suite and seed and trains what the cache does not hold.
``make_bundle`` does the same for any :class:`Suite` without a cache; ``ExpertsLearner`` is the training itself, one
step at a time. Equal data, protocol and seed give equal bits (on the same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from manyone.assets.cache import locked
from manyone.data.suites import load_suite
from manyone.data.tasks import Suite, Task
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError
from manyone.merging.experts import cache
from manyone.merging.experts.base import described_heads, logistic_heads, pretrained_text
from manyone.merging.experts.bundle import Bundle, head_config, head_tensors, heads_from
from manyone.merging.experts.distil import DistilledBase
from manyone.merging.experts.protocol import (
    PROTOCOLS,
    DistilledPretraining,
    JointPretraining,
    PretrainedText,
    Protocol,
    ZeroShotHeads,
    protocol_for,
)
from manyone.merging.experts.training import ExpertTraining, JointBase, accuracy
from manyone.merging.heads import Head
from manyone.nets import build_encoder
from manyone.weights.open import StrPath

EVALUATED = 250
"""Test samples per task behind the accuracies that a bundle records."""


def base_learner(suite: Suite, protocol: Protocol, seed: int, device: str = "cpu") -> JointBase | DistilledBase | None:
    """What trains the protocol's base; None where the base is public weights."""
    if isinstance(protocol.base, JointPretraining):
        return JointBase(suite.tasks, protocol.encoder, protocol.base, seed, device)
    if isinstance(protocol.base, DistilledPretraining):
        unlabelled = suite.tasks if protocol.base.unlabelled else ()
        return DistilledBase(suite.pretraining, unlabelled, protocol.encoder, protocol.base, device)
    return None


class ExpertsLearner:
    """A Learner that makes a whole bundle: the base, then the heads, then one expert after the other.

    ``parts`` is a folder where every finished base and expert is kept and found again, so that nothing is trained
    twice; None keeps all in memory. ``steps`` is the total, ``position`` how many of them are done (more than zero at
    once where parts were found).
    """

    def __init__(
        self, suite: Suite, protocol: Protocol, *, seed: int, device: str = "cpu", parts: Path | None = None
    ) -> None:
        if not suite.tasks:
            raise ManyoneError(f"suite {suite.name!r} has no tasks, so there is no expert to train")
        self.suite, self.protocol, self.seed, self.device = suite, protocol, seed, device
        self.store = cache.Parts(suite, protocol, seed, parts) if parts is not None else None
        self.encoder: dict[str, Any] = dict(protocol.encoder)
        self.base: dict[str, Tensor] | None = None
        self.heads: dict[str, Head] = {}
        self.experts: dict[str, dict[str, Tensor]] = {}
        self._scores: dict[str, dict[str, float]] = {"base": {}, "experts": {}}
        self._current: Any = base_learner(suite, protocol, seed, device)
        self._base_steps = self._current.steps if self._current is not None else 0
        self._lengths = [protocol.fine_tuning.length(len(t.train)) for t in suite.tasks]
        self.steps = self._base_steps + sum(self._lengths)
        if isinstance(protocol.base, PretrainedText):
            self.encoder, weights = pretrained_text(protocol.base.asset)
            self._set_base(weights, {})
        elif self.store is not None and (found := self.store.base()) is not None:
            self._set_base(*found)
        while self.base is not None and self._next() is not None:
            known = self.store.expert(self._task().name) if self.store is not None else None
            if known is None:
                break
            self.experts[self._task().name] = known

    @property
    def position(self) -> int:
        """Steps done."""
        if self.base is None:
            return self._current.position
        done = self._base_steps + sum(self._lengths[: len(self.experts)])
        return done + (self._current.position if self._current is not None else 0)

    @property
    def stage(self) -> str:
        """What is being trained: "base", a task's name, or "done"."""
        if self.base is None:
            return "base"
        following = self._next()
        return "done" if following is None else following.name

    def step(self) -> dict[str, float]:
        """One optimisation step of the current stage."""
        if self._current is None:
            if self._next() is None:
                raise ManyoneError("all experts are trained: there is no further step")
            self._current = self._expert_training()
        metrics = self._current.step()
        if self._current.position >= self._current.steps:
            self._finish()
        return metrics

    def evaluate(self) -> dict[str, float]:
        """Test accuracy of the base and of every finished expert, per task and on average."""
        if self.base is None:
            return {}
        encoder = build_encoder(self.encoder).to(self.device)
        for who, weights in (("base", {name: {} for name in self.heads}), ("experts", self.experts)):
            for name, changed in weights.items():
                if name not in self._scores[who]:
                    encoder.load_state_dict({**self.base, **changed})
                    score = accuracy(encoder, self.heads[name], self.suite.task(name).test, EVALUATED)
                    self._scores[who][name] = score
        return averaged(self._scores)

    def state_dict(self) -> dict[str, Any]:
        """Finished tensors (what fine-tuning changed) and the state of the current stage."""
        keep_base = self.base is not None and not isinstance(self.protocol.base, PretrainedText)
        return {
            "base": dict(self.base) if self.base is not None and keep_base else None,
            "heads": head_tensors(self.heads),
            "head_config": head_config(self.heads),
            "experts": self.experts,
            "current": self._current.state_dict() if self._current is not None else None,
            "scores": self._scores,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a saved state."""
        self._scores = {who: dict(scores) for who, scores in state["scores"].items()}
        self.experts = {name: dict(weights) for name, weights in state["experts"].items()}
        self._current = None
        if state["head_config"]:
            self.heads = heads_from(state["heads"], state["head_config"])
            self.base = dict(state["base"]) if state["base"] is not None else self.base
        else:
            self.base, self.heads = None, {}
            self._current = base_learner(self.suite, self.protocol, self.seed, self.device)
        if state["current"] is not None:
            self._current = self._current or self._expert_training()
            self._current.load_state_dict(state["current"])

    def bundle(self) -> Bundle:
        """The finished bundle; its experts are complete state dicts in the base's order."""
        if self.base is None or self._next() is not None:
            raise ManyoneError(
                f"the bundle is not finished: stage {self.stage!r}, step {self.position} of {self.steps}"
            )
        self.evaluate()
        info = {
            "suite": self.suite.name,
            "seed": self.seed,
            "protocol": self.protocol.as_dict(),
            "accuracy": {who: dict(scores) for who, scores in self._scores.items()},
            "evaluated": EVALUATED,
        }
        experts = {name: {**self.base, **changed} for name, changed in self.experts.items()}
        return Bundle(self.encoder, self.base, experts, self.heads, info)

    def export(self, folder: Path) -> None:
        """Writes the bundle folder."""
        self.bundle().save(folder)

    def _next(self) -> Task | None:
        done = len(self.experts)
        return self.suite.tasks[done] if done < len(self.suite.tasks) else None

    def _task(self) -> Task:
        task = self._next()
        assert task is not None
        return task

    def _expert_training(self) -> ExpertTraining:
        assert self.base is not None
        task = self._task()
        encoder = build_encoder(self.encoder)
        return ExpertTraining(
            task, encoder, self.base, self.heads[task.name], self.protocol.fine_tuning, self.seed, self.device
        )

    def _set_base(self, weights: Mapping[str, Tensor], heads: Mapping[str, Head]) -> None:
        self.base, self.heads, self._current = dict(weights), dict(heads), None
        if self.protocol.heads is not None:
            encoder = build_encoder(self.encoder).to(self.device)
            if isinstance(self.protocol.heads, ZeroShotHeads):
                self.heads = described_heads(encoder, self.base, self.suite.tasks, self.protocol.heads)
            else:
                self.heads = logistic_heads(encoder, self.base, self.suite.tasks, self.protocol.heads, self.seed)

    def _finish(self) -> None:
        weights = self._current.weights()
        if self.base is None:
            heads = self._current.heads()
            if self.store is not None:
                self.store.keep_base(weights, heads)
            self._set_base(weights, heads)
            return
        name = self._task().name
        if self.store is not None:
            self.store.keep_expert(name, weights)
        self.experts[name], self._current = weights, None


def averaged(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """``{"base/<task>": ..., "base/average": ..., "experts/<task>": ...}`` of accuracies by kind and task."""
    metrics: dict[str, float] = {}
    for who, values in scores.items():
        metrics |= {f"{who}/{name}": value for name, value in values.items()}
        if values:
            metrics[f"{who}/average"] = sum(values.values()) / len(values)
    return metrics


def bundle_accuracy(found: Bundle, suite: Suite, split: str = "test") -> dict[str, float]:
    """Accuracy of the base and of each expert on its own task, on the whole ``split``; keys as in :func:`averaged`."""
    encoder = build_encoder(found.encoder)
    scores: dict[str, dict[str, float]] = {"base": {}, "experts": {}}
    for name in found.tasks:
        for who, weights in (("base", found.base), ("experts", found.experts[name])):
            encoder.load_state_dict(dict(weights))
            scores[who][name] = accuracy(encoder, found.heads[name], suite.task(name).split(split))
    return averaged(scores)


def suite_for(name: str, seed: int) -> Suite:
    """The suite that a bundle of ``seed`` is trained and to be evaluated on.

    The data splits follow the seed, except where all seeds share one distilled base (``images``): it was trained on
    what the splits of seed 0 leave over, so those splits serve every seed.
    """
    shared = name in PROTOCOLS and isinstance(PROTOCOLS[name].base, DistilledPretraining)
    return load_suite(name, seed=0 if shared else seed)


def make_bundle(
    suite: Suite, *, seed: int, protocol: Protocol | None = None, device: str = "cpu", progress: bool = False
) -> Bundle:
    """Trains base, heads and experts of any suite, without a cache; ``protocol`` None takes the suite's own."""
    learner = ExpertsLearner(suite, protocol or protocol_for(suite), seed=seed, device=device)
    _drive(learner, progress)
    return learner.bundle()


def bundle(
    suite: str | Suite,
    seed: int = 0,
    *,
    protocol: Protocol | None = None,
    device: str = "cpu",
    cache_folder: StrPath | None = None,
    progress: bool | None = None,
) -> Bundle:
    """The bundle of ``suite`` (a name: :func:`suite_for`) from the cache, trained first where it is not there.

    Processes that ask for the same bundle wait for the one that trains it. What an interrupted training had finished is
    found again. ``cache_folder`` None is the project's own; ``progress`` None shows it on a terminal.
    """
    if isinstance(suite, str):
        suite = suite_for(suite, seed)
    protocol = protocol or protocol_for(suite)
    folder = cache.bundle_folder(suite, protocol, seed, cache_folder)
    found = cache.load(folder)
    if found is not None:
        return found
    parts = cache.parts_folder(cache_folder)
    base = cache.base_path(suite, protocol, seed, parts)
    if not isinstance(protocol.base, PretrainedText):
        with locked(f"experts-{base.stem}"):
            # Seeds that share a base wait here for the first of them.
            if not base.is_file():
                learner = ExpertsLearner(suite, protocol, seed=seed, device=device, parts=parts)
                _drive(learner, progress, only_base=True)
    with locked(f"experts-{folder.name}"):
        found = cache.load(folder)
        if found is None:
            learner = ExpertsLearner(suite, protocol, seed=seed, device=device, parts=parts)
            _drive(learner, progress)
            found = store(learner, folder)
    return found


def store(learner: ExpertsLearner, folder: Path) -> Bundle:
    """Puts a finished learner's bundle into the cache at ``folder`` and drops the single experts kept until then."""
    finished = learner.bundle()
    cache.save(finished, folder)
    if learner.store is not None:
        learner.store.drop_experts()
    return finished


def _drive(learner: ExpertsLearner, progress: bool | None, only_base: bool = False) -> None:
    """Steps ``learner`` to its end (or to the end of its base), with a bar on stderr where someone looks."""
    if learner.stage == "done":
        return
    with Progress("experts", learner.steps, start=learner.position, show=progress) as bar:
        while learner.stage != "done" and not (only_base and learner.base is not None):
            learner_stage = f"{learner.suite.name} seed {learner.seed}: {learner.stage}"
            metrics = learner.step()
            if not math.isfinite(metrics["loss"]):
                raise ManyoneError(
                    f"{learner_stage}: the loss is {metrics['loss']} at step {learner.position}; lower lr"
                )
            bar.update(learner.position, metrics=metrics, name=learner_stage)
