"""How much of everything the teams study gives to a suite, at each scale; and what its methods are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from manyone.teams.recipes.presets import PUBLISHED, SCRIPTS


class Arm(NamedTuple):
    """A method of the study: method and variant of its rows, what is built, and what differs from the suite's words.

    ``network`` goes to the policy's constructor, ``words`` to ``build_team``.
    """

    method: str
    variant: str = ""
    build: str = ""
    words: Mapping[str, Any] = {}
    network: Mapping[str, Any] = {}


_AS_RELEASED = {"scale": "official", "decoder_mask": "official", "relation": "transposed", "diagonal": "official"}

ARMS: dict[str, Arm] = {
    "gate": Arm("commformer-gate", build="commformer", words={"gate": True}),
    "commformer": Arm("commformer"),
    "random": Arm("random", build="commformer", words={"graph": "random"}),
    "commformer-fc": Arm("commformer-fc"),
    "mat": Arm("mat"),
    "no-comm": Arm("no-comm"),
    "mappo": Arm("mappo"),
    "ippo": Arm("ippo"),
    "mat-dec": Arm("mat-dec"),
    "ring": Arm("ring", build="commformer", words={"graph": "ring"}),
    "s0.2": Arm("commformer", "s0.2", words={"density": 0.2}),
    "s0.6": Arm("commformer", "s0.6", words={"density": 0.6}),
    "s0.8": Arm("commformer", "s0.8", words={"density": 0.8}),
    "official": Arm("commformer", "official", words={"graph_rollout": "official"}),
    "resampled": Arm("commformer", "resampled", words={"commit": 0.0}),
    "frozen": Arm("commformer", "frozen", words={"upper_every": 1000}),
    "heldout": Arm("commformer", "heldout", words={"upper_data": "heldout"}),
    "slow-edges": Arm("commformer", "slow-edges", words={"edge_lr": 1e-4}),
    "released": Arm("commformer", "released", words={"graph_rollout": "official"}, network=_AS_RELEASED),
}  # fmt: skip
"""Parts of a seed's work: what the main claims compare first. A job is one arm of one suite with one seed.

