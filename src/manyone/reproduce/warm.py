"""Imported first by every process that runs jobs: one thread each, and PyTorch, which takes seconds to import.

For networks of the size that studies train, several processes with one thread are cheaper than threads inside one.
"""

import importlib
import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

os.environ.update(dict.fromkeys(THREADS, "1"))  # libraries read it when they are loaded
importlib.import_module("torch")
