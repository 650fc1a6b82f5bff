"""What team recipes ask for: the library that their environment is in; nothing is fetched."""

from __future__ import annotations

from manyone.envs.teams.libraries import libraries
from manyone.recipes.needs import Needs
from manyone.teams.recipes.options import TeamOptions


def needs(options: TeamOptions) -> Needs:
    """By the prefix of ``--env``."""
    return Needs(extras=libraries(options.env))
