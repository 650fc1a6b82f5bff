"""``manyone run local-sgda`` and ``local-dsgda``: many clients train one saddle point, through a server or by gossip.

manyone run local-sgda                                            # AUC on breast-cancer, 16 clients, simulated
manyone run local-dsgda --data my.csv --label y --topology ring
torchrun --nproc-per-node 2 -m manyone run local-dsgda --clients 16      # for real: the same numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from manyone.data.tables.partitions import describe_partition
from manyone.engine.fabric import is_writer
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.minimax.recipes.build import resolve_topology
from manyone.minimax.recipes.learner import RoundLearner
from manyone.minimax.recipes.needs import needs
from manyone.minimax.recipes.options import LocalSGDAOptions
from manyone.minimax.recipes.problem import Case, load_case
from manyone.recipes.needs import UNKNOWN
from manyone.recipes.options import Split
from manyone.recipes.references import has_references, keep_references
from manyone.recipes.running import newest_state, print_table

Build = Callable[[LocalSGDAOptions, Case, str], RoundLearner]


def run(options: LocalSGDAOptions, build: Build, folder: RunFolder) -> None:
    """Trains, evaluates and saves the consensus model."""
    case = load_case(options, as_begun=folder.options)
    learner = build(options, case, folder.recipe)
    try:
        check_inputs(folder, case.inputs())
        if is_writer() and not has_references(folder):
            keep_references(folder, case.points())
        final = train(
            learner, folder, steps=options.rounds, evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every, loggers=options.logger,
        )  # fmt: skip
    finally:
        learner.leave()
    if is_writer():
        _print(final)


def evaluate(options: LocalSGDAOptions, build: Build, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """Figures of the saved consensus model on a split."""
    if split == "val":
        raise ManyoneError("these runs keep no validation split: use --split test or train")
    z = newest_state(folder)["model"]
    case = load_case(options, as_begun=folder.options)
    check_inputs(folder, case.inputs())
    return case.figures(z, case.train if split == "train" else case.test)


def plan(options: LocalSGDAOptions, build: Build, folder: RunFolder) -> list[str]:
    """Rows, clients, rounds and traffic; what the table decides where it is here already."""
    if not needs(options).there:
        return [
            f"{options.problem} on {options.data}: rows, features and classes are {UNKNOWN}",
            f"{options.clients} clients; {options.rounds} rounds of {options.local_steps} local steps",
            _topology(options),
        ]
    case = load_case(options, as_begun=folder.options)
    options = case.options
    topology, size = resolve_topology(options.topology, options.clients), case.problem.spec.size
    sent = options.rounds * topology.bytes_per_round(options.clients, size, case.dtype.itemsize)
    return [
        f"{options.problem} on {case.table.name}: {len(case.train.labels)} training and {len(case.test.labels)} test "
        f"rows of {case.table.width} features",
        describe_partition(case.train.raw.labels, case.parts, len(case.table.classes)),
        f"{case.problem.spec.p} + {case.problem.spec.q} numbers a client; {options.rounds} rounds of "
        f"{options.local_steps} local steps, {sent / 1e6:.3g} MB sent by the busiest client",
        _topology(options),
    ]


def _topology(options: LocalSGDAOptions) -> str:
    gap = 1 - resolve_topology(options.topology, options.clients).contraction(options.clients)
    return f"topology {options.topology}: spectral gap {gap:.3g}"


def _print(metrics: Mapping[str, float]) -> None:
    """The final figures, for people."""
    names = dict.fromkeys(k.partition("/")[2] for k in metrics if "/" in k)
    rows = [(n, *(f"{metrics[f'{split}/{n}']:.4f}" for split in ("train", "test"))) for n in names]
    rows += [(name, "", f"{value:.4g}") for name, value in metrics.items() if "/" not in name]
    print_table(("", "train", "test"), rows)
