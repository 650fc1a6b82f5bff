"""What policy recipes ask for: the simulators of their tasks and the readers of their data. Nothing is fetched: data of
ours are made."""

from __future__ import annotations

from manyone.data.trajectories.offline import OfflineName, parse_offline
from manyone.engine.extras import Extra
from manyone.envs.single.collect import EXPERT_VARIABLE
from manyone.envs.single.libraries import of_places, of_suite
from manyone.policies.recipes.options import DataOptions
from manyone.recipes.needs import Needs

EXTRA = "policies"


def needs(options: DataOptions) -> Needs:
    """By the suite or the own data, and for films."""
    wanted = offline_name(options)
    found = list(of_suite(wanted, EXTRA)) if wanted is not None else []
    places = [*options.data, *getattr(options, "shots", ()), *getattr(options, "prompts", ())]
    found += of_places(places, EXTRA, simulator=options.simulator)
    found += [Extra("imageio", "--video", EXTRA)] if options.video else []
    return Needs(extras=tuple(dict.fromkeys(found)))


def offline_name(options: DataOptions) -> OfflineName | None:
    """The made data that ``options`` name; None for own data. Official episodes have a size of their own."""
    if options.suite is None:
        return None
    name = options.data_name()
    if (official := parse_offline(name)).official:
        return official
    return parse_offline(name, episodes=options.episodes, steps=options.horizon, seed=options.data_seed)


def state_of(wanted: OfflineName) -> str:
    """Whether made data are here, in words."""
    if wanted.made():
        return "in the cache"
    where = f"copied from the folder in {EXPERT_VARIABLE}" if wanted.official else "made in the simulator"
    return f"would be {where}; licence: {wanted.licence}"
