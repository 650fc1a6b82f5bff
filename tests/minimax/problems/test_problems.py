import pytest
import torch
from torch import nn

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.problems.agnostic import AgnosticLearning, GroupDRO
from manyone.minimax.problems.constrained import Constrained
from manyone.minimax.problems.flat import FlatSpec
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.module import ModuleProblem
from manyone.minimax.problems.quadratic import QuadraticGame
from manyone.minimax.scores import Model
from manyone.minimax.simulated import Simulated

F64 = torch.float64


def test_flat_state_round_trip_and_views():
    x, y = {"w": torch.randn(2, 3), "b": torch.randn(())}, {"v": torch.randn(4)}
    spec = FlatSpec.of(x, y)
    assert (spec.p, spec.q, spec.size) == (7, 4, 11)
    z = spec.pack(x, y)
    back_x, back_y = spec.unpack(z)
    assert torch.equal(back_x["w"], x["w"])
    assert torch.equal(back_x["b"], x["b"])
    assert torch.equal(back_y["v"], y["v"])
    back_x["w"][1, 2] = 9.0
    assert z[5] == 9.0  # views, not copies
    stack = torch.randn(5, 2, 11)
    many_x, many_y = spec.unpack(stack)
    assert many_x["w"].shape == (5, 2, 2, 3)
    assert many_x["b"].shape == (5, 2)
    assert torch.equal(spec.pack(many_x, many_y), stack)
    assert spec.sign().tolist() == [-1.0] * 7 + [1.0] * 4
    assert spec.sign(zero_sum=False).tolist() == [-1.0] * 11
    with pytest.raises(ManyoneError, match="width 12"):
        spec.unpack(torch.zeros(12))
    with pytest.raises(ManyoneError, match="w has shape"):
        spec.pack({**x, "w": torch.zeros(3, 2)}, y)


def test_gan_losses_are_the_logarithms_and_stay_finite():
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    zero_sum, other = (GAN(generator, discriminator, 2, form=form) for form in ("zero-sum", "non-saturating"))
    x, y = zero_sum.init(0)
    u, v = torch.randn(6, 3), torch.randn(6, 2)
    real = torch.sigmoid(u @ y["weight"].T + y["bias"])
    fake = torch.sigmoid((v @ x["weight"].T + x["bias"]) @ y["weight"].T + y["bias"])
    value = real.log().mean() + (1 - fake).log().mean()
    assert torch.allclose(zero_sum.loss(x, y, {"features": u}, v), value, atol=1e-6)
    loss_x, loss_y = other.loss(x, y, {"features": u}, v)
    assert torch.allclose(loss_x, -fake.log().mean(), atol=1e-6)
    assert torch.allclose(loss_y, -value, atol=1e-6)
    y = {name: 1e4 * tensor for name, tensor in y.items()}
    assert bool(torch.isfinite(zero_sum.loss(x, y, {"features": u}, v)))
    assert zero_sum.samples(zero_sum.start(0), v).shape == (6, 3)
    with pytest.raises(ManyoneError, match="latent noise"):
        zero_sum.loss(x, y, {"features": u})


def test_a_gan_learns_the_mean_of_its_data():
    data = ClientData.of_shards(
        {"features": 2 + 0.1 * torch.randn(2, 50, 1, generator=torch.Generator().manual_seed(0))}
    )
    for form in ("zero-sum", "non-saturating"):
        problem = GAN(nn.Linear(1, 1), nn.Linear(1, 1), 1, form=form)
        run = Simulated(
            problem,
            data,
            DistributedSGDA(
                topology="server", steps=2, rounds=150, batch=20, local_step="extragradient", step_sizes=(0.2, 0.2)
            ),
        )
        z = run.run()[0, 0]
        assert float(problem.samples(z, torch.zeros(1, 1))) == pytest.approx(2.0, abs=0.5)


def test_agnostic_learning_gives_each_client_its_own_dual_gradient_and_favours_the_worst():
    torch.manual_seed(0)
    features = torch.randn(3, 30, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    labels = (features[..., 0] > 0).long()
    labels[2] = 1 - labels[2]  # one client disagrees with the other two
    data = ClientData.of_shards({"features": features, "labels": labels})

    def losses(rho: float, eta_y: float) -> torch.Tensor:
        problem = AgnosticLearning(nn.Linear(2, 2), 3, rho=rho)
        run = Simulated(
            problem,
            data,
            DistributedSGDA(topology="server", steps=2, rounds=120, batch=10, step_sizes=(0.1, eta_y)),
            dtype=F64,
        )
        z = run.run()[0, 0]
        x, y = problem.spec.unpack(z)
        assert float(y["lam"].sum()) == pytest.approx(1.0)
        assert float(y["lam"].min()) >= 0
        return torch.stack([problem.losses(x, data.shard(i)).mean() for i in range(3)])

    plain, agnostic = losses(0.0, 0.0), losses(0.1, 0.05)
    assert float(agnostic.max()) < 0.8 * float(plain.max())

    problem = AgnosticLearning(nn.Linear(2, 2), 3, rho=0.0)
    z = problem.start(0, F64).requires_grad_()
    batch = {**data.shard(1), "client": torch.tensor(1), "clients": torch.tensor(3)}
    x, y = problem.spec.unpack(z)
    (g,) = torch.autograd.grad(problem.loss(x, y, batch), z)
    own = float(3 * problem.losses(x, batch).mean().detach())
    assert g[-3:].tolist() == [0.0, pytest.approx(own), 0.0]


def test_group_dro_weights_mean_losses_of_groups():
    problem = GroupDRO(nn.Linear(2, 2), 2, frequencies=[0.25, 0.75], rho=0.5)
    x, _ = problem.init(0)
    y = {"lam": torch.tensor([0.9, 0.1])}
    batch = {
        "features": torch.randn(8, 2),
        "labels": torch.randint(0, 2, (8,)),
        "group": torch.tensor([0, 0] + [1] * 6),
    }
    each = problem.losses(x, batch)
    expected = 0.9 * each[:2].mean() + 0.1 * each[2:].mean() - 0.25 * 2 * 0.4**2
    assert float(problem.loss(x, y, batch)) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ManyoneError, match="2 positive numbers"):
        GroupDRO(nn.Linear(2, 2), 2, frequencies=[1.0])


