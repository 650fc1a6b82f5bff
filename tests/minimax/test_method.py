"""The algorithm as one value; the arguments of version 0.1, which the classes that run it still take."""

import os

import pytest
import torch
from tests.minimax.ranks.rank_programs import auc_problem

from manyone.errors import ManyoneError
from manyone.minimax import ClientData, DistributedSGDA, Laboratory, Membership, Simulated, TorchDistributed
from manyone.minimax.ranks.flower import FlatClient, one_client

METHOD = DistributedSGDA(topology="ring", steps=2, rounds=3, step_sizes=(0.2, 0.1), batch=2)
OLD = {"steps": 2, "rounds": 3, "eta_x": 0.2, "batch": 2}


@pytest.fixture
def membership(monkeypatch):
    """A process group of this process alone."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "TORCHELASTIC_RUN_ID" not in os.environ
    alone = Membership.join()
    yield alone
    alone.leave()


def deprecated(who, make, *arguments, **words):
    with pytest.warns(DeprecationWarning, match=rf"^{who}: .*method=DistributedSGDA\(.*steps=\.\.\.") as seen:
        made = make(*arguments, **words)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    return made


def test_the_arguments_of_version_0_1_mean_the_same_and_are_deprecated_in_one_line(membership):
    problem, data = auc_problem()
    old = deprecated("Simulated", Simulated, problem, data, "ring", seed=1, **OLD)
    assert old.method == METHOD
    assert torch.equal(old.run(), Simulated(problem, data, METHOD, seed=1).run())
    real = deprecated("TorchDistributed", TorchDistributed, problem, data, "ring", membership=membership, **OLD)
    assert torch.equal(real.run(), TorchDistributed(problem, data, METHOD, membership=membership).run())
    fields, classes = data.fields, (data.fields["labels"] > 0).long()
    pool = (problem, fields, classes, [{"samples": 5}])
    words = {"clients": 4, "replicas": 2, "test": 20}
    (first,) = deprecated("Laboratory", Laboratory, *pool, topology="ring", **OLD, **words).run()
    (second,) = Laboratory(*pool, method=METHOD, **words).run()
    assert torch.equal(first.final["delta_mean"], second.final["delta_mean"])
    options = {k: v for k, v in OLD.items() if k != "rounds"}
    client = deprecated("FlatClient", FlatClient, problem, one_client(data, 0), 0, 8, **options)
    z = problem.start(0)
    same = FlatClient(problem, one_client(data, 0), 0, 8, DistributedSGDA(steps=2, step_sizes=(0.2, 0.1), batch=2))
    assert torch.equal(client.round(z, 0), same.round(z, 0))


def test_wrong_arguments_are_named():
    problem, data = auc_problem()
    with pytest.raises(ManyoneError, match="give steps to DistributedSGDA"):
        Simulated(problem, data, METHOD, steps=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        Simulated(problem, data, step=3)


def test_a_run_that_diverges_names_the_round_and_what_to_try():
    problem, data = auc_problem()
    wild = DistributedSGDA(step_sizes=(50, 50))
    with pytest.raises(ManyoneError, match=r"no longer finite after round \d+: take smaller step sizes than 50 \(x\)"):
        Simulated(problem, data, wild).run()
    with pytest.raises(ManyoneError, match=r"after round \d+ of grid point 1: take smaller step sizes than 60"):
        Simulated(problem, data, points=[{}, {"eta": 60}]).run()
    pool = (problem, data.fields, (data.fields["labels"] > 0).long())
    with pytest.raises(ManyoneError, match="no longer finite"):
        Laboratory(*pool, method=wild, clients=4, samples=5, replicas=2, test=20).run()
    dirty = {**data.fields, "features": data.fields["features"].index_fill(0, torch.tensor([3]), torch.nan)}
    with pytest.raises(ManyoneError, match="field 'features' holds NaN"):
        Simulated(problem, ClientData.of_parts(dirty, [range(50), range(50, 96)])).run()
