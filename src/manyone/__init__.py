"""manyone: many experts, tasks, agents, clients or sensors become one model that a person can deploy.

The fields are attributes, ``manyone.merging`` and so on; they are imported when they are used.
"""

import lazy_loader as _lazy

from manyone.fields import FIELDS

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy.attach(__name__, FIELDS)
