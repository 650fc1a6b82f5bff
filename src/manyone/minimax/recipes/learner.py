"""A run of Distributed-SGDA as the training loop sees it: one communication round is one step.

Public: ``RoundLearner``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.artefact import save
from manyone.minimax.ranks.distributed import TorchDistributed
from manyone.minimax.recipes.problem import Case
from manyone.minimax.simulated import Simulated


class RoundLearner:
    """``run`` on the problem ``case``; the model is the clients' mean, or its average over the rounds."""

    def __init__(self, run: Simulated | TorchDistributed, case: Case, recipe: str, *, time_average: bool) -> None:
        self.sim, self.case, self.recipe, self._averaged = run, case, recipe, time_average
        self.real = isinstance(run, TorchDistributed)
        self._evaluated: Tensor | None = None

    @property
    def rounds_done(self) -> int:
        """Rounds that the run has completed."""
        return self.sim.rounds_done if isinstance(self.sim, TorchDistributed) else self.sim.rounds_done()

    def model(self) -> Tensor:
        """The consensus model [P] (all ranks must call it)."""
        return (self.sim.time_average() if self._averaged else self.sim.consensus())[0, 0].cpu()

    def step(self) -> Mapping[str, float]:
        """One round; ``loss`` is the objective at the consensus model, on at most 512 training samples."""
        return {"loss": self.case.loss(self.sim.round()[0, 0].cpu())}

    def evaluate(self) -> Mapping[str, float]:
        """Figures of the model on both splits, and the disagreement of the clients."""
        state = self.sim.state()[0, 0].cpu()
        spread = (state - state.mean(0)).square().sum(1).mean().sqrt()
        self._evaluated = self.model() if self.rounds_done else state.mean(0)
        return {**self.case.evaluate(self._evaluated), "consensus_error": float(spread)}

    def state_dict(self) -> dict[str, Any]:
        return {"real": self.real, "run": self.sim.state_dict(), "model": self.model()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["real"] != self.real:
            where = "with torchrun" if state["real"] else "in one process, without torchrun"
            raise ManyoneError(f"this run was begun {where}: resume it the same way")
        self.sim.load_state_dict(state["run"])

    def export(self, folder: Path) -> None:
        case, o, z = self.case, self.case.options, self._evaluated
        assert z is not None  # the loop evaluates last, on all ranks; this is called on one
        info = {"recipe": self.recipe, "problem": o.problem, "data": case.table.name, "clients": o.clients}
        config = {"kind": case.kind, **info, **case.config(z)}
        if case.kind != "sampler":
            config["encoder"] = case.train.raw.encoding.to_dict()
        save(folder, case.problem.spec, z, case.scaling, config)

    def leave(self) -> None:
        """Ends this rank's part in a distributed run."""
        if isinstance(self.sim, TorchDistributed):
            self.sim.membership.leave()
