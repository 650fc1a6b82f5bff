"""How much of everything the teams study gives to a suite, at each scale; and what its methods are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


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
    "resampled": Arm("commformer", "resampled", words={"commit": None}),
    "frozen": Arm("commformer", "frozen", words={"edge_lr": 0.0}),
    "heldout": Arm("commformer", "heldout", words={"upper_data": "heldout"}),
    "slow-edges": Arm("commformer", "slow-edges", words={"edge_lr": 1e-4}),
    "released": Arm("commformer", "released", words={"graph_rollout": "official", "commit": None}, network=_AS_RELEASED),
}  # fmt: skip
"""Parts of a seed's work: what the main claims compare first. A job is one arm of one suite with one seed.

Variants of commformer: s is the density (0.4 otherwise); official: a new graph in every update while the exact one
acts; resampled: never commits; frozen: logits never move; heldout: links learn from other copies of the environment;
slow-edges: their published learning rate; released: everything as the released code has it.
"""

LEFT_OUT = ("commformer", "commformer-fc", "random", "mat", "no-comm", "mappo")
"""Arms that are also evaluated with one agent fewer, where the suite says so."""


@dataclass(frozen=True)
class Setting:
    """One task and what is trained on it; counts are per seed.

    ``env``: for ``make_team``; ``batch``: copies of it; ``training``: what the learner takes; ``network``: what the
    policy takes; ``gate``: what the learner takes besides when there is a gate; ``density``: S, the share of the team that an agent may hear;
    ``episodes``: evaluation episodes,
    the same for every method; ``greedy``: evaluated at the most probable actions instead of sampled ones; ``bounds``:
    returns that stand for a score of 0 and 1, None where an episode succeeds or does not; ``fewer``: the same task
    with one agent less, for the evaluation of teams that lose one; ``threshold``: score at which environment steps
    are counted; ``film``: whether an episode is filmed.
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
_PPO = {"epochs": 5, "minibatches": 1, "lr": 1e-3, "edge_lr": 2e-2, "clip": 0.2, "commit": 0.4}
_RELAY = {**_PPO, "iterations": 80, "length": 1, "lr": 2e-3, "edge_lr": 5e-2}
_GRID = {**_PPO, "iterations": 80, "length": 20}

_relay = Setting("relay:agents=6,symbols=5", _CORE, 256, _RELAY, bounds=(0.0, 1.0))
_gated = replace(_relay, env="relay-gate:agents=6,symbols=5", arms=("gate", "commformer"))
_prey = Setting("predator-prey:size=5,predators=5,vision=0,limit=20", _CORE, 64, _GRID, greedy=False)
_spread = Setting("vmas:simple_spread", _CORE, 64, _GRID, greedy=False)

# The published values. Steps are environment steps; epochs, clip and what differs are those of the released scripts.
_SMAC: dict[str, tuple[int, float, float, dict[str, Any]]] = {
    "3m": (15, 0.2, 5e5, {}),
    "8m": (15, 0.2, 1e6, {}),
    "1c3s5z": (10, 0.2, 2e6, {}),
    "MMM": (15, 0.2, 2e6, {"commit": 0.5}),
    "2c_vs_64zg": (10, 0.05, 5e6, {}),
    "3s5z": (10, 0.05, 3e6, {"commit": 0.5}),
    "5m_vs_6m": (10, 0.05, 1e7, {"commit": 0.5}),
    "8m_vs_9m": (10, 0.05, 5e6, {}),
    "10m_vs_11m": (10, 0.05, 5e6, {}),
    "25m": (15, 0.05, 2e6, {}),
    "27m_vs_30m": (5, 0.2, 1e7, {"commit": 0.5}),
    "MMM2": (10, 0.05, 1e7, {"warmup": 100}),
    "6h_vs_8z": (15, 0.05, 1e7, {"commit": 0.7}),
    "3s5z_vs_3s6z": (5, 0.05, 2e7, {"commit": 0.6}),
    "1o_2r_vs_4r": (5, 0.05, 1e7, {"commit": 0.5}),
    "5z_vs_1ul": (10, 0.05, 1e7, {"commit": 0.5, "lr": 1e-3, "warmup": 100}),
    "1o_10b_vs_1r": (10, 0.2, 2e7, {"commit": 0.5}),
}
_SMAX = ("3m", "8m", "3s5z", "5m_vs_6m", "10m_vs_11m", "25m", "27m_vs_30m", "6h_vs_8z", "3s5z_vs_3s6z")
_PUBLISHED = {
    "minibatches": 1, "lr": 5e-4, "edge_lr": 1e-4, "gamma": 0.99, "lam": 0.95, "entropy_coef": 0.01, "value_coef": 1.0,
    "grad_clip": 10.0, "commit": None, "warmup": 10,
}  # fmt: skip


def _published(env: str, steps: float, epochs: int, clip: float, *, batch: int, length: int, **words: Any) -> Setting:
    """A task with the published hyper-parameters, on an accelerator where there is one."""
    network = {"width": 64, "layers": 1, "heads": 1, "dropout": 0.1}
    if words.pop("shared", False):
        network |= {"decoder_heads": "shared"}
    iterations = max(1, int(steps) // (batch * length))
    training = {**_PUBLISHED, "epochs": epochs, "clip": clip, "iterations": iterations, "length": length, **words}
    arms = ("gate", *_CORE, "mat-dec", "mappo", "ippo", "released")
    return Setting(env, arms, batch, training, network, episodes=32, device="auto")


def _of_map(game: str, name: str) -> Setting:
    epochs, clip, steps, words = _SMAC[name]
    shared = {"shared": True} if name == "1o_10b_vs_1r" else {}
    return _published(f"{game}:{name}", steps, epochs, clip, batch=32, length=100, **words, **shared)


SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {
        "relay": _relay,
        "relay-gate": _gated,
        "pp-n3": _prey,
    },
    "laptop": {
        "relay": _relay,
        "relay-gate": _gated,
        "pp-n3": _prey,
        "pp-n5": _prey,
        "pp-n8": _prey,
        "pp-blind": _prey,
        "pcp": _prey,
        "vmas-spread": _spread,
    },
    "paper": {
        **{f"smac-{m}": _of_map("smac", m) for m in _SMAC},
        **{f"smax-{m}": _of_map("smax", m) for m in _SMAX},
        "pp-paper": _published("predator-prey:size=5,predators=3,vision=1", 1e7, 10, 0.05, batch=20, length=200),
        "pcp-paper": _published("predator-capture-prey", 1e7, 10, 0.05, batch=20, length=200),
    },
}
"""Scale -> suite -> setting."""
