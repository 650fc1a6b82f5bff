"""Policies: one policy from the offline data of many tasks (decision transformers with a mask per task).

    from manyone.policies import PolicyData, PolicyLearner, build_model, load_policy

The public names are those of ``__init__.pyi``, imported when they are first used.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
