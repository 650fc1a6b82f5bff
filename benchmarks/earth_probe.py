"""The linear probe over 13 values of C beside scikit-learn's LogisticRegression: seconds and errors of coefficients.

    python benchmarks/earth_probe.py [--samples 8000] [--classes 7] [--strengths 13] [--json F]

Features: the 150 numbers of 5x5 windows of a made scene of six smooth, noisy bands, as collinear as those of a real
one; classes of unequal size from a smooth field that the bands share. Truth for the coefficients: our solver from large
to small C at a tolerance of 1e-8. scikit-learn: one estimator, warm-started along C (its quickest use), lbfgs in
float64, once with its defaults (tol 1e-4, 100 iterations) and once until its coefficients are right to 1e-3, trying
tolerances from 1e-4 to 1e-8 for each C and counting only the last fit; ``newton-cholesky``, its exact solver, as well.
One thread; CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")


def made_windows(samples: int, classes: int, seed: int = 0):
    """(features float32 [n, 150], labels int64 [n])."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    r = np.random.default_rng(seed)
    side = 400
    fields = [gaussian_filter(r.normal(size=(side, side)), s) * s for s in (1.5, 3, 6, 12)]
    mixes = [sum(w * f for w, f in zip(r.normal(size=4), fields)) for _ in range(7)]
    bands = np.stack([m + 0.05 * r.normal(size=m.shape) for m in mixes[:6]])
    hidden = mixes[6] + 1.5 * gaussian_filter(r.normal(size=(side, side)), 5)
    shares = np.cumsum(r.dirichlet(np.ones(classes)))[:-1]
    labels = np.digitize(hidden, np.quantile(hidden, shares))
    rows, columns = r.integers(2, side - 2, size=(2, samples))
    windows = np.stack([bands[:, i - 2 : i + 3, j - 2 : j + 3].ravel() for i, j in zip(rows, columns)])
    return windows.astype(np.float32), labels[rows, columns]


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--strengths", type=int, default=13)
    parser.add_argument("--largest", type=float, default=4, help="log10 of the largest C")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    from manyone.earth.protocols.newton import logistic_path

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    x, y = made_windows(options.samples, options.classes)
    z = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    hot, tensor = torch.eye(options.classes)[torch.as_tensor(y)], torch.from_numpy(z)
    strengths = np.logspace(-6, options.largest, options.strengths)
    logistic_path(tensor[:500], hot[:500], [1.0])  # warm
    began = time.process_time()
    ours = logistic_path(tensor, hot, strengths)
    seconds = time.process_time() - began
    truth = [w.numpy() for w, _ in logistic_path(tensor, hot, strengths[::-1], tolerance=1e-8)[::-1]]
    worst = max(np.abs(w.numpy() - t).max() for (w, _), t in zip(ours, truth))
    all_right = f"{options.strengths}/{options.strengths}"
    rows = [{"method": "manyone", "cpu_s": round(seconds, 2), "worst_error": float(f"{worst:.1e}"), "right": all_right}]
    print(rows[-1], flush=True)

    for name, solver, tolerances, iterations in [
        ("sklearn lbfgs, defaults", "lbfgs", (1e-4,), 100),
        ("sklearn lbfgs, right to 1e-3", "lbfgs", (1e-4, 1e-6, 1e-8), 20_000),
        ("sklearn newton-cholesky, defaults", "newton-cholesky", (1e-4,), 100),
    ]:
        spent, errors, start = 0.0, [], None
        for c, t in zip(strengths, truth):
            for tolerance in tolerances:
                model = LogisticRegression(C=c, tol=tolerance, max_iter=iterations, solver=solver, warm_start=True)
                if start is not None:
                    model.coef_, model.intercept_ = start[0].copy(), start[1].copy()
                    model.classes_ = np.unique(y)
                began = time.process_time()
                model.fit(z, y)
                used = time.process_time() - began
                error = np.abs(model.coef_ - t).max()
                if error < 1e-3:
                    break
            spent += used
            errors.append(error)
            start = model.coef_, model.intercept_
        right = f"{sum(e < 1e-3 for e in errors)}/{len(errors)}"
        figures = {"worst_error": float(f"{max(errors):.1e}"), "right": right}
        rows.append({"method": name, "cpu_s": round(spent, 2), **figures, "times_ours": round(spent / seconds, 1)})
        print(rows[-1], flush=True)
    for row in rows:
        print(", ".join(f"{k} {v}" for k, v in row.items()))
    if options.json:
        options.json.write_text("".join(json.dumps({"benchmark": "earth-probe", **row}) + "\n" for row in rows))


if __name__ == "__main__":
    main()
