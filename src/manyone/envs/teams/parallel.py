"""One way to call environments with PettingZoo's parallel API, whatever they return, and those with its AEC API.

Public: :class:`Parallel`. An AEC environment whose metadata says ``is_parallelizable`` is converted by PettingZoo's
``aec_to_parallel``; in any other agents move in turns: one of them acts in a step and the others wait. What an
environment returns is checked here: dicts by agent of the present API, ``infos`` that may be None, numbers that may be
arrays of one entry; all else is refused in words that say what came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.errors import ManyoneError

PARTS = ("possible_agents", "reset", "step", "action_space", "observation_space")
RETURNED = ("observations", "rewards", "terminations", "truncations", "infos")


class Parallel:
    """``made``, an environment with PettingZoo's parallel or AEC API, called as the parallel API is.

    ``turns``: whether agents move in turns, so that one acts in a step; ``env``: what is called.
    """

    def __init__(self, made: Any) -> None:
        for name in PARTS:
            if not hasattr(made, name):
                raise ManyoneError(
                    f"the factory made a {type(made).__name__} without {name}; it must make an environment with "
                    "PettingZoo's parallel API"
                )
        self.env, self.turns = made, False
        if hasattr(made, "agent_iter"):
            conversions = need("pettingzoo.utils.conversions", type(made).__name__, "teams")
            self.turns = not getattr(made, "metadata", {}).get("is_parallelizable", False)
            convert = conversions.turn_based_aec_to_parallel if self.turns else conversions.aec_to_parallel
            self.env = convert(made)
        given = signature(self.env.reset).parameters
        self._seeded = "seed" in given or any(one.kind is Parameter.VAR_KEYWORD for one in given.values())

    @property
    def agents(self) -> list[Any]:
        """The agents that the environment lists now."""
        agents = getattr(self.env, "agents", None)
        if agents is None:
            raise ManyoneError("it has no agents; it must list those that take part, from reset() on")
        return list(agents)

    @property
    def turn(self) -> Any:
        """The agent whose turn it is, where they move in turns."""
        return self.env.aec_env.agent_selection

    def reset(self, seed: int) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        """(observations, infos) of a new episode. Where ``reset`` takes no seed, ``seed(...)`` is called before it, if
        there is one; else the global random streams decide, which the caller has seeded."""
        if self._seeded:
            returned = self.env.reset(seed=seed)
        else:
            if callable(getattr(self.env, "seed", None)):
                self.env.seed(seed)
            returned = self.env.reset()
        if isinstance(returned, Mapping):  # the API before infos
            return returned, {}
        if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[0], Mapping):
            raise ManyoneError(f"reset() returned {_told(returned)}; needed are (observations, infos), dicts by agent")
        return returned[0], self._infos(returned[1])

    def step(self, actions: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], ...]:
        """The five dicts of a step: observations, rewards, terminations, truncations, infos."""
        returned = self.env.step(actions)
        good = isinstance(returned, tuple) and len(returned) == len(RETURNED)
        if not good or not all(isinstance(part, Mapping) for part in returned[:4]):
            old = isinstance(returned, tuple) and len(returned) == 4
            raise ManyoneError(
                f"step() returned {_told(returned)}" + ", as before PettingZoo 1.22" * old +
                f"; needed are ({', '.join(RETURNED)}), dicts by agent"
            )  # fmt: skip
        return *returned[:4], self._infos(returned[4])

    def state(self) -> np.ndarray | None:
        """The global state as numbers [s]; None where the environment has none."""
        held = getattr(self.env, "state", None)
        try:
            held = held() if callable(held) else held
        except NotImplementedError:
            return None  # PettingZoo's base class has a state() that says so
        except (AttributeError, TypeError) as problem:
            # PettingZoo's wrappers pass the call on to an environment without state, or with one that is no method, and
            # its base class names the environment by metadata that need not be there when it says that there is none
            lacking = getattr(problem, "name", "") in ("state", "metadata")
            if lacking or str(problem).endswith("object is not callable"):
                return None
            raise ManyoneError(f"state() fails ({problem}): mend it, or leave it out with state=false") from problem
        if held is None:
            return None
        state = np.asarray(held)
        if state.dtype.kind not in "biuf":
            raise ManyoneError(
                f"state() returned {_told(held)}; needed are numbers: mend it, or leave it out with state=false"
            )
        return state.reshape(-1)

    def _infos(self, infos: Any) -> Mapping[Any, Any]:
        if infos is None:
            return {}
        if not isinstance(infos, Mapping):
            raise ManyoneError(f"infos are {_told(infos)}; needed is a dict by agent")
        return {key: info or {} for key, info in infos.items()}


def number(value: Any, what: str) -> float:
    """``value`` as a number, which may stand in an array of one entry; ``ManyoneError`` begins with ``what``."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ManyoneError(f"{what} {_told(value)}; needed is one number")
    return float(array.reshape(-1)[0])


def _told(value: Any) -> str:
    """What came back, in few words."""
    if isinstance(value, tuple):
        return f"{len(value)} value{'s' * (len(value) != 1)} ({', '.join(type(part).__name__ for part in value)})"
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
