"""The local-step plug-ins against the formulas that define them and against torch's own optimisers."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.quadratic import QuadraticGame
from manyone.minimax.sampling import sample_indices
from manyone.minimax.simulated import Simulated
from manyone.minimax.steps import (
    STEPS,
    Adam,
    Extragradient,
    HeavyBall,
    InnerAscent,
    OuterStep,
    SnapshotAscent,
    local_step,
)

F64 = torch.float64
M, N, ETA = 4, 5, 0.1


def game() -> QuadraticGame:
    source = torch.Generator().manual_seed(0)
    eye = torch.eye(2, dtype=F64)
    return QuadraticGame(0.5 * eye, torch.randn(2, 2, generator=source, dtype=F64), 0.7 * eye)


def data() -> ClientData:
    return ClientData.of_shards({"g": torch.randn(M, N, 4, generator=torch.Generator().manual_seed(1), dtype=F64)})


def run(step, topology="isolated", steps=6, rounds=1, **more) -> torch.Tensor:
    words = {"steps": steps, "rounds": rounds, "step_sizes": (ETA, 2 * ETA), "local_step": step, **more}
    method = DistributedSGDA(topology=topology, **words)
    simulation = Simulated(game(), data(), method, start=torch.ones(4), dtype=F64)
    simulation.run()
    return simulation.state()[0, 0]


def field(z: torch.Tensor, i: int, s: int, stream: int = 0) -> torch.Tensor:
    """The saddle field M z + g of client i's sample at step s."""
    j = int(sample_indices(0, 0, [i], [s], N, 1, stream))
    return game().jacobian() @ z + data().fields["g"][i * N + j]


H = torch.tensor([ETA, ETA, 2 * ETA, 2 * ETA], dtype=F64)


def test_alternating():
    found = run("alternating")
    for i in range(M):
        z = torch.ones(4, dtype=F64)
        for s in range(6):
            z = torch.cat([(z - H * field(z, i, s))[:2], z[2:]])
            z = torch.cat([z[:2], (z - H * field(z, i, s))[2:]])
        assert torch.allclose(found[i], z, atol=1e-14)


@pytest.mark.parametrize("samples", [1, 2])
def test_extragradient(samples):
    found = run(Extragradient(samples))
    for i in range(M):
        z = torch.ones(4, dtype=F64)
        for s in range(6):
            ahead = z - H * field(z, i, s)
            z = z - H * field(ahead, i, s, samples - 1)
        assert torch.allclose(found[i], z, atol=1e-14)


def test_optimistic():
    found = run("optimistic")
    for i in range(M):
        z, previous = torch.ones(4, dtype=F64), None
        for s in range(6):
            g = field(z, i, s)
            z, previous = z - H * (2 * g - (g if previous is None else previous)), g
        assert torch.allclose(found[i], z, atol=1e-14)


@pytest.mark.parametrize("kind", ["heavy-ball", "adam"])
def test_heavy_ball_and_adam_are_torchs_per_block(kind):
    found = run(HeavyBall(0.9, 0.5) if kind == "heavy-ball" else Adam((0.9, 0.99), (0.5, 0.9)))
    for i in range(M):
        x, y = torch.ones(2, dtype=F64), torch.ones(2, dtype=F64)
        if kind == "heavy-ball":
            optimisers = [torch.optim.SGD([v], lr, momentum=b) for v, lr, b in ((x, ETA, 0.9), (y, 2 * ETA, 0.5))]
        else:
            optimisers = [
                torch.optim.Adam([v], lr, b) for v, lr, b in ((x, ETA, (0.9, 0.99)), (y, 2 * ETA, (0.5, 0.9)))
            ]
        for s in range(6):
            g = field(torch.cat([x, y]), i, s)
            x.grad, y.grad = g[:2], g[2:]
            for optimiser in optimisers:
                optimiser.step()
        assert torch.allclose(found[i], torch.cat([x, y]), atol=1e-13)


def test_local_sgda_plus_uses_an_old_x_for_y():
    every, rounds, k = 2, 5, 3
    found = run(SnapshotAscent(every), topology="server", steps=k, rounds=rounds)
    z = torch.ones(M, 4, dtype=F64)
    for t in range(rounds):
        if t % every == 0:
            snapshot = z[:, :2].clone()
        for s in range(t * k, t * k + k):
            there = torch.cat([snapshot, z[:, 2:]], 1)
            g = torch.stack([torch.cat([field(z[i], i, s)[:2], field(there[i], i, s)[2:]]) for i in range(M)])
            z = z - H * g
        z = z.mean(0).expand(M, 4).clone()
    assert torch.allclose(found, z, atol=1e-14)
    assert not torch.allclose(found, run("simultaneous", topology="server", steps=k, rounds=rounds))  # it is not SGDA


