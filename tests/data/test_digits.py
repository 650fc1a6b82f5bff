"""The optical digits are read from scikit-learn's files without importing it."""

import subprocess
import sys

import torch

from manyone.data.sources import digits_sklearn


def test_all_digits_come_in_the_packages_order() -> None:
    images, labels = digits_sklearn()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == torch.uint8
    assert int(images.max()) == 16
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert labels[:10].tolist() == list(range(10))
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_scikit_learn_is_not_imported() -> None:
    code = (
        "import sys; from manyone.data.sources import digits_sklearn; digits_sklearn(); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
