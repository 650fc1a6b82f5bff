"""Gradients of any loss: the backends agree, and what vmap cannot do runs for one member after another."""

import logging

import pytest
import torch
from torch import nn

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.gradients import Gradient
from manyone.minimax.problems.module import ModuleProblem
from manyone.minimax.simulated import Simulated
from manyone.minimax.stability.laboratory import Laboratory

F64 = torch.float64
METHOD = DistributedSGDA(topology="ring", rounds=4, steps=3, batch=4)


def pool(count=24):
    source = torch.Generator().manual_seed(3)
    features = torch.randn(count, 3, generator=source, dtype=F64)
    return {"features": features, "labels": torch.where(features[:, 0] > 0.2, 1.0, -1.0).double()}


def clients(m=3):
    fields = pool()
    return ClientData.of_parts(fields, torch.arange(len(fields["labels"])).tensor_split(m))


def problem(loss, module=None, **words):
    torch.manual_seed(0)
    return ModuleProblem(module or nn.Linear(3, 1), {"c": torch.ones(2)}, loss, **words)


def plain(x, y, batch, noise):
    score = x(batch["features"]).squeeze(-1)
    return (score * batch["labels"] * y["c"][0]).mean() - y["c"].square().sum()


def masked(x, y, batch, noise):
    score = x(batch["features"]).squeeze(-1)
    chosen = score[batch["labels"] > 0]
    return y["c"][0] * chosen.sum() / len(score) - y["c"].square().sum()


def without_mask(x, y, batch, noise):
    score = x(batch["features"]).squeeze(-1)
    return y["c"][0] * (score * (batch["labels"] > 0)).mean() - y["c"].square().sum()


def branching(x, y, batch, noise):
    value = plain(x, y, batch, noise)
    return value if float(value.detach()) > -1e9 else -value


def penalised(x, y, batch, noise):
    rows = batch["features"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(x(rows).sum(), rows, create_graph=True)
    return plain(x, y, batch, noise) + slope.square().mean()


def drawing(x, y, batch, noise):
    rows = batch["features"] + 0.1 * torch.randn_like(batch["features"])
    return plain(x, y, {**batch, "features": rows}, noise)


def run(made, **words):
    return Simulated(made, clients(), METHOD, seed=1, dtype=F64, **words).run()


@pytest.mark.parametrize(
    ("loss", "same"), [(masked, without_mask), (branching, plain)], ids=["boolean mask", "branch on a value"]
)
def test_a_loss_that_cannot_be_vmapped_gives_what_its_vmappable_twin_gives(loss, same, caplog):
    with caplog.at_level(logging.WARNING, "manyone"):
        found = run(problem(loss))
    assert torch.allclose(found, run(problem(same), backend="vmap"), atol=1e-12)
    assert sum("cannot be vmapped" in r.getMessage() for r in caplog.records) == 1
    with pytest.raises(ManyoneError, match="use backend='loop'"):
        run(problem(loss), backend="vmap")


@pytest.mark.parametrize(
    ("made", "noise"),
    [
        (problem(plain), None),
        (problem(lambda *a: (plain(*a), -plain(*a)), zero_sum=False), None),
        (AUC(0.4, dim=3, ridge=0.1), None),
        (AUC(0.4, score=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))), None),
        (GAN(nn.Linear(2, 3), nn.Linear(3, 1), 2, form="non-saturating"), (5, 4, 2)),
    ],
    ids=["module", "two losses", "linear AUC", "deep AUC", "GAN"],
)
def test_the_backends_agree(made, noise):
    source = torch.Generator().manual_seed(0)
    z = torch.randn(5, made.spec.size, generator=source, dtype=F64)
    batch = {name: value[:20].view(5, 4, *value.shape[1:]) for name, value in pool().items()}
    noise = None if noise is None else torch.randn(noise, generator=source, dtype=F64)
    found = {name: Gradient(made, name)(z, batch, noise) for name in ("auto", "vmap", "loop")}
    assert torch.allclose(found["loop"], found["vmap"], atol=1e-13)
    assert torch.allclose(found["loop"], found["auto"], atol=1e-13)


def test_a_gradient_inside_the_loss_works():
    made = problem(penalised)
    z = made.start(0, F64).repeat(2, 1)
    batch = {name: value[:8].view(2, 4, *value.shape[1:]) for name, value in pool().items()}
    found, bare = Gradient(made)(z, batch), Gradient(problem(plain))(z, batch)
    added = torch.cat([2 * z[:, :3] / 3, torch.zeros(2, 3, dtype=F64)], 1)  # of mean |w|^2 over b rows x 3 columns
    assert torch.allclose(found, bare + added, atol=1e-12)


def test_what_a_loss_draws_follows_the_seed_and_leaves_the_global_generator_alone():
    made = problem(drawing)
    state = torch.random.get_rng_state()
    first = run(made)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    assert torch.equal(run(made), first)
    assert torch.equal(run(problem(drawing), chunk=2), first)
    assert not torch.equal(run(problem(plain)), first)
    whole = {"backend": "loop", "seed": 1, "dtype": F64}
    full = DistributedSGDA(rounds=2, steps=2, batch="full")
    again = [Simulated(problem(drawing), clients(), full, **whole, chunk=c).run() for c in (None, 1)]
    assert torch.equal(*again)


def test_twins_share_what_a_loss_draws():
    fields = pool()
    method = DistributedSGDA(rounds=3, steps=2)
    lab = Laboratory(problem(drawing), fields, (fields["labels"] > 0).long(), neighbour="none", clients=2, samples=3,
                     test=4, replicas=2, method=method)  # fmt: skip
    (result,) = lab.run()
    assert float(result.final["delta_avg"].abs().max()) == 0


def test_dropout_acts_in_training_alone():
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    made = problem(plain, module)
    first = run(made)
    assert torch.equal(run(made), first)
    bare = problem(plain, nn.Sequential(module[0], nn.Dropout(0.0), module[2]))
    assert not torch.equal(run(bare), first)
    rows = torch.ones(5, 3, dtype=F64)
    assert torch.equal(made.call_x(first[0, 0])(rows), bare.call_x(first[0, 0])(rows))
    assert module.training
    module.eval()  # a user's module in evaluation mode stays in it
    assert torch.equal(run(problem(plain, module)), run(bare))


def test_a_module_of_several_inputs():
    class Two(nn.Linear):
        def forward(self, rows, scale, *, shift):
            return super().forward(rows) * scale[:, None] + shift

    def loss(x, y, batch, noise):
        return x(batch["features"], batch["labels"], shift=1.0).mean()

    made = problem(loss, Two(3, 1))
    assert bool(torch.isfinite(run(made)).all())


def test_a_loss_that_is_no_scalar_is_named():
    with pytest.raises(ManyoneError, match=r"the loss has shape \[4\]: it must be a scalar"):
        run(problem(lambda x, y, batch, noise: x(batch["features"]).squeeze(-1) * y["c"][0]))


def test_a_loss_that_is_constant_on_some_batches_moves_nobody_there():
    def loss(x, y, batch, noise):
        return torch.zeros((), dtype=F64) if x(batch["features"]).sum() < 1e9 else plain(x, y, batch, noise)

    found = run(problem(loss))
    assert torch.equal(found[0, 0], problem(plain).start(0, F64))
