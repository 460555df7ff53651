"""Backward correction: its matrix, its bound, and what it gains."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.methods import forward_correction
from noisyfit.methods.backward_correction import BackwardCorrectionClassifier
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl, transition

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
T = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.1, 0.0, 0.9]])


def nearly_singular(n, condition):
    """Symmetric matrix whose condition number is ``condition``."""
    return np.eye(n) / condition + (1 - 1 / condition) / n


def test_the_identity_is_plain_training_bit_for_bit():
    net = Network(max_epochs=5, lr=0.3)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    for params in ({"transition": np.eye(3)}, {"transition": T, "identity_weight": 1.0}):
        backward = BackwardCorrectionClassifier(net, random_state=0, **params).fit(X, Y)
        np.testing.assert_array_equal(plain.predict_proba(X), backward.predict_proba(X))


def test_a_share_of_the_identity_makes_a_singular_matrix_usable():
    net = Network(max_epochs=1)
    params = {"transition": np.full((3, 3), 1 / 3), "identity_weight": 0.1}
    clf = BackwardCorrectionClassifier(net, random_state=0, **params).fit(X, Y)
    np.testing.assert_allclose(clf.transition_, 0.3 + 0.1 * np.eye(3))


def test_the_true_matrix_is_as_good_as_clean_labels():
    X, y = make_blobs(4000, n_features=2, centers=3, cluster_std=1.5, random_state=4)
    y_noisy = transition(y[:3000], T, random_state=0).y
    net = Network(max_epochs=15)
    clean = CrossEntropyClassifier(net, random_state=0).fit(X[:3000], y[:3000])
    backward = BackwardCorrectionClassifier(net, transition=T, random_state=0)
    backward.fit(X[:3000], y_noisy)
    assert backward.score(X[3000:], y[3000:]) >= clean.score(X[3000:], y[3000:]) - 0.02


def test_a_long_training_on_separable_rows_stays_finite():
    """The corrected loss has no lower bound but the floor of the probabilities."""
    matrix = nearly_singular(3, 3)
    net = Network(max_epochs=60, lr=0.2)
    clf = BackwardCorrectionClassifier(net, transition=matrix, random_state=0).fit(X, Y)
    losses = [row["train_loss"] for row in clf.history_]
    assert losses[-1] < -10  # below any cross-entropy
    bound = np.log(1e-7) * -np.linalg.inv(matrix)[0, 1:].sum()
    assert min(losses) >= bound * (1 + 1e-6)
    assert clf.score(X, Y) > 0.95


def test_the_condition_number_warns_and_then_refuses():
    net = Network(max_epochs=1)
    with pytest.warns(UserWarning, match="condition number 2e"):
        BackwardCorrectionClassifier(net, transition=nearly_singular(3, 2e3)).fit(X, Y)
    for matrix in (nearly_singular(3, 2e8), np.full((3, 3), 1 / 3)):
        with pytest.raises(ValueError, match="condition number"):
            BackwardCorrectionClassifier(net, transition=matrix).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BackwardCorrectionClassifier(net, transition=nearly_singular(3, 900)).fit(X, Y)


def test_an_estimate_warns_of_its_condition_number_unless_it_is_guarded(monkeypatch):
    estimate = nearly_singular(3, 2e3)
    monkeypatch.setattr(forward_correction, "as_matrix", lambda rows: estimate)
    net = Network(max_epochs=2)
    with pytest.warns(UserWarning, match="condition number 2e"):
        BackwardCorrectionClassifier(net, warmup=1, guards=False, random_state=0).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = BackwardCorrectionClassifier(net, warmup=1, random_state=0).fit(X, Y)
    assert np.linalg.cond(clf.transition_) <= 3


def test_an_estimate_that_cannot_be_inverted_is_mended():
    constant = np.ones((90, 3))
    clf = BackwardCorrectionClassifier(Network(max_epochs=6), random_state=0).fit(constant, Y)
    assert np.linalg.cond(clf.transition_) <= 3 + 1e-6
    assert np.isfinite(clf.predict_proba(constant)).all()


def test_a_class_mostly_called_by_another_name_is_learnt_with_the_true_matrix():
    X, y = make_blobs(600, n_features=2, centers=2, random_state=0)
    matrix = np.array([[1.0, 0.0], [0.6, 0.4]])
    y_noisy = transition(y, matrix, random_state=0).y
    net = Network(max_epochs=10)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, y_noisy)
    clf = BackwardCorrectionClassifier(net, transition=matrix, random_state=0).fit(X, y_noisy)
    assert plain.score(X, y) < 0.8
    assert clf.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"transition": "true"}, "transition"),
        ({"transition": np.ones((3, 3))}, "sum to 1"),
        ({"transition": [[1, 0, 0], [0, 0, 1], [0, 0, 1]]}, "column 1"),
        ({"warmup": 60}, "warmup"),
    ],
)
def test_bad_parameters_are_refused(params, match):
    with pytest.raises(ValueError, match=match):
        BackwardCorrectionClassifier(**params).fit(X, Y)


def test_singular_estimate_without_guards_is_refused_in_words():
    class Flat(nn.Module):
        """The same prediction for every row."""

        def __init__(self, n_classes):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(n_classes))

        def forward(self, x):
            return self.bias.expand(len(x), -1)

    clf = BackwardCorrectionClassifier(Network(Flat, max_epochs=4), guards=False, random_state=0)
    with pytest.raises(ValueError, match="guards=True for an estimated one"):
        clf.fit(X, Y)


def test_a_poor_estimate_does_not_blow_up_the_losses(digits):
    """With 80 % noise the inverse of the first estimate sent the network into one class."""
    images, y = digits
    noisy = sym_incl(y, 0.8, random_state=0).y
    clf = BackwardCorrectionClassifier(
        Network(SmallCNN, max_epochs=40), augment=None, random_state=0
    )
    clf.fit(images[:1347], noisy[:1347])
    assert clf.score(images[1347:], y[1347:]) > 0.2
    assert len(np.unique(clf.predict(images[1347:]))) > 1
