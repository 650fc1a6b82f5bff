"""Metrics from predictions: most are functions of the confusion matrix, so that a resample is a sum of matrices.

Ours rather than scikit-learn's where that is wrong or slow here: its confusion matrix sorts labels as strings could be
(seconds for the 10^7 pixels of a segmentation), its balanced accuracy warns on classes that are absent, its mean IoU
(``jaccard_score``) counts absent classes as 0 only. Average precision is scikit-learn's. The tests compare the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from manyone.data.rasters.scenes import IGNORE
from manyone.errors import ManyoneError


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int | None = IGNORE) -> np.ndarray:
    """int64 [K, K], rows the truth, columns the prediction; entries whose truth is ``ignore`` count nowhere."""
    truth, predicted = np.asarray(truth).ravel(), np.asarray(predicted).ravel()
    if truth.shape != predicted.shape:
        raise ManyoneError(f"predicted: {predicted.size} labels for {truth.size} of the truth; give one for each")
    if ignore is not None:
        kept = truth != ignore
        truth, predicted = truth[kept], predicted[kept]
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ManyoneError(f"{name}: label {wrong} is none of the {classes} classes (0 to {classes - 1})")
    cells = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def overall_accuracy(c: np.ndarray) -> np.ndarray:
    """OA of matrices [..., K, K]: the share on the diagonal."""
    return _ratio(_hits(c).sum(-1), c.sum((-2, -1)))


def balanced_accuracy(c: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that are present in the truth."""
    return _mean_where(_ratio(_hits(c), c.sum(-1)), c.sum(-1) > 0)


def macro_f1(c: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that are in the truth or predicted (scikit-learn's rule)."""
    total = c.sum(-1) + c.sum(-2)
    return _mean_where(_ratio(2 * _hits(c), total), total > 0)


def kappa(c: np.ndarray) -> np.ndarray:
    """Cohen's kappa (p_o - p_e) / (1 - p_e); NaN where chance agreement is perfect."""
    n = c.sum((-2, -1))
    chance = _ratio((c.sum(-1) * c.sum(-2)).sum(-1), n * n)
    return _ratio(overall_accuracy(c) - chance, 1 - chance)


def class_iou(c: np.ndarray) -> np.ndarray:
    """Intersection over union of each class [..., K]; NaN where the union is empty."""
    return _ratio(_hits(c), c.sum(-1) + c.sum(-2) - _hits(c))


def mean_iou(c: np.ndarray) -> np.ndarray:
    """mIoU over the classes whose union is not empty."""
    iou = class_iou(c)
    return _mean_where(iou, ~np.isnan(iou))


def mean_iou_absent_zero(c: np.ndarray) -> np.ndarray:
    """mIoU over all classes, absent ones counted as 0: what some published tables hold."""
    return np.nan_to_num(class_iou(c)).mean(-1)


OF_CONFUSION: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": overall_accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "kappa": kappa,
    "miou": mean_iou,
    "miou_absent_zero": mean_iou_absent_zero,
}
"""Functions of confusion matrices [..., K, K] -> [...]: also what a bootstrap resamples."""


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """micro and macro mAP of labels bool [N, K]; macro over the labels that some sample has."""
    from sklearn.metrics import average_precision_score  # here: its import takes seconds

    truth = np.asarray(truth, dtype=bool)
    some = truth.any(0)
    if not some.any():
        raise ManyoneError("truth: no sample has any label, so there is no average precision; check the targets")
    macro = average_precision_score(truth[:, some], scores[:, some], average="macro")
    return {"micro_map": float(average_precision_score(truth.ravel(), scores.ravel())), "macro_map": float(macro)}


def multilabel_f1(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """micro and macro F1 over all samples together, never averaged over batches; macro over labels that occur."""
    truth, predicted = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    hits, total = (truth & predicted).sum(0), truth.sum(0) + predicted.sum(0)
    macro = _mean_where(_ratio(2 * hits, total), total > 0)
    return {"micro_f1": float(_ratio(2 * hits.sum(), total.sum())), "macro_f1": float(macro)}


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """ECE: mean |accuracy - confidence| over equally wide bins of the highest probability, weighted by their share.

    ``truth`` int [N] numbers columns of ``probabilities`` [N, K]. Not in scikit-learn.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins (i/m, (i+1)/m]
    gap = np.bincount(place, right, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gap).sum() / len(truth))


def classification_scores(
    truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None, classes: int
) -> dict[str, float]:
    """Every metric of single labels 0..K-1, with ECE where there are probabilities [N, K]."""
    matrix = confusion(truth, predicted, classes, ignore=None)
    values = {name: float(metric(matrix)) for name, metric in OF_CONFUSION.items()}
    if probabilities is not None:
        values["ece"] = calibration_error(truth, probabilities)
    return values


def multilabel_scores(truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Every metric of label vectors [N, K]."""
    same = float((np.asarray(truth, dtype=bool) == predicted).mean())
    return mean_average_precision(truth, probabilities) | multilabel_f1(truth, predicted) | {"label_accuracy": same}


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """RMSE, MAE (both in the unit of the target) and R^2 = 1 - SSE / SST; R^2 is NaN for a constant truth."""
    truth, error = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64) - truth
    spread = np.square(truth - truth.mean()).sum()
    r2 = float(1 - np.square(error).sum() / spread) if spread else float("nan")
    return {"rmse": float(np.sqrt(np.square(error).mean())), "mae": float(np.abs(error).mean()), "r2": r2}


def _hits(c: np.ndarray) -> np.ndarray:
    return np.diagonal(c, axis1=-2, axis2=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) != 0)


def _mean_where(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return _ratio(np.where(kept, values, 0).sum(-1), kept.sum(-1))
