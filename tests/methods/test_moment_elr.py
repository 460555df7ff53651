"""Moment-refined ELR: its three targets, and that the literal one degenerates."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.methods.moment_elr import (
    MomentELRClassifier,
    adam_target,
    mass,
    moment_target,
    reliability,
    unbiased,
)
from noisyfit.modules import SmallCNN
from noisyfit.noise import idn, sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
PREDICTIONS = [(0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.7, 0.2, 0.1)]


def unbiased_moments(predictions, decay, second_decay=None):
    """Both moments after each prediction, written out."""
    second_decay = decay if second_decay is None else second_decay
    m, v = np.zeros(3), np.zeros(3)
    for c, p in enumerate(np.array(predictions), start=1):
        m = decay * m + (1 - decay) * p
        v = second_decay * v + (1 - second_decay) * p**2
        moments = m / (1 - decay**c), v / (1 - second_decay**c)
        yield tuple(torch.tensor(x[None], dtype=torch.float32) for x in moments)


def test_moments_reliability_and_target_have_the_worked_values():
    (one, two, three) = unbiased_moments(PREDICTIONS, 0.7)
    target = [moment_target(*moments)[0].tolist() for moments in (one, two, three)]
    assert target[0] == pytest.approx([0.7, 0.2, 0.1], abs=1e-6)
    assert two[0][0].tolist() == pytest.approx([0.347059, 0.552941, 0.1], abs=1e-6)
    assert reliability(*two)[0].tolist() == pytest.approx([0.761623, 0.882095, 1], abs=1e-6)
    assert target[1] == pytest.approx([0.310217, 0.572422, 0.117361], abs=1e-6)
    assert target[2] == pytest.approx([0.515268, 0.368995, 0.115737], abs=1e-6)
    literal = moment_target(*two, combine="ratio")[0].tolist()
    assert literal == pytest.approx([0.288088, 0.333657, 0.378255], abs=1e-6)


def test_a_steady_prediction_is_its_own_target_and_the_literal_one_is_uniform():
    for moments in unbiased_moments([(0.7, 0.2, 0.1)] * 40, 0.7, 0.99):
        assert moment_target(*moments)[0].tolist() == pytest.approx([0.7, 0.2, 0.1], abs=1e-6)
        uniform = moment_target(*moments, combine="ratio")[0].tolist()
        assert uniform == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_bias_correction_divides_by_the_mass_and_spares_rows_without_visits():
    visits = torch.tensor([0.0, 1.0, 3.0])
    assert mass(0.7, visits).flatten().tolist() == pytest.approx([0.3, 0.3, 1 - 0.343])
    moment = torch.tensor([[0.0], [0.3], [0.657]])
    assert unbiased(moment, 0.7, visits).flatten().tolist() == pytest.approx([0, 1, 1])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"second_momentum": 0.99},
        {"elr_mass": False},
        {"combine": "ratio"},
        {"combine": "adam"},
        {"combine": "adam", "step_size": 0.3, "elr_mass": False},
        {"momentum": 0},
    ],
)
def test_memory_of_a_row_follows_the_loop_written_out(params):
    seen, used = [], []

    class Spy(MomentELRClassifier):
        def _visit(self, memory, index, p):
            target = super()._visit(memory, index, p)
            if 7 in index:
                row = index.tolist().index(7)
                seen.append(p[row].double().numpy())
                used.append(target[row].numpy())
            return target

    clf = Spy(Network(max_epochs=6, batch_size=32), random_state=0, **params).fit(X, Y)
    b1 = params.get("momentum", 0.7)
    b2 = params.get("second_momentum", b1)
    eta = params.get("step_size", 0.1)
    by_adam = params.get("combine") == "adam"
    m, v, t = np.zeros(3), np.zeros(3), np.full(3, 1 / 3)
    assert len(seen) == 6
    for c, (p, ours) in enumerate(zip(seen, used, strict=True), start=1):
        value = t - p if by_adam else p
        m, v = b1 * m + (1 - b1) * value, b2 * v + (1 - b2) * value**2
        first, root = m / (1 - b1**c), np.sqrt(v / (1 - b2**c)) + 1e-8
        if by_adam:
            t = np.maximum(t - eta * first / root, 1e-4)
        else:
            r = np.minimum(first / root, 1)
            t = r if params.get("combine") == "ratio" else first * r
        t = t / t.sum()
        weight = 1 - b1**c if params.get("elr_mass", True) else 1
        np.testing.assert_allclose(ours, weight * t, atol=2e-4)
    np.testing.assert_allclose(clf.target_[7], t, atol=2e-4)
    np.testing.assert_allclose(clf.refined_proba_[7], t, atol=2e-4)


def test_one_adam_step_moves_a_uniform_target_by_the_step_size():
    target, p = torch.full((1, 3), 1 / 3), torch.tensor([PREDICTIONS[0]])
    gradient = target - p
    moved = adam_target(target, gradient, gradient.square(), 0.1)
    raw = np.array([1 / 3 + 0.1, 1 / 3 - 0.1, 1 / 3 - 0.1])
    np.testing.assert_allclose(moved[0], raw / raw.sum(), atol=1e-5)
    floored = adam_target(target, gradient, gradient.square(), 10.0)
    assert floored.min() > 0


@pytest.mark.parametrize("combine", ["snr", "ratio", "adam"])
def test_half_precision_is_finite_and_close(combine):
    noisy = sym_incl(Y, 0.3, random_state=0).y
    whole, half = (
        MomentELRClassifier(
            Network(max_epochs=10), combine=combine, memory_dtype=dtype, random_state=0
        ).fit(X, noisy)
        for dtype in ("float32", "float16")
    )
    np.testing.assert_allclose(half.clean_proba_, whole.clean_proba_, atol=0.05)


def test_strength_zero_is_plain_training():
    net = Network(max_epochs=4, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y).predict_proba(X)
    clf = MomentELRClassifier(net, strength=0, random_state=0).fit(X, Y)
    np.testing.assert_allclose(clf.predict_proba(X), plain, atol=1e-6)


@pytest.mark.parametrize(
    "params",
    [
        {"momentum": 1},
        {"second_momentum": 1.0},
        {"second_momentum": "auto"},
        {"combine": "mean"},
        {"combine": None},
        {"step_size": 0},
        {"memory_dtype": "half"},
        {"elr_mass": "yes"},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        MomentELRClassifier(**params).fit(X, Y)


def test_it_does_not_memorise_and_the_literal_ratio_does(digits):
    images, y = digits
    table = images.reshape(len(images), -1)
    X, X_test, y, y_test = table[:1297], table[1297:], y[:1297], y[1297:]
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=40)
    fits = {
        combine: MomentELRClassifier(net, combine=combine, random_state=0).fit(X, noisy.y)
        for combine in ("snr", "ratio")
    }
    assert fits["snr"].score(X_test, y_test) >= fits["ratio"].score(X_test, y_test) + 0.10
    assert roc_auc_score(~noisy.changed, fits["snr"].clean_proba_) >= 0.95
    assert np.mean(fits["snr"].refined_labels_ == y) >= 0.95
    assert fits["ratio"].refined_proba_.max() < 0.5


def test_an_untrained_network_is_not_pulled_into_one_class(digits):
    """Full mass from the first visit did that on this noise, and no later epoch undid it."""
    images, y = digits
    noisy = idn(np.float32(images / 16), y, 0.4, random_state=0).y
    net = Network(SmallCNN, max_epochs=10)
    clf = MomentELRClassifier(net, augment=None, random_state=0).fit(images, noisy)
    assert clf.score(images, y) > 0.8
    assert len(np.unique(clf.predict(images))) == 10
