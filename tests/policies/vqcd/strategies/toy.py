"""A trainee without a planner: a small network on windows of noise, and a learner's order of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from manyone.policies.vqcd.data import PlanBatch
from manyone.policies.vqcd.strategy import Strategy, make_strategy
from manyone.randomness import generator_for

T, STATES, ACTIONS, ROWS = 3, 2, 1, 200


class Toy:
    """Regression from a window's states to its actions: task i's map is its own. Remembers what was read."""

    def __init__(self, tasks: int = 3, steps: int = 12, seed: int = 0, layers: bool = True) -> None:
        self.tasks, self.steps, self.seed = tasks, steps, seed
        self.network = self._made(6, "live") if layers else self._linear()
        draw = generator_for("toy")
        self.states = torch.randn(tasks, ROWS, T, STATES, dtype=torch.float64, generator=draw)
        maps = torch.randn(tasks, T * STATES, T * ACTIONS, dtype=torch.float64, generator=draw)
        self.actions = (self.states.flatten(2) @ maps).unflatten(-1, (T, ACTIONS))
        self.read: list[tuple[int, str, float]] = []
        self.shape = (4, T, STATES, ACTIONS)

    def _made(self, width: int, who: str) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(len(who))
            inner = nn.Linear(T * STATES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
            return nn.Sequential(*inner, nn.Linear(width, T * ACTIONS)).double()

    def _linear(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return nn.Sequential(nn.Linear(T * STATES, T * ACTIONS)).double()

    def batch(self, task: int, step: int, purpose: str = "train", newest: float = 1.0) -> PlanBatch:
        """Four windows, the newest at the end."""
        self.read.append((task, purpose, newest))
        first = min(ROWS - 1, int((1 - newest) * ROWS))
        rows = torch.randint(first, ROWS, (4,), generator=generator_for(self.seed, purpose, task, step))
        ones = torch.ones(4, dtype=torch.float64)
        return PlanBatch(self.states[task, rows], self.actions[task, rows], ones, torch.ones(4, T).bool(), rows / ROWS)

    def output(self, task: int, batch: PlanBatch, step: int) -> Tensor:
        """What the network gives."""
        return self.network(batch.states.flatten(1))

    def loss(self, task: int, batch: PlanBatch, step: int, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean squared error."""
        return self.loss_of(self.network, batch, weights)

    def loss_of(self, network: nn.Module, batch: PlanBatch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The same of any network."""
        given = dict(network.named_parameters()) | dict(weights or {})
        found = torch.func.functional_call(network, given, (batch.states.flatten(1),))
        return (found - batch.actions.flatten(1)).square().mean()

    def count(self, task: int) -> int:
        """Windows of a task."""
        return ROWS

    def another(self, share: float, who: str) -> nn.Module:
        """A narrower one."""
        return self._made(max(1, round(6 * share**0.5)), who)


def train_task(
    toy: Toy,
    strategy: Strategy,
    task: int,
    optimiser: Callable[..., torch.optim.Optimizer],
    steps: int,
    averaged: bool = False,
    first: int = 0,
    moving: torch.optim.Optimizer | None = None,
) -> torch.optim.Optimizer:
    """The steps ``first`` to ``steps`` of a task, in the order that the protocol says; begun if ``first`` is 0."""
    if first == 0:
        strategy.begin(task)
    network, trained = strategy.network(task), strategy.trainable(task)
    moving = moving or optimiser(trained)
    mean = [p.detach().clone() for p in trained]
    for step in range(first, steps):
        total: Tensor = torch.zeros((), dtype=torch.float64)
        for of, weight in strategy.shares(task, step):
            windows = strategy.windows(of, step)
            batch = toy.batch(of, step) if windows is None else windows
            total = total + weight * toy.loss_of(network, batch, strategy.overrides())
        penalty = strategy.penalty()
        total = total if penalty is None else total + penalty
        for p in network.parameters():
            p.grad = None
        moving.zero_grad()
        total.backward()
        strategy.filter_gradients()
        moving.step()
        strategy.after_step(task, step)
        for value, p in zip(mean, trained):
            value.mul_(0.7).add_(p.detach(), alpha=0.3)
    if steps == toy.steps:
        if averaged:
            with torch.no_grad():
                for value, p in zip(mean, trained):
                    p.copy_(value)
        strategy.end(task)
    return moving


def adam(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As planners are trained."""
    return torch.optim.Adam(trained, lr=0.05)


def adamw(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Moves what has no gradient."""
    return torch.optim.AdamW(trained, lr=0.05, weight_decay=0.3)


def run(
    name: str,
    toy: Toy,
    *,
    optimiser: Callable[..., torch.optim.Optimizer] = adam,
    averaged: bool = False,
    after: Callable[[int, Strategy], None] | None = None,
    at_once: bool = False,
    **options: object,
) -> Strategy:
    """All tasks in turn; ``after`` is called at the end of each."""
    strategy = make_strategy(name, toy, options)
    for task in range(1 if at_once else toy.tasks):
        train_task(toy, strategy, task, optimiser, toy.steps, averaged)
        if after:
            after(task, strategy)
    return strategy


def answers(toy: Toy, strategy: Strategy, task: int) -> Tensor:
    """What the strategy's network gives in ``task`` on fixed windows."""
    network = strategy.network(task)
    return torch.func.functional_call(network, strategy.weights(task), (toy.states[task].flatten(1),)).detach()


def digest(state: object) -> object:
    """What a state holds, comparable."""
    if isinstance(state, dict):
        return [(key, digest(value)) for key, value in state.items()]
    if isinstance(state, (list, tuple)):
        return [digest(value) for value in state]
    return state.tolist() if isinstance(state, Tensor) else state
