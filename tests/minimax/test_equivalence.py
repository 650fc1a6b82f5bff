"""The stacked simulation is the plain algorithm, whatever the problem, topology, layout or back end."""

import itertools

import pytest
import torch
from tests.reference.minimax import local_sgda
from torch import nn

from manyone.minimax.client_data import ClientData
from manyone.minimax.local import LocalSteps, Members, Rates
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.agnostic import AgnosticLearning, GroupDRO
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.constrained import Constrained
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.module import ModuleProblem
from manyone.minimax.problems.problem import Problem
from manyone.minimax.problems.quadratic import QuadraticGame
from manyone.minimax.sampling import sample_indices, sample_normals
from manyone.minimax.simulated import Simulated
from manyone.minimax.steps import Simultaneous

F64 = torch.float64
M, N, D, K, T = 5, 6, 4, 3, 4


def fields(seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (M, N), generator=source)
    return {
        "features": torch.randn(M, N, D, generator=source, dtype=F64),
        "labels": labels,
        "group": torch.randint(0, 2, (M, N), generator=source),
    }


def signed(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**values, "labels": torch.where(values["labels"] > 0, -1.0, 1.0).to(F64)}


def net(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Bent(nn.Module):
    """Something that is not a plain sequence, so only vmap can run it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net(D, 3, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale + x.sum(-1, keepdim=True)


def heterogeneous_game() -> QuadraticGame:
    source = torch.Generator().manual_seed(3)
    half = torch.randn(M, 2, 2, generator=source, dtype=F64) * 0.4
    return QuadraticGame(half @ half.mT, torch.randn(M, 2, 2, generator=source, dtype=F64), half.mT @ half)


def two_module_problem() -> ModuleProblem:
    def loss(model, critic, batch, noise):
        h = model(batch["features"]).squeeze(-1)
        return (h * critic(batch["features"] + 0.1 * noise).squeeze(-1)).mean() + 0.1 * h.square().mean()

    return ModuleProblem(Bent(), net(D, 2, 1), loss, noise_shape=lambda b: (b, D))


def constrained_problem() -> Constrained:
    return Constrained(
        net(D, 1),
        lambda model, batch: (model(batch["features"]).squeeze(-1) - batch["labels"]).square().mean(),
        lambda model, batch: model(batch["features"]).squeeze(-1).mean()[None] - 0.1,
        count=1,
    )


PROBLEMS = {
    "auc": (lambda: AUC(0.4, dim=D, ridge=0.1), signed(fields())),
    "aucm-mlp": (lambda: AUC(0.4, score=net(D, 3, 1), form="aucm", ridge=0.1), signed(fields())),
    "auc-any-module": (lambda: AUC(0.4, score=Bent()), signed(fields())),
    "gan": (lambda: GAN(net(2, 3, D), net(D, 3, 1), 2), {"features": fields()["features"]}),
    "gan-non-saturating": (
        lambda: GAN(net(2, 3, D), net(D, 3, 1), 2, form="non-saturating"),
        {"features": fields()["features"]},
    ),
    "agnostic": (lambda: AgnosticLearning(net(D, 3), M, rho=0.2), fields()),
    "group-dro": (lambda: GroupDRO(net(D, 4, 3), 2, frequencies=[0.3, 0.7], rho=0.1), fields()),
    "quadratic": (heterogeneous_game, {"g": torch.randn(M, N, 4, generator=torch.Generator().manual_seed(5)).double()}),
    "modules": (two_module_problem, signed(fields())),
    "constrained": (constrained_problem, signed(fields())),
}


def batches(problem: Problem, values: dict[str, torch.Tensor], b: int, seed: int = 0):
    draws = sample_indices(seed, 0, range(M), range(K * T), N, b)
    shape = problem.noise_shape(b)
    noise = None if shape is None else sample_normals(seed, 0, range(M), range(K * T), shape)

    def batch_of(i: int, s: int):
        batch = {name: value[i][draws[s, i]] for name, value in values.items()}
        if problem.uses_client:
            batch.update(client=torch.tensor(i), clients=torch.tensor(M))
        return batch, None if noise is None else noise[s, i]

    return batch_of


@pytest.mark.parametrize("name", PROBLEMS)
def test_simulation_equals_the_plain_loop_for_every_problem_and_backend(name):
    make, values = PROBLEMS[name]
    problem = make()
    start = problem.start(3, F64) + 0.1
    method = DistributedSGDA(topology="ring", steps=K, rounds=T, batch=2, step_sizes=(0.1, 0.2))
    expected = local_sgda(
        problem, start, batches(problem, values, 2), lambda t: Topology("ring").weights(t, M), M, K, T, 0.1, 0.2
    )
    ways = [{"backend": "vmap"}, {"backend": "vmap", "chunk": 2}, {}]
    if problem.stackable or name == "quadratic":
        ways += [{"backend": "stacked"}, {"backend": "stacked", "chunk": 2}]
    for way in ways:
        run = Simulated(problem, ClientData.of_shards(values), method, start=start, dtype=F64, **way)
        run.run()
        assert float((run.state()[0, 0] - expected).abs().max()) <= 1e-13, way


@pytest.mark.parametrize("topology", ["server", "exponential", "one-peer-exponential", "random-matching", "star"])
@pytest.mark.parametrize("order", ["adapt-then-combine", "combine-then-adapt"])
def test_simulation_equals_the_plain_loop_for_every_topology_and_order(topology, order):
    make, values = PROBLEMS["auc"]
    problem = make()
    start = torch.full((problem.spec.size,), 0.3, dtype=F64)
    expected = local_sgda(
        problem,
        start,
        batches(problem, values, 1),
        lambda t: Topology(topology).weights(t, M),
        M,
        K,
        T,
        0.1,
        0.2,
        combine_first=order == "combine-then-adapt",
    )
    run = Simulated(
        problem,
        ClientData.of_shards(values),
        DistributedSGDA(topology=topology, steps=K, rounds=T, order=order, step_sizes=(0.1, 0.2)),
        dtype=F64,
        start=start,
    )
    run.run()
    assert float((run.state()[0, 0] - expected).abs().max()) <= 1e-14


def test_one_step_rounds_at_the_server_are_centralised_sgda_with_the_concatenated_batch():
    make, values = PROBLEMS["aucm-mlp"]
    problem, b, rounds = make(), 3, 12
    start = problem.start(0, F64)
    run = Simulated(
        problem,
        ClientData.of_shards(values),
        DistributedSGDA(topology="server", steps=1, rounds=rounds, batch=b),
        dtype=F64,
        start=start,
    )

    draws = sample_indices(0, 0, range(M), range(rounds), N, b)

    def batch_of(_: int, s: int):
        return {k: torch.cat([v[i][draws[s, i]] for i in range(M)]) for k, v in values.items()}, None

    central = local_sgda(problem, start, batch_of, lambda t: torch.ones(1, 1, dtype=F64), 1, 1, rounds, 0.1, 0.1)
    # the projection alpha >= 0 is inactive here, otherwise averaging after it would differ
    assert float(central[0, -1]) > 0
    assert float((run.run()[0, 0] - central[0]).abs().max()) <= 1e-15 * 5


def test_isolated_clients_are_independent_runs_and_one_client_is_sgda():
    make, values = PROBLEMS["auc"]
    problem = make()
    start = problem.start(0, F64)
    run = Simulated(
        problem, ClientData.of_shards(values), DistributedSGDA(topology="isolated", steps=K, rounds=T), dtype=F64
    )
    run.run()
    batch_of, one = batches(problem, values, 1), torch.ones(1, 1, dtype=F64)
    for i in range(M):
        alone = local_sgda(problem, start, lambda _, s, i=i: batch_of(i, s), lambda t: one, 1, 1, K * T, 0.1, 0.1)
        assert float((run.state()[0, 0, i] - alone[0]).abs().max()) <= 1e-15
    single = ClientData.of_shards({name: value[:1] for name, value in values.items()})
    for topology in ("server", "ring", "exponential"):
        sgda = Simulated(problem, single, DistributedSGDA(topology=topology, steps=K, rounds=T), dtype=F64).run()
        assert float((sgda[0, 0] - run.state()[0, 0, 0]).abs().max()) <= 1e-15


def test_one_step_gossip_rounds_are_d_sgda():
    make, values = PROBLEMS["auc"]
    problem, rounds = make(), 8
    w, z = Topology("ring").weights(0, M), torch.zeros(M, problem.spec.size, dtype=F64)
    draws, sign = sample_indices(0, 0, range(M), range(rounds), N, 1), problem.spec.sign()
    for s in range(rounds):  # D-SGDA as a matrix recursion with the stacked closed-form gradient
        batch = {name: torch.stack([v[i][draws[s, i]] for i in range(M)]) for name, v in values.items()}
        z = w @ (z + 0.1 * sign * problem.stacked_gradient(z, batch))
    run = Simulated(
        problem,
        ClientData.of_shards(values),
        DistributedSGDA(topology="ring", steps=1, rounds=rounds),
        dtype=F64,
        backend="vmap",
    )
    run.run()
    assert float((run.state()[0, 0] - z).abs().max()) <= 1e-15


def test_the_server_leaves_all_clients_identical():
    make, values = PROBLEMS["aucm-mlp"]
    run = Simulated(make(), ClientData.of_shards(values), DistributedSGDA(topology="server", steps=K, rounds=T))
    for _ in range(T):
        run.round()
        assert float((run.state() - run.consensus()[:, :, None]).abs().max()) <= 1e-6
    assert all(float(record["consensus"]) <= 1e-6 for record in run.records)


@pytest.mark.parametrize("topology", ["server", "ring", "star", "exponential"])
def test_identical_data_on_all_clients_equals_one_client(topology):
    values = signed(fields())
    same = {name: value[:1].expand(M, *value.shape[1:]).contiguous() for name, value in values.items()}
    one = {name: value[:1] for name, value in values.items()}
    problem = AUC(0.4, score=net(D, 3, 1))
    many, single = (
        Simulated(
            problem,
            ClientData.of_shards(v),
            DistributedSGDA(topology=topology, steps=K, rounds=T, batch="full"),
            dtype=F64,
        )
        for v in (same, one)
    )
    many.run(), single.run()
    assert float((many.state()[0, 0] - single.state()[0, 0]).abs().max()) <= 1e-15


def local_steps(clients: list[int], values: dict[str, torch.Tensor], problem: Problem, z: torch.Tensor) -> LocalSteps:
    ids = torch.tensor(clients)
    table = torch.arange(M * N).view(M, N)[ids]
    members = Members(ids, torch.zeros_like(ids), torch.full_like(ids, M), table, torch.full_like(ids, N))
    pool = {name: value.flatten(0, 1) for name, value in values.items()}
    return LocalSteps(problem, pool, members, z, Rates([(len(ids), 0.1, 0.2)], F64, "cpu"), Simultaneous(), batch=2)


@pytest.mark.parametrize("name", ["aucm-mlp", "agnostic", "gan"])
def test_relabelling_clients_permutes_the_states_and_the_split_into_ranks_changes_nothing(name):
    make, values = PROBLEMS[name]
    problem = make()
    w = torch.rand(M, M, generator=torch.Generator().manual_seed(0), dtype=F64).softmax(1)
    start = problem.start(0, F64).expand(M, -1)

    def trajectory(split: list[list[int]], w: torch.Tensor) -> torch.Tensor:
        parts = [local_steps(part, values, problem, start[: len(part)].clone()) for part in split]
        for t in range(T):
            for part in parts:
                for k in range(K):
                    part.advance(t * K + k, slice(0, len(part.members)))
            mixed = problem.project(w @ torch.cat([part.z for part in parts]))
            for part, rows in zip(parts, mixed.split([len(part.members) for part in parts]), strict=True):
                part.z.copy_(rows)
        return torch.cat([part.z for part in parts])

    expected = trajectory([list(range(M))], w)
    order = [3, 0, 4, 2, 1]
    permuted = trajectory([order], w[order][:, order])
    assert float((permuted - expected[order]).abs().max()) <= 1e-14
    for split in ([[0, 1], [2, 3, 4]], [[i] for i in range(M)]):
        assert float((trajectory(split, w) - expected).abs().max()) <= 1e-14