Variants of commformer: s is the density (0.4 otherwise); official: a new graph in every update while the exact one
acts; resampled: never commits; frozen: logits never move; heldout: links learn from other copies of the environment;
slow-edges: their published learning rate; released: as official, with the released code's masks and scales.
"""

LEFT_OUT = ("commformer", "commformer-fc", "random", "mat", "no-comm", "mappo")
"""Arms that are also evaluated with one agent fewer, where the suite says so."""


@dataclass(frozen=True)
class Setting:
    """One task and what is trained on it; counts are per seed.

    ``env``: for ``make_team``; ``batch``: copies of it; ``training``: what the learner takes; ``network``: what the
    policy takes; ``gate``: what the learner takes besides when there is a gate; ``density``: S, the share of the team
    that an agent may hear; ``episodes``: evaluation episodes, the same for every method; ``greedy``: evaluated at the
    most probable actions instead of drawn ones; ``bounds``: returns that stand for a score of 0 and 1, None where an
    episode succeeds or does not; ``fewer``: the same task with one agent less, for the evaluation of teams that lose
    one; ``threshold``: score at which environment steps are counted; ``film``: whether an episode is filmed.
    """

    env: str
    arms: tuple[str, ...]
    batch: int
    training: Mapping[str, Any]
    network: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    density: float = 0.4
    episodes: int = 256
    greedy: bool = True
    bounds: tuple[float, float] | None = None
    fewer: str = ""
    threshold: float = 0.9
    film: bool = False
    device: str = "cpu"

    @property
    def env_steps(self) -> int:
        """Environment steps of a run."""
        return int(self.batch * self.training["iterations"] * self.training["length"])


_CORE = ("commformer", "random", "commformer-fc", "mat", "no-comm")
_BASELINES = ("mappo", "ippo")
_PPO = {"epochs": 5, "minibatches": 1, "lr": 1e-3, "edge_lr": 5e-2, "clip": 0.2, "commit": 0.4, "warmup": 10}
_RELAY = {**_PPO, "iterations": 100, "length": 1, "lr": 2e-3}
_GRID = {**_PPO, "iterations": 80, "length": 20, "minibatches": 2}
_GATE = {"gate_loss": "ratio", "gate_target": 0.5, "gate_weight": 0.2, "gate_open": 0.6, "gate_ramp": 0.15}
_SMALL = {"width": 32}
_ALIKE = {"width": 32, "decoder_heads": "shared"}  # a head for each of several like agents sees a fraction of the data
_SHORT = ("commformer", "commformer-fc", "no-comm")
_SCHEDULES = ("official", "resampled", "frozen", "heldout", "slow-edges", "released")
_DENSITIES = ("s0.2", "s0.6", "s0.8")


def _relay(agents: int, symbols: int, arms: tuple[str, ...], iterations: int, batch: int) -> Setting:
    """Who must listen to whom is known: agents name the symbol of one other agent."""
    training = {**_RELAY, "iterations": iterations}
    return Setting(f"relay:agents={agents},symbols={symbols}", arms, batch, training, _SMALL, bounds=(0.0, 1.0))


def _gated(agents: int, symbols: int, iterations: int) -> Setting:
    """The same; half of the time an agent knows the symbol already."""
    env, arms = f"relay-gate:agents={agents},symbols={symbols}", ("gate", "commformer")
    training = {**_RELAY, "iterations": iterations}
    gate = {**_GATE, "gate_weight": 1.0, "gate_open": 0.4, "gate_ramp": 0.2}
    return Setting(env, arms, 128, training, _SMALL, gate, bounds=(0.0, 1.0))


def _prey(
    env: str, arms: tuple[str, ...], iterations: int, length: int = 20, lr: float = 1e-3, **words: Any
) -> Setting:
    """A grid with prey; teams act as they were trained, drawing their actions."""
    training = {**_GRID, "iterations": iterations, "length": length, "lr": lr}
    return Setting(env, arms, 64, training, _SMALL, _GATE, greedy=False, **words)


def _alike(predators: int, arms: tuple[str, ...], iterations: int, **words: Any) -> Setting:
    """Predators that see nothing but where they are, all alike."""
    found = _prey(f"predator-prey:predators={predators},vision=0", arms, iterations, **words)
    return replace(found, network=_ALIKE, training={**found.training, "minibatches": 4})


def _robots(env: str, arms: tuple[str, ...], iterations: int) -> Setting:
    """VMAS navigation: 0 is the return of uniformly random actions, 1 that of four agents which go straight to their
    goals: the mean distance of two points of the arena for each, nothing lost by collisions."""
    training = {**_GRID, "iterations": iterations, "length": 25}
    return Setting(env, arms, 64, training, _ALIKE, bounds=(-0.45, 4.2), greedy=False)


def _published(preset: str, env: str = "") -> Setting:
    """A task with the published hyper-parameters, on an accelerator where there is one."""
    values = {"env": preset, **SCRIPTS, **PUBLISHED[preset]}
    network = {name: values[name] for name in ("dropout", "decoder_heads", "edge_types")}
    names = ("length", "epochs", "clip", "lr", "edge_lr", "grad_clip", "commit", "warmup")
    training = {name: values[name] for name in names} | {"minibatches": 1}
    training["iterations"] = values["env_steps"] // (values["envs"] * values["length"])
    gate = {name: values[name] for name in ("gate_weight", "gate_open", "gate_ramp")}
    arms = ("gate", *_CORE, "mat-dec", *_BASELINES, "released")
    density, episodes = values.get("density", 0.4), values["eval_episodes"]
    return Setting(
        env or values["env"], arms, values["envs"], training, network, gate, density, episodes, device="auto"
    )


_MAPS = tuple(name.removeprefix("smac:") for name in PUBLISHED if name.startswith("smac:"))
_SMAX = ("3m", "8m", "3s5z", "5m_vs_6m", "10m_vs_11m", "25m", "27m_vs_30m", "6h_vs_8z", "3s5z_vs_3s6z")

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "relay": _relay(5, 4, ("random", *_SHORT, "official"), 60, 128),
        "relay-gate": _gated(4, 3, 90),
        "pp-n3": replace(_prey("predator-prey:size=3,vision=0,limit=8", _SHORT, 24, length=8, lr=2e-3), network=_ALIKE),
    },
    "laptop": {
        "relay": _relay(6, 5, (*_CORE, *_BASELINES, *_DENSITIES, *_SCHEDULES), 80, 256),
        "relay-gate": _gated(6, 5, 160),
        "pp-n3": _alike(3, (*_CORE, *_BASELINES), 120),
        "pp-n5": _alike(5, ("gate", *_CORE, *_BASELINES), 160, film=True, fewer="predator-prey:predators=4,vision=0"),
        "pp-n8": _alike(8, _SHORT, 120, fewer="predator-prey:predators=7,vision=0"),
        "pp-blind": _prey("predator-prey-blind", ("random", *_SHORT), 70, density=0.2, film=True),
        "pcp": _prey("predator-capture-prey", ("random", *_SHORT), 80),
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
