"""Odd arguments from Python: numpy's numbers work, what cannot be meant is one line, no order enters silently."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from manyone.errors import ManyoneError
from manyone.minimax import (
    AUC,
    GAN,
    Adam,
    ClientData,
    DistributedSGDA,
    GroupDRO,
    Laboratory,
    ModuleProblem,
    NeymanPearson,
    Scaling,
    Simulated,
    Topology,
)  # fmt: skip

X = np.random.default_rng(0).normal(size=(20, 3))
Y = (X[:, 0] > 0).astype(int)
PARTS = [np.arange(10), np.arange(10, 20)]
METHOD = DistributedSGDA(rounds=2, steps=2)


def data(**fields):
    return ClientData.of_parts({"features": X, "labels": Y, **fields}, PARTS)


def run(problem=None, clients=None, method=METHOD, **words):
    return Simulated(problem or AUC(0.5, dim=3), clients or data(), method, **words).run()


def test_numbers_of_numpy_and_torch_are_numbers():
    plain = run(seed=3)
    assert torch.equal(run(AUC(np.float32(0.5), dim=np.int64(3)), seed=np.int64(3)), plain)
    assert torch.equal(run(AUC(torch.tensor(0.5), dim=3), seed=3, start=[0.0] * 6, replicas=np.int64(1)), plain)
    method = DistributedSGDA(steps=np.int64(2), rounds=np.int32(2), batch=np.int64(1), step_sizes=np.array([0.1, 0.1]))
    assert torch.equal(run(method=method, seed=3), plain)


def test_a_client_s_rows_are_numbers_or_a_mask():
    mask = np.arange(20) < 10
    found = ClientData.of_parts({"features": X}, [mask, ~mask])
    assert torch.equal(found.table, ClientData.of_parts({"features": X}, PARTS).table)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AUC("0.5", dim=3), "AUC: p = '0.5'"),
        (lambda: AUC(0.5, dim=3.0), "AUC: dim = 3.0: a whole number"),
        (lambda: AUC(0.5, dim=0), "AUC: dim = 0: must be at least 1"),
        (lambda: run(AUC(0.5, dim=4)), r"\[20, 3\]: a linear score of dim = 4"),
        (lambda: run(AUC(0.5, score=nn.Linear(4, 1))), r"AUC: the loss fails .*features \[3\]"),
        (lambda: run(AUC(0.5, score=nn.Linear(3, 2))), "the loss has shape"),
        (lambda: AUC(0.5, score=lambda rows: rows), "an nn.Module, not a function"),
        (lambda: run(clients=data(labels=Y[:, None])), r"labels of shape \[20, 1\].*ravel"),
        (lambda: run(clients=data(features=X[:, 0])), r"features of shape \[20\]"),
        (lambda: NeymanPearson(1.0, nn.Linear(3, 1), level=0.5), r"p = 1.0.*in \(0, 1\)"),
        (lambda: GroupDRO(nn.Linear(3, 2), 2, frequencies="ab"), "frequencies"),
        (lambda: run(GroupDRO(nn.Linear(3, 2), 2)), "KeyError: 'group'"),
        (lambda: run(GAN(nn.Linear(2, 3), nn.Linear(4, 1), 2)), "GAN: the loss fails"),
        (lambda: run(ModuleProblem(nn.Linear(3, 1), {}, lambda x, y, b, noise: b["no"])), "KeyError: 'no'"),
        (lambda: DistributedSGDA(topology=np.eye(4)), "from_matrix"),
        (lambda: DistributedSGDA(topology=None), "NoneType is no topology"),
        (lambda: Topology.from_matrix("ring"), "a mixing matrix: numbers"),
        (lambda: Topology.from_edges([(0, "a")]), "client = 'a'"),
        (lambda: Topology.from_edges([0, 1]), "pairs of client numbers"),
        (lambda: Topology.from_edges([(0, -1)]), "client = -1: must be at least 0"),
        (lambda: run(seed=-1), "seed = -1: must be at least 0"),
        (lambda: run(seed=1.5), "seed = 1.5: a whole number"),
        (lambda: run(seed=None), "seed = None"),
        (lambda: run(seed=True), "seed = True"),
        (lambda: Laboratory(AUC(0.5, dim=3), {"features": X, "labels": Y}, Y, seed="a"), "seed = 'a'"),
        (lambda: DistributedSGDA(steps=1.5), "steps = 1.5: a whole number"),
        (lambda: DistributedSGDA(steps="5"), "steps = '5'"),
        (lambda: run(method=DistributedSGDA(steps=lambda t: 1.5)), "steps .of a round. = 1.5"),
        (lambda: DistributedSGDA(rounds="2"), "rounds = '2'"),
        (lambda: DistributedSGDA(batch=True), "batch = True"),
        (lambda: DistributedSGDA(step_sizes=("a", 0.1)), "eta_x = 'a': a finite number"),
        (lambda: DistributedSGDA(step_sizes="ab"), "step_sizes = 'ab'"),
        (lambda: run(points=[{"eta": "a"}]), "eta_x at step 0 = 'a'"),
        (lambda: DistributedSGDA(local_step=Adam), r"such as Adam\(\)"),
        (lambda: DistributedSGDA(outer=0.5), "OuterStep"),
        (lambda: run(dtype="float32"), "dtype = 'float32': torch.float32"),
        (lambda: run(dtype=torch.int64), "dtype = torch.int64"),
        (lambda: run(device="gpu"), "device 'gpu' is unknown"),
        (lambda: run(device="cuda:9"), "device 'cuda:9' is not there"),
        (lambda: run(start="a"), "start: numbers are needed"),
        (lambda: run(replicas=0), "replicas = 0"),
        (lambda: run(chunk=1.5), "chunk = 1.5"),
        (lambda: Simulated(AUC(0.5, dim=3), {"features": X}, METHOD), "make a ClientData"),
        (lambda: ClientData.of_parts({"f": X}, [[0.0, 1.5]]), "parts of client 0: row numbers are whole"),
        (lambda: ClientData.of_parts({"f": X}, [np.arange(19) < 9]), "a mask of 19 rows for a pool of 20"),
        (lambda: ClientData.of_parts({"f": X}, [[0, -1]]), "names row -1 of a pool of 20"),
        (lambda: ClientData.of_parts({"f": X}, 5), "parts = 5"),
        (lambda: ClientData.of_parts({"f": X}, []), "at least one client"),
        (lambda: ClientData.of_parts({"f": X}, ["ab"]), "parts of client 0: numbers"),
        (lambda: ClientData.of_parts(X, PARTS), "fields: a mapping is needed"),
        (lambda: ClientData.of_parts({"f": 3.0}, PARTS), "field 'f' is one number"),
        (lambda: ClientData.of_shards({"f": X[:, 0]}), "shards are fields"),
        (lambda: ClientData.of_loaders([]), "at least one client"),
        (lambda: ClientData.of_loaders(loader()), "one loader for every client"),
        (lambda: ClientData.of_loaders([loader()], names=("features",)), "it gives 2 tensors"),
        (lambda: Scaling.fit([["a"]], "rows"), "features: numbers are needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line(call, message):
    with pytest.raises(ManyoneError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def loader(**words):
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=6, **words)


def test_the_order_of_a_shuffling_loader_does_not_enter_the_result():
    plain = ClientData.of_loaders([loader(), loader()])
    for words in ({"shuffle": True}, {"shuffle": True, "generator": torch.Generator().manual_seed(5)}):
        found = ClientData.of_loaders([loader(**words), loader()])
        assert all(torch.equal(found.fields[name], plain.fields[name]) for name in plain.fields)
    with pytest.raises(ManyoneError, match=r"client 0's loader draws samples at random \(WeightedRandomSampler\)"):
        ClientData.of_loaders([loader(sampler=WeightedRandomSampler([1.0] * 20, 20))])
    few = torch.utils.data.SubsetRandomSampler([5, 1, 3])
    assert torch.equal(ClientData.of_loaders([loader(sampler=few)]).fields["features"], torch.tensor(X[[5, 1, 3]]))
