"""Earth: which remote-sensing model for which sensor and task, measured the same way.

    from manyone.earth import load_encoder, match, plan, probe

The public names are those of ``__init__.pyi``, imported when they are first used.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
