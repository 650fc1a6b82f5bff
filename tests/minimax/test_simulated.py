"""The member axis (grid points, replicas, twins), partial participation, failures, stragglers, resume."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.participation import (
    FailureTrace,
    Participation,
    RandomFailures,
    RandomStepCounts,
    normalise_steps,
)
from manyone.minimax.mixing.topology import Topology, repair
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.quadratic import QuadraticGame
from manyone.minimax.schedules import decaying, round_ends, step_size
from manyone.minimax.simulated import Simulated
from manyone.minimax.steps import OuterStep

F64 = torch.float64


def data(m: int = 6, n: int = 8, d: int = 3, seed: int = 0) -> ClientData:
    source = torch.Generator().manual_seed(seed)
    labels = torch.sign(torch.randn(m, n, generator=source, dtype=F64))
    return ClientData.of_shards({"features": torch.randn(m, n, d, generator=source, dtype=F64), "labels": labels})


def auc() -> AUC:
    return AUC(0.4, dim=3, ridge=0.1)


def test_a_grid_is_the_same_numbers_as_its_points_alone():
    shared = data()
    fewer = ClientData(shared.fields, shared.table[:, :, :4, :5], torch.full((4,), 5))
    points = [
        {"steps": 1, "eta": 0.1},
        {"steps": 5, "eta_x": 0.2, "eta_y": decaying(1.0)},
        {"steps": 2, "rounds": 9, "topology": "ring"},
        {"steps": lambda t: 1 + t % 3, "topology": "star"},
        {"data": fewer, "eta": 0.3, "topology": "one-peer-exponential"},
        {"data": data(seed=1), "steps": 2},
    ]
    method = DistributedSGDA(rounds=6, batch=2)
    common = {"replicas": 2, "seed": 4, "dtype": F64, "time_average": True}
    together = Simulated(auc(), shared, method, points=points, **common)
    ended: list[tuple[int, int]] = []
    together.run(lambda simulation, point, rounds: ended.append((point, rounds)))
    for i, point in enumerate(points):
        alone = Simulated(auc(), shared, method, points=[point], **common)
        alone.run()
        assert float((together.state(i) - alone.state()).abs().max()) <= 1e-14
        assert float((together.time_average(i) - alone.time_average()).abs().max()) <= 1e-14
        rounds = 9 if i == 2 else 6
        assert [r for p, r in ended if p == i] == list(range(1, rounds + 1))
        assert together.rounds_done(i) == rounds
        mine = [record["round"] for record in together.records if record["point"] == i]
        assert mine[-1] == rounds
    with pytest.raises(ManyoneError, match="unequal length"):
        together.round()


def test_replicas_are_runs_of_their_own_with_their_own_draws():
    run = Simulated(auc(), data(), DistributedSGDA(topology="ring", rounds=4), replicas=3, dtype=F64)
    run.run()
    assert run.state().shape == (3, 1, 6, 6)
    assert not torch.allclose(run.consensus()[0], run.consensus()[1])
    assert run.records[-1]["consensus"].shape == (3, 1)
    spread = (run.state() - run.consensus()[:, :, None]).square().sum(-1).mean(-1).sqrt()
    assert torch.allclose(run.records[-1]["consensus"], spread)
    first = Simulated(auc(), data(), DistributedSGDA(topology="ring", rounds=4), dtype=F64).run()
    assert float((first[0, 0] - run.consensus()[0, 0]).abs().max()) <= 1e-15


OPTIONS = {
    "plain": {},
    "everything at the server": {
        "topology": "server",
        "participation": Participation(count=3),
        "client_steps": RandomStepCounts(1, 3),
        "outer": OuterStep(),
        "local_step": "adam",
    },
    "failing ring": {"topology": "ring", "failures": RandomFailures(0.3), "local_step": "optimistic"},
    "push-sum": {"topology": "exponential", "failures": RandomFailures(0.3), "push_sum": True},
    "combine first": {"topology": "ring", "order": "combine-then-adapt", "local_step": "sgda-plus"},
    "unequal rounds": {"local_step": "heavy-ball"},
}
POINTS = {"unequal rounds": [{"steps": 2}, {"steps": 5, "topology": "ring"}]}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("at", [3, 9, 10])
def test_resume_at_any_step_is_bit_for_bit(name, at):
    def make() -> Simulated:
        problem = AUC(0.4, dim=3, running_p=True)
        method = DistributedSGDA(**{"steps": 3, "rounds": 6, **OPTIONS[name]})
        return Simulated(problem, data(), method, points=POINTS.get(name), time_average="everything" in name)

    whole, first, second = make(), make(), make()
    whole.run()
    first.advance(at)
    saved = first.state_dict()
    first.advance(at + 2)  # what was saved does not change afterwards
    second.load_state_dict(saved)
    second.run()
    assert torch.equal(second.z, whole.z)
    assert [r["round"] for r in second.records] == [r["round"] for r in whole.records]
    with pytest.raises(ManyoneError, match="construct it as it was"):
        Simulated(auc(), data(4)).load_state_dict(saved)


def test_partial_participation_averages_the_chosen_and_overwrites_the_others():
    choice = Participation(fraction=0.5, seed=3)
    run = Simulated(
        auc(), data(), DistributedSGDA(topology="server", steps=2, rounds=5, participation=choice), dtype=F64, seed=1
    )
    full = Simulated(auc(), data(), DistributedSGDA(topology="isolated", steps=2, rounds=1), dtype=F64, seed=1)
    full.run()
    chosen = choice.taking_part(0, 6)
    assert int(chosen.sum()) == 3
    run.round()
    expected = full.state()[0, 0][chosen].mean(0)
    assert float((run.state()[0, 0] - expected).abs().max()) <= 1e-15
    sets = {tuple(choice.taking_part(t, 6).tolist()) for t in range(30)}
    assert len(sets) > 10
    counts = torch.stack([choice.taking_part(t, 6) for t in range(600)]).double().mean(0)
    assert float((counts - 0.5).abs().max()) < 0.07  # unbiased


def test_failed_nodes_keep_their_state_and_the_others_mix_with_the_repaired_matrix():
    down = FailureTrace({0: [1, 4]})
    run = Simulated(
        auc(),
        data(),
        DistributedSGDA(topology="ring", steps=2, rounds=2, failures=down),
        dtype=F64,
        start=torch.ones(6),
    )
    alone = Simulated(
        auc(), data(), DistributedSGDA(topology="isolated", steps=2, rounds=1), dtype=F64, start=torch.ones(6)
    )
    alone.run(), run.round()
    alive = down.alive(0, 6)
    before = torch.where(alive[:, None], alone.state()[0, 0], torch.ones(6, 6, dtype=F64))
    expected = repair(Topology("ring").weights(0, 6), alive) @ before
    assert float((run.state()[0, 0] - expected).abs().max()) <= 1e-15
    assert torch.equal(run.state()[0, 0][~alive], torch.ones(2, 6, dtype=F64))
    run.round()
    assert not bool((run.state()[0, 0] == 1).any())


def test_push_sum_keeps_the_average_exact_where_nothing_moves():
    start = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    run = Simulated(
        auc(),
        data(),
        DistributedSGDA(
            topology="exponential",
            steps=1,
            rounds=300,
            failures=RandomFailures(0.2),
            push_sum=True,
            step_sizes=(0.0, 0.0),
        ),
        dtype=F64,
        start=start,
    )
    run.run()
    assert float((run.state()[0, 0] - start.mean(0)).abs().max()) <= 1e-13


def test_unequal_local_steps_are_normalised():
    counts = [1, 3, 2, 3, 1, 2]
    eye = torch.eye(2, dtype=F64)
    far = 10 * torch.arange(6, dtype=F64)[:, None, None].expand(6, 1, 4)
    game, shards = QuadraticGame(eye, 0 * eye, eye), ClientData.of_shards({"g": -far.contiguous()})

    def end(normalise: bool) -> torch.Tensor:
        run = Simulated(
            game,
            shards,
            DistributedSGDA(
                topology="server",
                steps=3,
                rounds=150,
                batch="full",
                client_steps=counts,
                normalise=normalise,
                step_sizes=(0.03, 0.03),
            ),
            dtype=F64,
        )
        return run.run()[0, 0]

    saddle = game.saddle(-far[:, 0])
    assert float((end(True) - saddle).norm()) < 0.3 * float((end(False) - saddle).norm())
    z = torch.tensor([[[3.0], [5.0], [7.0]]])
    found = normalise_steps(torch.ones_like(z), z, torch.tensor([[2, 4, 0]]))
    assert found.flatten().tolist() == [1 + 3 * 2 / 2, 1 + 3 * 4 / 4, 1.0]
    found = normalise_steps(torch.ones_like(z), z, torch.tensor([[2, 4, 3]]), torch.tensor([[True, True, False]]))
    assert found.flatten().tolist() == [1 + 3 * 2 / 2, 1 + 3 * 4 / 4, 1.0]


def test_clients_make_exactly_their_number_of_steps():
    run = Simulated(
        auc(),
        data(2),
        DistributedSGDA(topology="isolated", steps=3, rounds=1, client_steps=[1, 3], normalise=False),
        dtype=F64,
    )
    run.run()
    for i, steps in ((0, 1), (1, 3)):
        alone = Simulated(auc(), data(2), DistributedSGDA(topology="isolated", steps=steps, rounds=1), dtype=F64)
        alone.run()
        assert torch.equal(run.state()[0, 0, i], alone.state()[0, 0, i])


@pytest.mark.parametrize("weighting", ["loss", "average"])
def test_unequal_shards_weighted_by_their_size_have_the_pooled_saddle(weighting):
    eye = torch.eye(1, dtype=F64)
    game = QuadraticGame(eye, 0 * eye, eye)
    g = torch.tensor([[-1.0, 0.0]] * 1 + [[-4.0, 0.0]] * 3, dtype=F64)
    shards = ClientData.of_parts({"g": g}, [[0], [1, 2, 3]])
    run = Simulated(
        game,
        shards,
        DistributedSGDA(
            topology="server", steps=1, rounds=500, batch="full", weighting=weighting, step_sizes=(0.1, 0.1)
        ),
        dtype=F64,
    )
    assert float(run.run()[0, 0, 0]) == pytest.approx(13 / 4, abs=1e-12)
    uniform = Simulated(
        game,
        shards,
        DistributedSGDA(topology="server", steps=1, rounds=500, batch="full", step_sizes=(0.1, 0.1)),
        dtype=F64,
    )
    assert float(uniform.run()[0, 0, 0]) == pytest.approx(5 / 2, abs=1e-12)


def test_local_y_mixes_x_alone():
    run = Simulated(auc(), data(), DistributedSGDA(topology="server", steps=2, rounds=1, local_y=True), dtype=F64)
    alone = Simulated(auc(), data(), DistributedSGDA(topology="isolated", steps=2, rounds=1), dtype=F64)
    run.run(), alone.run()
    z, own = run.state()[0, 0], alone.state()[0, 0]
    assert torch.allclose(z[:, :-1], own[:, :-1].mean(0).expand(6, -1), atol=1e-15)
    assert torch.equal(z[:, -1], own[:, -1])


def test_schedules():
    assert [step_size(decaying(2.0), s) for s in (0, 1, 3)] == [2.0, 1.0, 0.5]
    assert round_ends(lambda t: t + 1, 4) == [1, 3, 6, 10]
    game = QuadraticGame(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1), (torch.ones(1), torch.ones(1)))
    run = Simulated(
        game, None, DistributedSGDA(steps=3, rounds=2, step_sizes=(lambda s: 0.1 * (s + 1), 0.5)), dtype=F64
    )
    x, y = run.run()[0, 0].tolist()
    assert x == pytest.approx(0.9 * 0.8 * 0.7 * 0.6 * 0.5 * 0.4)
    assert y == pytest.approx(0.5**6)
    for eta in (-1.0, float("nan")):
        with pytest.raises(ManyoneError, match="eta"):
            step_size(eta, 0)
    with pytest.raises(ManyoneError, match="rounds = 0"):
        round_ends(1, 0)


def test_client_data():
    loaders = [
        [(torch.ones(2, 3), torch.ones(2)), (torch.zeros(1, 3), torch.zeros(1))],
        [(torch.ones(1, 3), torch.ones(1))],
    ]
    shards = ClientData.of_loaders(loaders)
    assert shards.sizes.tolist() == [3, 1]
    assert shards.shard(0)["labels"].tolist() == [1.0, 1.0, 0.0]
    assert shards.pooled()["features"].shape == (4, 3)
    twin = data().repeated(2).with_twin([1, 2], [0, 3], [47, 46])
    assert twin.twins == 2
    changed = (twin.table[:, 0] != twin.table[:, 1]).nonzero().tolist()
    assert changed == [[0, 1, 0], [1, 2, 3]]
    with pytest.raises(ManyoneError, match="client 1 has 0 samples"):
        ClientData.of_parts({"a": torch.ones(2)}, [[0, 1], []])
    with pytest.raises(ManyoneError, match="row 5 of a pool of 2"):
        ClientData.of_parts({"a": torch.ones(2)}, [[0, 5]])
    with pytest.raises(ManyoneError, match="does not exist"):
        data().with_twin([0], [8], [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "exponential", "failures": RandomFailures(0.1)}, "push_sum=True"),
        ({"topology": "ring", "participation": Participation(count=2)}, "use failures"),
        ({"topology": "server", "participation": Participation(count=7)}, "count = 7 of 6"),
        ({"topology": "ring", "weighting": "average"}, "weighting='loss'"),
        ({"weighting": "size"}, "weighting = 'size'"),
        ({"order": "both"}, "order = 'both'"),
        ({"push_sum": True}, "for gossip"),
        ({"batch": 0}, "batch = 0"),
        ({"client_steps": [9] * 6}, "from 0 to 5"),
        ({"steps": 0}, "steps = 0"),
        ({"step_sizes": (-0.1, 0.1)}, "eta_x = -0.1"),
        ({"step_sizes": 0.1}, "give two"),
    ],
)
def test_errors_of_the_method(options, message):
    with pytest.raises(ManyoneError, match=message):
        Simulated(auc(), data(), DistributedSGDA(**{"rounds": 2, **options})).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "numpy"}, "backend = 'numpy'"),
        ({"chunk": 0}, "chunk = 0"),
        ({"points": [{"lr": 1}]}, "option 'lr'"),
        ({"start": torch.zeros(3)}, "start is"),
    ],
)
def test_errors_of_the_run(options, message):
    with pytest.raises(ManyoneError, match=message):
        Simulated(auc(), data(), **options)
