"""A table with a column of labels, as a file and as scikit-learn gives it; the row numbers of each client."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from tests.docs.given import table

table("my.csv", label="y")
x, y = load_breast_cancer(return_X_y=True)
x = StandardScaler().fit_transform(x)
parts = np.array_split(np.random.default_rng(0).permutation(len(y)), 16)
