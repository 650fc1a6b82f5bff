"""``python -m manyone.minimax.launch``: the launcher's public name; it lives in :mod:`manyone.minimax.ranks.launch`."""

import sys

from manyone.minimax.ranks.launch import launch, main

__all__ = ["launch", "main"]

if __name__ == "__main__":
    sys.exit(main())
