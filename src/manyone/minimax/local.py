"""The local steps of a set of members: the part of a round that needs no communication, shared by both backends.

A member is one row of Z [members, P]: one client of one run (grid point, replica, twin). ``Members`` says who every
row is; ``LocalSteps`` holds Z and the plug-in's buffers and advances any contiguous range of rows by one step. What a
member computes depends on (seed, replica, client, global step) and its own row alone.
Public: ``Members``, ``Rates``, ``LocalSteps``, ``starting_rows``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import whole
from manyone.minimax.method import BatchSize
from manyone.minimax.problems.gradients import Gradient, Seeds
from manyone.minimax.problems.problem import Problem
from manyone.minimax.sampling import sample_indices, sample_normals
from manyone.minimax.schedules import StepSize, step_size
from manyone.minimax.steps import Buffers, LocalStep
from manyone.randomness import seed_for

_DRAWS_AHEAD = 1 << 20  # sample positions generated at a time


@dataclass(frozen=True)
class Members:
    """Who the M rows are: ``client`` (its number, 0..m-1), ``replica``, ``clients`` (m of its run), ``sizes`` (n_i):
    int64 [M]; ``table``: pool rows of its samples, int64 [M, n_max]; ``weight``: factor on its loss [M], or None."""

    client: Tensor
    replica: Tensor
    clients: Tensor
    table: Tensor
    sizes: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.client)


def starting_rows(
    problem: Problem, members: Members, replicas: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The rows [rows, P] at which ``members`` begin: the problem's start under each replica's own seed."""
    starts = [problem.start(seed_for(seed, "start", r), dtype) for r in range(replicas)]
    return torch.stack(starts).to(device)[members.replica.to(device)]


class Rates:
    """Step sizes of ranges of rows: ``parts`` = (rows in it, eta_x, eta_y), each a number or a function of s."""

    def __init__(self, parts: Sequence[tuple[int, StepSize, StepSize]], dtype: torch.dtype, device: str) -> None:
        self.parts, self.dtype, self.device = parts, dtype, device
        self.constant = not any(callable(eta) for _, *etas in parts for eta in etas)
        self.uniform = all(part[1:] == parts[0][1:] for part in parts)
        self._kept: tuple[Tensor, Tensor] | None = None

    def at(self, s: int, rows: slice) -> tuple[float | Tensor, float | Tensor]:
        """(eta_x, eta_y) at step ``s``: two numbers when all rows agree, else two tensors [rows, 1]."""
        if self.uniform:
            _, x, y = self.parts[0]
            return step_size(x, s, "eta_x"), step_size(y, s, "eta_y")
        if self._kept is None or not self.constant:
            counts = torch.tensor([part[0] for part in self.parts])
            etas = [[step_size(part[b], s, ("", "eta_x", "eta_y")[b]) for part in self.parts] for b in (1, 2)]
            columns = [torch.tensor(e, dtype=self.dtype).repeat_interleave(counts)[:, None] for e in etas]
            self._kept = columns[0].to(self.device), columns[1].to(self.device)
        return self._kept[0][rows], self._kept[1][rows]


