"""Plain nearest neighbours, resampling and soft-max regression: loops, no blocks, no shortcuts."""

import numpy as np
from scipy.optimize import minimize


def knn5_l2(train, labels, queries, k=5):
    """Majority of the k nearest; of classes with equally many the one with the smallest sum of distances."""
    found = []
    for q in np.asarray(queries, dtype=np.float64):
        d = np.array([np.sqrt(((q - t) ** 2).sum()) for t in np.asarray(train, dtype=np.float64)])
        near = np.argsort(d, kind="stable")[:k]
        votes = {c: (-(labels[near] == c).sum(), d[near][labels[near] == c].sum()) for c in set(labels[near])}
        found.append(min(votes, key=lambda c: (*votes[c], c)))
    return np.array(found)


def knn_cosine_scores(train, values, queries, k=200, temperature=0.1):
    """Weighted mean [Q, K] of the neighbours' rows of ``values`` [N, K], weights exp(cos / T)."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(np.asarray(queries, dtype=np.float64)) @ unit(np.asarray(train, dtype=np.float64)).T
    found = []
    for row in similarity:
        near = np.argsort(-row, kind="stable")[: min(k, len(row))]
        w = np.exp(row[near] / temperature)
        found.append((w[:, None] * values[near]).sum(0) / w.sum())
    return np.array(found)


def softmax_regression(z, y, c):
    """(W [K, D], b [K]) minimising 1/n CE + 1/(2 C n) |W|^2 by a general minimiser."""
    n, d = z.shape
    k = int(y.max()) + 1

    def loss(flat):
        w, b = flat[: k * d].reshape(k, d), flat[k * d :]
        logits = z @ w.T + b
        logits = logits - logits.max(1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        value = -np.log(p[np.arange(n), y]).mean() + (w**2).sum() / (2 * c * n)
        r = (p - np.eye(k)[y]) / n
        return value, np.concatenate([(r.T @ z + w / (c * n)).ravel(), r.sum(0)])

    best = minimize(loss, np.zeros(k * d + k), jac=True, method="L-BFGS-B", options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-10}).x  # fmt: skip  # noqa: E501
    return best[: k * d].reshape(k, d), best[k * d :] - best[k * d :].mean()


def block_bootstrap_accuracy(right, blocks, draws):
    """Accuracy of every resample; ``draws`` [R, B] are positions of the sorted blocks."""
    names = np.unique(blocks)
    found = []
    for drawn in draws:
        samples = np.concatenate([right[blocks == names[b]] for b in drawn])
        found.append(samples.mean())
    return np.array(found)