def test_constrained_learning_finds_the_multiplier():
    """min |x - (2, 2)|^2 with x1 + x2 <= 2: x = (1, 1), multiplier 2; a slack constraint gets multiplier 0."""
    problem = Constrained(
        {"x": torch.zeros(2)},
        lambda x, batch: (x["x"] - 2).square().sum(),
        lambda x, batch: torch.stack([x["x"].sum() - 2, x["x"].sum() - 7]),
        count=2,
    )
    run = Simulated(problem, None, DistributedSGDA(steps=2, rounds=150, step_sizes=(0.2, 0.2)), clients=2, dtype=F64)
    assert run.run()[0, 0].tolist() == pytest.approx([1.0, 1.0, 2.0, 0.0], abs=1e-8)
    capped = Constrained({"x": torch.zeros(2)}, problem_objective, problem_constraint, count=1, largest=0.5)
    run = Simulated(capped, None, DistributedSGDA(steps=2, rounds=100), dtype=F64)
    assert float(run.run()[0, 0, -1]) == 0.5


def problem_objective(x, batch):
    return (x["x"] - 2).square().sum()


def problem_constraint(x, batch):
    return x["x"].sum()[None] - 2


def test_modules_with_hidden_state_are_refused_or_frozen():
    normalised = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ManyoneError, match="has buffers"):
        Model(normalised)
    with pytest.raises(ManyoneError, match="no parameters"):
        Model(nn.ReLU())
    normalised[1].running_mean.fill_(0.3)
    before = normalised[1].running_mean.clone()

    def loss(model, dual, batch, noise):
        return (model(batch["features"]).squeeze(-1) * dual["c"]).mean() - dual["c"].square().sum()

    problem = ModuleProblem(normalised, {"c": torch.ones(1)}, loss, buffers="frozen")
    data = ClientData.of_shards({"features": torch.randn(3, 5, 3)})
    run = Simulated(problem, data, DistributedSGDA(topology="ring", rounds=3, batch=2))
    assert bool(torch.isfinite(run.run()).all())
    assert torch.equal(normalised[1].running_mean, before)  # declared as constants, and they stay so
    assert normalised.training  # the user's module is left as it was
    model = problem.call_x(run.consensus()[0, 0])
    assert model(torch.randn(7, 3)).shape == (7, 1)


def test_a_loss_of_the_wrong_kind_is_named():
    problem = ModuleProblem(
        {"a": torch.ones(1)}, {"b": torch.ones(1)}, lambda x, y, batch, noise: (x["a"].sum(), y["b"].sum())
    )
    with pytest.raises(ManyoneError, match="one scalar"):
        problem.loss(*problem.init(0), {})
    game = ModuleProblem(
        {"a": torch.ones(1)},
        {"b": torch.ones(1)},
        lambda x, y, *_: ((x["a"] ** 2).sum(), (y["b"] ** 2).sum()),
        zero_sum=False,
    )
    run = Simulated(game, None, DistributedSGDA(steps=1, rounds=1, step_sizes=(0.1, 0.2)), dtype=F64)
    assert run.run()[0, 0].tolist() == pytest.approx([0.8, 0.6])


def test_starting_points_are_functions_of_the_seed_and_leave_the_global_generator_alone():
    problem = GAN(nn.Linear(2, 3), nn.Linear(3, 1), 2)
    before = torch.random.get_rng_state()
    assert torch.equal(problem.start(4), problem.start(4))
    assert not torch.equal(problem.start(4), problem.start(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    given = nn.Linear(2, 1)
    kept = ModuleProblem(given, {"c": torch.zeros(1)}, lambda x, y, batch, noise: y["c"].sum())
    assert torch.equal(kept.init(3)[0]["weight"], given.weight)
    redrawn = ModuleProblem(given, {"c": torch.zeros(1)}, lambda x, y, batch, noise: y["c"].sum(), redraw=True)
    assert not torch.equal(redrawn.init(3)[0]["weight"], given.weight)


def test_quadratic_errors():
    eye = torch.eye(2)
    with pytest.raises(ManyoneError, match="symmetric"):
        QuadraticGame(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), eye, eye)
    with pytest.raises(ManyoneError, match="needs a"):
        QuadraticGame(eye, torch.ones(2, 3), eye)
