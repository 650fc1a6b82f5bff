"""The classifier as scikit-learn has them: its own checks, clones, pipelines, groups, and columns by name."""

import pickle

import numpy as np
import pandas
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from manyone.errors import ManyoneError
from manyone.minimax import DistributedAUCClassifier, load, save
from manyone.minimax.predict import Network, Scaling, ScoreClassifier
from manyone.minimax.problems.flat import FlatSpec
from manyone.minimax.recipes.build import rounds
from manyone.minimax.recipes.options import LocalSGDAOptions
from manyone.minimax.recipes.problem import load_case

QUICK = DistributedAUCClassifier(clients=2, rounds=20)


@parametrize_with_checks([DistributedAUCClassifier(clients=2, rounds=40)])
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def table(count=120, seed=0):
    """Columns of numbers and words, of which the words tell the class, and the labels."""
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], count)
    columns = {"age": rng.normal(50, 10, count), "colour": colour, "dose": rng.normal(0, 1, count)}
    return pa.table(columns), np.where((colour == "red") ^ (rng.random(count) < 0.05), "ill", "well")


def test_it_is_what_the_recipe_trains():
    o = LocalSGDAOptions(
        rounds=12, clients=4, local_steps=3, batch_size=2, topology="ring", seed=3, decay=True, eta_x=0.3
    )
    case = load_case(o)
    learner = rounds(o, case, "local-dsgda")
    for _ in range(o.rounds):
        learner.step()
    raw = case.train.raw
    model = DistributedAUCClassifier(
        rounds=12, clients=4, steps=3, batch=2, topology="ring", random_state=3, decay=True, eta_x=0.3,
        precision="32-true",
    )  # fmt: skip
    model.fit(raw.features.numpy(), raw.labels.numpy())
    assert torch.equal(model.state_, learner.model())
    config = case.config(learner.model())
    assert (model.model_.slope, model.model_.offset) == pytest.approx((config["slope"], config["offset"]))


def test_groups_are_the_clients():
    x, y = load_breast_cancer(return_X_y=True)
    owner = np.random.default_rng(0).choice(["north", "south", "east"], len(y))
    three = DistributedAUCClassifier(rounds=5).fit(x, y, groups=owner)
    order = np.argsort(owner, kind="stable")
    counts = np.unique(owner, return_counts=True)[1]
    again = DistributedAUCClassifier(rounds=5).fit(x[order], y[order], groups=np.repeat([7, 8, 9], counts))
    assert torch.allclose(three.state_, again.state_, atol=1e-12)
    assert not torch.allclose(three.state_, DistributedAUCClassifier(rounds=5).fit(x, y).state_, atol=1e-3)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        QUICK.fit(x, y, groups=owner[:-1])


def test_clones_searches_pipelines_and_pickles():
    x, y = load_breast_cancer(return_X_y=True)
    assert cross_val_score(clone(QUICK), x, y, cv=3, scoring="roc_auc").min() > 0.9
    search = GridSearchCV(
        make_pipeline(StandardScaler(), clone(QUICK)), {"distributedaucclassifier__steps": [1, 3]}, cv=2
    )
    search.fit(x, y)
    assert search.score(x, y) > 0.85
    fitted = clone(QUICK).fit(x, y)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(x), fitted.predict_proba(x))
    assert fitted.classes_.dtype == y.dtype
    assert clone(fitted).get_params() == fitted.get_params()


def test_sparse_rows_equal_dense_ones():
    x, y = load_breast_cancer(return_X_y=True)
    x = np.where(x > np.median(x, 0), x, 0)
    dense, sparse = clone(QUICK).fit(x, y), clone(QUICK).fit(scipy.sparse.csr_array(x), y)
    assert np.array_equal(dense.predict_proba(x), sparse.predict_proba(scipy.sparse.csc_array(x)))


def test_columns_are_found_by_name_in_any_order():
    rows, y = table()
    model = clone(QUICK).set_params(categories="one-hot").fit(rows, y)
    assert roc_auc_score(y == model.classes_[1], model.decision_function(rows)) > 0.9
    found = model.predict_proba(rows)
    assert model.feature_names_in_.tolist() == ["age", "colour", "dose"]
    assert model.n_features_in_ == 3
    for other in (
        rows.select(["dose", "colour", "age"]),
        rows.append_column("more", [["x"] * len(y)]),
        rows.to_pydict(),
    ):
        assert np.array_equal(model.predict_proba(other), found)
    with pytest.raises(ManyoneError, match="colour"):
        model.predict(rows.drop_columns("colour"))
    with pytest.raises(ManyoneError, match="violet"):
        model.predict(rows.set_column(1, "colour", [["violet"] * len(y)]))
    with pytest.raises(ManyoneError, match=r"'colour'.*not a number"):
        clone(QUICK).fit(rows, y)


