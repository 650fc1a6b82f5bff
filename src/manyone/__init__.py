"""manyone: many experts, tasks, agents, clients or sensors become one model that a person can deploy."""

from typing import TYPE_CHECKING

import lazy_loader as _lazy

from manyone.fields import FIELDS

if TYPE_CHECKING:
    from manyone import merging as merging
    from manyone import minimax as minimax
    from manyone import policies as policies
    from manyone import teams as teams

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy.attach(__name__, FIELDS)
