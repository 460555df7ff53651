"""Bootstrapping: its targets, weights and stages."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import accuracy_score

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.losses import bootstrap_hard, bootstrap_soft, soft_cross_entropy
from noisyfit.methods.bootstrapping import BootstrappingClassifier, bootstrap_target
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
NET = Network(max_epochs=4, batch_size=32)
KINDS = pytest.mark.parametrize("kind", ["soft", "hard"])


@KINDS
def test_loss_is_cross_entropy_with_the_bootstrapped_target(kind):
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    target = bootstrap_target(y, z.softmax(1), 0.3, kind)
    loss = {"soft": bootstrap_soft, "hard": bootstrap_hard}[kind](z, y, 0.3)
    torch.testing.assert_close(loss, soft_cross_entropy(z, target))
    for i in range(6):
        t = z[i].softmax(0) if kind == "soft" else torch.eye(3)[z[i].argmax()]
        torch.testing.assert_close(target[i], 0.7 * torch.eye(3)[y[i]] + 0.3 * t)


@KINDS
def test_weight_zero_is_plain_training(kind):
    plain = CrossEntropyClassifier(NET, random_state=0).fit(X, Y).predict_proba(X)
    clf = BootstrappingClassifier(NET, kind=kind, weight=0, random_state=0).fit(X, Y)
    np.testing.assert_allclose(clf.predict_proba(X), plain, rtol=0, atol=1e-5)


@KINDS
def test_warmup_over_all_epochs_is_plain_training(kind):
    plain, warm, boot = (
        cls(NET, random_state=0, **own).fit(X, Y).predict_proba(X)
        for cls, own in (
            (CrossEntropyClassifier, {}),
            (BootstrappingClassifier, {"kind": kind, "weight": 0.5, "warmup": 4}),
            (BootstrappingClassifier, {"kind": kind, "weight": 0.5, "warmup": 3}),
        )
    )
    np.testing.assert_allclose(warm, plain, rtol=0, atol=1e-5)
    assert np.abs(boot - plain).max() > 1e-3


@pytest.mark.parametrize(("kind", "weight"), [("soft", 0.05), ("hard", 0.2)])
def test_weight_is_the_published_one_by_default(kind, weight):
    by_default, given, other = (
        BootstrappingClassifier(NET, kind=kind, weight=w, random_state=0).fit(X, Y).predict_proba(X)
        for w in ("auto", weight, 2 * weight)
    )
    np.testing.assert_array_equal(by_default, given)
    assert (by_default != other).any()


def test_gradient_through_the_target_makes_predictions_more_certain():
    noisy = sym_incl(Y, 0.4, random_state=0).y
    certainty = [
        BootstrappingClassifier(NET, kind="soft", weight=0.8, detach_target=flag, random_state=0)
        .fit(X, noisy)
        .predict_proba(X)
        .max(1)
        .mean()
        for flag in (True, False)
    ]
    assert certainty[1] > certainty[0] + 0.02


@KINDS
def test_refined_labels_are_bootstrapped_by_the_evidence(kind):
    X, y = make_blobs(300, centers=3, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = BootstrappingClassifier(Network(max_epochs=20), kind=kind, random_state=0)
    clf.fit(X, noisy.y)
    clean = clf.clean_proba_[:, None]
    t = clf.predict_proba(X)
    if kind == "hard":
        t = np.eye(3)[t.argmax(1)]
    expected = clean * np.eye(3)[noisy.y] + (1 - clean) * t
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-5)
    assert accuracy_score(y, clf.refined_labels_) > accuracy_score(y, noisy.y) + 0.15


def test_a_large_weight_resists_memorisation(digits):
    images, y = digits
    images, y = images.reshape(len(y), -1), y
    noisy = sym_incl(y[:1347], 0.4, random_state=0).y
    plain, boot = (
        cls(Network(max_epochs=40), random_state=0, **own)
        .fit(images[:1347], noisy)
        .score(images[1347:], y[1347:])
        for cls, own in (
            (CrossEntropyClassifier, {}),
            (BootstrappingClassifier, {"kind": "hard", "weight": 0.6, "warmup": 2}),
        )
    )
    assert boot > plain + 0.05


@pytest.mark.parametrize(
    "params",
    [
        {"kind": "warm"},
        {"kind": None},
        {"weight": 1.5},
        {"weight": "much"},
        {"weight": True},
        {"warmup": -1},
        {"warmup": 0.5},
        {"warmup": 51},
        {"detach_target": 1},
        {"mixup": -1},
        {"mixup": None},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        BootstrappingClassifier(**params).fit(X, Y)
