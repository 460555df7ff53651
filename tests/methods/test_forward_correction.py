"""Forward correction: stages, matrices, and what it gains."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from skorch.dataset import ValidSplit
from torch.nn import functional

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.methods.forward_correction import ForwardCorrectionClassifier
from noisyfit.metrics import transition_error
from noisyfit.noise import pair, transition
from noisyfit.schedules import Cosine

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
T = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.1, 0.0, 0.9]])


@pytest.fixture(scope="module")
def three_blobs():
    """3000 rows to train on with noise drawn from T, and 3000 to test."""
    X, y = make_blobs(6000, n_features=2, centers=3, cluster_std=1.5, random_state=4)
    return X[:3000], y[:3000], transition(y[:3000], T, random_state=0).y, X[3000:], y[3000:]


def test_the_identity_is_plain_training_bit_for_bit():
    net = Network(max_epochs=5)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    forward = ForwardCorrectionClassifier(net, transition=np.eye(3), random_state=0).fit(X, Y)
    np.testing.assert_array_equal(plain.predict_proba(X), forward.predict_proba(X))


def test_the_true_matrix_is_as_good_as_clean_labels(three_blobs):
    X, y, y_noisy, X_test, y_test = three_blobs
    net = Network(max_epochs=15)
    clean = CrossEntropyClassifier(net, random_state=0).fit(X, y).score(X_test, y_test)
    forward = ForwardCorrectionClassifier(net, transition=T, random_state=0).fit(X, y_noisy)
    assert forward.score(X_test, y_test) >= clean - 0.02
    np.testing.assert_array_equal(forward.transition_, T)
    assert not hasattr(forward, "anchor_indices_")


def test_anchors_find_the_matrix(three_blobs):
    X, y, y_noisy, *_ = three_blobs
    clf = ForwardCorrectionClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    assert transition_error(clf.transition_, T) < 0.15
    assert y[clf.anchor_indices_].tolist() == [0, 1, 2]


class Spy(ForwardCorrectionClassifier):
    """Keeps learning rates, starts and losses of the stages."""

    def _begin(self, run):
        super()._begin(run)
        self._rates, self._starts, self._passes = [], [], 0
        self._last_stage = run.last_stage
        evaluate = run.evaluate

        def counted(*args, **kwargs):
            self._passes += 1
            return evaluate(*args, **kwargs)

        run.evaluate = counted

    def _train_epoch(self, run, epoch):
        self._rates.append(run.learners[0].lr)
        super()._train_epoch(run, epoch)

    def _loss(self, run, batch, t):
        if t in (0.0, float(self._n_first_)):
            weights = [p.detach().clone() for p in run.learners[0].module.parameters()]
            self._starts.append((weights, run.memory.log_transition is None))
        return super()._loss(run, batch, t)


def test_the_second_stage_starts_afresh_with_its_own_schedule():
    net = Network(max_epochs=9, lr=0.1)
    clf = Spy(net, warmup=3, random_state=0).fit(X, Y)
    schedule = Cosine()
    expected = [0.1 * schedule(e, 3) for e in range(3)] + [0.1 * schedule(e, 6) for e in range(6)]
    assert clf._rates == pytest.approx(expected)
    (first, plain), (second, plain_too) = clf._starts
    assert (plain, plain_too) == (True, False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert clf._last_stage == 3
    assert clf._passes == 2  # the estimate, and the evidence of every method
    known = Spy(net, transition=T, random_state=0).fit(X, Y)
    assert known._rates == pytest.approx([0.1 * schedule(e, 9) for e in range(9)])
    assert known._passes == 1
    assert known._last_stage == 0


def test_where_few_steps_are_left_the_first_network_goes_on():
    """90 rows make 2 steps an epoch, and 4 columns need 100 before the matrix."""
    net, schedule = Network(max_epochs=60, lr=0.1), Cosine()
    clf = Spy(net, random_state=0).fit(X, Y)
    assert clf._n_first_ == clf._last_stage == 48
    assert clf._rates == pytest.approx([0.1 * schedule(e, 60) for e in range(60)])
    (first, _), (second, plain) = clf._starts
    assert not plain
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    longer = Spy(net.set_params(max_epochs=210), random_state=0).fit(X, Y)
    assert longer._n_first_ == 50
    assert longer._rates[50] == pytest.approx(0.1)


def test_a_small_clean_table_is_learnt_as_by_plain_training():
    """Ten classes, four steps an epoch: a matrix after 20 steps said that all labels were wrong."""
    X, y = load_digits(return_X_y=True)
    net = Network(max_epochs=20)
    plain, corrected = (
        cls(net, random_state=0).fit(X[:200], y[:200]).score(X[200:], y[200:])
        for cls in (CrossEntropyClassifier, ForwardCorrectionClassifier)
    )
    assert corrected > plain - 0.01


@pytest.mark.parametrize("kind", ["anchor", "confusion"])
@pytest.mark.parametrize(("max_epochs", "warmup"), [(1, "auto"), (4, 4)])
def test_a_first_stage_that_takes_all_epochs_still_leaves_an_estimate(kind, max_epochs, warmup):
    net = Network(max_epochs=max_epochs)
    clf = ForwardCorrectionClassifier(net, transition=kind, warmup=warmup, random_state=0)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(clf.fit(X, Y).predict_proba(X), plain.predict_proba(X))
    np.testing.assert_allclose(clf.transition_.sum(1), 1)
    assert clf.transition_.shape == (3, 3)


def test_confusion_weighs_the_given_labels_by_the_predictions():
    y = pair(Y, 0.3, random_state=0).y
    params = {"transition": "confusion", "warmup": 4, "guards": False, "random_state": 0}
    clf = ForwardCorrectionClassifier(Network(max_epochs=4), **params).fit(X, y)
    p = clf.predict_proba(X).astype(float)
    expected = p.T @ np.eye(3)[y] / p.sum(0)[:, None]
    np.testing.assert_allclose(clf.transition_, expected, atol=1e-6)


@pytest.mark.parametrize("n_classes", [3, 18])
def test_the_percentile_is_passed_over_with_few_classes_only(n_classes):
    """Three per cent of the rows are more than half of one class in eighteen."""
    X, y = make_blobs(10 * n_classes, n_features=4, centers=n_classes, random_state=0)
    clf = ForwardCorrectionClassifier(Network(max_epochs=3), warmup=3, random_state=0).fit(X, y)
    p = clf.predict_proba(X)
    if n_classes == 3:
        p = np.where(p < np.quantile(p, 0.97, axis=0, method="higher"), p, 0)
    np.testing.assert_array_equal(clf.anchor_indices_, p.argmax(0))


@pytest.mark.parametrize("first", [{"transition": T}, {"warmup": 3}, {"transition": "confusion"}])
def test_a_weight_of_the_identity_is_mixed_into_every_matrix(first):
    y = pair(Y, 0.3, random_state=0).y
    raw, mixed = (
        ForwardCorrectionClassifier(
            Network(max_epochs=4), identity_weight=w, random_state=0, **first
        ).fit(X, y)
        for w in (0.0, 0.3)
    )
    assert np.abs(raw.transition_ - np.eye(3)).max() > 0.1
    np.testing.assert_allclose(mixed.transition_, 0.7 * raw.transition_ + 0.3 * np.eye(3))
    assert (raw.predict_proba(X) != mixed.predict_proba(X)).any()


class Uncorrected(ForwardCorrectionClassifier):
    """The stages, with plain cross-entropy in both."""

    def _corrected(self, run, logits, y):
        return functional.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("kind", ["anchor", "confusion"])
def test_identity_alone_is_plain_training_bit_for_bit_after_the_first_stage_or_without(kind):
    y = pair(Y, 0.3, random_state=0).y
    net = Network(max_epochs=6)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, y)
    given = ForwardCorrectionClassifier(net, transition=T, identity_weight=1, random_state=0)
    np.testing.assert_array_equal(given.fit(X, y).predict_proba(X), plain.predict_proba(X))
    stages = {"transition": kind, "warmup": 2, "random_state": 0}
    staged = Uncorrected(net, **stages).fit(X, y)
    estimated = ForwardCorrectionClassifier(net, identity_weight=1, **stages).fit(X, y)
    np.testing.assert_array_equal(estimated.predict_proba(X), staged.predict_proba(X))
    np.testing.assert_array_equal(estimated.transition_, np.eye(3))


def test_a_class_that_the_matrix_calls_impossible_is_possible_with_some_identity():
    matrix = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    clf = ForwardCorrectionClassifier(
        Network(max_epochs=1), transition=matrix, identity_weight=0.1, random_state=0
    ).fit(X, Y)
    assert clf.transition_[1].tolist() == pytest.approx([0, 0.1, 0.9])


def test_the_evidence_is_the_posterior_of_the_true_label():
    y = pair(Y, 0.3, random_state=0).y
    clf = ForwardCorrectionClassifier(Network(max_epochs=6), random_state=0).fit(X, y)
    p = clf.predict_proba(X).astype(float)
    joint = p * clf.transition_.T[y]
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-5)
    np.testing.assert_allclose(clf.clean_proba_, expected[np.arange(90), y], atol=1e-5)


def test_anchors_count_the_rows_given_to_fit_when_some_are_held_out():
    split = ValidSplit(0.2, stratified=True, random_state=0)
    net = Network(max_epochs=4, train_split=split)
    clf = ForwardCorrectionClassifier(net, warmup=4, percentile=None, random_state=0).fit(X, Y)
    p = clf.predict_proba(X[clf.anchor_indices_]).astype(float)
    np.testing.assert_allclose(clf.transition_, p, atol=1e-5)
    kept, _ = split(X, Y)
    assert set(clf.anchor_indices_) <= set(kept.indices)


def test_a_class_without_an_anchor_is_guarded():
    """The surest row of a class of one often belongs to another; both would be interchanged."""
    y = np.r_[np.zeros(89, int), 1]
    raw, guarded = (
        ForwardCorrectionClassifier(Network(max_epochs=8), guards=guards, random_state=0).fit(X, y)
        for guards in (False, True)
    )
    assert raw.transition_[1, 0] > 0.5
    assert guarded.transition_[1, 1] >= 0.5
    assert (guarded.predict(X) == 0).mean() > 0.9


def test_corrected_digits_beat_plain_training(digits):
    images, y = digits
    X, X_test, y, y_test = images[:1347], images[1347:], y[:1347], y[1347:]
    y_noisy = pair(y, 0.3, random_state=0).y
    net = Network(max_epochs=30)
    plain, forward = (
        cls(net, augment=None, random_state=0).fit(X.reshape(-1, 64), y_noisy)
        for cls in (CrossEntropyClassifier, ForwardCorrectionClassifier)
    )
    gain = forward.score(X_test.reshape(-1, 64), y_test) - plain.score(
        X_test.reshape(-1, 64), y_test
    )
    assert gain > 0.05
    pickle.dumps(forward)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"transition": "anchors"}, "transition"),
        ({"transition": None}, "transition"),
        ({"transition": np.eye(2)}, "transition"),
        ({"transition": 2 * np.eye(3)}, "transition"),
        ({"transition": [[1, 0, 0], [0, 0, 1], [0, 0, 1]]}, "column 1 is entirely zero"),
        ({"warmup": 0}, "warmup"),
        ({"warmup": 51}, "longer than the training"),
        ({"warmup": 2.5}, "warmup"),
        ({"percentile": 0}, "percentile"),
        ({"percentile": 101}, "percentile"),
        ({"percentile": "high"}, "percentile"),
        ({"guards": 1}, "guards"),
        ({"identity_weight": -0.1}, "identity_weight"),
        ({"identity_weight": 1.1}, "identity_weight"),
        ({"identity_weight": "auto"}, "identity_weight"),
    ],
)
def test_bad_parameters_are_refused(params, match):
    clf = ForwardCorrectionClassifier(**params)
    with pytest.raises((ValueError, TypeError), match=match):
        clf.fit(X, Y)
    assert not hasattr(clf, "nets_")


@pytest.mark.parametrize("transition", ["anchor", "confusion"])
def test_many_classes_with_right_labels_survive_a_first_stage_that_has_learnt_little(transition):
    X, y = make_blobs(800, n_features=20, centers=40, cluster_std=2.0, random_state=0)
    clf = ForwardCorrectionClassifier(transition=transition, random_state=0).fit(X[:400], y[:400])
    assert clf.score(X[400:], y[400:]) > 0.95
    assert np.linalg.cond(clf.transition_) <= 6 + 1e-6
