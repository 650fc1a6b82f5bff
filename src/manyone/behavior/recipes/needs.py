"""What behavior recipes ask for: the simulators of their bodies and the readers of their data. Nothing is fetched: data
of ours are made."""

from __future__ import annotations

from pathlib import Path

from manyone.behavior.recipes.options import BehaviorOptions
from manyone.data.trajectories.offline import OfflineName, parse_offline
from manyone.engine.words import suggestion
from manyone.envs.single import make
from manyone.envs.single.libraries import of_places, of_suite
from manyone.errors import ManyoneError
from manyone.recipes.needs import Needs
from manyone.recipes.options import CommonOptions

EXTRA = "behavior"


def needs(options: CommonOptions) -> Needs:
    """By the suite or the own data; the theory has none."""
    if not isinstance(options, BehaviorOptions):
        return Needs()
    if (wanted := offline_name(options)) is not None:
        return Needs(extras=of_suite(wanted, EXTRA))
    places = [word for word in options.data if not _is_model(Path(word))]
    return Needs(extras=of_places(places, EXTRA, simulator=options.simulator))


def _is_model(place: Path) -> bool:
    """Whether it is a distilled set, which says itself where it acts."""
    return any((folder / "config.json").is_file() for folder in (place, place / "model"))


def offline_name(options: BehaviorOptions) -> OfflineName | None:
    """The made data that ``options`` name; None for own data."""
    if options.suite is None:
        return None
    known = (*(f"mujoco-{body}" for body in make.BODIES), "mujoco3")
    if options.suite not in known:
        quality = " (its quality is --quality)" if options.suite.startswith(known) else ""
        raise ManyoneError(f"--suite {options.suite}: {suggestion(options.suite, known)}{quality}")
    return parse_offline(f"{options.suite}-{options.quality}", seed=options.data_seed)
