"""Client-steps per CPU-second of Local-SGDA: the stacked simulation, a Python loop, PostLocalSGDOptimizer, Flower.

    python benchmarks/minimax_simulation.py [--repeats 3] [--no-flower] [--json F]

One job for all: linear AUC maximisation (P = d + 3 numbers a client), K = 5 local steps a round, batch 4, server
averaging; a client-step is one gradient step of one client. The loop is the ordinary one: one autograd graph a client
and step, parameters averaged after K steps. PostLocalSGDOptimizer runs on gloo processes, all on this machine; their
CPU times are summed. Flower runs its own simulation (Ray) in a virtual environment of its own under the cache folder
(made on the first run; --flower-python takes another interpreter that has flwr[simulation] and torch); its start-up is
not counted. The simulation and the loop are interleaved and medians shown; the
others run once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _peers import peer_python

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
DIM, SAMPLES, STEPS, BATCH, ETA = 300, 50, 5, 4, 0.1
FLOWER = ["flwr[simulation]==1.41.0", "torch==2.13.0"]

RANK = """
import sys, resource, torch, torch.distributed as dist
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
rounds, dim, samples, steps, batch, eta = (int(w) for w in sys.argv[1:6] + ["0"])
dist.init_process_group("gloo")
torch.set_num_threads(1)
torch.manual_seed(dist.get_rank())
x, y = torch.nn.functional.normalize(torch.randn(samples, dim)), torch.where(torch.rand(samples) < 0.4, 1.0, -1.0)
w, a, b, alpha = (torch.zeros(n, requires_grad=True) for n in (dim, 1, 1, 1))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.a, self.b, self.alpha = (torch.nn.Parameter(torch.zeros(n)) for n in (dim, 1, 1, 1))
model, p = Model(), 0.4
groups = [{"params": [model.w, model.a, model.b]}, {"params": [model.alpha], "maximize": True}]
optimiser = PostLocalSGDOptimizer(torch.optim.SGD(groups, lr=0.1),
                                  PeriodicModelAverager(period=steps, warmup_steps=steps - 1))
def run(count):
    for s in range(count * steps):
        j = torch.randint(samples, (batch,))
        h, plus = x[j] @ model.w, (y[j] > 0).float()
        loss = ((1-p)*(h-model.a)**2*plus + p*(h-model.b)**2*(1-plus)
                + 2*(1+model.alpha)*(p*h*(1-plus) - (1-p)*h*plus) - p*(1-p)*model.alpha**2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
def spent():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime
run(3)
before = spent()
run(rounds)
total = torch.tensor([spent() - before])
dist.all_reduce(total)
if dist.get_rank() == 0:
    print("CPU", float(total))
dist.destroy_process_group()
"""

FLOWER_JOB = """
import sys, time
import numpy as np, torch
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
m, rounds, dim, samples, steps, batch = map(int, sys.argv[1:7])
torch.set_num_threads(1)
p = 0.4
class Client(NumPyClient):
    def __init__(self, number):
        source = torch.Generator().manual_seed(number)
        self.x = torch.nn.functional.normalize(torch.randn(samples, dim, generator=source))
        self.y = torch.where(torch.rand(samples, generator=source) < 0.4, 1.0, -1.0)
        self.source = source
    def fit(self, parameters, config):
        z = torch.from_numpy(parameters[0].copy())
        for _ in range(steps):
            j = torch.randint(samples, (batch,), generator=self.source)
            x, plus = self.x[j], (self.y[j] > 0).float()
            z.requires_grad_(True)
            w, a, b, alpha = z[:dim], z[dim], z[dim + 1], z[dim + 2]
            h = x @ w
            loss = ((1-p)*(h-a)**2*plus + p*(h-b)**2*(1-plus) + 2*(1+alpha)*(p*h*(1-plus) - (1-p)*h*plus)
                    - p*(1-p)*alpha**2).mean()
            (g,) = torch.autograd.grad(loss, z)
            g[:dim + 2] *= -1
            z = (z + 0.1 * g).detach()
        return [z.numpy()], samples, {}
class Announcing(FedAvg):
    def aggregate_fit(self, *words):
        result = super().aggregate_fit(*words)
        print("ROUND", time.time(), flush=True)
        return result
def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"])).to_client()
def server_fn(context: Context):
    start = ndarrays_to_parameters([np.zeros(dim + 3, dtype=np.float32)])
    strategy = Announcing(fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=m, min_available_clients=m,
                      initial_parameters=start)
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))
run_simulation(ServerApp(server_fn=server_fn), ClientApp(client_fn=client_fn), num_supernodes=m,
               backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
"""


def cpu() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def shards(m: int):
    """Made data of m clients: rows of norm 1 [m, n, d], labels +1/-1."""
    import torch

    source = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(m, SAMPLES, DIM, generator=source), dim=-1)
    return x, torch.where(torch.rand(m, SAMPLES, generator=source) < 0.4, 1.0, -1.0)


def ours(m: int, rounds: int, backend: str) -> float:
    """Client-steps per CPU-second of the simulation."""
    from manyone.minimax import AUC, ClientData, DistributedSGDA, Simulated

    x, y = shards(m)
    data = ClientData.of_shards({"features": x, "labels": y})
    method = DistributedSGDA(steps=STEPS, rounds=rounds + 3, batch=BATCH, step_sizes=(ETA, ETA))
    run = Simulated(AUC(0.4, dim=DIM), data, method, backend=backend)
    run.advance(3 * STEPS)
    before = cpu()
    run.advance((rounds + 3) * STEPS)
    return m * rounds * STEPS / (cpu() - before)


def loop(m: int, rounds: int) -> float:
    """The same with one autograd graph a client and step."""
    import torch

    x, y = shards(m)
    p, states = 0.4, [torch.zeros(DIM + 3) for _ in range(m)]
    source = torch.Generator().manual_seed(1)
    before = cpu()
    for _ in range(rounds):
        for i in range(m):
            z = states[i]
            for _ in range(STEPS):
                j = torch.randint(SAMPLES, (BATCH,), generator=source)
                plus = (y[i, j] > 0).float()
                z.requires_grad_(True)
                w, a, b, alpha = z[:DIM], z[DIM], z[DIM + 1], z[DIM + 2]
                h = x[i, j] @ w
                value = (1 - p) * (h - a) ** 2 * plus + p * (h - b) ** 2 * (1 - plus)
                value = value + 2 * (1 + alpha) * (p * h * (1 - plus) - (1 - p) * h * plus) - p * (1 - p) * alpha**2
                (g,) = torch.autograd.grad(value.mean(), z)
                g[: DIM + 2] *= -1
                z = (z + ETA * g).detach()
            states[i] = z
        mean = torch.stack(states).mean(0)
        states = [mean.clone() for _ in range(m)]
    return m * rounds * STEPS / (cpu() - before)


def post_local(m: int, rounds: int) -> float:
    """PostLocalSGDOptimizer on m gloo processes; CPU of all of them."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "rank.py"
        script.write_text(RANK)
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(m), str(script)]
        words += [str(v) for v in (rounds, DIM, SAMPLES, STEPS, BATCH)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("CPU"))
    return m * rounds * STEPS / float(line.split()[1])


