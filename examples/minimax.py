"""Train your own module on clients with their own DataLoaders: a classifier whose worst class counts, by gossip.

Runs in seconds on scikit-learn's digits:  python examples/minimax.py
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from manyone.data.tables.partitions import partition
from manyone.data.tables.tables import load_table, prepare
from manyone.minimax import ClientData, DistributedSGDA, ModuleProblem, Simulated, simplex


def main() -> dict[str, float]:
    train, test = prepare(load_table("digits"), scale="none")
    parts = partition(train.labels, clients=8, kind="dirichlet", alpha=0.2)
    loaders = [DataLoader(TensorDataset(train.features[p], train.labels[p]), batch_size=64) for p in parts]

    # x: any nn.Module. y: a weight for every class, kept in the simplex. The loss is minimised in x, maximised in y.
    model = nn.Linear(64, 10)

    def loss(x, y, batch, noise):
        weights = 10 * y["weights"][batch["labels"]]
        return (weights * cross_entropy(x(batch["features"]), batch["labels"], reduction="none")).mean()

    uniform = {"weights": torch.full((10,), 0.1)}
    problem = ModuleProblem(model, uniform, loss, project_y=simplex, redraw=True)  # the run's seed draws the start

    result = {}
    for name, eta_y in (("plain average", 0.0), ("worst class", 0.01)):
        method = DistributedSGDA(topology="ring", steps=5, rounds=80, batch=16, step_sizes=(0.3, eta_y))
        zbar = Simulated(problem, ClientData.of_loaders(loaders), method).run()[
            0, 0
        ]  # the consensus model, one flat vector
        x, _ = problem.spec.unpack(zbar)
        model.load_state_dict(x)  # back in the module, ready for use
        with torch.no_grad():
            right = (model(test.features).argmax(1) == test.labels).float()
        result[f"{name}: accuracy"] = float(right.mean())
        result[f"{name}: worst class"] = min(float(right[test.labels == c].mean()) for c in range(10))
    return result


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, value in main().items():
        print(f"{name:28s} {100 * value:5.1f} %")
