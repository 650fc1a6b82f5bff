"""How much of everything the teams study gives to a suite, at each scale; and what its methods are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manyone.recipes.arm import Arm, taken_by
from manyone.teams.recipes.presets import PUBLISHED, SCRIPTS

_AS_RELEASED = {"scale": "official", "decoder_mask": "official", "relation": "transposed", "diagonal": "official"}

ARMS: dict[str, Arm] = {
    "gate": Arm("commformer-gate", "commformer", {"gate": True}),
    "commformer": Arm("commformer", "commformer"),
    "random": Arm("random", "commformer", {"graph": "random"}),
    "commformer-fc": Arm("commformer-fc", "commformer-fc"),
    "mat": Arm("mat", "mat"),
    "no-comm": Arm("no-comm", "no-comm"),
    "mappo": Arm("mappo", "mappo"),
    "ippo": Arm("ippo", "ippo"),
    "mat-dec": Arm("mat-dec", "mat-dec"),
    "ring": Arm("ring", "commformer", {"graph": "ring"}),
    "s0.2": Arm("commformer", "commformer", {"density": 0.2}, "s0.2"),
    "s0.6": Arm("commformer", "commformer", {"density": 0.6}, "s0.6"),
    "s0.8": Arm("commformer", "commformer", {"density": 0.8}, "s0.8"),
    "official": Arm("commformer", "commformer", {"graph_rollout": "official"}, "official"),
    "resampled": Arm("commformer", "commformer", {"commit": 0.0}, "resampled"),
    "frozen": Arm("commformer", "commformer", {"upper_every": 0}, "frozen"),
    "search": Arm("commformer", "commformer", {"search": 0.25}, "search"),
    "heldout": Arm("commformer", "commformer", {"upper_data": "heldout"}, "heldout"),
    "slow-edges": Arm("commformer", "commformer", {"edge_lr": 1e-4}, "slow-edges"),
    "released": Arm("commformer", "commformer", {"graph_rollout": "official", **_AS_RELEASED}, "released"),
}
"""Parts of a seed's work: what the main claims compare first. A job is one arm of one suite with one seed.

