"""A planner of many tasks as one module: what is shared, what is each task's own, and how it acts.

``shared`` are the merged weights of all tasks, of which a task acts with those that its mask (a bit a weight, beside
the module) selects; ``own`` are a task's tensors in place of, or beside, the shared ones (the bank of biases and
norms), ``factors`` low-rank changes of them; ``spaces`` its alignments; ``inverses`` inverse dynamics that are not part
of the network. The policies' own artefact (:mod:`manyone.policies.artefact`) saves and loads it as other networks.
Public names: :class:`PlannerModel`, :func:`planner_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.masks import Shapes, TaskMasks
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.acting import PlannerPolicy, TaskPlanner
from manyone.policies.vqcd.alignment import make_alignment
from manyone.policies.vqcd.inverse import InverseDynamics
from manyone.policies.vqcd.planner import Planner, Sampling, make_planner
from manyone.policies.vqcd.spaces import Pair
from manyone.policies.vqcd.strategy import Kept


class PlannerModel(nn.Module):
    """Everything that planners of N tasks act with, but for the tasks' masks and statistics.

    ``networks``: configurations of the distinct planners, of which task i acts with ``network_of[i]``; ``shared`` and
    ``own`` [N] (empty: none): shapes by name; ``factors`` [N] (empty: none): shapes of B and A by name; ``narrow``:
    task -> shapes, as :class:`Kept` has them; ``alignments`` [N]: configurations of states' and actions'; ``inverses``
    [N], of which task i has that of ``inverse_of[i]``; ``sampling``: how plans are drawn; ``state_dim``,
    ``action_dim``: the widest task's own widths.
    """

    def __init__(
        self,
        *,
        networks: Sequence[Mapping[str, Any]],
        network_of: Sequence[int],
        shared: Mapping[str, Sequence[int]],
        own: Sequence[Mapping[str, Sequence[int]]],
        factors: Sequence[Mapping[str, Sequence[Sequence[int]]]],
        narrow: Mapping[str, Mapping[str, Sequence[int]]],
        alignments: Sequence[Sequence[Mapping[str, Any]]],
        inverses: Sequence[Mapping[str, Any] | None],
        inverse_of: Sequence[int],
        sampling: Mapping[str, Any],
        plan_every: int,
        requantise: bool,
        seed: int,
        state_dim: int,
        action_dim: int,
    ) -> None:
        super().__init__()
        self._config = {"networks": [dict(one) for one in networks], "network_of": list(network_of),
                        "shared": _plain(shared), "own": [_plain(one) for one in own],
                        "factors": [{n: [list(s) for s in two] for n, two in one.items()} for one in factors],
                        "narrow": {task: _plain(one) for task, one in narrow.items()},
                        "alignments": [[dict(one) for one in pair] for pair in alignments],
                        "inverses": [None if one is None else dict(one) for one in inverses],
                        "inverse_of": list(inverse_of), "sampling": dict(sampling), "plan_every": plan_every,
                        "requantise": requantise, "seed": seed, "state_dim": state_dim,
                        "action_dim": action_dim}  # fmt: skip
        self.state_dim, self.action_dim, self.seed = state_dim, action_dim, seed
        self.how, self.plan_every, self.requantise = Sampling(**sampling), plan_every, requantise
        self.planners = [make_planner(one, seed=0).requires_grad_(False).eval() for one in networks]
        """The distinct planners, with parameters as they were drawn: acting gives them each task's."""
        self.network_of, self.inverse_of = list(network_of), list(inverse_of)
        self.shared = _zeros(shared)
        self.own = nn.ModuleList(_zeros(one) for one in own)
        self.factors = nn.ModuleList(_zeros(_two(one)) for one in factors)
        self.narrow: dict[int, Shapes] = {
            int(task): {n: tuple(s) for n, s in one.items()} for task, one in narrow.items()
        }
        self.spaces = nn.ModuleList(nn.ModuleList(make_alignment(**one) for one in pair) for pair in alignments)
        self.inverses = nn.ModuleDict(
            {str(i): InverseDynamics(**one) for i, one in enumerate(inverses) if one is not None and inverse_of[i] == i}
        )

    @classmethod
    def of(
        cls,
        planners: Sequence[Planner],
        kept: Kept,
        pairs: Sequence[Pair],
        inverses: Sequence[InverseDynamics | None],
        how: Sampling,
        *,
        plan_every: int = 1,
        requantise: bool = False,
        seed: int = 0,
    ) -> PlannerModel:
        """The module of N tasks that act with ``planners`` [N] (tasks may share them) and what a strategy ``kept``."""
        distinct = list({id(one): one for one in planners}.values())
        first = [next(i for i, one in enumerate(inverses) if one is mine) for mine in inverses]
        found = cls(
            networks=[one.config() for one in distinct],
            network_of=[next(i for i, one in enumerate(distinct) if one is mine) for mine in planners],
            shared=_shapes(kept.shared),
            own=[_shapes(one) for one in kept.own[: len(planners)]],
            factors=[
                {name: [list(f.shape) for f in two] for name, two in one.items()}
                for one in kept.factors[: len(planners)]
            ],
            narrow={str(task): one for task, one in kept.narrow.items() if task < len(planners)},
            alignments=[[module.config() for module in pair] for pair in pairs],
            inverses=[None if one is None else one.config() for one in inverses],
            inverse_of=first,
            sampling=vars(how),
            plan_every=plan_every,
            requantise=requantise,
            seed=seed,
            state_dim=max(states.dim for states, _ in pairs),
            action_dim=max(actions.dim for _, actions in pairs),
        )
        with torch.no_grad():
            _fill(found.shared, kept.shared)
            for bank, values in zip(found.own, kept.own):
                _fill(bank, values)  # type: ignore[arg-type]
            for bank, products in zip(found.factors, kept.factors):
                _fill(bank, _two(products))  # type: ignore[arg-type]
        for own, pair in zip(found.pairs, pairs):
            for module, given in zip(own, pair):
                module.load_state_dict(given.state_dict())
        for number, place in found.inverses.items():
            inverse = inverses[int(number)]
            assert inverse is not None
            place.load_state_dict(inverse.state_dict())
        return found.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    @property
    def pairs(self) -> list[Pair]:
        """Alignments of each task."""
        return [(pair[0], pair[1]) for pair in self.spaces]  # type: ignore[index, misc]

    def inverse(self, task: int) -> InverseDynamics | None:
        """Inverse dynamics of ``task`` that are not part of its network."""
        key = str(self.inverse_of[task])
        return self.inverses[key] if key in self.inverses else None  # type: ignore[return-value]  # noqa: SIM401

    def kept(self, masks: TaskMasks | None) -> Kept:
        """What the strategy had kept, with its ``masks``."""
        own = [_named(one) for one in self.own]  # type: ignore[arg-type]
        factors = []
        for one in self.factors:
            values = _named(one)  # type: ignore[arg-type]
            names = dict.fromkeys(name.rpartition(".")[0] for name in values)
            factors.append({name: (values[f"{name}.b"], values[f"{name}.a"]) for name in names})
        return Kept(_named(self.shared), masks, own, factors, self.narrow)