def test_unknown_words_of_new_rows_can_be_read_as_none():
    rows, y = table()
    rare = rows.set_column(1, "colour", [["violet", *rows.column("colour").to_pylist()[1:]]])
    model = clone(QUICK).set_params(categories="one-hot", unknown="zeros").fit(rows, y)
    assert np.array_equal(model.predict_proba(rare)[1:], model.predict_proba(rows)[1:])
    last = [["violet"] * 6 + rows.column("colour").to_pylist()[6:]]  # in one test fold alone
    frame = pandas.DataFrame(rows.set_column(1, "colour", last).to_pydict())
    assert np.isfinite(cross_val_score(model, frame, y, cv=KFold(20), scoring="accuracy")).all()


@pytest.mark.parametrize(
    ("name", "word"),
    [("model", "mpl"), ("categories", "ordinal"), ("missing", "drop"), ("unknown", "drop"), ("precision", "16-true")],
)
def test_a_word_that_a_parameter_does_not_know_is_refused(name, word):
    with pytest.raises(ManyoneError, match=f"{name} = '{word}': must be one of"):
        clone(QUICK).set_params(**{name: word}).fit(*table())


@pytest.mark.parametrize("kind", [int, float, str])
def test_accuracy_finds_the_classes_of_a_file_however_they_are_spelt(kind):
    network, scaling = Network([1], {"w": torch.ones(1)}), Scaling.fit(np.array([[-1.0], [1.0]]), "none")
    model = DistributedAUCClassifier()
    model.adopt(ScoreClassifier(network, scaling, ["0", "1"]), FlatSpec.of({"w": torch.ones(1)}, {}), torch.ones(1))
    labels = np.array([0, 1, 1]).astype(kind)
    for scored in (model, model.model_):
        assert scored.score(np.array([[-1.0], [1.0], [-1.0]]), labels) == pytest.approx(2 / 3)
    assert model.model_.score(np.array([[1.0]]), ["11"]) == 0


def test_a_pandas_frame_with_permuted_columns_and_an_index_of_its_own():
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    x = x.iloc[np.random.default_rng(0).permutation(len(x))]
    model = clone(QUICK).fit(x, y.loc[x.index])
    assert model.n_features_in_ == 30
    assert np.array_equal(model.predict_proba(x), model.predict_proba(x[x.columns[::-1]]))
    assert isinstance(x, pandas.DataFrame)


def test_missing_cells_take_what_training_said():
    rows, y = table()
    age = rows.column("age").to_pylist()
    holes = rows.set_column(0, "age", [[None, *age[1:]]])
    with pytest.raises(ManyoneError, match=r"'age', row 1 is .* missing='median'"):
        clone(QUICK).set_params(categories="one-hot").fit(holes, y)
    model = clone(QUICK).set_params(categories="one-hot", missing="mean").fit(holes, y)
    filled = rows.set_column(0, "age", [[float(np.mean(age[1:])), *age[1:]]])
    assert np.allclose(model.predict_proba(holes), model.predict_proba(filled), atol=1e-12)


@pytest.mark.parametrize("labels", ["words", "numbers", "booleans"])
def test_what_is_saved_loads_as_the_same_estimator(tmp_path, labels):
    rows, y = table()
    y = {"words": y, "numbers": np.where(y == "ill", 7, 3), "booleans": y == "ill"}[labels]
    words = {"model": "mlp", "hidden": (5,), "topology": "ring", "categories": "one-hot"}
    model = clone(QUICK).set_params(**words).fit(rows, y)
    save(tmp_path, model)
    again = load(tmp_path)
    shuffled = rows.select(["dose", "age", "colour"])
    assert np.array_equal(again.predict_proba(shuffled), model.predict_proba(rows))
    assert np.array_equal(again.predict(rows), model.predict(rows))
    assert again.predict(rows).dtype.kind == y.dtype.kind
    assert again.get_params() == model.get_params()
    assert torch.equal(clone(again).fit(rows, y).state_, model.state_)
    save(tmp_path / "twice", again)
    assert (tmp_path / "twice/config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_wrong_labels_are_scikit_learn_s_errors():
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match="Only binary classification"):
        QUICK.fit(x, np.arange(30) % 3)
    with pytest.raises(ValueError, match="one class"):
        QUICK.fit(x, np.ones(30, dtype=int))
