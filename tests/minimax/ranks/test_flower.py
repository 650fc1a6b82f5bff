"""The Flower adapter: clients that run K local steps and FedAvg's mean give the numbers of the simulation."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.minimax.ranks.rank_programs import DOUBLE, auc_problem

from manyone.errors import ManyoneError
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.ranks.flower import FlatClient, client_app, fed_avg, numpy_client, one_client, server_app
from manyone.minimax.simulated import Simulated
from manyone.minimax.steps import HeavyBall

METHOD = DistributedSGDA(steps=4, rounds=5, batch=2, step_sizes=(0.05, 0.1))


@pytest.mark.parametrize(("weighting", "step"), [("uniform", "simultaneous"), ("average", HeavyBall(0.5, 0.5))])
def test_clients_and_a_mean_equal_the_simulation_in_server_form(weighting, step):
    problem, data = auc_problem("mlp", clients=4, uneven=True)
    method = dataclasses.replace(METHOD, local_step=step, weighting=weighting)
    clients = [FlatClient(problem, one_client(data, i), i, 4, method, **DOUBLE) for i in range(4)]
    simulated = Simulated(problem, data, method, **DOUBLE)
    z = simulated.state()[0, 0, 0].clone()
    weights = torch.tensor([c.examples for c in clients], dtype=torch.float64)
    for t in range(5):
        z = (weights[:, None] * torch.stack([c.round(z, t) for c in clients])).sum(0) / weights.sum()
    assert (z - simulated.run()[0, 0]).abs().max() <= 1e-12


def test_fedavg_of_flower_gives_the_numbers_of_the_simulation():
    pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

    problem, data = auc_problem(clients=3)
    clients = [numpy_client(FlatClient(problem, one_client(data, i), i, 3, METHOD, **DOUBLE)) for i in range(3)]
    seen = []
    strategy = fed_avg(problem, clients=3, on_round=lambda t, z: seen.append((t, np.array(z))), **DOUBLE)
    parameters = strategy.initial_parameters
    for t in range(1, 5):
        config = strategy.on_fit_config_fn(t)
        found = [client.fit(parameters_to_ndarrays(parameters), config) for client in clients]
        results = [(None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters(z), n, {})) for z, n, _ in found]
        parameters, _ = strategy.aggregate_fit(t, results, [])
        strategy.evaluate_fn(t, parameters_to_ndarrays(parameters), {})
    expected = Simulated(problem, data, dataclasses.replace(METHOD, rounds=4), **DOUBLE).run()[0, 0]
    assert seen[-1][0] == 4
    assert np.abs(seen[-1][1] - expected.numpy()).max() <= 1e-12
    assert client_app(problem, data, METHOD) is not None
    assert server_app(problem, METHOD, clients=3) is not None


def test_what_a_flower_client_cannot_keep_is_refused():
    problem, data = auc_problem(clients=2)
    mine = one_client(data, 0)
    for options, words in (
        ({"local_step": "gradient-tracking"}, "GradientTracking keeps state between rounds"),
        ({"local_step": "optimistic"}, "Optimistic keeps state"),
        ({"weighting": "loss"}, "choose 'uniform' or 'average'"),
        ({"topology": "ring"}, "all clients at a server"),
    ):
        with pytest.raises(ManyoneError, match=words):
            FlatClient(problem, mine, 0, 2, DistributedSGDA(**options))
    with pytest.raises(ManyoneError, match="this data has 2"):
        FlatClient(problem, data, 0, 2)
    with pytest.raises(ManyoneError, match="remembers earlier samples"):
        FlatClient(auc_problem(running_p=True)[0], mine, 0, 2)
