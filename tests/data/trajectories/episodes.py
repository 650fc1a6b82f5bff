"""Episodes of random numbers for the readers' tests, and what it means that two data sets are the same."""

import numpy as np

ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "final_observations", "successes", "goals")


def episodes(lengths, seed=0, **extra):
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(n + 1, 3)),
            "actions": rng.uniform(-1, 1, size=(n, 2)),
            "rewards": rng.normal(size=n),
            "terminated": n % 2 == 0,
            **extra,
        }
        for n in lengths
    ]


def same(a, b):
    for key in ARRAYS:
        first, second = getattr(a, key), getattr(b, key)
        assert (first is None) == (second is None), key
        if first is not None:
            np.testing.assert_array_equal(first, second, err_msg=key)
