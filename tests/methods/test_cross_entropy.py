"""Plain training memorises; its history remembers."""

import numpy as np
from sklearn.datasets import make_blobs

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl


def test_clean_blobs_are_learnt():
    X, y = make_blobs(300, centers=4, cluster_std=0.4, random_state=0)
    assert CrossEntropyClassifier(random_state=0).fit(X, y).score(X, y) > 0.98


def test_wrong_labels_are_memorised_late(digits):
    images, y = digits
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(SmallCNN, max_epochs=40)
    clean, clf = (
        CrossEntropyClassifier(net, augment=None, random_state=0).fit(images, labels)
        for labels in (y, noisy.y)
    )
    train_acc = [row["train_acc"] for row in clf.history_]
    assert train_acc[4] < 0.75  # about the share of right labels
    assert train_acc[-1] > 0.95
    assert clf.dynamics_["wrong_events"][noisy.changed].mean() > 0.5
    # memorised labels count as right from then on, so that the rate is an underestimate
    assert 0.2 < clf.noise_rate_ < np.mean(noisy.changed)
    assert clean.noise_rate_ < 0.05
