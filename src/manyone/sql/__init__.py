"""SQL: a large language model's text-to-SQL becomes a small one's (KID and the distillations around it).

    from manyone.sql import Divergence, DistilLearner, load

The public names are those of ``__init__.pyi``, imported when they are first used.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
