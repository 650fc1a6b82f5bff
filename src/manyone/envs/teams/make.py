"""Any team environment by one name.

=================================  ===============================================================  ====================
name                               what                                                             needs
=================================  ===============================================================  ====================
``relay``                          a bandit with a known best graph                                 nothing
``relay-gate``                     the same; half of the time no message is needed                  nothing
``predator-prey``                  3 predators on a 5 x 5 grid find one prey                        nothing
``predator-prey-blind``            5 predators, of which 3 never see the prey                       nothing
``predator-capture-prey``          2 predators and a blind capture agent                            nothing
``traffic-junction-easy``          5 cars on a crossing (``-medium``: 10, ``-hard``: 20)            nothing
``mpe:simple_spread_v3``           a multi-particle task (mpe2)                                     extra ``teams``
``vmas:navigation``                a vectorised two-dimensional robot task                          extra ``teams``
``lbf:Foraging-8x8-2p-2f-coop-v3`` level-based foraging                                             extra ``teams``
``rware:rware-tiny-2ag-v2``        a robot warehouse                                                extra ``teams``
``pettingzoo:package.module``      anything with ``parallel_env()``                                 that package
``mamujoco:Ant 4x2``               a MuJoCo body shared by several agents                           gymnasium-robotics
``smax:3m``                        a StarCraft-like battle in jax                                   extra ``smax``
``smac:3m``, ``smacv2:...``        StarCraft II                                                     the installed game
=================================  ===============================================================  ====================

Settings follow the name, ``"predator-prey:size=10,predators=5"`` or ``"vmas:navigation:n_agents=4"`` (the grammar is
that of ``manyone.engine.words.parse_settings``), or are given as keywords. ``frames=4`` shows the last four
observations of any of them side by side (``manyone.envs.teams.frames``).
Public: ``make_team``, ``team_names``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch

from manyone.engine.words import parse_settings, write_settings
from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.frames import stack_frames
from manyone.envs.teams.grid import GridTeam
from manyone.envs.teams.relay import Relay
from manyone.envs.teams.traffic import LEVELS, TrafficJunction
from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError

PREFIXES = ("mpe", "vmas", "lbf", "rware", "smax", "smac", "smacv2", "pettingzoo", "mamujoco")

# Of each name: the class, the settings that the name fixes, and those it changes and leaves open.
_OWN: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "relay": (Relay, {}, {}),
    "relay-gate": (Relay, {}, {"need": 0.5}),
    "predator-prey": (GridTeam, {"name": "predator-prey", "captors": 0}, {}),
    "predator-prey-blind": (GridTeam, {"name": "predator-prey-blind", "captors": 0}, {"predators": 5, "blind": 3}),
    "predator-capture-prey": (GridTeam, {"name": "predator-capture-prey", "blind": 0}, {"predators": 2, "captors": 1}),
    **{f"traffic-junction-{level}": (TrafficJunction, {"level": level}, {}) for level in LEVELS},
}


def team_names() -> list[str]:
    """The names that ``make_team`` takes, prefixes with the colon and a placeholder."""
    return [*_OWN, *(f"{prefix}:NAME" for prefix in PREFIXES)]


def make_team(
    name: str | Callable[[], Any],
    batch: int,
    *,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    frames: int = 1,
    **options: Any,
) -> TeamEnv:
    """A batch of ``batch`` copies of a task, by name or by a factory of PettingZoo parallel environments.

    ``workers``: processes that step environments which are not batched themselves (None: chosen by the number of cores,
    0: this process); the project's own tasks are tensors and ignore it. ``frames``: observations of the running episode
    that an agent sees side by side, the newest first. ``spec.name`` of the result makes the same task again, with one
    frame. ``ManyoneError`` names an unknown task or setting and what is allowed.
    """
    if not isinstance(name, str) or name.partition(":")[0] in PREFIXES:
        env = make_adapter(name, batch, device=device, workers=workers, **options)
    else:
        env = _own(name, batch, device, options)
    return stack_frames(env, frames)


def _own(name: str, batch: int, device: str | torch.device, options: dict[str, Any]) -> TeamEnv:
    """One of the project's own tasks."""
    base, _, rest = name.partition(":")
    if base not in _OWN:
        raise ManyoneError(f"unknown team task {name!r}; allowed: {', '.join(team_names())}")
    kind, fixed, changed = _OWN[base]
    defaults = {key: value for key, value in _defaults(kind).items() if key not in fixed} | changed
    given = parse_settings(rest, name, options)
    for key in given:
        if key not in defaults:
            raise ManyoneError(f"{base}: unknown setting {key!r}; allowed: {', '.join(sorted(defaults))}")
    env = kind(batch, device, **fixed, **(changed | given))
    written = write_settings({key: value for key, value in given.items() if value != defaults[key]})
    env.spec = replace(env.spec, name=f"{base}:{written}" if written else base)
    return cast(TeamEnv, env)


def _defaults(kind: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