def planner_policy(model: PlannerModel, table: TaskTable, masks: TaskMasks | None) -> PlannerPolicy:
    """What acts with a saved planner in many episodes at once."""
    kept = model.kept(masks)
    device = table.mean.device
    tasks = []
    for number, (states, actions) in enumerate(model.pairs):
        planner = model.planners[model.network_of[number]].to(device)
        weights = kept.of(number)
        wanted = {name: value.shape for name, value in planner.named_parameters()}
        if wanted != {name: value.shape for name, value in weights.items()}:
            raise ManyoneError(f"the saved planner's weights of task {table.names[number]!r} do not fit its network")
        tasks.append(TaskPlanner(number, planner, weights, states, actions, model.inverse(number)))
    return PlannerPolicy(table, tasks, model.how, plan_every=model.plan_every, requantise=model.requantise,
                         seed=model.seed)  # fmt: skip


# names of parameters have dots, which modules keep for themselves


def _zeros(shapes: Mapping[str, Sequence[int]]) -> nn.ParameterDict:
    return nn.ParameterDict(
        {name.replace(".", "/"): nn.Parameter(torch.zeros(tuple(shape)), False) for name, shape in shapes.items()}
    )


def _two(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The factors B and A of parameters, or their shapes, each by a name of its own."""
    return {f"{name}.{which}": value for name, pair in pairs.items() for which, value in zip("ba", pair)}


def _named(values: nn.ParameterDict) -> dict[str, Tensor]:
    return {name.replace("/", "."): value.data for name, value in values.items()}


def _fill(place: nn.ParameterDict, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        place[name.replace(".", "/")].copy_(value)


def _shapes(values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in values.items()}


def _plain(shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}