def test_gradient_tracking_adds_the_mean_minus_its_own_full_gradient():
    found = run("gradient-tracking", topology="server", steps=3, rounds=2)
    shards = data().fields["g"].view(M, N, 4)
    z = torch.ones(M, 4, dtype=F64)
    for t in range(2):
        own = z @ game().jacobian().T + shards.mean(1)
        correction = own.mean(0) - own
        for s in range(3 * t, 3 * t + 3):
            z = z - H * torch.stack([field(z[i], i, s) + correction[i] for i in range(M)])
        z = z.mean(0).expand(M, 4).clone()
    assert torch.allclose(found, z, atol=1e-14)
    with pytest.raises(ManyoneError, match="gradient tracking needs topology"):
        run("gradient-tracking", topology="ring")


def test_control_variates_use_a_minibatch_of_their_own():
    found = run("control-variates", topology="server", steps=3, rounds=1)
    start = torch.ones(4, dtype=F64)
    own = torch.stack([field(start, i, 0, stream=1) for i in range(M)])
    z = start.expand(M, 4)
    for s in range(3):
        z = z - H * torch.stack([field(z[i], i, s) + own.mean(0) - own[i] for i in range(M)])
    assert torch.allclose(found, z.mean(0).expand(M, 4), atol=1e-14)


def test_gdmax_ascends_several_times_before_x_descends():
    found = run(InnerAscent(3), steps=2)
    for i in range(M):
        z = torch.ones(4, dtype=F64)
        for s in range(2):
            for _ in range(3):
                z = torch.cat([z[:2], (z - H * field(z, i, s))[2:]])
            z = torch.cat([(z - H * field(z, i, s))[:2], z[2:]])
        assert torch.allclose(found[i], z, atol=1e-14)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_outer_step_is_torchs_sgd_on_the_rounds_displacement(nesterov):
    found = run("simultaneous", topology="server", steps=2, rounds=4, outer=OuterStep(0.7, 0.9, nesterov))
    z = torch.ones(4, dtype=F64)
    optimiser = torch.optim.SGD([z], lr=0.7, momentum=0.9, nesterov=nesterov)
    for t in range(4):
        local = z.clone().expand(M, 4)
        for s in (2 * t, 2 * t + 1):
            local = local - H * torch.stack([field(local[i], i, s) for i in range(M)])
        z.grad = z - local.mean(0)
        optimiser.step()
    assert torch.allclose(found, z.expand(M, 4), atol=1e-14)
    plain = run("simultaneous", topology="server", steps=2, rounds=4)
    assert torch.allclose(run("simultaneous", "server", 2, 4, outer=OuterStep(1.0, 0.0)), plain, atol=1e-14)


def test_momentum_at_a_round_end():
    """Server: reset by default; gossip: each keeps its own; "average": the mean over the clients."""

    def velocity(sync: str, topology: str) -> torch.Tensor:
        plug_in = HeavyBall(0.9, 0.9, sync=sync)
        simulation = Simulated(
            game(),
            data(),
            DistributedSGDA(topology=topology, steps=2, rounds=3, local_step=plug_in, step_sizes=(ETA, ETA)),
            dtype=F64,
        )
        simulation.round()
        return simulation.local.buffers["velocity"]

    kept = velocity("keep", "ring")
    assert torch.equal(velocity("auto", "ring"), kept)
    assert float(kept.abs().max()) > 0
    assert float(velocity("auto", "server").abs().max()) == 0
    assert float(velocity("reset", "ring").abs().max()) == 0
    assert torch.allclose(velocity("average", "ring"), kept.mean(0).expand(M, 4), atol=1e-14)


@pytest.mark.parametrize("name", STEPS)
def test_every_plug_in_projects_and_is_the_same_in_both_backends(name):
    source = torch.Generator().manual_seed(0)
    labels = torch.sign(torch.randn(M, N, generator=source, dtype=F64))
    shards = ClientData.of_shards({"features": torch.randn(M, N, 3, generator=source, dtype=F64), "labels": labels})
    states = []
    for backend in ("stacked", "vmap"):
        problem = AUC(0.4, dim=3, form="aucm", margin=0.0)
        simulation = Simulated(
            problem,
            shards,
            DistributedSGDA(topology="server", steps=3, rounds=4, local_step=name),
            dtype=F64,
            backend=backend,
            points=[{"eta": 0.1}, {"eta_x": 0.05, "eta_y": lambda s: 0.2 / (s + 1)}],
        )
        simulation.run()
        states.append(simulation.z.clone())
    assert torch.allclose(states[0], states[1], atol=1e-13)
    assert float(states[0][:, -1].min()) >= 0


def test_errors():
    with pytest.raises(ManyoneError, match="choose one of"):
        local_step("sgd")
    with pytest.raises(ManyoneError, match="beta_x = 1"):
        HeavyBall(1.0)
    with pytest.raises(ManyoneError, match="samples = 3"):
        Extragradient(3)
    with pytest.raises(ManyoneError, match="every 0 rounds"):
        SnapshotAscent(0)
    with pytest.raises(ManyoneError, match="inner = 0"):
        InnerAscent(0)
    with pytest.raises(ManyoneError, match="lr = 0"):
        OuterStep(lr=0.0)
