"""Which optional library an environment of others is in, by the prefix of its name; looked for before work begins."""

from __future__ import annotations

from manyone.engine.extras import Extra

SMAC, SMACV2 = (
    f"pip install git+https://github.com/oxwhirl/{name}.git, with StarCraft II 4.10 and its maps where SC2PATH says"
    for name in ("smac", "smacv2")
)
"""How StarCraft's environments are installed."""
_BY_PREFIX = {
    "pettingzoo": (("gymnasium", "pettingzoo"), "teams"),
    "mpe": (("gymnasium", "mpe2"), "teams"),
    "lbf": (("gymnasium", "lbforaging"), "teams"),
    "rware": (("gymnasium", "rware"), "teams"),
    "vmas": (("vmas",), "teams"),
    "smax": (("jaxmarl",), "smax"),
    "mamujoco": (("gymnasium_robotics",), "pip install gymnasium-robotics"),
    "smac": (("smac",), SMAC),
    "smacv2": (("smacv2",), SMACV2),
}


def libraries(env: str) -> tuple[Extra, ...]:
    """What the environment called ``env`` needs; ours need nothing."""
    prefix, _, rest = env.partition(":")
    names, install = _BY_PREFIX.get(prefix, ((), ""))
    what = f"{prefix}:{rest.partition(':')[0]}"
    return tuple(Extra(name, what, install) for name in names)
