"""Team environments that others wrote, by prefix: ``make_adapter("vmas:navigation", batch=32)``.

| name | what it is | needs |
|---|---|---|
| ``pettingzoo:package.module``, or a factory | anything with PettingZoo's parallel API | ``manyone[teams]`` |
| ``mpe:simple_spread_v3`` | multi-particle environments | ``manyone[teams]`` |
| ``mamujoco:Ant 4x2`` | multi-agent MuJoCo | ``gymnasium-robotics`` |
| ``lbf:Foraging-8x8-2p-2f-coop-v3`` | level-based foraging | ``manyone[teams]`` |
| ``rware:rware-tiny-2ag-v2`` | robotic warehouse | ``manyone[teams]`` |
| ``vmas:navigation`` | vectorised in torch, on any device | ``manyone[teams]`` |
| ``smax:3m`` | StarCraft-like battles in JAX | ``manyone[smax]`` |
| ``smac:3m``, ``smacv2:10gen_terran`` | StarCraft II | the game and ``smac`` / ``smacv2`` |

Settings may follow after a colon, ``"vmas:navigation:n_agents=4,limit=200"``, or be keywords. ``limit`` cuts episodes
after so many steps; what an adapter does not know goes to the environment's own constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from manyone.engine.extras import need
from manyone.engine.words import parse_settings, write_settings
from manyone.envs.teams import pettingzoo
from manyone.envs.teams import smac as team_smac
from manyone.envs.teams import tuple as team_tuple
from manyone.envs.teams.copies import TeamCopies
from manyone.envs.teams.libraries import SMAC, SMACV2
from manyone.envs.teams.simulator import Copy
from manyone.envs.teams.smax import SmaxTeam
from manyone.envs.teams.types import TeamEnv
from manyone.envs.teams.vmas import VmasTeam
from manyone.errors import ManyoneError

OURS = ("limit", "state", "success", "masked", "joint")  # options of PettingZooCopy; the rest is the environment's


class Wanted(NamedTuple):
    """What an adapter is asked for: ``task`` is the name without its prefix."""

    name: str
    task: str
    batch: int
    device: str | torch.device
    workers: int | None
    options: dict[str, Any]


def make_adapter(
    name: str | Callable[..., Any],
    batch: int,
    *,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    **options: Any,
) -> TeamEnv:
    """The environment called ``name``, or copies of what a factory of PettingZoo parallel environments makes.

    ``workers``: processes that step the copies (None: one per processor from four copies on; 0: this process), for
    environments that are not batched themselves. ``spec.name`` makes the same task again. Raises ``ManyoneError`` for
    unknown names, missing packages and environments that cannot be used.
    """
    if callable(name):
        called = getattr(name, "__name__", type(name).__name__)
        return _pettingzoo(Wanted(called, called, batch, device, workers, options), name)
    prefix, _, rest = name.partition(":")
    if prefix not in PREFIXES or not rest:
        raise ManyoneError(f"environment {name!r}: write one of {', '.join(f'{p}:NAME' for p in PREFIXES)}")
    task, _, settings = rest.partition(":")
    settled = parse_settings(settings, name, options)
    written = write_settings(settled)
    env = PREFIXES[prefix](Wanted(f"{prefix}:{task}", task, batch, device, workers, settled))
    env.spec = replace(env.spec, name=f"{prefix}:{task}:{written}" if written else f"{prefix}:{task}")
    return env


def _copies(wanted: Wanted, maker: Callable[[], Copy], *, streams: bool = False) -> TeamCopies:
    return TeamCopies(wanted.name, maker, wanted.batch, device=wanted.device, workers=wanted.workers, streams=streams)


def _pettingzoo(wanted: Wanted, factory: Callable[..., Any], *, streams: bool = True, **defaults: Any) -> TeamCopies:
    need("gymnasium", wanted.name, "teams")
    ours = {**defaults, **{key: value for key, value in wanted.options.items() if key in OURS}}
    rest = {key: value for key, value in wanted.options.items() if key not in OURS}
    maker = partial(pettingzoo.PettingZooCopy, partial(factory, **rest) if rest else factory, **ours)
    return _copies(wanted, maker, streams=streams)


def _module(wanted: Wanted) -> TeamEnv:
    return _pettingzoo(wanted, partial(pettingzoo.from_module, wanted.task))


def _mpe(wanted: Wanted) -> TeamEnv:
    need("mpe2", wanted.name, "teams")
    # Its state() observes once more for every agent; the learner can join the observations itself.
    return _pettingzoo(wanted, partial(pettingzoo.mpe, wanted.task), streams=False, state=False, masked=None)


def _mamujoco(wanted: Wanted) -> TeamEnv:
    need("gymnasium_robotics", wanted.name, "pip install gymnasium-robotics")
    return _pettingzoo(wanted, partial(pettingzoo.mamujoco, wanted.task), streams=False, masked=None)


def _foraging(wanted: Wanted) -> TeamEnv:
    need("lbforaging", wanted.name, "teams")
    return _tuple(wanted, team_tuple.foraging, solved=team_tuple.all_food_loaded, drawn=team_tuple.draw_foraging)


def _warehouse(wanted: Wanted) -> TeamEnv:
    need("rware", wanted.name, "teams")
    return _tuple(wanted, team_tuple.warehouse, drawn=team_tuple.draw_warehouse)


def _tuple(wanted: Wanted, make: Callable[..., Any], **parts: Any) -> TeamEnv:
    need("gymnasium", wanted.name, "teams")
    rest = dict(wanted.options)
    limit = rest.pop("limit", None)
    return _copies(wanted, partial(team_tuple.TupleCopy, partial(make, wanted.task, **rest), limit=limit, **parts))


def _smac(wanted: Wanted) -> TeamEnv:
    need("smac.env", wanted.name, SMAC)
    return _starcraft(wanted, team_smac.smac)


def _smacv2(wanted: Wanted) -> TeamEnv:
    need("smacv2.env", wanted.name, SMACV2)
    return _starcraft(wanted, team_smac.smacv2)


def _starcraft(wanted: Wanted, make: Callable[..., Any]) -> TeamEnv:
    rest = dict(wanted.options)
    limit = rest.pop("limit", None)
    if wanted.workers is None:  # a game each, with a process to wait for it
        wanted = wanted._replace(workers=wanted.batch)
    maker = partial(team_smac.SmacCopy, partial(make, wanted.task, **rest), limit=limit)
    return _copies(wanted, maker, streams=True)


def _vmas(wanted: Wanted) -> TeamEnv:
    return VmasTeam(wanted.task, wanted.batch, device=wanted.device, **wanted.options)


def _smax(wanted: Wanted) -> TeamEnv:
    return SmaxTeam(wanted.task, wanted.batch, device=wanted.device, **wanted.options)


PREFIXES: dict[str, Callable[[Wanted], TeamEnv]] = {
    "pettingzoo": _module,
    "mpe": _mpe,
    "mamujoco": _mamujoco,
    "lbf": _foraging,
    "rware": _warehouse,
    "vmas": _vmas,
    "smax": _smax,
    "smac": _smac,
    "smacv2": _smacv2,
}
