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
from typing import Any

import torch

from manyone.engine.extras import need
from manyone.engine.words import parse_settings, write_settings
from manyone.envs.teams import pettingzoo
from manyone.envs.teams import smac as team_smac
from manyone.envs.teams import tuple as team_tuple
from manyone.envs.teams.copies import TeamCopies
from manyone.envs.teams.smax import SmaxTeam
from manyone.envs.teams.types import TeamEnv
from manyone.envs.teams.vmas import VmasTeam
from manyone.errors import ManyoneError

OURS = ("limit", "state", "success", "masked")  # options of PettingZooCopy; the rest is the environment's


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
        return _pettingzoo(called, name, batch, device, workers, options)
    prefix, _, rest = name.partition(":")
    if prefix not in PREFIXES or not rest:
        raise ManyoneError(f"environment {name!r}: write one of {', '.join(f'{p}:NAME' for p in PREFIXES)}")
    task, _, settings = rest.partition(":")
    settled = parse_settings(settings, name, options)
    written = write_settings(settled)
    env = PREFIXES[prefix](task, batch, device, workers, settled)
    env.spec = replace(env.spec, name=f"{prefix}:{task}:{written}" if written else f"{prefix}:{task}")
    return env


def _pettingzoo(
    name: str,
    factory: Callable[..., Any],
    batch: int,
    device: str | torch.device,
    workers: int | None,
    options: dict[str, Any],
    *,
    streams: bool = True,
    **defaults: Any,
) -> TeamEnv:
    need("gymnasium", name, "teams")
    ours = {**defaults, **{key: value for key, value in options.items() if key in OURS}}
    rest = {key: value for key, value in options.items() if key not in OURS}
    maker = partial(pettingzoo.PettingZooCopy, partial(factory, **rest) if rest else factory, **ours)
    return TeamCopies(name, maker, batch, device=device, workers=workers, streams=streams)


def _module(task: str, batch: int, device: str | torch.device, workers: int | None, options: dict[str, Any]) -> TeamEnv:
    return _pettingzoo(f"pettingzoo:{task}", partial(pettingzoo.from_module, task), batch, device, workers, options)


def _mpe(task: str, batch: int, device: str | torch.device, workers: int | None, options: dict[str, Any]) -> TeamEnv:
    name = f"mpe:{task}"
    need("mpe2", name, "teams")
    # Its state() observes once more for every agent; the learner can join the observations itself.
    defaults = {"state": False, "masked": None}
    return _pettingzoo(name, partial(pettingzoo.mpe, task), batch, device, workers, options, streams=False, **defaults)


def _mamujoco(
    task: str, batch: int, device: str | torch.device, workers: int | None, options: dict[str, Any]
) -> TeamEnv:
    name = f"mamujoco:{task}"
    need("gymnasium_robotics", name, "pip install gymnasium-robotics")
    return _pettingzoo(
        name, partial(pettingzoo.mamujoco, task), batch, device, workers, options, streams=False, masked=None
    )


def _vmas(task: str, batch: int, device: str | torch.device, workers: int | None, options: dict[str, Any]) -> TeamEnv:
    return VmasTeam(task, batch, device=device, **options)


def _tuple(
    prefix: str, package: str, task: str, batch: int, device: Any, workers: int | None, options: dict[str, Any]
) -> TeamEnv:
    name = f"{prefix}:{task}"
    need("gymnasium", name, "teams")
    need(package, name, "teams")
    limit = options.pop("limit", None)
    if prefix == "lbf":
        make, solved, drawn = team_tuple.foraging, team_tuple.all_food_loaded, team_tuple.draw_foraging
    else:
        make, solved, drawn = team_tuple.warehouse, None, team_tuple.draw_warehouse
    maker = partial(team_tuple.TupleCopy, partial(make, task, **options), limit=limit, solved=solved, drawn=drawn)
    return TeamCopies(name, maker, batch, device=device, workers=workers, streams=False)


def _smac(
    prefix: str, install: str, task: str, batch: int, device: Any, workers: int | None, options: dict[str, Any]
) -> TeamEnv:
    name = f"{prefix}:{task}"
    need(f"{prefix}.env", name, install)
    limit = options.pop("limit", None)
    factory = partial(team_smac.smac if prefix == "smac" else team_smac.smacv2, task, **options)
    workers = batch if workers is None else workers  # a game each, with a process to wait for it
    return TeamCopies(name, partial(team_smac.SmacCopy, factory, limit=limit), batch, device=device, workers=workers)


def _smax(task: str, batch: int, device: str | torch.device, workers: int | None, options: dict[str, Any]) -> TeamEnv:
    return SmaxTeam(task, batch, device=device, **options)


PREFIXES: dict[str, Callable[..., TeamEnv]] = {
    "pettingzoo": _module,
    "mpe": _mpe,
    "mamujoco": _mamujoco,
    "lbf": partial(_tuple, "lbf", "lbforaging"),
    "rware": partial(_tuple, "rware", "rware"),
    "vmas": _vmas,
    "smax": _smax,
    "smac": partial(_smac, "smac", team_smac.SMAC),
    "smacv2": partial(_smac, "smacv2", team_smac.SMACV2),
}
