"""Policies: one policy from the offline data of many tasks (decision transformers with a mask per task)."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
