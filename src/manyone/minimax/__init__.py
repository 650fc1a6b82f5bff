"""Minimax: many clients, one saddle point (local and decentralised gradient descent ascent), and its stability.

from manyone.minimax import AUC, ClientData, DistributedSGDA, Simulated, positive_rate

data = ClientData.of_parts({"features": x, "labels": y}, parts)   # parts: one array of row numbers a client
method = DistributedSGDA(topology="ring", steps=5, rounds=100)
zbar = Simulated(AUC(positive_rate(y), dim=x.shape[1]), data, method).run()

The public names stand in ``__init__.pyi`` and are imported when they are used.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
