"""Generative replay: a second diffusion model remembers what trajectories of earlier tasks were like (after t-DGR).

Yue et al., "t-DGR: A Trajectory-Based Deep Generative Replay Method for Continual Learning in Decision Making" (arXiv
2401.02576): a generator conditioned on where in a trajectory one is, so that no error of earlier steps is carried on;
weights of the two losses as in Shin et al., "Continual Learning with Deep Generative Replay" (arXiv 1705.08690, eq. 1).
The planner itself knows no first states (they are always given to it), so the generator is a network of its own:

    G(t, j)   a window of aligned states and actions and its return, of task j at time t of its episodes    Replay.pool
    G_i       continues G_{i-1} on the windows of task i and on the replayed ones of tasks j < i             after_step
    L         = r L(windows of i) + (1 - r) L(replayed windows of j),  j uniform over tasks < i,  r = 1 / i  shares

with prediction of the data and the loss of :mod:`manyone.nets.diffusion.process`. Windows are replayed from a pool that
G_{i-1} makes when task i begins, at start times that are kept of each task (a number a window); the data of earlier
tasks are never read again. Our reading: t-DGR generates single states, and a policy labels them with actions.
Public names: :class:`Replay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from manyone.nets.diffusion.denoisers import ResidualMLPDenoiser
from manyone.nets.diffusion.process import Process
from manyone.nets.diffusion.sampling import sample
from manyone.nets.diffusion.schedules import make_schedule
from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategy import Strategy, Trainee, live
from manyone.randomness import generator_for, seed_for

_DIFFUSION, _SAMPLING, _AT_ONCE = 100, 20, 4096
_LAYERS, _LR = 3, 1e-3


class Replay(Strategy):
    """``replay_windows`` of each earlier task are made anew for each task, by a generator of width ``replay_width``."""

    def __init__(self, trainee: Trainee, *, replay_windows: int = 2048, replay_width: int = 256) -> None:
        super().__init__(trainee)
        self.count = replay_windows
        _, steps, states, actions = trainee.shape
        one = next(trainee.network.parameters())
        self.dtype, self.device = one.dtype, one.device
        self.generator: nn.Module = ResidualMLPDenoiser(
            states + actions + 1, steps, 1 + trainee.tasks, width=replay_width, layers=_LAYERS,
            seed=seed_for(trainee.seed, "replay"),
        ).to(self.device)  # fmt: skip
        self.process = Process(make_schedule("cosine", _DIFFUSION), "data", device=self.device)
        self.times: dict[int, Tensor] = {}
        """Of each finished task: when its windows begin."""
        self.pool: dict[int, PlanBatch] = {}
        """Replayed windows of each earlier task."""
        self._adam = self._fresh()

    # --- what the learner calls ---------------------------------------------------------------------------------------

    def begin(self, task: int) -> None:
        """Makes the pool for ``task`` from what the generator knows by now."""
        super().begin(task)
        self.pool = {earlier: self.generated(earlier, task) for earlier in range(task)}
        self._adam = self._fresh()

    def shares(self, task: int, step: int) -> list[tuple[int, float]]:
        """The task, and an earlier one."""
        if task == 0:
            return [(task, 1.0)]
        earlier = int(torch.randint(task, (), generator=generator_for(self.trainee.seed, "replayed task", task, step)))
        return [(task, 1 / (task + 1)), (earlier, task / (task + 1))]

    def windows(self, task: int, step: int) -> PlanBatch | None:
        """Of an earlier task what is replayed."""
        return None if task == self.task else self._replayed(task, step, "planner")

    def after_step(self, task: int, step: int) -> None:
        """One step of the generator, on a batch of the task and as much of each task before it as its share."""
        own = self.trainee.batch(task, step, "replay")
        total = self._loss(own, task, step) / (task + 1)
        for earlier, share in self.shares(task, step)[1:]:
            total = total + share * self._loss(self._replayed(earlier, step, "generator"), earlier, step)
        self._adam.zero_grad()
        total.backward()
        self._adam.step()

    def end(self, task: int) -> None:
        """Keeps when the task's windows begin."""
        found: list[Tensor] = []
        while sum(map(len, found)) < self.count:
            found.append(self.trainee.batch(task, len(found), "replay times").times)
        self.times[task] = torch.cat(found)[: self.count].float()
        super().end(task)

    # --- the generator ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generated(self, task: int, now: int) -> PlanBatch:
        """``replay_windows`` windows of ``task`` as the generator has them when task ``now`` begins."""
        times = self.times[task]
        draw = generator_for(self.trainee.seed, "replay pool", task, now)
        _, steps, states, actions = self.trainee.shape
        noise = torch.randn(len(times), steps, states + actions + 1, generator=draw).to(self.device)
        conditions = self._condition(times, task)
        parts = [
            sample(partial(self.generator, condition=condition), self.process, start, sampler="ddim", steps=_SAMPLING)
            for condition, start in zip(conditions.split(_AT_ONCE), noise.split(_AT_ONCE), strict=True)
        ]
        x = torch.cat(parts).to(self.dtype)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=self.device)
        returns = x[..., -1].mean(1).clamp(0, 1)
        return PlanBatch(x[..., :states], x[..., states:-1], returns, valid, times.to(self.dtype))

    def _loss(self, batch: PlanBatch, task: int, step: int) -> Tensor:
        """What the generator is trained on: windows, with their return at every step."""
        returns = batch.returns[:, None, None].expand(*batch.states.shape[:2], 1)
        x = torch.cat((batch.states, batch.actions, returns.to(batch.states)), -1).float()
        draw = generator_for(self.trainee.seed, "replay noise", task, step)
        noise = torch.randn(x.shape, generator=draw).to(self.device)
        n = torch.randint(1, _DIFFUSION + 1, (len(x),), generator=draw).to(self.device)
        condition = self._condition(batch.times, task)
        return self.process.loss(lambda at, k: self.generator(at, k, condition), x, noise, n)

    def _condition(self, times: Tensor, task: int) -> Tensor:
        """Time and one-hot task, [B, 1 + I]."""
        named = torch.zeros(len(times), self.trainee.tasks, device=self.device)
        named[:, task] = 1
        return torch.cat((times.float().unsqueeze(1), named), 1)

    def _replayed(self, task: int, step: int, purpose: str) -> PlanBatch:
        """As many windows of the pool as a batch has."""
        pool = self.pool[task]
        draw = generator_for(self.trainee.seed, "replayed", purpose, task, step)
        rows = torch.randint(len(pool.states), self.trainee.shape[:1], generator=draw).to(self.device)
        return PlanBatch(*(part[rows] for part in pool))

    def _fresh(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.generator.parameters(), lr=_LR)

    # --- what is left and saved ---------------------------------------------------------------------------------------

    def sizes(self) -> dict[str, float]:
        """The generator counts too; a task adds its start times alone."""
        sizes = super().sizes()
        own = sum(p.numel() for p in self.generator.parameters())
        return {"parameters": sizes["parameters"] + own, "bytes_per_task": sizes["bytes_per_task"] + 4.0 * self.count}

    def state_dict(self) -> dict[str, Any]:
        """Generator, its optimiser, times and pool."""
        return super().state_dict() | {
            "generator": live(self.generator),
            "optimiser": self._adam.state_dict(),
            "times": {str(task): value for task, value in self.times.items()},
            "pool": {str(task): list(batch) for task, batch in self.pool.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.generator.load_state_dict(state["generator"], strict=False)  # buffers are constants of the architecture
        self._adam = self._fresh()
        self._adam.load_state_dict(state["optimiser"])
        self.times = {int(task): value.to(self.device) for task, value in state["times"].items()}
        self.pool = {
            int(task): PlanBatch(*(part.to(self.device) for part in parts)) for task, parts in state["pool"].items()
        }
