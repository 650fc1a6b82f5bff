"""Behavior: a large offline data set becomes a few hundred (state, action) pairs that train any policy.

    from manyone.behavior import distil, load_distilled, students

The public names are those of ``__init__.pyi``, imported when they are first used.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
