"""The same clients in Flower: a client runs K local steps on the flat vector, FedAvg averages, the numbers stay equal.

    from flwr.simulation import run_simulation
    method = DistributedSGDA(steps=5, rounds=100, step_sizes=(0.1, 0.1))
    run_simulation(server_app(problem, method, clients=16, on_round=print_it),
                   client_app(problem, data, method), num_supernodes=16)

Flower moves one array [P] = (x, y) per client and round, the server form of ``Simulated`` (topology "server"). Flower
clients keep nothing between rounds, so that local steps whose buffers outlive a round are refused. In a deployment
``client_app`` gets only the own samples of every node (``own_data=True``).
Needs the extra ``flower`` for ``client_app`` and ``server_app``; ``FlatClient`` works without it.
Public: ``FlatClient``, ``client_app``, ``server_app``, ``numpy_client``, ``fed_avg``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import compute_device, float_type, whole
from manyone.minimax.client_data import ClientData
from manyone.minimax.local import LocalSteps, Members, Rates
from manyone.minimax.method import DistributedSGDA, resolve_method
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.problem import Problem
from manyone.minimax.schedules import round_ends
from manyone.minimax.steps import SnapshotAscent, local_step
from manyone.randomness import seed_for


class FlatClient:
    """Client ``number`` of ``clients``: ``round(z, t)`` are the local steps of round t from the server's vector z.

    ``data`` holds the samples of this client alone. The other words are those of ``Simulated``; the method's
    ``weighting`` says whether the server's mean counts every client alike or by its number of samples (``examples``).
    """

    def __init__(
        self,
        problem: Problem,
        data: ClientData,
        number: int,
        clients: int,
        method: DistributedSGDA | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        **old: Any,
    ) -> None:
        method = resolve_method(method, old, "FlatClient")
        plug_in = local_step(method.local_step)
        if data.clients != 1 or data.replicas != 1 or data.twins != 1:
            raise ManyoneError(f"a Flower client holds the samples of one client, this data has {data.clients}")
        if not 0 <= number < clients:
            raise ManyoneError(f"client {number} of {clients}: the number must be from 0 to {clients - 1}")
        if method.weighting == "loss":
            raise ManyoneError("weighting = 'loss': with Flower choose 'uniform' or 'average'")
        if method.partial or method.needs_start or method.local_y or Topology.of(method.topology).name != "server":
            raise ManyoneError("Flower averages all clients at a server: give a topology, participation, failures, ... "
                               "other than the default to Simulated or TorchDistributed")  # fmt: skip
        kept = plug_in.carried and plug_in.sync not in ("auto", "reset")
        if kept or plug_in.needs_average or (isinstance(plug_in, SnapshotAscent) and plug_in.every > 1):
            raise ManyoneError(
                f"local step {type(plug_in).__name__} keeps state between rounds or needs an exchange of its own: not "
                "possible for a Flower client; take another one, or its form with sync='reset'"
            )
        if problem.memory(1, dtype, torch.device(device)):
            raise ManyoneError(f"{type(problem).__name__} remembers earlier samples, which a Flower client cannot")
        seed, n = whole("seed", seed), data.sizes
        dtype, device = float_type(dtype), compute_device(device)
        members = Members(torch.tensor([number]), torch.tensor([0]), torch.tensor([clients]), data.table[0, 0], n)
        self.problem, self.method, self.plug_in = problem, method, plug_in
        self.examples = int(n[0]) if method.weighting == "average" else 1
        z = torch.zeros(1, problem.spec.size, dtype=dtype, device=device)
        rates = Rates([(1, *method.step_sizes)], dtype, str(device))
        self._local = LocalSteps(problem, data.fields, members, z, rates, plug_in, batch=method.batch, seed=seed)

    @torch.no_grad()
    def round(self, z: NDArray[Any] | Tensor, t: int) -> Tensor:
        """The flat vector [P] after the local steps of round ``t`` (0, 1, ...), started from ``z``."""
        local, p = self._local, self.problem.spec.p
        start = torch.as_tensor(z).to(local.device, local.dtype)
        if start.shape != (self.problem.spec.size,):
            raise ManyoneError(f"the server's vector has shape {list(start.shape)}, needs [{self.problem.spec.size}]")
        local.z.copy_(self.problem.project(start) if t else start)  # proximal maps act after averaging too
        for name, value in self.plug_in.buffers(local.z, p).items():
            local.buffers[name].copy_(value)
        ends = round_ends(self.method.steps, t + 1)
        first = ends[t - 1] if t else 0
        self.plug_in.begin_round(local.view(first, slice(0, 1)), t)
        for s in range(first, ends[t]):
            local.advance(s, slice(0, 1))
        return local.z[0].clone()


def client_app(
    problem: Problem, data: ClientData, method: DistributedSGDA | None = None, *, own_data: bool = False,
    seed: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", **old: Any,
) -> Any:  # fmt: skip
    """A ``flwr`` ClientApp whose node ``partition-id`` is that client of ``data``.

    ``own_data``: ``data`` holds one client, the node's own.
    """
    method = resolve_method(method, old, "client_app")
    _need_flower()
    from flwr.clientapp import ClientApp

    def client_fn(context: Any) -> Any:
        number, count = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
        mine = data if own_data else one_client(data, number)
        return numpy_client(
            FlatClient(problem, mine, number, count, method, seed=seed, dtype=dtype, device=device)
        ).to_client()

    return ClientApp(client_fn=client_fn)


def numpy_client(flat: FlatClient) -> Any:
    """``flat`` as a ``flwr`` NumPyClient; the round comes with the fit configuration."""
    _need_flower()
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def fit(self, parameters: list[NDArray[Any]], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            z = flat.round(np.array(parameters[0]), int(config["round"]))
            return [z.cpu().numpy()], flat.examples, {}

    return Client()


def server_app(
    problem: Problem, method: DistributedSGDA | None = None, *, clients: int, rounds: int | None = None, **options: Any
) -> Any:
    """A ``flwr`` ServerApp of the method's rounds; ``options`` are those of ``fed_avg``. (``rounds`` is deprecated.)"""
    method = resolve_method(method, {} if rounds is None else {"rounds": rounds}, "server_app")
    _need_flower()
    from flwr.server import ServerAppComponents, ServerConfig
    from flwr.serverapp import ServerApp

    strategy = fed_avg(problem, clients=clients, **options)

    def server_fn(context: Any) -> Any:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=method.rounds))

    return ServerApp(server_fn=server_fn)


