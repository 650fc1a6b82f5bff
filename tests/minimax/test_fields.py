"""Labels and features as users have them: the README's block on real data, with every kind of labels."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from manyone.errors import ManyoneError
from manyone.minimax import AUC, ClientData, Scaling, Simulated, positive_rate
from manyone.minimax.fields import as_field, positives

RAW, TARGET = load_breast_cancer(return_X_y=True)
ROWS = Scaling.fit(RAW, "standard-rows")(RAW)
PARTS = np.array_split(np.random.default_rng(0).permutation(len(TARGET)), 8)
LABELS = {
    "0/1": TARGET,
    "bool": TARGET == 1,
    "+1/-1": 2 * TARGET - 1,
    "3 and 8": np.where(TARGET == 1, 8, 3),
    "floats": TARGET.astype(np.float32) - 0.5,
    "words": np.where(TARGET == 1, "well", "ill"),
    "objects": np.where(TARGET == 1, "well", "ill").astype(object),
    "list": TARGET.tolist(),
    "list of words": ["well" if t else "ill" for t in TARGET],
    "tensor": torch.as_tensor(TARGET),
}


def readme(x, y, parts, **words):
    data = ClientData.of_parts({"features": x, "labels": y}, parts)  # parts: row numbers of each client
    return Simulated(AUC(positive_rate(y), dim=x.shape[1]), data, "ring", steps=5, rounds=100, **words).run()


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_of_two_classes_gives_the_same_model(kind):
    y = LABELS[kind]
    assert positives(y).tolist() == (TARGET == 1).tolist()
    assert positive_rate(y) == pytest.approx(TARGET.mean())
    z = readme(ROWS, y, PARTS)[0, 0]
    assert torch.equal(z, readme(ROWS, LABELS["+1/-1"], PARTS)[0, 0])
    scores = ROWS @ z[:30].double()
    assert roc_auc_score(TARGET, scores) > 0.98
    problem = AUC(positive_rate(y), dim=30)
    risks = [problem.primal_risk(z, {"features": ROWS, "labels": labels}) for labels in (y, LABELS["+1/-1"])]
    assert risks[0] == risks[1]


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.as_tensor], ids=["numpy", "list", "tensor"])
def test_features_are_what_torch_takes(kind):
    x = ROWS.numpy()
    data = ClientData.of_parts({"features": kind(x), "labels": TARGET}, PARTS)
    assert data.fields["features"].shape == x.shape
    assert as_field([1, 2]).tolist() == [1, 2]
    whole = ClientData.of_parts({"features": np.sign(x).astype(int), "labels": TARGET}, PARTS)
    assert bool(torch.isfinite(Simulated(AUC(0.6, dim=30), whole, "ring", rounds=2, eta_x=0.01).run()).all())


def test_features_that_are_too_long_for_the_step_sizes_are_an_error_that_says_what_to_try():
    for x in (RAW, StandardScaler().fit_transform(RAW)):
        with pytest.raises(ManyoneError, match=r"after round \d+: take smaller step sizes than 0.1 .*Scaling.fit"):
            readme(x, TARGET, PARTS)
    x = StandardScaler().fit_transform(RAW)
    z = readme(x, TARGET, PARTS, eta_x=0.1 / 30, eta_y=0.1 / 30)[0, 0]
    assert roc_auc_score(TARGET, x @ z[:30].numpy()) > 0.98


def test_fields_that_are_no_samples_are_named():
    with pytest.raises(ManyoneError, match="numbers or of class names"):
        as_field([{"a": 1}, {"a": 2}])
    with pytest.raises(ManyoneError, match=r"hold 2: 1\.0, nan"):
        positives([1.0, float("nan")])


def test_only_labels_may_be_words():
    assert torch.equal(as_field(RAW.astype(object)), torch.as_tensor(RAW)), "columns of several types"
    for rows in (RAW.astype(str), np.array([["a"], ["b"]], dtype=object)):
        with pytest.raises(ManyoneError, match=r"only labels|numbers or of class names"):
            ClientData.of_parts({"features": rows, "labels": TARGET[: len(rows)]}, [np.arange(len(rows))])


@pytest.mark.parametrize(
    ("rows", "scale", "message"),
    [
        (RAW, "Standard-Rows", "scale 'Standard-Rows' is not known"),
        (RAW, None, "scale None is not known"),
        (RAW[:0], "standard", "finite numbers"),
        (RAW[:, 0], "standard", "finite numbers"),
        (np.full((3, 2), np.nan), "standard", "finite numbers"),
    ],
)
def test_a_scaling_is_fitted_to_finite_rows_by_a_known_rule(rows, scale, message):
    with pytest.raises(ManyoneError, match=message):
        Scaling.fit(rows, scale)