Variants of commformer: s is the density (0.4 otherwise); official: a new graph in every update while the exact one
acts; resampled: never commits; frozen: logits never move; heldout: links learn from other copies of the environment;
search: on all links for a quarter of the training, then a new network on the chosen ones; slow-edges: their published
learning rate; released: as official, with the released code's masks and scales.
"""

LEFT_OUT = ("commformer", "commformer-fc", "random", "mat", "no-comm", "mappo")
"""Arms that are also evaluated with one agent fewer, where the suite says so."""


@dataclass(frozen=True)
class Setting:
    """One task and what is trained on it; counts are per seed.

    ``given``: options of all its ``arms``, of which each takes those that its recipe has; the rest is the preset's.
    ``episodes``: evaluation episodes, the same for every method; ``greedy``: evaluated at the most probable actions
    instead of drawn ones; ``bounds``: returns that stand for a score of 0 and 1, None where an episode succeeds or does
    not; ``fewer``: the same task with one agent less, for the evaluation of teams that lose one; ``threshold``: score
    at which environment steps are counted; ``film``: whether an episode is filmed.
    """

    given: Mapping[str, Any]
    arms: tuple[str, ...]
    episodes: int = 256
    greedy: bool = True
    bounds: tuple[float, float] | None = None
    fewer: str = ""
    threshold: float = 0.9
    film: bool = False

    def arm(self, part: str) -> Arm:
        """The arm called ``part`` on this task."""
        arm = ARMS[part]
        shared = taken_by(arm.recipe, self.given)
        if arm.given.get("graph_rollout") != "official":
            shared.pop("warmup", None)  # without it a warm-up does nothing
        return dataclasses.replace(arm, given={**shared, **arm.given})


_CORE = ("commformer", "random", "commformer-fc", "mat", "no-comm")
_BASELINES = ("mappo", "ippo")
_HERE = {"device": "cpu", "workers": 0, "width": 32}
_ALIKE = {"decoder_heads": "shared"}  # a head for each of several like agents sees a fraction of the data
_SHORT = ("commformer", "commformer-fc", "no-comm")
_SCHEDULES = ("official", "resampled", "frozen", "heldout", "slow-edges", "released")
_DENSITIES = ("s0.2", "s0.6", "s0.8")


def _relay(agents: int, symbols: int, arms: tuple[str, ...], iterations: int, envs: int) -> Setting:
    """Who must listen to whom is known: agents name the symbol of one other agent."""
    env = f"relay:agents={agents},symbols={symbols}"
    given = {"env": env, "envs": envs, "iterations": iterations, "warmup": 10, **_HERE}
    return Setting(given, arms, bounds=(0.0, 1.0))


def _gated(agents: int, symbols: int, iterations: int) -> Setting:
    """The same; half of the time an agent knows the symbol already."""
    env = f"relay-gate:agents={agents},symbols={symbols}"
    given = {"env": env, "envs": 128, "iterations": iterations, **_HERE}
    return Setting(given, ("gate", "commformer"), bounds=(0.0, 1.0))


def _prey(env: str, arms: tuple[str, ...], iterations: int, given: Mapping[str, Any], **words: Any) -> Setting:
    """A grid with prey; teams act as they were trained, drawing their actions."""
    return Setting({"env": env, "iterations": iterations, **_HERE, **given}, arms, greedy=False, **words)


def _alike(predators: int, arms: tuple[str, ...], iterations: int, **words: Any) -> Setting:
    """Predators that see nothing but where they are, all alike."""
    env = f"predator-prey:predators={predators},vision=0"
    return _prey(env, arms, iterations, {"minibatches": 4, **_ALIKE}, **words)


def _robots(env: str, arms: tuple[str, ...], iterations: int) -> Setting:
    """VMAS navigation: 0 is the return of uniformly random actions, 1 that of four agents which go straight to their
    goals: the mean distance of two points of the arena for each, nothing lost by collisions."""
    return _prey(env, arms, iterations, {"length": 25, "minibatches": 2, **_ALIKE}, bounds=(-0.45, 4.2))


def _published(preset: str, env: str = "") -> Setting:
    """A task with the published hyper-parameters, on an accelerator where there is one."""
    network: dict[str, Any] = {
        name: PUBLISHED[preset][name] for name in ("edge_types", "decoder_heads") if name in PUBLISHED[preset]
    }
    given: dict[str, Any] = {"preset": preset, "workers": 0, **network} | ({"env": env} if env else {})
    arms = ("gate", *_CORE, "mat-dec", *_BASELINES, "released")
    return Setting(given, arms, episodes=SCRIPTS["eval_episodes"])


_MAPS = tuple(name.removeprefix("smac:") for name in PUBLISHED if name.startswith("smac:"))
_SMAX = ("3m", "8m", "3s5z", "5m_vs_6m", "10m_vs_11m", "25m", "27m_vs_30m", "6h_vs_8z", "3s5z_vs_3s6z")

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "relay": _relay(5, 4, ("random", *_SHORT, "official"), 60, 128),
        "relay-gate": _gated(4, 3, 90),
        "pp-n3": _prey(
            "predator-prey:size=3,vision=0,limit=8", _SHORT, 24, {"length": 8, "lr": 2e-3, **_ALIKE}
        ),
    },
    "laptop": {
        "relay": _relay(6, 5, (*_CORE, *_BASELINES, *_DENSITIES, *_SCHEDULES), 80, 256),
        "relay-gate": _gated(6, 5, 160),
        "pp-n3": _alike(3, (*_CORE, *_BASELINES), 120),
        "pp-n5": _alike(
            5, ("gate", "search", *_CORE, *_BASELINES), 160, film=True, fewer="predator-prey:predators=4,vision=0"
        ),
        "pp-n8": _alike(8, _SHORT, 120, fewer="predator-prey:predators=7,vision=0"),
        "pp-blind": _prey("predator-prey-blind", ("random", *_SHORT), 70, {"density": 0.2}, film=True),
        "pcp": _prey("predator-capture-prey", ("random", "search", *_SHORT), 160, {}),
        "vmas-navigation": _robots("vmas:navigation:n_agents=4,continuous=0,limit=100", ("random", *_SHORT), 60),
    },
    "paper": {
        **{f"smac-{m}": _published(f"smac:{m}") for m in _MAPS},
        **{f"smax-{m}": _published(f"smac:{m}", f"smax:{m}") for m in _SMAX},
        "pp-published": _published("predator-prey"),
        "pcp-published": _published("predator-capture-prey"),
    },
}  # fmt: skip
"""Scale -> suite -> setting."""
