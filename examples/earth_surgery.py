"""Surgery on stored features: what one encoder sees is corrected towards what another sees, without running either.

    manyone run earth-embed --data area=scene.tif --model mae-small --out cheap
    manyone run earth-embed --data area=scene.tif --model hf:expert --out dear
    python examples/earth_surgery.py cheap/area.npy dear/area.npy --out corrected.npy

Both files hold a vector for each tile of the same scene, of one width, for example of a merged encoder and of the
expert it was made from. A low-rank correction is trained on a part of the tiles and measured on the others. Needs the
extra earth for the embeddings, and nothing but manyone for this program.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from manyone.merging import Surgery, SurgeryLearner


def correct(
    merged: np.ndarray, expert: np.ndarray, *, rank: int = 16, steps: int = 500, seed: int = 0
) -> tuple[np.ndarray, dict[str, float]]:
    """(corrected vectors [N, D], mean absolute difference on tiles that were not trained on, before and after)."""
    if merged.shape != expert.shape:
        raise SystemExit(
            f"vectors of {merged.shape} and {expert.shape}: embed the same tiles with encoders of one width"
        )
    x, y = (torch.from_numpy(np.asarray(v, np.float32)) for v in (merged, expert))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    learned, kept = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    surgery = Surgery(torch.nn.Identity(), x.shape[1], ["area"], rank, seed)
    learner = SurgeryLearner(surgery, {"area": torch.nn.Identity()}, {"area": x[learned]},
                             expert_features={"area": y[learned]}, iterations=steps, seed=seed)  # fmt: skip
    for _ in range(learner.steps):
        learner.step()
    with torch.no_grad():
        found = surgery.correct(x, "area")
    return found.numpy(), {"before": float((x - y)[kept].abs().mean()), "after": float((found - y)[kept].abs().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("merged", type=Path, help="vectors of the encoder that is corrected, .npy")
    parser.add_argument("expert", type=Path, help="vectors of the one that it should be like, .npy")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, help="write the corrected vectors there, .npy")
    asked = parser.parse_args()
    merged, expert = (np.load(path, allow_pickle=False) for path in (asked.merged, asked.expert))
    found, apart = correct(merged, expert, rank=asked.rank, steps=asked.steps)
    print(f"mean absolute difference on other tiles: {apart['before']:.4f} before, {apart['after']:.4f} after")
    if asked.out:
        np.save(asked.out, found)


if __name__ == "__main__":
    main()
