"""Settings of team recipes as data: sized for minutes on two cores, and the published ones of every map.

``laptop`` is the defaults of the options, with some for the environment's family (the name before the first colon); the
published settings are those of the authors' scripts, which they say are the paper's appendix (Hu et al., ICLR 2024,
arXiv 2405.08550). A preset only fills in what was left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

FAMILIES: dict[str, dict[str, Any]] = {
    "predator-prey": {"envs": 64, "length": 20, "iterations": 150, "minibatches": 2},
    "predator-prey-blind": {"envs": 64, "length": 20, "iterations": 220, "minibatches": 2},
    "predator-capture-prey": {"envs": 64, "length": 20, "iterations": 220, "minibatches": 2},
    "relay": {"envs": 256, "length": 1, "iterations": 80, "lr": 2e-3},
    "relay-gate": {
        "envs": 256, "length": 1, "iterations": 160, "lr": 2e-3, "gate_weight": 1.0, "gate_open": 0.4, "gate_ramp": 0.2,
    },
    "mpe": {"envs": 16, "length": 25, "iterations": 150},
    "vmas": {"envs": 64, "iterations": 150},
    "lbf": {"envs": 16, "iterations": 150},
}  # fmt: skip
"""What ``laptop`` changes for a family."""

SCRIPTS: dict[str, Any] = {
    "epochs": 10, "minibatches": 1, "clip": 0.05, "lr": 5e-4, "edge_lr": 1e-4, "grad_clip": 10.0, "dropout": 0.1,
    "commit": 0.0, "warmup": 10, "envs": 32, "length": 100, "decoder_heads": "per-agent", "edge_types": True,
    "gate_weight": 0.2, "gate_open": 0.6, "gate_ramp": 0.15, "evaluate_every": 25, "eval_episodes": 32,
}  # fmt: skip
"""What all published scripts share; the rows below replace some of it. ``commit`` 0: never."""

_M = 1_000_000
PUBLISHED: dict[str, dict[str, Any]] = {
    "smac:3m": {"epochs": 15, "clip": 0.2, "env_steps": _M // 2},
    "smac:8m": {"epochs": 15, "clip": 0.2, "env_steps": _M},
    "smac:1c3s5z": {"epochs": 10, "clip": 0.2, "env_steps": 2 * _M},
    "smac:MMM": {"epochs": 15, "clip": 0.2, "env_steps": 2 * _M, "commit": 0.5},
    "smac:2c_vs_64zg": {"env_steps": 5 * _M},
    "smac:3s5z": {"env_steps": 3 * _M, "commit": 0.5},
    "smac:5m_vs_6m": {"env_steps": 10 * _M, "commit": 0.5},
    "smac:8m_vs_9m": {"env_steps": 5 * _M},
    "smac:10m_vs_11m": {"env_steps": 5 * _M},
    "smac:25m": {"epochs": 15, "env_steps": 2 * _M},
    "smac:27m_vs_30m": {"epochs": 5, "clip": 0.2, "env_steps": 10 * _M, "commit": 0.5},
    "smac:MMM2": {"env_steps": 10 * _M, "warmup": 100},
    "smac:6h_vs_8z": {"epochs": 15, "env_steps": 10 * _M, "commit": 0.7},
    "smac:3s5z_vs_3s6z": {"epochs": 5, "env_steps": 20 * _M, "commit": 0.6},
    "smac:1o_2r_vs_4r": {"epochs": 5, "env_steps": 10 * _M, "commit": 0.5},
    "smac:5z_vs_1ul": {"lr": 1e-3, "env_steps": 10 * _M, "warmup": 100, "commit": 0.5},
    "smac:1o_10b_vs_1r": {
        "clip": 0.2, "env_steps": 20 * _M, "commit": 0.5, "decoder_heads": "shared", "edge_types": False,
    },
    "grf:academy_3_vs_1_with_keeper": {"envs": 20, "length": 200, "grad_clip": 0.5, "env_steps": 10 * _M},
    "predator-prey": {
        "env": "predator-prey:size=5,predators=3,vision=1", "envs": 20, "length": 200, "env_steps": 10 * _M,
    },
    "predator-capture-prey": {"envs": 20, "length": 200, "env_steps": 10 * _M},
}  # fmt: skip
"""The published settings by map: SMAC (StarCraft II), Google Research Football, Predator-Prey, Predator-Capture-Prey.

Some scripts leave self-loops out on top; with links to others only (``diagonal`` excluded) that makes no difference.
"""

OFFICIAL: dict[str, Any] = {
    "graph_rollout": "official", "scale": "official", "decoder_mask": "official", "relation": "transposed",
    "diagonal": "official", "dropout": 0.1, "edge_lr": 1e-4, "warmup": 10, "commit": 0.0, "upper_data": "same",
    "value_alive": False,
}  # fmt: skip
"""``--official``: how the authors' code differs from the mathematics, for comparison runs."""


def values_of(preset: str, env: str, official: bool = False) -> Mapping[str, Any]:
    """What ``preset`` gives to the options that are left open when ``env`` is played; ``official`` goes before it."""
    if preset == "laptop":
        values = FAMILIES.get(env.partition(":")[0], {})
    elif preset in PUBLISHED:
        values = {"env": preset} | SCRIPTS | PUBLISHED[preset]
    else:
        known = ["laptop", *PUBLISHED]
        raise ManyoneError(f"--preset {preset}: unknown; {suggestion(preset, known)} (smac:MAP, ...)")
    return values | OFFICIAL if official else values
