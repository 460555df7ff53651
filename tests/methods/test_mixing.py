"""Mixed pairs under any loss: one oracle for the three methods that may train on them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from noisyfit import (
    BootstrappingClassifier,
    CrossEntropyClassifier,
    MixupClassifier,
    Network,
    RobustLossClassifier,
    _mixing,
)
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
NOISY = sym_incl(Y, 0.4, random_state=0).y
NET = Network(max_epochs=3, batch_size=32)
EYE = np.eye(3)


def cross_entropy(p, y):
    return -np.log(p[np.arange(len(y)), y])


def gce(p, y):
    return (1 - p[np.arange(len(y)), y] ** 0.7) / 0.7


def bootstrap_hard(p, y):
    return -((0.8 * EYE[y] + 0.2 * EYE[p.argmax(1)]) * np.log(p)).sum(1)


def bootstrap_soft(p, y):
    return -((0.95 * EYE[y] + 0.05 * p) * np.log(p)).sum(1)


def watched(cls, losses, expect):
    """`cls` whose every loss is compared with ``expect(run, t, p, y, partner, lam)``."""

    class Watched(cls):
        def _loss(self, run, batch, t):
            weights = list(run.memory.weights)
            run.memory.weights = iter(weights)
            replay = torch.Generator()
            replay.set_state(run.generator.get_state())
            partner = torch.randperm(len(batch.y), generator=replay)
            x = run.plain(batch.x)
            pairs = weights[0] * x + (1 - weights[0]) * x[partner]
            p = run.learners[0].module(pairs).softmax(1).detach().double().numpy()
            index = batch.index.numpy()
            rows = index, index[partner.numpy()]
            expected = expect(run, t, p, rows, weights[0])
            loss = super()._loss(run, batch, t)
            losses.append((loss.item(), expected))
            return loss

    return Watched


def weighted(loss, run, p, rows, lam, kept=None):
    kept = np.ones(len(NOISY)) if kept is None else kept
    ours, theirs = (kept[index] * loss(p, run.data.y.numpy()[index]) for index in rows)
    return (lam * ours + (1 - lam) * theirs).mean()


@pytest.mark.parametrize(
    ("cls", "params", "loss", "n_plain"),
    [
        (MixupClassifier, {"alpha": 1}, cross_entropy, 0),
        (RobustLossClassifier, {"mixup": 1, "loss": "gce", "warmup": 0}, gce, 0),
        (RobustLossClassifier, {"mixup": 0.3, "loss": "gce", "warmup": 1}, gce, 1),
        (BootstrappingClassifier, {"mixup": 1, "kind": "hard"}, bootstrap_hard, 0),
        (BootstrappingClassifier, {"mixup": 1, "kind": "soft", "warmup": 2}, bootstrap_soft, 2),
    ],
)
def test_loss_is_that_of_both_labels_in_proportion(cls, params, loss, n_plain):
    losses = []

    def expect(run, t, p, rows, lam):
        return weighted(cross_entropy if t < n_plain else loss, run, p, rows, lam)

    watched(cls, losses, expect)(NET, random_state=0, **params).fit(X, NOISY)
    ours, expected = np.array(losses).T
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert len(losses) == 9


def test_a_row_set_aside_loses_its_label_in_every_pair():
    losses, shares = [], []

    def expect(run, t, p, rows, lam):
        kept = run.memory.kept.numpy()
        shares.append(kept.mean())
        return weighted(gce, run, p, rows, lam, kept)

    watched(RobustLossClassifier, losses, expect)(
        NET, loss="truncated_gce", mixup=1, warmup=0, prune_start=1, random_state=0
    ).fit(X, NOISY)
    ours, expected = np.array(losses).T
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert min(shares) < 1


def test_mixed_cross_entropy_is_mixup_however_it_is_asked_for():
    mixup, robust, boot = (
        cls(NET, random_state=0, **params).fit(X, NOISY)
        for cls, params in (
            (MixupClassifier, {"alpha": 2}),
            (RobustLossClassifier, {"loss": "cross_entropy", "mixup": 2}),
            (BootstrappingClassifier, {"warmup": 3, "mixup": 2}),
        )
    )
    np.testing.assert_array_equal(robust.predict_proba(X), mixup.predict_proba(X))
    np.testing.assert_array_equal(boot.predict_proba(X), mixup.predict_proba(X))
    np.testing.assert_array_equal(robust.clean_proba_, mixup.clean_proba_)
    np.testing.assert_array_equal(robust.dynamics_["n_seen"], 6)  # twice an epoch


@pytest.mark.parametrize("cls", [RobustLossClassifier, BootstrappingClassifier])
def test_without_mixup_nothing_is_drawn(cls, monkeypatch):
    def refuse(*args):
        pytest.fail("drawn")

    mixed = cls(NET, mixup=1, random_state=0).fit(X, NOISY).predict_proba(X)
    monkeypatch.setattr(_mixing, "beta", refuse)
    monkeypatch.setattr(_mixing, "random_permutation", refuse)
    off = cls(NET, mixup=0.0, random_state=0).fit(X, NOISY)
    np.testing.assert_array_equal(off.dynamics_["n_seen"], 3)
    assert np.abs(off.predict_proba(X) - mixed).max() > 1e-3


def test_gce_on_mixed_pairs_memorises_less(digits):
    images, y = digits
    X = images.reshape(-1, 64)
    noisy = sym_incl(y[:500], 0.4, random_state=0).y
    net = Network(max_epochs=60)
    plain, robust, both = (
        cls(net, random_state=0, **params).fit(X[:500], noisy)
        for cls, params in (
            (CrossEntropyClassifier, {}),
            (RobustLossClassifier, {"loss": "gce"}),
            (RobustLossClassifier, {"loss": "gce", "mixup": 1}),
        )
    )
    assert both.score(X[500:], y[500:]) > plain.score(X[500:], y[500:]) + 0.1
    assert both.score(X[500:], y[500:]) > robust.score(X[500:], y[500:]) + 0.01
    assert both.score(X[:500], noisy) < robust.score(X[:500], noisy) - 0.04
