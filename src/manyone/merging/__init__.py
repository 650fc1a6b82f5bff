"""Merging: many fine-tuned experts of one base become one multi-task model.

Static mergers are functions on weights (:mod:`manyone.merging.static.methods`); WEMoE, E-WEMoE, AdaMerging and Concrete
are modules that adapt on unlabelled inputs; Surgery and SurgeryV2 correct the features of any merged model. The names
are imported when they are asked for.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