def fed_avg(
    problem: Problem,
    *,
    clients: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    start: Tensor | None = None,
    on_round: Callable[[int, NDArray[Any]], Any] | None = None,
) -> Any:
    """``flwr``'s FedAvg over all ``clients``, from the problem's starting point of ``seed``.

    ``on_round(t, z)`` gets the number of rounds done (0 at first) and the mean [P]: evaluate or save it there;
    ``problem.spec.unpack`` makes (x, y) of it.
    """
    _need_flower()
    from flwr.common import ndarrays_to_parameters
    from flwr.server.strategy import FedAvg

    z = problem.start(seed_for(seed, "start", 0), dtype) if start is None else start.to(dtype)

    def evaluate(done: int, arrays: list[NDArray[Any]], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        if on_round is not None:
            on_round(done, arrays[0])
        return 0.0, {}

    return FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=ndarrays_to_parameters([z.numpy()]),
        on_fit_config_fn=lambda server_round: {"round": server_round - 1},
        evaluate_fn=evaluate,
        accept_failures=False,
    )


def one_client(data: ClientData, number: int) -> ClientData:
    """The samples of client ``number`` alone (a copy)."""
    if not 0 <= number < data.clients:
        raise ManyoneError(f"client {number} does not exist: the data has clients 0 to {data.clients - 1}")
    shard = data.shard(number)
    return ClientData.of_parts(shard, [range(int(data.sizes[number]))]) if shard else ClientData.empty(1)


def _need_flower() -> None:
    try:
        import flwr  # noqa: F401
    except ImportError:
        raise ManyoneError("running under Flower needs the extra: pip install 'manyone[flower]'") from None