def family_cpu(mark: str) -> dict[int, float]:
    """CPU seconds by process of all processes that were started with ``mark`` in their environment."""
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                words = (place / "stat").read_text().rpartition(")")[2].split()
                found[int(place.name)] = (int(words[11]) + int(words[12])) / tick
        except OSError:  # it has just ended, or belongs to somebody else
            continue
    return found


def flower(m: int, python: Path, rounds: int) -> float:
    """Client-steps per CPU-second of Flower's simulation, all its processes, from its first round's end to its last's.

    Ray's workers are nobody's children, so their CPU times are read from /proc every fifth of a second.
    """
    mark = f"MANYONE_BENCH={os.getpid()}-{m}"
    words = [str(python), "-c", FLOWER_JOB, *(str(v) for v in (m, rounds, DIM, SAMPLES, STEPS, BATCH))]
    environment = os.environ | dict([mark.split("=")])
    last: dict[int, float] = {}
    series: list[tuple[float, float]] = []
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err, env=environment)
        while process.poll() is None:
            last |= family_cpu(mark)
            series.append((time.time(), sum(last.values())))
            time.sleep(0.2)
        for file in (out, err):
            file.seek(0)
        ends = [float(line.split()[1]) for line in out if line.startswith("ROUND")]
        if process.returncode or len(ends) < rounds:
            raise SystemExit(f"Flower ended with status {process.returncode}: {err.read().strip().splitlines()[-1]}")

    def at(moment: float) -> float:
        return max(spent for t, spent in series if t <= moment + 0.2)

    first = at(ends[0])
    print(f"  flower m={m}: {first:.1f} CPU s until the first round's end", file=sys.stderr)
    return m * (rounds - 1) * STEPS / (at(ends[-1]) - first)


def main() -> None:
    """Prints the table; with ``--json`` also writes its rows, one JSON object a line."""
    from platformdirs import user_cache_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--ranks", type=int, nargs="*", default=[8], help="processes of PostLocalSGDOptimizer")
    parser.add_argument("--no-flower", action="store_true")
    parser.add_argument("--flower-python", type=Path)
    cache = Path(os.environ.get("MANYONE_CACHE", user_cache_path("manyone")))
    parser.add_argument("--peers", type=Path, default=cache / "peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.repeats):
        for m in options.clients:
            found.setdefault(("stacked", m), []).append(ours(m, 60, "auto"))
            found.setdefault(("vmap", m), []).append(ours(m, 20, "vmap"))
            found.setdefault(("loop", m), []).append(loop(m, max(1, 128 // m)))
    for m in options.ranks:
        found["PostLocalSGD", m] = [post_local(m, 200)]
        found.setdefault(("stacked", m), []).append(ours(m, 200, "auto"))
    if not options.no_flower:
        python = options.flower_python or peer_python(options.peers / "flower", FLOWER[::-1])
        for m, rounds in ((16, 12), (64, 5)):
            if m in options.clients:
                found["flower", m] = [flower(m, python, rounds)]
    rows = []
    print(f"{'method':14} {'clients':>8} {'client-steps / CPU s':>22} {'simulation / method':>20}")
    for (name, m), values in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        speed, own = statistics.median(values), found.get(("stacked", m))
        ratio = round(statistics.median(own) / speed, 1) if own else None
        rows.append({"benchmark": "minimax-simulation", "method": name, "clients": m,
                     "client_steps_per_cpu_s": round(speed), "simulation_is_faster_by": ratio})  # fmt: skip
        print(f"{name:14} {m:8} {round(speed):22,} {'' if ratio is None else ratio:>20}")
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