class LocalSteps:
    """Z and buffers of ``members``, and their local steps. ``fields`` is the sample pool, name -> [N, ...].

    Attributes: ``z`` [M, P]; ``buffers``: the plug-in's, plus the problem's memory under "memory/...".
    """

    def __init__(
        self,
        problem: Problem,
        fields: Mapping[str, Tensor],
        members: Members,
        z: Tensor,
        rates: Rates,
        step: LocalStep,
        *,
        batch: BatchSize = 1,
        seed: int = 0,
        backend: str = "auto",
        chunk: int | None = None,
    ) -> None:
        chunk = None if chunk is None else whole("chunk", chunk, 1)
        self.problem, self.members, self.z, self.rates, self.plug_in = problem, members, z, rates, step
        self.batch_size, self.seed = batch, seed
        self.device, self.dtype = z.device, z.dtype
        self.fields = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in problem.prepare(fields).items()
        }
        self.gradient, self.chunk = Gradient(problem, backend), chunk
        self.buffers: Buffers = dict(step.buffers(z, problem.spec.p))
        memory = problem.memory(len(members), self.dtype, self.device)
        self.buffers.update({f"memory/{name}": value for name, value in memory.items()})
        triples = torch.stack([members.replica, members.client, members.sizes], 1)
        self._unique, self._inverse = triples.unique(dim=0, return_inverse=True)
        ahead = max(1, len(members)) * (batch if isinstance(batch, int) else 1)
        self._block = max(1, min(32, _DRAWS_AHEAD // ahead))
        self._drawn: dict[tuple[str, int], tuple[int, int, Tensor]] = {}
        self._vectors: dict[tuple[float, float], Tensor] = {}
        self._sign_y = 1.0 if problem.zero_sum else -1.0
        self._table = members.table.to(self.device)
        self._row_numbers = torch.arange(len(members), device=self.device)
        self.weight: Tensor | None = None
        if members.weight is not None:
            self.weigh(members.weight)

    def weigh(self, weight: Tensor) -> None:
        """From now on the members' losses count ``weight`` [M] times."""
        self.weight = weight.to(self.device, self.dtype)[:, None]

    def view(self, s: int, rows: slice, average: Callable[[Tensor], Tensor] | None = None) -> View:
        """The members ``rows`` at global step ``s``, as plug-ins see them."""
        return View(self, s, rows, average)

    def advance(self, s: int, rows: slice, mask: Tensor | None = None) -> None:
        """One local step of the members ``rows``; where ``mask`` (bool [rows]) is False nothing changes."""
        at = self.view(s, rows)
        kept = None
        if mask is not None:
            kept = [(value, value.clone()) for value in (at.z, *at.buffers.values(), *at.memory.values())]
        at.observe()
        self.plug_in.step(at)
        if mask is not None and kept is not None:
            for value, before in kept:
                value.copy_(torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value, before))

    def sample_batch(self, s: int, rows: slice, stream: int = 0) -> dict[str, Tensor]:
        """The batches [rows, b, ...] that these members use in step ``s``, gathered from the pool."""
        return self._gather(self._pool_rows(s, rows, stream), self._identity(rows))

    def sample_gradient(self, z: Tensor, s: int, rows: slice, stream: int, extra: Mapping[str, Tensor]) -> Tensor:
        """Gradients [rows, P] at ``z`` on the batches of step ``s``, ``chunk`` members at a time."""
        assert isinstance(self.batch_size, int)
        identity = {**self._identity(rows), **extra}
        noise = self.noise(s, rows, stream, self.batch_size)
        return self._chunked(z, self._pool_rows(s, rows, stream), identity, noise, self.seeds(s, rows, stream))

    def noise(self, s: int, rows: slice, stream: int, batch: int) -> Tensor | None:
        """The standard normal numbers of step ``s`` for these members, or None when the problem needs none."""
        shape = self.problem.noise_shape(batch)
        if shape is None:
            return None
        block = self._ahead(
            "noise",
            s,
            stream,
            len(self.members),
            lambda steps: sample_normals(self.seed, self._unique[:, 0], self._unique[:, 1], steps, shape, stream).to(
                self.device, self.dtype
            ),
        )
        return block[self._inverse[rows]]

    def seeds(self, s: int, rows: slice, stream: int) -> Seeds:
        """Row -> the seed of what its loss may draw in step ``s``; twins share it."""
        members = self.members

        def seed(i: int) -> int:
            row = rows.start + i
            return seed_for(self.seed, "loss", int(members.replica[row]), int(members.client[row]), s, stream)

        return seed

    def whole_shards(self, z: Tensor, rows: slice, s: int, stream: int, extra: Mapping[str, Tensor]) -> Tensor:
        """Gradients [rows, P] on all samples of every member; members of equal size are computed together."""
        sizes, seeds = self.members.sizes[rows].to(self.device), self.seeds(s, rows, stream)
        identity = {**self._identity(rows), **extra}
        result = torch.empty_like(z)
        distinct = sizes.unique().tolist()
        for n in distinct:
            places = (sizes == n).nonzero().flatten()
            mine = slice(None) if len(distinct) == 1 else places
            noise = self.noise(s, rows, stream, n)
            result[mine] = self._chunked(
                z[mine],
                self._table[rows][mine][:, :n],
                {name: value[mine] for name, value in identity.items()},
                None if noise is None else noise[mine],
                _seeds_of(seeds, places),
            )
        return result

    def _chunked(
        self, z: Tensor, index: Tensor, identity: Mapping[str, Tensor], noise: Tensor | None, seeds: Seeds
    ) -> Tensor:
        """Gradients on the pool rows ``index`` [members, b]; the batches of one chunk exist at a time."""
        chunk = self.chunk or len(z)
        if len(z) <= chunk:
            return self.gradient(z, self._gather(index, identity), noise, seeds)
        parts = []
        for at in range(0, len(z), chunk):
            piece = slice(at, at + chunk)
            batch = self._gather(index[piece], {name: value[piece] for name, value in identity.items()})
            own = None if noise is None else noise[piece]
            parts.append(self.gradient(z[piece], batch, own, _seeds_of(seeds, range(at, at + chunk))))
        return torch.cat(parts)

    def _gather(self, index: Tensor, identity: Mapping[str, Tensor]) -> dict[str, Tensor]:
        flat = index.flatten()
        found = {k: v.index_select(0, flat).view(*index.shape, *v.shape[1:]) for k, v in self.fields.items()}
        return {**found, **identity}

    def _identity(self, rows: slice) -> dict[str, Tensor]:
        """What the batch says about the client itself."""
        if not self.problem.uses_client:
            return {}
        members = self.members
        return {"client": members.client[rows].to(self.device), "clients": members.clients[rows].to(self.device)}

    def _pool_rows(self, s: int, rows: slice, stream: int) -> Tensor:
        """Pool rows int64 [rows, b] of step ``s``."""
        assert isinstance(self.batch_size, int)
        replica, client, sizes = self._unique.unbind(1)
        b = self.batch_size

        def draw(steps: range) -> Tensor:
            places = sample_indices(self.seed, replica, client, steps, sizes, b, stream).to(self.device)
            mine = places[:, self._inverse[: rows.stop]]
            return self._table[self._row_numbers[None, : rows.stop, None], mine]

        return self._ahead("rows", s, stream, rows.stop, draw)[rows]

    def _ahead(self, what: str, s: int, stream: int, width: int, draw: Callable[[range], Tensor]) -> Tensor:
        """Entry ``s`` of what ``draw`` makes for a block of steps; the last block is kept."""
        block = s // self._block
        kept = self._drawn.get((what, stream))
        if kept is None or kept[:2] != (block, width):
            kept = (block, width, draw(range(block * self._block, (block + 1) * self._block)))
            self._drawn[what, stream] = kept
        return kept[2][s % self._block]

    def step_vector(self, eta_x: float, eta_y: float) -> Tensor:
        """eta * sgn as one vector [P]."""
        vector = self._vectors.get((eta_x, eta_y))
        if vector is None:
            p = self.problem.spec.p
            vector = torch.full_like(self.z[0], -eta_x)
            vector[p:] = self._sign_y * eta_y
            self._vectors = {(eta_x, eta_y): vector}
        return vector


def _seeds_of(seeds: Seeds, places: Sequence[int] | Tensor) -> Seeds:
    """The seeds of some rows alone."""
    return lambda i: seeds(int(places[i]))


class View:
    """A range of members within one step: implements the protocol ``steps.LocalView``."""

    def __init__(self, local: LocalSteps, s: int, rows: slice, average: Callable[[Tensor], Tensor] | None) -> None:
        self._local, self._s, self._rows, self._average = local, s, rows, average
        self.p = local.problem.spec.p
        self.z = local.z[rows]
        self.buffers = {k: v[rows] for k, v in local.buffers.items() if not k.startswith("memory/")}
        self.memory = {k[7:]: v[rows] for k, v in local.buffers.items() if k.startswith("memory/")}
        self._batches: dict[int, dict[str, Tensor]] = {}
        self._added: dict[str, Tensor] | None = None

    def observe(self) -> None:
        """Lets the problem's memory see this step's batch."""
        if self.memory:
            if self._local.batch_size == "full":
                raise ManyoneError("a problem that counts its samples needs a mini-batch, not batch='full'")
            batch = self._local.sample_batch(self._s, self._rows)
            self._batches[0] = self._local.problem.observe(self.memory, dict(batch))
            self._added = {k: v for k, v in self._batches[0].items() if k not in batch}

    def gradient(self, z: Tensor, stream: int = 0) -> Tensor:
        """[rows, P] on this step's batch number ``stream``."""
        local = self._local
        if local.batch_size == "full":
            return self._weighted(local.whole_shards(z, self._rows, self._s, stream, {}))
        if local.chunk is not None and local.chunk < len(z):
            return self._weighted(local.sample_gradient(z, self._s, self._rows, stream, self._extra()))
        if stream not in self._batches:
            self._batches[stream] = {**local.sample_batch(self._s, self._rows, stream), **self._extra()}
        noise = local.noise(self._s, self._rows, stream, local.batch_size)
        seeds = local.seeds(self._s, self._rows, stream)
        return self._weighted(local.gradient(z, self._batches[stream], noise, seeds))

    def full_gradient(self, z: Tensor) -> Tensor:
        """[rows, P] on every member's whole shard (stream 255 for its noise)."""
        return self._weighted(self._local.whole_shards(z, self._rows, self._s, 255, self._extra()))

    def _extra(self) -> dict[str, Tensor]:
        """What the problem's memory adds to every batch of this step."""
        if self._added is None:
            self._added = self._local.problem.observe(self.memory, {}, update=False) if self.memory else {}
        return self._added

    def average(self, values: Tensor) -> Tensor:
        """The mean over the clients of each run, in every row."""
        if self._average is None:
            raise ManyoneError("this local step exchanges gradients at the round's start, which is not possible here")
        return self._average(values)

    def moved(self, z: Tensor, direction: Tensor) -> Tensor:
        """Proj(z + eta sgn direction)."""
        local = self._local
        eta_x, eta_y = local.rates.at(self._s, self._rows)
        if isinstance(eta_x, float) and isinstance(eta_y, float):
            out = torch.addcmul(z, direction, local.step_vector(eta_x, eta_y))
        else:
            out = z.clone()
            out[:, : self.p].addcmul_(direction[:, : self.p], torch.as_tensor(eta_x), value=-1)
            out[:, self.p :].addcmul_(direction[:, self.p :], torch.as_tensor(eta_y), value=local._sign_y)
        return local.problem.project(out, eta_x, eta_y) if local.problem.prox_at == "step" else out

    def move(self, direction: Tensor) -> None:
        """z <- Proj(z + eta sgn direction)."""
        local = self._local
        eta_x, eta_y = local.rates.at(self._s, self._rows)
        if isinstance(eta_x, float) and isinstance(eta_y, float):
            self.z.addcmul_(direction, local.step_vector(eta_x, eta_y))
        else:
            self.z[:, : self.p].addcmul_(direction[:, : self.p], torch.as_tensor(eta_x), value=-1)
            self.z[:, self.p :].addcmul_(direction[:, self.p :], torch.as_tensor(eta_y), value=local._sign_y)
        if local.problem.prox_at == "step" and local.problem.has_prox:
            self.z.copy_(local.problem.project(self.z, eta_x, eta_y))

    def _weighted(self, gradient: Tensor) -> Tensor:
        weight = self._local.weight
        return gradient if weight is None else gradient.mul_(weight[self._rows])
