"""Nine labels in ten drawn anew: hardly learnable in a short fit, but no method falls into a class.

`examples/benchmarks/extreme_noise.py` runs the full trainings.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from noisyfit import (
    BayesianDivideMixPP,
    DivideMixClassifier,
    ManifoldDivideMixClassifier,
    Network,
)
from noisyfit.noise import sym_incl

X, Y = load_digits(return_X_y=True)
X, Y = X[:600], Y[:600]


@pytest.mark.parametrize(
    "method", [DivideMixClassifier, BayesianDivideMixPP, ManifoldDivideMixClassifier]
)
@pytest.mark.parametrize("seed", range(2))
def test_no_method_falls_into_one_class(method, seed):
    noisy = sym_incl(Y, 0.9, random_state=seed)
    clf = method(Network(max_epochs=15), random_state=seed).fit(X, noisy.y)
    for labels in (clf.predict(X), clf.refined_labels_):
        values, counts = np.unique(labels, return_counts=True)
        assert len(values) == 10
        assert counts.max() < 0.35 * len(X)
